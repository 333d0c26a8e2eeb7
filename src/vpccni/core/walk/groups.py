# SPDX-License-Identifier: Apache-2.0
"""Whether security groups let a connection begin, and which rule of which group does.

Knows groups with their permissions, peers already resolved to networks. Must never judge an answer: groups are
stateful. `walk` asks it where a packet leaves an ENI and where it arrives at one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vpccni.core.walk.meeting import Header
from vpccni.netlink.values import IPNetwork

ALL = "-1"
_NAMES = {"icmp6": "icmpv6"}  # as EC2 calls it
_ECHO = {"icmp": 8, "icmp6": 128}


@dataclass(frozen=True, slots=True)
class Permit:
    """One rule of a group, `text` as people write it. No ports: all of them."""

    text: str
    egress: bool
    protocol: str
    peers: tuple[IPNetwork, ...]
    first: int | None = None
    last: int | None = None

    def allows(self, header: Header, *, egress: bool) -> bool:
        """Whether it lets a connection begin in that direction."""
        peer = header.target if egress else header.source
        last = self.first if self.last is None else self.last
        if header.is_echo:  # the numbers are the type of the message and its code, which an echo request has none of
            ports = self.first in (None, _ECHO[header.protocol]) and self.last in (None, 0)
        else:
            ports = self.first is None or last is None or self.first <= header.target_port <= last
        return (
            self.egress == egress
            and self.protocol in (ALL, _NAMES.get(header.protocol, header.protocol))
            and ports
            and any(network.version == peer.version and peer in network for network in self.peers)
        )


@dataclass(frozen=True, slots=True)
class Group:
    """A security group."""

    name: str
    permits: tuple[Permit, ...]


def allowing(groups: Sequence[Group], header: Header, *, egress: bool) -> str:
    """The first rule that allows it, as "group: rule"; empty when none does."""
    for group in groups:
        for permit in group.permits:
            if permit.allows(header, egress=egress):
                return f"{group.name}: {permit.text}"
    return ""
