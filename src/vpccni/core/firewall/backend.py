# SPDX-License-Identifier: Apache-2.0
"""Policy -> everything that a node's firewall holds of ours, in the form of the backend that was chosen.

Knows that each backend says the same in other places, and that all of them use our nftables table: the iptables forms
for what they cannot express, the native one for everything. Must never know what is in force. `ipamd.nodefirewall`
asks.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from vpccni.core import egress
from vpccni.core.firewall import nftmarks, nftrules, snat
from vpccni.core.firewall.nftlisting import OwnTables
from vpccni.core.firewall.snat import IptablesRules, SnatPolicy
from vpccni.netlink.values import IPAddress

# By what our table tells whose it is: a rule of the native backend, and one beside iptables.
_NATIVE = "chain translation {"
_BESIDE = re.compile(r"^\s*chain postrouting \{.*?\}$", re.DOTALL | re.MULTILINE)


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
    rules = [each for each in (snat.rules(policy), snat.beside(policy)) if each] if policy is not None else []
    if egress_from is not None:
        rules.append(egress.rules(egress_from, randomize))
    completing = nftmarks.table(policy) if policy is not None else ""
    return FirewallForm(tuple(rules), {"ip": completing} if completing else {})


def bridge(have: OwnTables, wanted: FirewallForm) -> OwnTables | None:
    """Our tables for the time in which rules of both backends are there; None when the node does not go from one to the
    other, `have` being what an earlier start has left.

    The native translation, and the chain that keeps the node's own flows from the rule of iptables.
    """
    old, new = have.get("ip", ""), wanted.nftables.get("ip", "")
    if (keeping := _BESIDE.search(old)) and _NATIVE in new:
        base, others = new, wanted.nftables
    elif _NATIVE in old and (keeping := _BESIDE.search(new)):
        base, others = old, have
    else:
        return None
    return {**others, "ip": f"{base.rstrip().removesuffix('}')}\n{keeping[0]}\n}}\n"}
