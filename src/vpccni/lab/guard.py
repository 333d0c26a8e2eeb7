# SPDX-License-Identifier: Apache-2.0
"""Security groups as packet filters: which interfaces are guarded, and the nft(8) text that guards them.

Knows who is in which group, who owns what, and what the groups allow. Must never run anything. `lab.fabric` tells it
every event and feeds its text to nft, one transaction for each change.

As on EC2, an interface whose groups allow everything both ways is not guarded, and flows between two such interfaces
are not tracked. A flow of a guarded one is judged when it begins: first by what the sender may send, then by what the
receiver may receive. Replies, and what a flow that was allowed once goes on to send, pass by connection tracking.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from vpccni.aws.values import IPNetwork
from vpccni.lab.cloud.events import (
    AddressesChanged,
    Event,
    GroupRulesChanged,
    LinkAppears,
    LinkVanishes,
    SecurityGroupsChanged,
)
from vpccni.lab.cloud.grouprules import ALL, ICMP, PORTED, GroupRule, allow_everything
from vpccni.lab.ruleset import FAMILIES

DIRECTIONS = ("out", "in")  # as the interface sees it
_ICMP_NUMBER = {"icmp": "icmp", "icmpv6": "ipv6-icmp"}  # as nft calls the protocol


@dataclass(frozen=True, slots=True)
class Filters:
    """What nft is to hold: chains with their rules, sets with their elements, and the guarded ports."""

    ports: tuple[str, ...] = ()
    chains: dict[str, list[str]] = field(default_factory=dict)
    sets: dict[str, tuple[str, list[str]]] = field(default_factory=dict)  # name: nft type and elements

    @property
    def counters(self) -> list[str]:
        """One for each port and direction."""
        return [counter(port, direction) for port in self.ports for direction in DIRECTIONS]


class Guard:
    """What was told so far, and what nft holds because of it."""

    def __init__(self, versions: Sequence[int]) -> None:
        self._versions = tuple(versions)
        self._rules: dict[str, tuple[GroupRule, ...]] = {}  # by group id
        self._groups: dict[str, tuple[str, ...]] = {}  # by ENI id
        self._owned: dict[str, tuple[IPNetwork, ...]] = {}  # by ENI id
        self._ports: dict[str, str] = {}  # ENI id: port
        self._written = Filters()

    def follow(self, event: Event, port: str = "") -> str:
        """Take an event in; the nft text that it makes necessary, mostly none. `port` is the one of its interface."""
        match event:
            case LinkAppears():
                self._ports[event.eni_id] = port
                self._owned[event.eni_id] = event.addresses
            case LinkVanishes():
                self._ports.pop(event.eni_id, None)
            case AddressesChanged():
                self._owned[event.eni_id] = event.addresses
                if not event.addresses:  # the interface is deleted
                    del self._owned[event.eni_id]
                    self._groups.pop(event.eni_id, None)
            case SecurityGroupsChanged():
                self._groups[event.eni_id] = event.group_ids
            case GroupRulesChanged():
                self._rules[event.group_id] = event.rules
            case _:
                return ""
        before, self._written = self._written, self._filters()
        return transaction(before, self._written) if before != self._written else ""

    def _filters(self) -> Filters:
        guarded = sorted(
            (port, self._groups[eni_id]) for eni_id, port in self._ports.items() if self._is_guarded(eni_id)
        )
        wanted = Filters(tuple(port for port, _ in guarded))
        for port, groups in guarded:
            for direction in DIRECTIONS:
                jumps = [f"jump {_chain(group, direction)}" for group in groups]
                drop = f'counter name "security_group" counter name "{counter(port, direction)}" drop'
                wanted.chains[f"{port}_{direction}"] = [*jumps, drop]
        for group in sorted({group for _, groups in guarded for group in groups}):
            rules = self._rules.get(group, ())
            # What may leave has still to be let in by the other side.
            for direction, verdict in (("out", "goto arriving"), ("in", "accept")):
                wanted.chains[_chain(group, direction)] = [
                    f"{match} {verdict}"
                    for rule in rules
                    if rule.egress == (direction == "out")
                    for match in matches(rule, self._versions)
                ]
            for peer in (rule.peer for rule in rules if isinstance(rule.peer, str)):
                for version in self._versions:
                    wanted.sets[_set(peer, version)] = (f"ipv{version}_addr", self._addresses(peer, version))
        return wanted

    def _is_guarded(self, eni_id: str) -> bool:
        if eni_id not in self._groups:
            return False  # nobody has said what it may do
        rules = (rule for group in self._groups[eni_id] for rule in self._rules.get(group, ()))
        return not allow_everything(rules, self._versions)

    def _addresses(self, group: str, version: int) -> list[str]:
        members = sorted(eni_id for eni_id, groups in self._groups.items() if group in groups)
        return [
            str(network) for eni_id in members for network in self._owned.get(eni_id, ()) if network.version == version
        ]


def matches(rule: GroupRule, versions: Sequence[int]) -> Iterator[str]:
    """What a packet that begins a flow must look like for a rule, one expression for each IP version."""
    for version in versions:
        if rule.speaks(version) and ICMP.get(rule.protocol, version) == version:
            yield " ".join(filter(None, (_peer(rule, version), _protocol(rule))))


def _peer(rule: GroupRule, version: int) -> str:
    side = f"{FAMILIES[version]} {'daddr' if rule.egress else 'saddr'}"
    if isinstance(rule.peer, str):
        return f"{side} @{_set(rule.peer, version)}"
    return f"{side} {rule.peer}" if rule.peer.prefixlen else f"meta nfproto ipv{version}"


def _protocol(rule: GroupRule) -> str:
    if rule.protocol == ALL:
        return ""
    if rule.first is None:
        return f"meta l4proto {_ICMP_NUMBER.get(rule.protocol, rule.protocol)}"
    if rule.protocol in PORTED:
        return f"{rule.protocol} dport {rule.first}-{rule.last}"
    kind = f"{rule.protocol} type {rule.first}"
    return kind if rule.last is None else f"{kind} {rule.protocol} code {rule.last}"


def transaction(before: Filters, after: Filters) -> str:
    """The nft text that leads from one to the other: nothing is judged by half of it, and counters go on counting."""
    lines = [f"add counter inet vpc {name}" for name in after.counters]
    lines += [
        f"add set inet vpc {name} {{ type {kind}; flags interval; auto-merge; }}"
        for name, (kind, _) in after.sets.items()
    ]
    lines += [f"add chain inet vpc {name}" for name in after.chains]
    lines += ["flush set inet vpc guarded", *(f"flush map inet vpc {name}" for name in _MAPS.values())]
    lines += [f"flush chain inet vpc {name}" for name in before.chains | after.chains]
    lines += [f"flush set inet vpc {name}" for name in before.sets | after.sets]
    for name, (_, elements) in after.sets.items():
        lines += [f"add element inet vpc {name} {{ {', '.join(elements)} }}"] if elements else []
    lines += [f"add rule inet vpc {name} {rule}" for name, rules in after.chains.items() for rule in rules]
    for port in after.ports:
        lines.append(f'add element inet vpc guarded {{ "{port}" }}')
        lines += [
            f'add element inet vpc {_MAPS[direction]} {{ "{port}" : jump {port}_{direction} }}'
            for direction in DIRECTIONS
        ]
    lines += [f"delete chain inet vpc {name}" for name in before.chains if name not in after.chains]
    lines += [f"delete set inet vpc {name}" for name in before.sets if name not in after.sets]
    lines += [f"delete counter inet vpc {name}" for name in before.counters if name not in after.counters]
    return "\n".join(lines) + "\n"


_MAPS = {"out": "leave", "in": "arrive"}


def counter(port: str, direction: str) -> str:
    """The name of the counter of what a port's groups refused."""
    return f"refused_{port}_{direction}"


def _chain(group: str, direction: str) -> str:
    return f"{group.replace('-', '_')}_{direction}"


def _set(group: str, version: int) -> str:
    return f"{group.replace('-', '_')}_v{version}"
