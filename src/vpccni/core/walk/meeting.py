# SPDX-License-Identifier: Apache-2.0
"""A packet where a firewall meets it: its header, marks and devices, what conntrack says, and what became of it.

Knows values alone. Must never evaluate a rule: `walk.iptables` does for iptables and `walk.nft` for nftables, and both
speak in these terms. `walk.hooks` puts them in the kernel's order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Literal

from vpccni.netlink.values import IPAddress, Link

ANY_PORT = 0  # a port that the kernel will draw, or has drawn
FULL = 0xFFFFFFFF

# Bits of `ct status`, as in linux/netfilter/nf_conntrack_common.h. A translation that changed nothing is "done" alone.
SEEN_REPLY, CONFIRMED = 2, 8
SNAT, DNAT, SNAT_DONE, DNAT_DONE = 0x10, 0x20, 0x80, 0x100

PROTOCOLS = {"icmp": 1, "tcp": 6, "udp": 17, "icmp6": 58}


@dataclass(frozen=True, slots=True)
class Header:
    """A packet's addresses and ports at one place. An echo request has its identifier as source port, and no other."""

    source: IPAddress
    source_port: int
    target: IPAddress
    target_port: int
    protocol: str = "tcp"

    @property
    def reversed(self) -> Header:
        """The same of an answer."""
        return Header(self.target, self.target_port, self.source, self.source_port, self.protocol)

    @property
    def is_echo(self) -> bool:
        """Whether it has no ports but an identifier."""
        return self.protocol in ("icmp", "icmp6")

    def __str__(self) -> str:
        if self.is_echo:
            return f"{self.source} > {self.target} {self.protocol} {self.source_port or self.target_port or '?'}"
        return f"{_end(self.source, self.source_port)} > {_end(self.target, self.target_port)}"


@dataclass(frozen=True, slots=True)
class Machine:
    """What a firewall may ask about the machine it runs on. `address_type` is as `ip route` calls it (local, unicast,
    broadcast, ...), of one device or of any; `way_out` the device by which a packet (source, target, mark) would leave;
    `address_of` what MASQUERADE takes, by device and IP version; `primary` a device's own first address (REDIRECT)."""

    address_type: Callable[[IPAddress, str], str] = lambda _address, _device: "unicast"
    way_out: Callable[[IPAddress, IPAddress, int], str] = lambda _source, _target, _mark: ""
    address_of: Callable[[str, int], IPAddress | None] = lambda _device, _version: None
    primary: Callable[[str, int], IPAddress | None] = lambda _device, _version: None
    links: Sequence[Link] = ()

    def link(self, device: str) -> Link | None:
        """A device by name, or by its index as a number."""
        return next((link for link in self.links if device in (link.name, str(link.index))), None)


@dataclass(frozen=True, slots=True)
class Meeting:
    """A packet at a hook. `original` is the connection's first packet as it came in (None before conntrack has seen
    it); `related` an error message about the connection; `untracked` by a rule of the raw table."""

    header: Header
    mark: int = 0
    ct_mark: int = 0
    iif: str = ""
    oif: str = ""
    new: bool = True
    reply: bool = False
    related: bool = False
    status: int = 0
    original: Header | None = None
    untracked: bool = False
    machine: Machine = field(default_factory=Machine)

    @property
    def redirected_to(self) -> IPAddress | None:
        """What REDIRECT takes (nf_nat_redirect.c): the first address of the device that it came in by, or loopback."""
        version = self.header.target.version
        if not self.iif:
            return ip_address("127.0.0.1" if version == 4 else "::1")
        return self.machine.primary(self.iif, version)

    @property
    def state(self) -> str:
        """What conntrack calls it."""
        if self.untracked:
            return "untracked"
        if self.original is None:
            return "invalid"
        return "related" if self.related else "new" if self.new else "established"


Ending = Literal["", "drop", "reject", "reset", "queue"]


@dataclass(frozen=True, slots=True)
class Effect:
    """What a base chain, or a table's chain, made of a packet: the packet after it, and the rules that did something or
    decided (no jumps). `ended_by` is the rule that ended its way, by an `ending` that "reset" tells the sender with TCP
    and "reject" with ICMP. `bound`: a rule of a nat chain decided about a translation, also for one without change."""

    meeting: Meeting
    rules: tuple[str, ...] = ()
    ending: Ending = ""
    ended_by: str = ""
    bound: bool = False
    unread: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Draw:
    """A choice that the kernel makes by chance: what there was to choose from, and what this trip supposes."""

    rule: str
    options: tuple[str, ...]
    taken: int


class Draws:
    """Supposes what the kernel will draw: first `wanted`, one after the other, then always the first option."""

    def __init__(self, wanted: Sequence[int] = ()) -> None:
        self._wanted, self.made = wanted, list[Draw]()

    def among(self, rule: str, options: Sequence[str]) -> int:
        """The number of an option. Where there is but one, nothing is drawn."""
        if len(options) == 1:
            return 0
        at = len(self.made)
        taken = self._wanted[at] if at < len(self._wanted) and self._wanted[at] < len(options) else 0
        self.made.append(Draw(rule, tuple(options), taken))
        return taken


def _end(address: IPAddress, port: int) -> str:
    name = f"[{address}]" if address.version == 6 else str(address)
    return f"{name}:{port or '?'}"
