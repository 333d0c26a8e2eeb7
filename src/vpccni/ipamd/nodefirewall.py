# SPDX-License-Identifier: Apache-2.0
"""The node's firewall rules: SNAT, connection marks, egress in the other family, kept as the VPC and the settings say.

Knows which policy becomes which rules in which backend, and what was last put in force. Must never know ENIs or pods.
`ipamd.bringup` calls it when the VPC's CIDRs may have changed, `ipamd.watch` when somebody else changed the rules; one
at a time.

At the first application an earlier start's rules may be there in another backend, or the Go implementation's. They go
when all of ours are in force, so that no flow is born in between.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from vpccni.aws.values import IPAddress, IPNetwork
from vpccni.core import conventions
from vpccni.core.difference import ObjectState, firewall_states, nftables_states
from vpccni.core.firewall import snat
from vpccni.core.firewall.backend import FirewallForm, bridge, form
from vpccni.core.firewall.nftlisting import OwnTables
from vpccni.core.firewall.variant import Choice
from vpccni.errors import HostError
from vpccni.host.firewall import Firewall
from vpccni.ipamd.repair import Repairs
from vpccni.settings import Settings

log = logging.getLogger(__name__)

VERSIONS = (4, 6)
OWN_TABLE = f"nftables table {conventions.NFT_OWN_TABLE}"


class NodeFirewall:
    """Keeps the rules. Pods leave in the other family with the node's address `egress_from`, or not at all."""

    def __init__(self, settings: Settings, firewall: Firewall, repairs: Repairs) -> None:
        self._settings, self._firewall, self._repairs = settings, firewall, repairs
        self._policy: snat.SnatPolicy | None = None
        self._applied: FirewallForm | None = None
        self._incomplete = False
        self._choice: Choice | None = None
        self._alone = asyncio.Lock()  # two that look and then change would both add what is missing
        self.egress_from: IPAddress | None = None

    async def translate(self, primary_link: str, vpc_cidrs: Sequence[IPNetwork], primary_address: IPAddress) -> None:
        """Bring SNAT and connection marks up to date. Nothing is listed when nothing can have changed."""
        settings = self._settings
        self._policy = snat.SnatPolicy(
            primary_link=primary_link,
            primary_address=primary_address,
            vpc_cidrs=tuple(vpc_cidrs),
            excluded=settings.exclude_snat_cidrs,
            external_snat=settings.external_snat,
            node_port_support=settings.node_port_support,
            randomize=settings.randomize_snat,
            mark=settings.connmark,
            veth_prefix=settings.veth_prefix,
            dual_stack=settings.dual_stack,
        )
        await self.let_out()

    async def let_out(self) -> None:
        """The same, and the rules for egress in the other family."""
        if self._policy is None and self.egress_from is None:
            return
        async with self._alone:
            await self._match()
            wanted = self._wanted()
            if wanted == self._applied:
                return
            bridged = self._applied is None and await self._bridge(wanted)
            for rules in wanted.iptables:
                self._say("iptables-restore", await asyncio.to_thread(self._firewall.apply, rules))
            if bridged and self._native:
                await self._leave_others(wanted)
            self._say("nft -f", await self._put_tables(wanted.nftables))
            if self._applied is None and not (bridged and self._native):
                await self._leave_others(wanted)
            self._applied = wanted  # only now: a change that failed is tried again

    def sends_events(self) -> bool:
        """Whether changes of the rules can be watched; for a thread."""
        return self._firewall.sends_events()

    async def restore(self, *, in_pauses: bool = False) -> None:
        """Put rules right that somebody else changed; what is fought about only when its pause is over, or `in_pauses`.

        Nothing is known before the first `translate`.
        """
        async with self._alone:
            if self._applied is None:
                return
            for wanted in self._applied.iptables:
                subject = f"firewall of IPv{wanted.version}: {', '.join(table.name for table in wanted.tables)}"
                if in_pauses or self._repairs.may(subject):
                    transaction = await asyncio.to_thread(self._firewall.apply, wanted)
                    if transaction:
                        self._repairs.one("firewall", subject, f"iptables-restore <<< {transaction!r}")
            subject = f"firewall: {OWN_TABLE}"
            if in_pauses or self._repairs.may(subject):
                transaction = await self._put_tables(self._applied.nftables)
                if transaction:
                    self._repairs.one("firewall", subject, f"nft -f - <<< {transaction!r}")

    async def states(self) -> list[ObjectState]:
        """Every rule that should be there or should not, without changing anything."""
        if self._applied is None:
            return []
        found: list[ObjectState] = []
        tables = self._applied.nftables
        if self._native:
            return nftables_states(await asyncio.to_thread(self._firewall.nft.states, tables))
        for wanted in self._applied.iptables:
            found += firewall_states(await asyncio.to_thread(self._firewall.observe, wanted), wanted)
        if not self._incomplete and tables:
            lacks = await asyncio.to_thread(self._firewall.nft.lacks, tables)
            subject = f"nft table ip {conventions.NFT_OWN_TABLE}"
            why = "flows that kube-proxy rewrote are marked after it, and the node's own flows are not translated"
            found.append(ObjectState("firewall", subject, "wrong" if lacks else "ok", why, "nft -f -" if lacks else ""))
        return found

    @property
    def _native(self) -> bool:
        return self._choice is not None and self._choice.native

    def _wanted(self) -> FirewallForm:
        randomize = self._settings.randomize_snat
        return form(native=self._native, policy=self._policy, egress_from=self.egress_from, randomize=randomize)

    async def _match(self) -> None:
        """Once: use the backend that kubelet and kube-proxy use."""
        if self._choice is None:
            self._choice = await asyncio.to_thread(self._firewall.match, self._settings.firewall)
            facts = {"variant": self._choice.variant or "iptables", "why": self._choice.reason}
            log.info("node: firewall", extra={"facts": facts})

    async def _leave_others(self, wanted: FirewallForm) -> None:
        """When the rules are in force: what an earlier start left in other backends, or of another family, goes."""
        firewall, kept = self._firewall, {rules.version for rules in wanted.iptables}
        for version in VERSIONS:
            removals = [firewall.remove_other] if self._native or version in kept else [
                firewall.remove_other, firewall.remove_left
            ]  # fmt: skip
            for remove in removals:
                try:
                    self._say("rules left over", await asyncio.to_thread(remove, version))
                except HostError as error:
                    if version == 4:
                        raise
                    # Most likely a kernel without IPv6; rules for it would only have been for egress.
                    log.info("node: cannot look for rules of IPv6: %s", error, extra={"facts": error.evidence})
        if await asyncio.to_thread(firewall.nft.remove_upstream):
            log.info("node: took over the connection marks of the Go implementation's nftables backend")

    async def _bridge(self, wanted: FirewallForm) -> bool:
        """Whether the node comes from another backend; then our tables are in force that go with the rules of both."""
        nft = self._firewall.nft
        if not nft.installed:
            return False
        tables = bridge(await asyncio.to_thread(nft.listed), wanted)
        if tables is not None:
            self._say("nft -f, for the rules of two backends", await self._put_tables(tables))
        return tables is not None

    async def _put_tables(self, tables: OwnTables) -> str:
        """Put our nftables tables in force. Beside iptables a node without them still does all that upstream's does."""
        try:
            transaction = await asyncio.to_thread(self._firewall.nft.apply, tables)
        except HostError as error:
            if self._native:
                raise
            if tables and not self._incomplete:
                self._incomplete = True  # said once
                log.warning(
                    "node: no nftables table beside the iptables rules; services with endpoints outside the VPC fail "
                    "for pods on secondary ENIs, and flows of the node itself are translated",
                    extra={"facts": {"reason": str(error)}},
                )
            return ""
        self._incomplete = False
        return transaction

    @staticmethod
    def _say(what: str, transaction: str) -> None:
        if transaction:
            log.info("node: %s", what, extra={"facts": {"transaction": transaction}})
