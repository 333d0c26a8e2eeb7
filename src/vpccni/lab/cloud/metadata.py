# SPDX-License-Identifier: Apache-2.0
"""What the instance metadata service of one instance shows, as a value.

Knows the vocabulary of the metadata tree. Must never know how it is served or how it came about: it may lag behind the
API's own answers on purpose. Made by `lab.cloud.view`, served by `lab.imds`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network


@dataclass(frozen=True, slots=True)
class InterfaceMetadata:
    """One entry of `network/interfaces/macs/`. Empty tuples and empty texts are keys that the tree does not have.

    `local_ipv4s` starts with the interface's primary address, secondary ones follow; it stays empty for as long as the
    metadata service lags behind an attachment. Prefixes are /28 (IPv4) and /80 (IPv6).
    """

    mac: str
    interface_id: str
    device_number: int
    network_card: int
    subnet_id: str
    vpc_id: str
    owner_id: str
    local_hostname: str = ""
    security_group_ids: tuple[str, ...] = ()
    security_group_names: tuple[str, ...] = ()
    local_ipv4s: tuple[IPv4Address, ...] = ()
    ipv6s: tuple[IPv6Address, ...] = ()
    ipv4_prefixes: tuple[IPv4Network, ...] = ()
    ipv6_prefixes: tuple[IPv6Network, ...] = ()
    subnet_ipv4_cidr_block: IPv4Network | None = None
    subnet_ipv6_cidr_blocks: tuple[IPv6Network, ...] = ()
    vpc_ipv4_cidr_block: IPv4Network | None = None  # the VPC's primary CIDR
    vpc_ipv4_cidr_blocks: tuple[IPv4Network, ...] = ()
    vpc_ipv6_cidr_blocks: tuple[IPv6Network, ...] = ()
    public_ipv4s: tuple[IPv4Address, ...] = ()
    public_hostname: str = ""
    ipv4_associations: Mapping[IPv4Address, tuple[IPv4Address, ...]] = field(default_factory=dict)  # public: private


@dataclass(frozen=True, slots=True)
class InstanceMetadata:
    """Everything the metadata tree of one instance shows at one moment. `mac` is the primary interface's."""

    instance_id: str
    instance_type: str
    ami_id: str
    account_id: str
    region: str
    availability_zone: str
    availability_zone_id: str
    mac: str
    local_ipv4: IPv4Address | None
    local_hostname: str
    hostname: str
    interfaces: tuple[InterfaceMetadata, ...] = ()  # ordered by (network_card, device_number)
    ipv6: IPv6Address | None = None
    public_ipv4: IPv4Address | None = None
    public_hostname: str = ""
    security_group_names: tuple[str, ...] = ()  # of the primary interface
    reservation_id: str = ""
    ami_launch_index: int = 0
    architecture: str = "x86_64"
    partition: str = "aws"
    services_domain: str = "amazonaws.com"
    iam_role: str = ""
    user_data: str = ""
    launched_at: float = 0.0  # Unix seconds; `pendingTime` of the identity document
    tags: Mapping[str, str] = field(default_factory=dict)  # shown only when instance_metadata_tags
    instance_metadata_tags: bool = False
    http_tokens_required: bool = True
    http_put_response_hop_limit: int = 1
    http_endpoint_enabled: bool = True
