# SPDX-License-Identifier: Apache-2.0
"""Which addresses live on which ENI -> the routing rules of the shared layout, few to walk however many addresses.

Knows that the kernel walks rules one after the other, twice for each forwarded packet, and that a rule may jump ahead
(`goto`). Must never know pods: the rules follow the addresses that EC2 has assigned, so that an ADD changes none of
them. `core.nodenet` calls it.

Addresses that EC2 assigns one by one are scattered over a subnet, and no few prefixes cover them. From a dozen rules on
they become a tree: blocks of falling size, each a jump to its part. The place of a part follows from its address alone,
so that a change elsewhere moves nothing; two parts at one place are both walked, which is slower and not wrong, because
no two of them match the same source. Every part ends with a jump behind all of them: a source that is on no secondary
ENI goes on with the rules of other programs and with main.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from ipaddress import IPv4Address, IPv4Network, collapse_addresses

from vpccni.core import conventions as c
from vpccni.netlink.values import IPNetwork, Rule

FLAT = 12  # as many rules cost a packet less than a jump and its way back
_FEW = 3
# (prefix length of the blocks of a level, number of places for its parts): a /16 takes four jumps of eight ways.
_LEVELS = ((19, 16), (22, 64), (25, 128), (28, 256))
_FIRST_PART = c.RULE_FROM_BLOCK + 2


def source_rules(tables: Mapping[IPNetwork, int]) -> list[Rule]:
    """Rules that send packets from each network to its table; networks of main need none and are left out."""
    cidrs: dict[int, list[tuple[IPNetwork, int]]] = {4: [], 6: []}
    for table in sorted(set(tables.values())):
        if not c.is_main(table):
            for version in cidrs:
                mine = (network for network in tables if tables[network] == table and network.version == version)
                cidrs[version] += [(network, table) for network in collapse_addresses(mine)]  # type: ignore[type-var]
    return [rule for version, found in cidrs.items() for rule in _of_version(version, found)]


def is_source_rule(rule: Rule) -> bool:
    """Whether a rule is one of these: by priority and by our protocol number, which nobody else's rule carries."""
    return c.RULE_FROM_BLOCK <= rule.priority <= c.RULE_FROM_BLOCK_END and rule.protocol == c.PROTOCOL


def table_of(network: IPNetwork, rules: Iterable[Rule]) -> int:
    """The table to which source rules send packets from `network`; main when none does."""
    for rule in rules:
        if is_source_rule(rule) and rule.table and rule.src is not None and rule.src.version == network.version:
            first, last = rule.src.network_address, rule.src.broadcast_address
            if first <= network.network_address <= last:  # type: ignore[operator]  # of one family
                return rule.table
    return c.TABLE_MAIN


def _of_version(version: int, cidrs: list[tuple[IPNetwork, int]]) -> list[Rule]:
    if version == 6 or len(cidrs) <= FLAT:
        return [_lookup(c.RULE_FROM_BLOCK, network, table) for network, table in cidrs]
    end = Rule(c.RULE_FROM_BLOCK_END, kind="nop", protocol=c.PROTOCOL)
    return list(dict.fromkeys((*_part(c.RULE_FROM_BLOCK, cidrs, 0), end)))  # parts at one place share their end


def _part(priority: int, cidrs: list[tuple[IPNetwork, int]], level: int) -> list[Rule]:
    """The rules of one part at `priority`, its end at the next priority, and the parts below it."""
    rules: list[Rule] = []
    below: list[Rule] = []
    blocks: dict[IPv4Network, list[tuple[IPNetwork, int]]] = {}
    for network, table in cidrs:
        if level == len(_LEVELS) or network.prefixlen <= _LEVELS[level][0]:
            rules.append(_lookup(priority, network, table))
        else:
            blocks.setdefault(_block(network, level), []).append((network, table))
    for block, inside in blocks.items():
        if len(inside) <= _FEW:
            rules += [_lookup(priority, network, table) for network, table in inside]
        else:
            place = _place(block, level)
            rules.append(Rule(priority, src=block, kind="goto", target=place, protocol=c.PROTOCOL))
            below += _part(place, inside, level + 1)
    end = Rule(priority + 1, kind="goto", target=c.RULE_FROM_BLOCK_END, protocol=c.PROTOCOL)
    return [*rules, end, *below]


def _lookup(priority: int, network: IPNetwork, table: int) -> Rule:
    return Rule(priority, table, src=network, family=network.version, protocol=c.PROTOCOL)


def _block(network: IPNetwork, level: int) -> IPv4Network:
    length = _LEVELS[level][0]
    return IPv4Network((int(network.network_address) >> (32 - length) << (32 - length), length))


def _place(block: IPv4Network, level: int) -> int:
    """The priority of a block's part: behind those of the levels above, by the last bits of the block's number."""
    before = sum(places for _, places in _LEVELS[:level])
    number = int(IPv4Address(block.network_address)) >> (32 - block.prefixlen)
    return _FIRST_PART + 2 * (before + number % _LEVELS[level][1])
