# SPDX-License-Identifier: Apache-2.0
"""What the daemon knows of its ENIs: the last answer of EC2, what it changed itself since, and the corrections.

Knows how an observation is made and which ENIs are ours to touch. Must never decide what a difference means
(`core.reconcile` does). `ipamd.steprunner` and `ipamd.bringup` use it.
"""

from __future__ import annotations

import logging
import zlib
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from math import inf
from typing import Any

from vpccni.aws import tags as eni_tags
from vpccni.aws.values import Interface, IPNetwork, MetadataInterface, NodeIdentity, Subnet
from vpccni.clock import Clock
from vpccni.core import corrections, hints, subnets, view
from vpccni.core.corrections import Correction, OrphanGrant, ReleaseGrant, RestoreGrant, Suspect
from vpccni.core.eni import Eni
from vpccni.core.podseen import ObservedPod
from vpccni.core.pool import Pool
from vpccni.core.reconcile import reconcile, reconcile_pods
from vpccni.core.view import NodePolicy, View
from vpccni.errors import CloudError
from vpccni.ipamd import records
from vpccni.ipamd.cloudcalls import CloudCalls
from vpccni.ipamd.journal import Record
from vpccni.settings import Settings

log = logging.getLogger(__name__)

ASK_S = 3600.0  # EC2 is asked so often even when nothing raises a doubt: tags are not in the metadata
FORGET_S = 600.0  # marks of changes; only the last `SETTLE_S` of them matter

Record_ = Callable[[Record], Awaitable[None]]
Listed = Callable[[], Awaitable[Sequence[MetadataInterface]]]
PodsSeen = Callable[[], Awaitable[tuple[ObservedPod, ...]]]


class NodeView:
    """Observes. `interfaces` and `subnets` hold the last answers."""

    def __init__(
        self,
        node: NodeIdentity,
        settings: Settings,
        calls: CloudCalls,
        pods: PodsSeen,
        record: Record_,
        clock: Clock,
        cards: tuple[int, ...] = (0,),
        listed: Listed | None = None,
    ) -> None:
        """`cards`: the network cards that are managed. `listed` asks the metadata service, whose hints say when EC2
        need not be asked; without it EC2 is asked every time."""
        self._cards, self._listed = cards, listed
        self._ask_at = -inf
        self._doubted = ""
        self._node, self._settings = node, settings
        self._calls, self._pods, self._record, self._clock = calls, pods, record, clock
        self._changed_at: dict[str | IPNetwork, float] = {}
        self._subnets: dict[str, Subnet] = {}
        self.interfaces: tuple[Interface, ...] = ()

    @property
    def security_groups(self) -> tuple[str, ...]:
        """Those of the primary ENI, which new ENIs get too."""
        return self.primary().security_groups

    @property
    def subnet_cidrs(self) -> dict[str, tuple[IPNetwork, ...]]:
        """CIDRs of both families by subnet id."""
        return {
            name: (*((subnet.cidr,) if subnet.cidr else ()), *subnet.ipv6_cidrs)
            for name, subnet in self._subnets.items()
        }

    @contextmanager
    def touching(self, eni_id: str) -> Iterator[None]:
        """While we change an ENI, and for a while after, EC2's answers about it are not believed."""
        self._changed_at[eni_id] = inf
        try:
            yield
        finally:
            self._changed_at[eni_id] = self._clock.now()

    @contextmanager
    def taking(self, networks: Sequence[IPNetwork]) -> Iterator[None]:
        """While EC2 is asked to take blocks back, and for a while after, its answers about them are not believed.

        The ENI's other blocks are: a node that changes all the time must still be compared with EC2.
        """
        self._changed_at.update(dict.fromkeys(networks, inf))
        try:
            yield
        finally:
            self.changed(networks)

    def changed(self, networks: Iterable[IPNetwork]) -> None:
        """EC2 has just given or taken these blocks."""
        now = self._clock.now()
        self._changed_at = {name: at for name, at in self._changed_at.items() if at > now - FORGET_S}
        self._changed_at.update(dict.fromkeys(networks, now))

    def learn(self, found: Iterable[Subnet]) -> None:
        """Remember subnets."""
        self._subnets.update((subnet.subnet_id, subnet) for subnet in found)

    async def observe(self) -> None:
        """Ask EC2 for interfaces, and for subnets when one of theirs is not known. Raises CloudError."""
        instance_id = self._node.instance_id
        self.interfaces = await self._calls.run(
            "DescribeNetworkInterfaces", lambda: self._calls.inventory.attached(instance_id)
        )
        if not all(each.subnet_id in self._subnets for each in self.interfaces):
            vpc_id, zone = self._node.vpc_id, self._node.availability_zone
            self.learn(await self._calls.run("DescribeSubnets", lambda: self._calls.inventory.subnets(vpc_id, zone)))

    async def reconcile(self, pool: Pool, sagas_busy: Callable[[], frozenset[str]]) -> list[str]:
        """Observe, compare and correct the pool; ENIs of sagas that are unfinished at that moment are left alone.

        Returns the kinds of corrections that were made.
        """
        observed_at = self._clock.now()
        why = await self._why_ask(pool, observed_at)
        if why:
            log.debug("asking EC2: %s", why)
            await self.observe()
            self._doubted = ""
            self._ask_at = observed_at + ASK_S * _spread(self._node.instance_id)
        pods = await self._pods()
        now, busy = self._clock.now(), sagas_busy()
        seen = tuple(each for each in self.interfaces if each.eni_id not in busy or pool.eni(each.eni_id))
        observed = View(seen, observed_at, self._subnets, pods, _created(seen))
        if why:
            changed_at = self._changed_at | dict.fromkeys(busy, inf)
            found = reconcile(pool, observed, self._policy(), now, changed_at=changed_at)
        else:
            found = reconcile_pods(pool, observed, now)
        grants = {each.key: pool.grant(each.key) for each in found if isinstance(each, ReleaseGrant)}
        for correction, refusal in corrections.apply(pool, found, now):
            log.warning("not corrected: %s", correction, extra={"facts": {"why": str(refusal)}})
        for correction in found:
            _tell(correction)
            if isinstance(correction, RestoreGrant):
                await self._record(records.granted(correction.grant))
            elif isinstance(correction, ReleaseGrant) and (grant := grants[correction.key]) is not None:
                await self._record(records.released(grant, now))
        return [type(each).__name__ for each in found]

    def doubt(self, why: str) -> None:
        """Something failed: what is true now, EC2 must say at the next reconcile."""
        self._doubted = why

    async def _why_ask(self, pool: Pool, now: float) -> str:
        """Why EC2 has to be asked; "" when everything speaks for the pool."""
        if self._listed is None or now >= self._ask_at:
            return "it is time"
        if self._doubted:
            return self._doubted
        try:
            return hints.contradiction(pool, await self._listed(), self._cards)
        except CloudError as error:
            return str(error)

    def eni_of(self, interface: Interface, now: float) -> Eni:
        """An attached interface as the pool wants it. Raises CloudError when it is not one of ours."""
        eni = view.eni_of(
            interface,
            self._policy(),
            View((interface,), now, self._subnets),
            _created([interface]).get(interface.eni_id, now),
        )
        if eni is None:
            raise CloudError(
                "use the new ENI",
                f"EC2 does not show {interface.eni_id} attached to a network card that is managed",
                code="eni-elsewhere",
                hint="the daemon looks again at the next reconcile",
                evidence={"eni": interface.eni_id},
            )
        return eni

    def routed(self, pool: Pool) -> list[Interface]:
        """Interfaces that the node routes for: the pool's managed ones, as EC2 last described them."""
        known = {each.eni_id: each for each in self.interfaces}
        ours = [held.eni for held in pool.held() if held.eni.managed and not held.withdrawn]
        return [known[eni.id] for eni in ours if eni.id in known]

    def remember(self, interface: Interface) -> None:
        """An interface that a saga has just attached."""
        self.interfaces = (*(each for each in self.interfaces if each.eni_id != interface.eni_id), interface)
        self._changed_at[interface.eni_id] = self._clock.now()

    def edited(self, eni_id: str, **changes: Any) -> None:
        """EC2 accepted a change of an interface's fields: the last answer is brought up to date with it."""
        self.interfaces = tuple(replace(each, **changes) if each.eni_id == eni_id else each for each in self.interfaces)

    def _policy(self) -> NodePolicy:
        discovery, cluster = self._settings.enable_subnet_discovery, self._settings.cluster_name
        out = (name for name, subnet in self._subnets.items() if discovery and subnets.excluded(subnet, cluster))
        return NodePolicy(
            instance_id=self._node.instance_id,
            custom_networking=self._settings.custom_networking,
            manage_untagged=self._settings.manage_untagged_eni,
            excluded_subnets=frozenset(out),
            cards=self._cards,
            versions=self._settings.versions,
        )

    def primary(self) -> Interface:
        """The primary ENI as EC2 last described it. Raises CloudError (`primary-eni-missing`)."""
        for interface in self.interfaces:
            if interface.mac == self._node.mac:
                return interface
        raise CloudError(
            "find the primary ENI",
            f"EC2 lists no interface with MAC {self._node.mac} on {self._node.instance_id}",
            code="primary-eni-missing",
            hint="EC2 may be behind; the daemon asks again",
            evidence={"interfaces": " ".join(each.eni_id for each in self.interfaces)},
        )


def _spread(instance_id: str) -> float:
    """0.8 to 1.2, by instance: the nodes of a fleet that started together do not ask together for ever."""
    return 0.8 + 0.4 * (zlib.crc32(instance_id.encode()) % 1000) / 1000


def _created(interfaces: Iterable[Interface]) -> dict[str, float]:
    """When ENIs were made, as far as their tags say."""
    moments = {each.eni_id: eni_tags.created_at(each.tags) for each in interfaces}
    return {eni_id: at for eni_id, at in moments.items() if at is not None}


def _tell(correction: Correction) -> None:
    loud = isinstance(correction, OrphanGrant | Suspect | ReleaseGrant)
    log.log(logging.WARNING if loud else logging.INFO, "correction: %s", correction)
