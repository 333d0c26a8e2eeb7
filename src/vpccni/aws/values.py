# SPDX-License-Identifier: Apache-2.0
"""What EC2 and the metadata service say, as values.

Knows the vocabulary of EC2 (interfaces, attachments, subnets) as plain frozen data. Must never know pools, pods or
netlink, and opens nothing. `aws.ec2` and `aws.imds` make these values, `core` decides on them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network


def alone(address: IPAddress) -> IPNetwork:
    """The network of this one address, a /32 or /128. Made from a number: `ipaddress` prints and parses an address."""
    return IPv4Network(int(address)) if isinstance(address, IPv4Address) else IPv6Network(int(address))


@dataclass(frozen=True, slots=True)
class Attachment:
    """How an interface hangs on an instance. `status` is attaching, attached, detaching or detached."""

    attachment_id: str
    instance_id: str
    device: int
    card: int = 0
    status: str = "attached"
    delete_on_termination: bool = False


@dataclass(frozen=True, slots=True)
class Interface:
    """One ENI as DescribeNetworkInterfaces reports it. `status` is pending, available, in-use, ...

    `addresses` are the secondary addresses, without `primary_address`; `prefixes` are delegated /28 and /80 blocks.
    """

    eni_id: str
    mac: str
    subnet_id: str
    primary_address: IPAddress | None
    addresses: tuple[IPAddress, ...] = ()
    prefixes: tuple[IPNetwork, ...] = ()
    status: str = "in-use"
    attachment: Attachment | None = None
    interface_type: str = "interface"
    description: str = ""
    security_groups: tuple[str, ...] = ()
    vpc_id: str = ""
    availability_zone: str = ""
    source_dest_check: bool = True
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Subnet:
    """One subnet as DescribeSubnets reports it; `free_addresses` counts what EC2 says is available."""

    subnet_id: str
    vpc_id: str
    availability_zone: str
    cidr: IPv4Network | None
    free_addresses: int
    ipv6_cidrs: tuple[IPv6Network, ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class NodeIdentity:
    """Who this instance is, from the metadata service."""

    region: str
    availability_zone: str
    instance_id: str
    instance_type: str
    mac: str
    eni_id: str
    subnet_id: str
    vpc_id: str
    local_ipv4: IPv4Address


@dataclass(frozen=True, slots=True)
class MetadataInterface:
    """One ENI as the metadata service lists it: a hint, possibly stale."""

    mac: str
    eni_id: str
    device: int
    card: int
    subnet_id: str
    subnet_cidr: IPv4Network | None
    addresses: tuple[IPAddress, ...]  # first one is the interface's primary
    prefixes: tuple[IPNetwork, ...] = ()
    security_groups: tuple[str, ...] = ()
    subnet_ipv6_cidr: IPv6Network | None = None
    vpc_id: str = ""


@dataclass(frozen=True, slots=True)
class CardLimit:
    """One network card of an instance type and the most interfaces it takes."""

    card: int
    max_enis: int


@dataclass(frozen=True, slots=True)
class InstanceLimits:
    """What an instance type allows. `max_enis` is the default card's limit, which is what one pod network uses.

    `ipv4_per_eni` includes the interface's primary address. `hypervisor` is nitro, xen or unknown.
    """

    instance_type: str
    max_enis: int
    ipv4_per_eni: int
    ipv6_per_eni: int
    cards: tuple[CardLimit, ...]
    default_card: int = 0
    hypervisor: str = "unknown"
    bare_metal: bool = False
    vcpus: int = 0  # 0: not known

    @property
    def total_enis(self) -> int:
        """Interfaces over all network cards."""
        return sum(card.max_enis for card in self.cards)

    @property
    def pod_addresses_per_eni(self) -> int:
        """Secondary addresses (or prefixes, which take the same slots) of one interface."""
        return self.ipv4_per_eni - 1

    @property
    def supports_prefixes(self) -> bool:
        """Whether prefixes can be delegated: Nitro or bare metal (Amazon VPC CNI 1.23)."""
        return self.hypervisor == "nitro" or self.bare_metal

    def card_limit(self, card: int) -> int:
        """The most interfaces of network card `card`; 0 when the type has no such card."""
        return next((limit.max_enis for limit in self.cards if limit.card == card), 0)


@dataclass(frozen=True, slots=True)
class Launched:
    """An instance and when EC2 launched it (Unix seconds); `slots` are the (card, device index) pairs in use."""

    instance_id: str
    launched_at: float
    slots: frozenset[tuple[int, int]] = frozenset()
