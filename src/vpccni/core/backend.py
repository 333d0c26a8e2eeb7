# SPDX-License-Identifier: Apache-2.0
"""Policy -> everything that a node's firewall holds of ours, in the form of the backend that was chosen.

Knows that each backend says the same in other places, and that all of them use our nftables table: the iptables forms
for what they cannot express, the native one for everything. Must never know what is in force. `ipamd.nodefirewall`
asks.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from vpccni.core import egress, nftmarks, nftrules, snat
from vpccni.core.nftlisting import OwnTables
from vpccni.core.snat import IptablesRules, SnatPolicy
from vpccni.netlink.values import IPAddress


@dataclass(frozen=True, slots=True)
class FirewallForm:
    """Rules for iptables, one value for each family that has some, and the text of our tables in nftables."""

    iptables: tuple[IptablesRules, ...] = ()
    nftables: OwnTables = field(default_factory=dict)


def form(*, native: bool, policy: SnatPolicy | None, egress_from: IPAddress | None, randomize: str) -> FirewallForm:
    """What the node shall hold. `policy`: of IPv4 pods, None without them; `egress_from`: the node's address for egress
    in the other family, None without it."""
    if native:
        found = nftrules.tables(policy, egress_from, randomize)
        return FirewallForm((), {table.family: str(table) for table in found})
    rules = [snat.rules(policy)] if policy is not None else []
    if egress_from is not None:
        rules.append(egress.rules(egress_from, randomize))
    completing = nftmarks.table(policy) if policy is not None else ""
    return FirewallForm(tuple(rules), {"ip": completing} if completing else {})
