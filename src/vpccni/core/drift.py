# SPDX-License-Identifier: Apache-2.0
"""Whether something that just changed in the kernel is a reason to compare everything.

Knows the shape of our objects and that the daemon's own work shows up as changes too: what an ADD makes and what the
DEL of a pod takes away must not cost a comparison. Must never decide what is right (`nodenet`, `podnet` do); a change
that it misses is found by the next periodic comparison. `ipamd.watch` asks it for every event.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from vpccni.core import conventions as c
from vpccni.core.firewall.snat import is_own_chain
from vpccni.core.podseen import is_pod_link
from vpccni.netlink.values import Address, IPAddress, IPInterface, IPNetwork, Link, Neighbour, Route, Rule, Value

_SHARED_CHAINS = frozenset({"PREROUTING", "POSTROUTING", "FORWARD"})
_NODE_PRIORITIES = frozenset({c.RULE_TO_POD, c.RULE_MARK, c.RULE_EXTERNAL_SERVICE, c.RULE_FROM_POD, c.RULE_FROM_ENI})


@dataclass(frozen=True, slots=True)
class Known:
    """What is ours: ENIs by link index with their addresses (none for the primary one), their tables and MTU, host
    veths' MTUs by index, and whether an address or an attachment is held by a pod at rest."""

    enis: Mapping[int, tuple[IPInterface, ...] | None] = field(default_factory=dict)
    tables: frozenset[int] = frozenset()
    mtu: int = c.DEFAULT_MTU
    mtus: Mapping[int, int] = field(default_factory=dict)
    held: Callable[[IPAddress], bool] = lambda _address: False
    wired: Callable[[c.PodAlias], bool] = lambda _alias: False


def concerns(verb: str, value: Value | None, known: Known) -> bool:
    """Whether the event `verb` ("new" or "del"; anything else means that events were lost) calls for a comparison."""
    if value is None:
        return True
    if isinstance(value, Neighbour):
        return False
    if isinstance(value, Link):
        return verb == "new" and _link_is_wrong(value, known)
    if isinstance(value, Address):
        return _address_is_wrong(verb, value, known)
    address = _single(value)
    if isinstance(value, Rule):
        if verb == "new":
            return False
        if address is not None and value.priority in (c.RULE_TO_POD, c.RULE_FROM_POD):
            return known.held(address)
        return value.protocol == c.PROTOCOL or value.priority in _NODE_PRIORITIES
    if address is not None and value.table in (c.TABLE_MAIN, c.POD_TABLE):
        return known.held(address) and (verb == "del" or value.protocol != c.PROTOCOL)
    ours = value.table in known.tables
    return ours and (verb == "del" or value.protocol != c.PROTOCOL)


def firewall_concerns(verb: str, table: str, chain: str) -> bool:
    """The same for a change of firewall rules, told by the chain where it happened.

    Others add to the kernel's own chains all the time, which is no harm to what is there.
    """
    if verb == "resync" or is_own_chain(chain) or table in (c.NFT_TABLE, c.NFT_OWN_TABLE):
        return True
    return verb == "del" and (chain in _SHARED_CHAINS or not chain)


def _link_is_wrong(link: Link, known: Known) -> bool:
    if link.index in known.enis:
        return not link.up or link.mtu != known.mtu
    if not is_pod_link(link):
        return False
    alias = c.parse_alias(link.alias)
    if alias is not None and not known.wired(alias):
        return False  # one that is being made, or that dies with its namespace
    mine = alias is not None or link.group == c.VETH_GROUP
    regrouped = alias is not None and link.group not in (c.VETH_GROUP, c.DOOMED_GROUP)
    return mine and (not link.up or regrouped or link.mtu != known.mtus.get(link.index, link.mtu))


def _address_is_wrong(verb: str, value: Address, known: Known) -> bool:
    if value.index in known.mtus:
        return verb == "del" and value.scope == "link"
    ours = known.enis.get(value.index)
    if ours is None or value.scope != "global":
        return False
    return (value.interface in ours) == (verb == "del")


def _single(value: Route | Rule) -> IPAddress | None:
    network: IPNetwork | None = value.dst if isinstance(value, Route) else (value.src or value.dst)
    return network.network_address if network is not None and network.num_addresses == 1 else None
