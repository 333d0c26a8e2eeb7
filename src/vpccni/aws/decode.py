# SPDX-License-Identifier: Apache-2.0
"""EC2's answers, as botocore parses them, turned into values.

Knows the field names of the EC2 API. Must never make a call. `aws.boto` uses it, and so
may a reader of recorded answers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Any

from vpccni.aws.values import (
    Attachment,
    CardLimit,
    InstanceLimits,
    Interface,
    IPAddress,
    IPNetwork,
    Launched,
    Subnet,
)

Raw = Mapping[str, Any]


def interface(raw: Raw) -> Interface:
    """A NetworkInterface of CreateNetworkInterface or DescribeNetworkInterfaces."""
    primary = raw.get("PrivateIpAddress") or raw.get("Ipv6Address")
    addresses: list[IPAddress] = [
        ip_address(entry["PrivateIpAddress"])
        for entry in raw.get("PrivateIpAddresses", ())
        if not entry.get("Primary") and entry["PrivateIpAddress"] != primary
    ]
    addresses += [
        ip_address(entry["Ipv6Address"]) for entry in raw.get("Ipv6Addresses", ()) if entry["Ipv6Address"] != primary
    ]
    prefixes: list[IPNetwork] = [ip_network(entry["Ipv4Prefix"]) for entry in raw.get("Ipv4Prefixes", ())]
    prefixes += [ip_network(entry["Ipv6Prefix"]) for entry in raw.get("Ipv6Prefixes", ())]
    return Interface(
        eni_id=raw["NetworkInterfaceId"],
        mac=raw.get("MacAddress", ""),
        subnet_id=raw.get("SubnetId", ""),
        primary_address=ip_address(primary) if primary else None,
        addresses=tuple(addresses),
        prefixes=tuple(prefixes),
        status=raw.get("Status", ""),
        attachment=attachment(raw["Attachment"]) if raw.get("Attachment") else None,
        interface_type=raw.get("InterfaceType", "interface"),
        description=raw.get("Description", ""),
        security_groups=tuple(group["GroupId"] for group in raw.get("Groups", ())),
        vpc_id=raw.get("VpcId", ""),
        availability_zone=raw.get("AvailabilityZone", ""),
        source_dest_check=raw.get("SourceDestCheck", True),
        tags=tags(raw.get("TagSet", ())),
    )


def launched(raw: Raw) -> Launched:
    """An instance of DescribeInstances."""
    attachments = (each["Attachment"] for each in raw.get("NetworkInterfaces", ()))
    slots = frozenset((each.get("NetworkCardIndex", 0), each["DeviceIndex"]) for each in attachments)
    return Launched(raw["InstanceId"], raw["LaunchTime"].timestamp(), slots)


def attachment(raw: Raw) -> Attachment:
    """The attachment of an interface. Those of AWS services name no instance and may lack a device index."""
    return Attachment(
        attachment_id=raw.get("AttachmentId", ""),
        instance_id=raw.get("InstanceId", ""),
        device=raw.get("DeviceIndex", 0),
        card=raw.get("NetworkCardIndex", 0),
        status=raw.get("Status", ""),
        delete_on_termination=raw.get("DeleteOnTermination", False),
    )


def subnet(raw: Raw) -> Subnet:
    """A subnet of DescribeSubnets; IPv6 CIDRs that are being removed are left out."""
    ipv6 = (
        IPv6Network(block["Ipv6CidrBlock"])
        for block in raw.get("Ipv6CidrBlockAssociationSet", ())
        if block.get("Ipv6CidrBlockState", {}).get("State") == "associated"
    )
    return Subnet(
        subnet_id=raw["SubnetId"],
        vpc_id=raw.get("VpcId", ""),
        availability_zone=raw.get("AvailabilityZone", ""),
        cidr=IPv4Network(raw["CidrBlock"]) if raw.get("CidrBlock") else None,
        free_addresses=raw.get("AvailableIpAddressCount", 0),
        ipv6_cidrs=tuple(ipv6),
        tags=tags(raw.get("Tags", ())),
    )


def instance_limits(raw: Raw) -> InstanceLimits:
    """An item of DescribeInstanceTypes. `max_enis` is the default card's limit, not the sum over the cards."""
    network = raw["NetworkInfo"]
    cards = tuple(
        CardLimit(card["NetworkCardIndex"], card["MaximumNetworkInterfaces"])
        for card in sorted(network.get("NetworkCards", ()), key=lambda card: int(card["NetworkCardIndex"]))
    ) or (CardLimit(0, network["MaximumNetworkInterfaces"]),)
    default = network.get("DefaultNetworkCardIndex", 0)
    on_default = next((card.max_enis for card in cards if card.card == default), network["MaximumNetworkInterfaces"])
    return InstanceLimits(
        instance_type=raw["InstanceType"],
        max_enis=on_default,
        ipv4_per_eni=network["Ipv4AddressesPerInterface"],
        ipv6_per_eni=network.get("Ipv6AddressesPerInterface", 0) if network.get("Ipv6Supported") else 0,
        cards=cards,
        default_card=default,
        hypervisor=raw.get("Hypervisor") or "unknown",
        bare_metal=raw.get("BareMetal", False),
        vcpus=raw.get("VCpuInfo", {}).get("DefaultVCpus", 0),
    )


def tags(raw: Iterable[Raw]) -> dict[str, str]:
    """A tag list as a mapping; a tag without a value has the empty one."""
    return {tag["Key"]: tag.get("Value", "") for tag in raw}
