# SPDX-License-Identifier: Apache-2.0
"""The world through which a packet walks, and what is said of its way, as values.

Knows machines ("stacks") with what was observed in their kernels, the VPC with who owns which address, hops and
verdicts. Must never decide where a packet goes: `walk` does. `lab.trace` fills the world.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from vpccni.core.firewall.chains import Tables
from vpccni.core.walk.groups import Group
from vpccni.core.walk.meeting import Draw, Header
from vpccni.core.walk.nftread import NftTable
from vpccni.netlink.values import Address, IPAddress, IPNetwork, Link, Neighbour, Route, Rule

Phase = Literal["request", "reply"]
Way = Literal["in", "out", ""]


@dataclass(frozen=True, slots=True)
class Stack:
    """A network namespace as its kernel describes it. `cables` lead from a device to (stack, device) at its far end;
    `tables` of iptables and `policies` of their built-in chains ("table CHAIN") are by IP version; `nft` are the tables
    of nftables; `reverse_filter` is rp_filter in force, by device; `unforwarded` are (IP version, device) by which
    nothing comes in that is not for this machine."""

    name: str
    links: tuple[Link, ...] = ()
    addresses: tuple[Address, ...] = ()
    routes: tuple[Route, ...] = ()
    rules: tuple[Rule, ...] = ()
    neighbours: tuple[Neighbour, ...] = ()
    tables: Mapping[int, Tables] = field(default_factory=dict)
    policies: Mapping[int, Mapping[str, str]] = field(default_factory=dict)
    nft: tuple[NftTable, ...] = ()
    cables: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    reverse_filter: Mapping[str, int] = field(default_factory=dict)
    unforwarded: frozenset[tuple[int, str]] = frozenset()

    def device(self, index: int) -> str:
        """Name of a device, empty when there is none of that index."""
        return next((link.name for link in self.links if link.index == index), "")


@dataclass(frozen=True, slots=True)
class Port:
    """An attached ENI: the device on its node, the router's end (empty: out of view), and what it owns."""

    eni_id: str
    stack: str
    device: str
    port: str
    owned: tuple[IPNetwork, ...]
    checked: bool = True
    groups: tuple[Group, ...] | None = None  # None: nothing is known of them, so nothing is judged

    def owns(self, address: IPAddress) -> bool:
        """Whether EC2 delivers packets for this address here."""
        return any(address.version == network.version and address in network for network in self.owned)


@dataclass(frozen=True, slots=True)
class Outside:
    """A host outside the VPC, in the namespace `stack`."""

    name: str
    stack: str
    addresses: tuple[IPAddress, ...]
    via: Literal["internet", "private"]


@dataclass(frozen=True, slots=True)
class Vpc:
    """Who owns what. `public`: private address -> public one. `services`: addresses of the VPC itself. Seen from one
    node it is not `complete`: `ports` are that node's, and what goes to anybody else is gone from view."""

    cidrs: tuple[IPNetwork, ...]
    ports: tuple[Port, ...]
    outside: tuple[Outside, ...] = ()
    public: Mapping[IPAddress, IPAddress] = field(default_factory=dict)
    services: tuple[IPAddress, ...] = ()
    complete: bool = True


@dataclass(frozen=True, slots=True)
class World:
    """All stacks by name, and the VPC between them."""

    stacks: Mapping[str, Stack]
    vpc: Vpc


@dataclass(frozen=True, slots=True)
class Hop:
    """One step. With a `device` the packet is visible there; without, something is decided, by the object `by`."""

    phase: Phase
    place: str
    device: str
    way: Way
    header: Header
    by: str = ""
    why: str = ""
    mark: int = 0
    ct_mark: int = 0


@dataclass(frozen=True, slots=True)
class Verdict:
    """How it ends. `code` is empty when request and reply arrive."""

    code: str
    where: str
    why: str
    next_step: str = ""

    @property
    def reached(self) -> bool:
        """Whether the sender gets its answer."""
        return not self.code


@dataclass(frozen=True, slots=True)
class Trip:
    """The predicted way there and back. `delivered_to` is the place that got the request, empty when none did, and
    `arrived` how it got it; `draws` what it supposes about choices that the kernel makes by chance."""

    hops: tuple[Hop, ...]
    verdict: Verdict
    delivered_to: str = ""
    unread: tuple[str, ...] = ()
    draws: tuple[Draw, ...] = ()
    arrived: Hop | None = None
