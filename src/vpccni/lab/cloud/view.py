# SPDX-License-Identifier: Apache-2.0
"""The metadata service's view of an instance: what it shows now, which may be older than what the API says.

Knows which attribute of the model becomes which key. Must never change the model: the lag is kept in the attachments
(`shown`), which the interface operations update in their time. Called by `Cloud.instance_metadata`.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Network

from vpccni.lab.cloud.metadata import InstanceMetadata, InterfaceMetadata
from vpccni.lab.cloud.resources import Eni, Owned
from vpccni.lab.cloud.world import World

_COMPASS = {"northeast": "ne", "northwest": "nw", "southeast": "se", "southwest": "sw"}


def private_name(address: IPv4Address, region: str) -> str:
    """EC2's private DNS name of an address."""
    domain = "ec2.internal" if region == "us-east-1" else f"{region}.compute.internal"
    return f"ip-{str(address).replace('.', '-')}.{domain}"


def public_name(address: IPv4Address, region: str) -> str:
    """EC2's public DNS name of an address."""
    domain = "compute-1.amazonaws.com" if region == "us-east-1" else f"{region}.compute.amazonaws.com"
    return f"ec2-{str(address).replace('.', '-')}.{domain}"


def zone_id(zone: str) -> str:
    """A zone's id such as usw2-az1. In AWS the mapping differs per account; here a is az1, b is az2, ..."""
    area, *direction, number = zone[:-1].split("-")
    letters = "".join(_COMPASS.get(word, word[0]) for word in direction)
    return f"{area}{letters}{number}-az{ord(zone[-1]) - ord('a') + 1}"


def instance_metadata(world: World, instance_id: str) -> InstanceMetadata | None:
    """The metadata of a running instance, or None."""
    instance = world.instances.get(instance_id)
    if instance is None or instance.state != "running":
        return None
    shown = [(eni, eni.attachment.shown) for eni in world.enis_of(instance_id) if eni.attachment]
    interfaces = tuple(_interface(world, eni, owned) for eni, owned in shown if owned is not None)
    primary = world.enis[instance.primary_eni_id]
    owned = primary.attachment.shown if primary.attachment else None
    public = owned.public if owned else None
    name = private_name(primary.primary, world.region)
    return InstanceMetadata(
        instance_id=instance_id,
        instance_type=instance.instance_type,
        ami_id=instance.image_id,
        account_id=world.account_id,
        region=world.region,
        availability_zone=instance.zone,
        availability_zone_id=zone_id(instance.zone),
        mac=primary.mac,
        local_ipv4=primary.primary,
        local_hostname=name,
        hostname=name,
        interfaces=interfaces,
        ipv6=owned.ipv6[0] if owned and owned.ipv6 else None,
        public_ipv4=public,
        public_hostname=public_name(public, world.region) if public else "",
        security_group_names=_group_names(world, owned.group_ids if owned else ()),
        reservation_id=instance.reservation_id,
        iam_role=instance.iam_role,
        user_data=instance.user_data,
        launched_at=instance.launched_at,
        tags=dict(instance.tags),
        instance_metadata_tags=instance.options.instance_metadata_tags == "enabled",
        http_tokens_required=instance.options.http_tokens == "required",
        http_put_response_hop_limit=instance.options.http_put_response_hop_limit,
        http_endpoint_enabled=instance.options.http_endpoint == "enabled",
    )


def _group_names(world: World, group_ids: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(world.groups[group_id].name for group_id in group_ids if group_id in world.groups)


def _interface(world: World, eni: Eni, owned: Owned) -> InterfaceMetadata:
    attachment = eni.attachment
    assert attachment is not None  # only attached interfaces are listed
    subnet, vpc = world.subnets[eni.subnet_id], world.vpcs[eni.vpc_id]
    cidr = subnet.v4.network
    return InterfaceMetadata(
        mac=eni.mac,
        interface_id=eni.eni_id,
        device_number=attachment.device,
        network_card=attachment.card,
        subnet_id=eni.subnet_id,
        vpc_id=eni.vpc_id,
        owner_id=eni.owner_id,
        local_hostname=private_name(eni.primary, world.region),
        security_group_ids=owned.group_ids,
        security_group_names=_group_names(world, owned.group_ids),
        local_ipv4s=(owned.primary, *owned.addresses),
        ipv6s=owned.ipv6,
        ipv4_prefixes=owned.prefixes,
        ipv6_prefixes=owned.ipv6_prefixes,
        subnet_ipv4_cidr_block=cidr if isinstance(cidr, IPv4Network) else None,
        subnet_ipv6_cidr_blocks=_ipv6_cidrs(world, eni),
        vpc_ipv4_cidr_block=vpc.cidrs[0],
        vpc_ipv4_cidr_blocks=tuple(vpc.cidrs),
        vpc_ipv6_cidr_blocks=tuple(vpc.ipv6_cidrs),
        public_ipv4s=(owned.public,) if owned.public else (),
        public_hostname=public_name(owned.public, world.region) if owned.public else "",
        ipv4_associations={owned.public: (owned.primary,)} if owned.public else {},
    )


def _ipv6_cidrs(world: World, eni: Eni) -> tuple[IPv6Network, ...]:
    space = world.subnets[eni.subnet_id].v6
    return (space.network,) if space is not None and isinstance(space.network, IPv6Network) else ()
