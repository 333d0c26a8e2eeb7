# SPDX-License-Identifier: Apache-2.0
"""The things that exist in a cloud: VPCs, subnets, security groups, instances and interfaces.

Knows their attributes as EC2 names them. Must never know rules or time: the operations next door change them, each
only after it has checked everything. Readers (`lab.ec2`, the metadata view) treat them as read-only.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from vpccni.aws.values import InstanceLimits, IPNetwork, alone
from vpccni.lab.cloud.grouprules import GroupRule
from vpccni.lab.cloud.space import AddressSpace


@dataclass(slots=True)
class Vpc:
    """A VPC; the first CIDR is the primary one."""

    vpc_id: str
    serial: int
    owner_id: str
    cidrs: list[IPv4Network]
    ipv6_cidrs: list[IPv6Network]
    tags: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Subnet:
    """A subnet in one availability zone, with its address spaces."""

    subnet_id: str
    serial: int
    owner_id: str
    vpc_id: str
    zone: str
    v4: AddressSpace
    v6: AddressSpace | None
    map_public_ip: bool
    tags: dict[str, str] = field(default_factory=dict)

    def space(self, version: int) -> AddressSpace | None:
        """The address space of an IP version."""
        return self.v4 if version == 4 else self.v6


@dataclass(slots=True)
class SecurityGroup:
    """A security group; `rules` by rule id, in order of creation."""

    group_id: str
    serial: int
    owner_id: str
    vpc_id: str
    name: str
    description: str
    tags: dict[str, str] = field(default_factory=dict)
    rules: dict[str, GroupRule] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Owned:
    """What an interface holds at one moment, without its primary address; `version` counts its changes."""

    version: int
    primary: IPv4Address
    addresses: tuple[IPv4Address, ...]
    ipv6: tuple[IPv6Address, ...]
    prefixes: tuple[IPv4Network, ...]
    ipv6_prefixes: tuple[IPv6Network, ...]
    group_ids: tuple[str, ...]
    public: IPv4Address | None


@dataclass(slots=True)
class Attachment:
    """How an interface hangs on an instance. `shown` is what the metadata service lists; None: it lists nothing."""

    attachment_id: str
    instance_id: str
    device: int
    card: int
    attached_at: float
    status: str = "attaching"
    delete_on_termination: bool = False
    has_link: bool = False
    shown: Owned | None = None


@dataclass(slots=True)
class Eni:
    """An elastic network interface. `addresses` are the secondary ones."""

    eni_id: str
    serial: int
    owner_id: str
    mac: str
    subnet_id: str
    vpc_id: str
    zone: str
    primary: IPv4Address
    group_ids: tuple[str, ...]
    created_at: float
    addresses: list[IPv4Address] = field(default_factory=list)
    ipv6: list[IPv6Address] = field(default_factory=list)
    prefixes: list[IPv4Network] = field(default_factory=list)
    ipv6_prefixes: list[IPv6Network] = field(default_factory=list)
    description: str = ""
    interface_type: str = "interface"
    status: str = "pending"
    source_dest_check: bool = True
    attachment: Attachment | None = None
    public: IPv4Address | None = None
    tags: dict[str, str] = field(default_factory=dict)
    version: int = 0
    requester: str = ""  # who made it when it was not its owner, such as amazon-elb
    visible_at: float = 0.0  # before that its id is not known everywhere yet
    stale: Owned | None = None  # what describes show until `stale_until`
    stale_until: float = 0.0

    @property
    def ipv4_slots(self) -> int:
        """How much of the per-interface IPv4 limit is used: primary, secondary addresses and prefixes count alike."""
        return 1 + len(self.addresses) + len(self.prefixes)

    @property
    def ipv6_slots(self) -> int:
        """How much of the per-interface IPv6 limit is used."""
        return len(self.ipv6) + len(self.ipv6_prefixes)

    @property
    def networks(self) -> tuple[IPNetwork, ...]:
        """All that the interface owns, primary first: /32 and /128, /28 and /80."""
        singles = map(alone, (self.primary, *self.addresses))
        return (*singles, *self.prefixes, *map(alone, self.ipv6), *self.ipv6_prefixes)

    def owned(self) -> Owned:
        """What it holds now."""
        return Owned(
            version=self.version,
            primary=self.primary,
            addresses=tuple(self.addresses),
            ipv6=tuple(self.ipv6),
            prefixes=tuple(self.prefixes),
            ipv6_prefixes=tuple(self.ipv6_prefixes),
            group_ids=self.group_ids,
            public=self.public,
        )


@dataclass(frozen=True, slots=True)
class TrunkAssociation:
    """A branch interface on a trunk, by VLAN id or GRE key."""

    association_id: str
    serial: int
    trunk_id: str
    branch_id: str
    vlan_id: int | None = None
    gre_key: int | None = None

    @property
    def protocol(self) -> str:
        """VLAN or GRE."""
        return "GRE" if self.vlan_id is None else "VLAN"


@dataclass(frozen=True, slots=True)
class Permission:
    """What another account or service may do with an interface."""

    permission_id: str
    serial: int
    eni_id: str
    account_id: str
    service: str
    permission: str


@dataclass(frozen=True, slots=True)
class MetadataOptions:
    """How an instance's metadata service may be used. `http_tokens` is required or optional."""

    http_tokens: str = "required"
    http_put_response_hop_limit: int = 1
    http_endpoint: str = "enabled"
    instance_metadata_tags: str = "disabled"


DEFAULT_OPTIONS = MetadataOptions()


@dataclass(slots=True)
class Instance:
    """An EC2 instance. `state` is running, shutting-down or terminated."""

    instance_id: str
    serial: int
    owner_id: str
    reservation_id: str
    limits: InstanceLimits
    image_id: str
    subnet_id: str
    vpc_id: str
    zone: str
    launched_at: float
    primary_eni_id: str
    state: str = "running"
    options: MetadataOptions = DEFAULT_OPTIONS
    user_data: str = ""
    iam_role: str = ""
    tags: dict[str, str] = field(default_factory=dict)

    @property
    def instance_type(self) -> str:
        """Such as m5.large."""
        return self.limits.instance_type


TAGGABLE = {  # resource type as EC2 spells it, by id prefix
    "eni": "network-interface",
    "subnet": "subnet",
    "vpc": "vpc",
    "i": "instance",
    "sg": "security-group",
}
