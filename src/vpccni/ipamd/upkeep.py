# SPDX-License-Identifier: Apache-2.0
"""Tags and security groups of the ENIs that the node already has, kept as they should be.

Knows which tags every managed ENI carries and that secondary ENIs follow the primary's security groups. Must never
create, attach or free anything. `ipamd.bringup` runs it on a timer of its own; a change that failed is tried again.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence

from vpccni.aws.values import Interface
from vpccni.errors import CloudError, VpcCniError
from vpccni.ipamd.cloudcalls import CloudCalls
from vpccni.ipamd.view import NodeView

log = logging.getLogger(__name__)


class Upkeep:
    """One round compares what EC2 last described and calls only for what differs.

    `groups` reads the primary ENI's security groups now (metadata, which costs no EC2 call); None leaves the groups
    alone, as under custom networking. Upstream writes to every ENI at each change and at each start, and takes a
    change for done even if it failed (Amazon VPC CNI 1.23).
    """

    def __init__(
        self,
        calls: CloudCalls,
        view: NodeView,
        own_tags: Mapping[str, str],
        groups: Callable[[], Awaitable[Sequence[str]]] | None,
        managed: Callable[[], frozenset[str]],
    ) -> None:
        """`managed`: ids of the ENIs that are ours to change, at this moment."""
        self._calls, self._view, self._own_tags = calls, view, own_tags
        self._groups, self._managed = groups, managed

    async def round(self) -> None:
        """Compare and correct. Errors are logged; the next round sees the same difference again."""
        groups: frozenset[str] | None = None
        try:
            if self._groups is not None:
                groups = frozenset(await self._groups())
        except VpcCniError as error:
            log.warning("%s", error, extra={"facts": error.evidence})
        managed = self._managed()
        for interface in [each for each in self._view.interfaces if each.eni_id in managed]:
            try:
                await self._tags(interface)
                await self._security_groups(interface, groups)
            except CloudError as error:
                log.warning("%s", error, extra={"facts": {**error.evidence, "eni": interface.eni_id}})

    async def _tags(self, interface: Interface) -> None:
        if interface.interface_type == "trunk":  # belongs to the resource controller
            return
        missing = {key: value for key, value in self._own_tags.items() if interface.tags.get(key) != value}
        if not missing:
            return
        await self._calls.run("CreateTags", lambda: self._calls.interfaces.tag(interface.eni_id, missing))
        self._view.edited(interface.eni_id, tags={**interface.tags, **missing})
        log.info("tagged", extra={"facts": {"eni": interface.eni_id, "tags": missing}})

    async def _security_groups(self, interface: Interface, groups: frozenset[str] | None) -> None:
        if not groups or frozenset(interface.security_groups) == groups:
            return
        wanted = tuple(sorted(groups))
        await self._calls.run(
            "ModifyNetworkInterfaceAttribute",
            lambda: self._calls.interfaces.set_security_groups(interface.eni_id, wanted),
        )
        self._view.edited(interface.eni_id, security_groups=wanted)
        log.info("security groups follow the primary ENI", extra={"facts": {"eni": interface.eni_id, "groups": wanted}})
