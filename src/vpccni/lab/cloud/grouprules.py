# SPDX-License-Identifier: Apache-2.0
"""A rule of a security group: what it is made of, what it allows, and when a set of rules allows everything.

Knows EC2's spellings of protocols and ports and their limits. Must never know who is in a group: `groups` keeps that,
`lab.ec2` reads and writes the API's form, `lab.guard` makes packet filters of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network

from vpccni.aws.values import IPNetwork
from vpccni.lab.cloud.errors import ApiError, invalid

ALL = "-1"
LAST_PORT = 65_535
PORTED = ("tcp", "udp")
ICMP = {"icmp": 4, "icmpv6": 6}  # by name, with the only IP version that it exists in
_NAMES = {"1": "icmp", "6": "tcp", "17": "udp", "58": "icmpv6", "all": ALL}
ANYWHERE = "anywhere"  # EVERYWHERE, as people write it
_WRITTEN = re.compile(r"([a-zA-Z0-9-]+)(?:\s+(\d+)(?:[-/](\d+))?)?\s+(from|to)\s+(\S+)")
EVERYWHERE: dict[int, IPNetwork] = {4: IPv4Network("0.0.0.0/0"), 6: IPv6Network("::/0")}


@dataclass(frozen=True, slots=True)
class GroupRule:
    """One permission to or from one peer: a network, or the id of a group.

    `first` and `last` are ports of TCP and UDP, type and code of ICMP (None: all of them), and None for the rest.
    """

    egress: bool
    protocol: str
    peer: IPNetwork | str
    first: int | None = None
    last: int | None = None
    description: str = ""
    rule_id: str = ""

    @property
    def key(self) -> tuple[object, ...]:
        """What makes two rules the same one: everything but id and description."""
        return self.egress, self.protocol, self.peer, self.first, self.last

    def speaks(self, version: int) -> bool:
        """Whether it counts as a rule of an IP version; one about a group counts for both."""
        return isinstance(self.peer, str) or self.peer.version == version

    def __str__(self) -> str:
        separator = "/" if self.protocol in ICMP else "-"
        alone = self.last is None or (self.last == self.first and self.protocol in PORTED)
        numbers = [] if self.first is None else [str(self.first) if alone else f"{self.first}{separator}{self.last}"]
        protocol = "all" if self.protocol == ALL else self.protocol
        return " ".join([protocol, *numbers, "to" if self.egress else "from", str(self.peer)])


def rule(
    egress: bool, protocol: str, peer: IPNetwork | str, first: int | None = None, last: int | None = None,
    description: str = "",
) -> GroupRule:  # fmt: skip
    """A rule in its canonical form; raises ApiError for a protocol, port or ICMP type that there is not."""
    name = _NAMES.get(protocol.lower(), protocol.lower())
    numbered = name.isdecimal() and int(name) <= 255
    if name != ALL and name not in PORTED and name not in ICMP and not numbered:
        raise invalid(f"Invalid value '{protocol}' for IP protocol. Unknown protocol.")
    if name in PORTED:
        first, last = _ports(first, last)
    elif name in ICMP:
        first, last = (None if value in (None, -1) else value for value in (first, last))
        if any(value is not None and not 0 <= value <= 255 for value in (first, last)):
            raise invalid(f"ICMP type or code out of range: {first}, {last}")
        if first is None and last is not None:
            raise invalid("An ICMP code needs a type")
    else:
        first = last = None
    return GroupRule(egress, name, peer, first, last, description)


def _ports(first: int | None, last: int | None) -> tuple[int | None, int | None]:
    if (first, last) in ((None, None), (-1, -1), (0, LAST_PORT)):
        return None, None
    if first is None or last is None or not 0 <= first <= last <= LAST_PORT:
        raise invalid(f"Invalid TCP or UDP port range: from {first} to {last}")
    return first, last


def parse(text: str, groups: Mapping[str, str]) -> list[GroupRule]:
    """Rules as people write them: `tcp 80 from 10.0.0.0/8`, `udp 5000-5010 to db`, `icmp 8 from anywhere`.

    `groups`: name -> id; an id is taken as well. Raises ValueError that says what is accepted.
    """
    found = _WRITTEN.fullmatch(text.strip())
    if found is None:
        raise ValueError(
            f"{text!r} is no rule; accepted is PROTOCOL [PORT[-PORT]|TYPE[/CODE]] from|to CIDR|GROUP|anywhere"
        )
    protocol, first, last, way, peer = found.groups()
    peers: list[IPNetwork | str]
    if peer == ANYWHERE:
        peers = list(EVERYWHERE.values())
    elif peer in groups or peer in groups.values():
        peers = [groups.get(peer, peer)]
    elif "." in peer or ":" in peer:
        peers = [IPv6Network(peer) if ":" in peer else IPv4Network(peer)]
    else:
        raise ValueError(f"{peer!r} is neither a CIDR nor one of the groups {', '.join(sorted(groups))}")
    low = None if first is None else int(first)
    high = int(last) if last else None if protocol.lower() in ICMP else low
    try:
        return [rule(way == "to", protocol, each, low, high) for each in peers]
    except ApiError as error:
        raise ValueError(f"{text!r}: {error.message}") from None


def allow_everything(rules: Iterable[GroupRule], versions: Iterable[int]) -> bool:
    """Whether these rules, of either direction, let everything pass both ways in these IP versions."""
    keys = {one.key for one in rules}
    return all(rule(egress, ALL, EVERYWHERE[version]).key in keys for egress in (False, True) for version in versions)
