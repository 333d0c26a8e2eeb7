# SPDX-License-Identifier: Apache-2.0
"""The node's firewall rules: SNAT, connection marks, egress in the other family, kept as the VPC and the settings say.

Knows which policy becomes which rules, and what was last put in force. Must never know ENIs or pods. `ipamd.bringup`
calls it when the VPC's CIDRs may have changed, `ipamd.watch` when somebody else changed the rules; one at a time.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from vpccni.aws.values import IPAddress, IPNetwork
from vpccni.core import conventions, egress, nftmarks, snat
from vpccni.core.difference import ObjectState, firewall_states
from vpccni.core.variant import Choice
from vpccni.errors import HostError
from vpccni.host.firewall import Firewall
from vpccni.ipamd.repair import Repairs
from vpccni.settings import Settings

log = logging.getLogger(__name__)


class NodeFirewall:
    """Keeps the rules. Pods leave in the other family with the node's address `egress_from`, or not at all."""

    def __init__(self, settings: Settings, firewall: Firewall, repairs: Repairs) -> None:
        self._settings, self._firewall, self._repairs = settings, firewall, repairs
        self._applied: snat.IptablesRules | None = None
        self._egress_applied: snat.IptablesRules | None = None
        self._completing, self._incomplete = "", False
        self._variant: Choice | None = None
        self._alone = asyncio.Lock()  # two that look and then change would both add what is missing
        self.egress_from: IPAddress | None = None

    async def translate(self, primary_link: str, vpc_cidrs: Sequence[IPNetwork], primary_address: IPAddress) -> None:
        """Bring SNAT and connection marks up to date. Nothing is listed when nothing can have changed."""
        settings = self._settings
        policy = snat.SnatPolicy(
            primary_link=primary_link,
            primary_address=primary_address,
            vpc_cidrs=tuple(vpc_cidrs),
            excluded=settings.exclude_snat_cidrs,
            external_snat=settings.external_snat,
            node_port_support=settings.node_port_support,
            randomize=settings.randomize_snat,
            mark=settings.connmark,
            veth_prefix=settings.veth_prefix,
        )
        wanted, completing = snat.rules(policy), nftmarks.table(policy)
        if (wanted, completing) == (self._applied, self._completing):
            return
        async with self._alone:
            await self._match()
            transaction = await asyncio.to_thread(self._firewall.apply, wanted)
            if transaction:
                log.info("node: iptables-restore", extra={"facts": {"transaction": transaction}})
            await self._leave_other(wanted.version)
            if await asyncio.to_thread(self._firewall.remove_nft_backend):
                log.info("node: took over the connection marks of the Go implementation's nftables backend")
            transaction = await self._complete(completing)
            if transaction:
                log.info("node: nft -f", extra={"facts": {"transaction": transaction}})
            self._applied, self._completing = wanted, completing  # only now: a change that failed is tried again

    async def let_out(self) -> None:
        """Bring the rules for egress in the other family up to date."""
        if self.egress_from is None:
            return
        wanted = egress.rules(self.egress_from, self._settings.randomize_snat)
        if wanted != self._egress_applied:
            async with self._alone:
                await self._match()
                transaction = await asyncio.to_thread(self._firewall.apply, wanted)
                if transaction:
                    log.info("node: egress rules", extra={"facts": {"transaction": transaction}})
                self._egress_applied = wanted

    def sends_events(self) -> bool:
        """Whether changes of iptables rules can be watched; for a thread."""
        return self._firewall.sends_events()

    async def restore(self, *, in_pauses: bool = False) -> None:
        """Put rules right that somebody else changed; what is fought about only when its pause is over, or `in_pauses`.

        Nothing is known before the first `translate`.
        """
        async with self._alone:
            for wanted in filter(None, (self._applied, self._egress_applied)):
                subject = f"firewall of IPv{wanted.version}: {', '.join(table.name for table in wanted.tables)}"
                if in_pauses or self._repairs.may(subject):
                    transaction = await asyncio.to_thread(self._firewall.apply, wanted)
                    if transaction:
                        self._repairs.one("firewall", subject, f"iptables-restore <<< {transaction!r}")
            subject = f"firewall: nftables table {conventions.NFT_OWN_TABLE}"
            if self._applied is not None and (in_pauses or self._repairs.may(subject)):
                transaction = await self._complete(self._completing)
                if transaction:
                    self._repairs.one("firewall", subject, f"nft -f - <<< {transaction!r}")

    async def states(self) -> list[ObjectState]:
        """Every rule that should be there or should not, without changing anything."""
        found: list[ObjectState] = []
        for wanted in filter(None, (self._applied, self._egress_applied)):
            found += firewall_states(await asyncio.to_thread(self._firewall.observe, wanted), wanted)
        if self._applied is not None and not self._incomplete and self._completing:
            lacks = await asyncio.to_thread(self._firewall.lacks, self._completing)
            subject = f"nft table ip {conventions.NFT_OWN_TABLE}"
            why = "flows that kube-proxy rewrote are marked after it, and the node's own flows are not translated"
            found.append(ObjectState("firewall", subject, "wrong" if lacks else "ok", why, "nft -f -" if lacks else ""))
        return found

    async def _match(self) -> None:
        """Once: use the variant of iptables that kubelet and kube-proxy use."""
        if self._variant is None:
            self._variant = await asyncio.to_thread(self._firewall.match, self._settings.firewall)
            facts = {"variant": self._variant.variant or "iptables", "why": self._variant.reason}
            log.info("node: firewall", extra={"facts": facts})

    async def _leave_other(self, version: int) -> None:
        """Once the rules are in force: what an earlier start left in the other variant goes."""
        if self._applied is None:
            transaction = await asyncio.to_thread(self._firewall.remove_other, version)
            if transaction:
                log.info("node: rules left in the other variant", extra={"facts": {"transaction": transaction}})

    async def _complete(self, table: str) -> str:
        """Put the nftables table beside the iptables rules. Without it a node still does all that upstream's does."""
        try:
            transaction = await asyncio.to_thread(self._firewall.complete, table)
        except HostError as error:
            if table and not self._incomplete:
                self._incomplete = True  # said once
                log.warning(
                    "node: no nftables table beside the iptables rules; services with endpoints outside the VPC fail "
                    "for pods on secondary ENIs, and flows of the node itself are translated",
                    extra={"facts": {"reason": str(error)}},
                )
            return ""
        self._incomplete = False
        return transaction
