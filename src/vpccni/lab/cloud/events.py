# SPDX-License-Identifier: Apache-2.0
"""What happened in the cloud, for those who own real devices: the fabric's only source of truth.

Knows facts of the model as frozen values, each complete in itself. Must never know namespaces, links or routes.
`Cloud.advance` returns them in the order in which they happened; replaying all of them gives the whole data plane.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Network

from vpccni.aws.values import IPNetwork
from vpccni.lab.cloud.grouprules import GroupRule


@dataclass(frozen=True, slots=True)
class VpcChanged:
    """A VPC exists with these CIDRs (sent again when it gains one)."""

    vpc_id: str
    cidrs: tuple[IPv4Network, ...]
    ipv6_cidrs: tuple[IPv6Network, ...] = ()

    @property
    def networks(self) -> tuple[IPNetwork, ...]:
        """All CIDRs, of any family."""
        return (*self.cidrs, *self.ipv6_cidrs)


@dataclass(frozen=True, slots=True)
class SubnetCreated:
    """A subnet exists; its router answers at the network's first address."""

    subnet_id: str
    vpc_id: str
    cidr: IPv4Network
    ipv6_cidr: IPv6Network | None = None


@dataclass(frozen=True, slots=True)
class SubnetDeleted:
    """A subnet is gone; no interface was left in it."""

    subnet_id: str
    vpc_id: str


@dataclass(frozen=True, slots=True)
class InstanceStarted:
    """An instance runs. Its interfaces follow as `LinkAppears`."""

    instance_id: str
    instance_type: str
    vpc_id: str
    subnet_id: str
    primary_address: IPv4Address


@dataclass(frozen=True, slots=True)
class InstanceTerminated:
    """An instance is shutting down for good. Its links have vanished before."""

    instance_id: str


@dataclass(frozen=True, slots=True)
class LinkAppears:
    """The device of an interface shows up in its instance. `addresses` are all that it owns, primary first."""

    instance_id: str
    eni_id: str
    mac: str
    device_index: int
    card: int
    subnet_id: str
    vpc_id: str
    addresses: tuple[IPNetwork, ...]
    source_dest_check: bool = True


@dataclass(frozen=True, slots=True)
class LinkVanishes:
    """The device of an interface is gone from its instance (detach or termination)."""

    instance_id: str
    eni_id: str
    mac: str
    device_index: int
    card: int


@dataclass(frozen=True, slots=True)
class AddressesChanged:
    """An interface now owns exactly these: single addresses as /32 or /128, prefixes as /28 or /80, primary first.

    Sent on creation, on every change and, with nothing, on deletion; also while there is no link. Traffic for an owned
    address may only reach an interface between its `LinkAppears` and its `LinkVanishes`.
    """

    eni_id: str
    vpc_id: str
    addresses: tuple[IPNetwork, ...]


@dataclass(frozen=True, slots=True)
class PublicAddressChanged:
    """The internet gateway translates `public` to `private` and back; `None` ends the association of `private`."""

    eni_id: str
    vpc_id: str
    private: IPv4Address
    public: IPv4Address | None


@dataclass(frozen=True, slots=True)
class SourceDestCheckChanged:
    """Whether frames of an interface must carry an address that it owns."""

    eni_id: str
    enabled: bool


@dataclass(frozen=True, slots=True)
class SecurityGroupsChanged:
    """An interface is now a member of exactly these groups."""

    eni_id: str
    group_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class GroupRulesChanged:
    """A security group now has exactly these rules; with none at all nothing passes, or the group is gone."""

    group_id: str
    rules: tuple[GroupRule, ...]


Event = (
    VpcChanged
    | SubnetCreated
    | SubnetDeleted
    | InstanceStarted
    | InstanceTerminated
    | LinkAppears
    | LinkVanishes
    | AddressesChanged
    | PublicAddressChanged
    | SourceDestCheckChanged
    | SecurityGroupsChanged
    | GroupRulesChanged
)
