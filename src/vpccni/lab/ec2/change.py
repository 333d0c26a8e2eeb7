# SPDX-License-Identifier: Apache-2.0
"""The operations that change something: from parsed parameters to a call of the model.

Knows which parameter of the API becomes which argument, and how texts become addresses. Must never check what the
model checks. `app` calls them by the name of the API action and announces a change afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any, TypeVar

from vpccni.lab.cloud.addresses import Wanted
from vpccni.lab.cloud.cloud import Cloud
from vpccni.lab.cloud.errors import combination, invalid
from vpccni.lab.cloud.interfaces import InterfaceChange, NewInterface
from vpccni.lab.ec2 import rows

Parameters = Mapping[str, Any]
Answer = dict[str, Any]
T = TypeVar("T")


def _each(kind: Callable[[str], T], texts: Iterable[str], noun: str = "address") -> tuple[T, ...]:
    found = []
    for text in texts:
        try:
            found.append(kind(text))
        except ValueError:
            raise invalid(f"invalid value for parameter {noun}: {text}") from None
    return tuple(found)


def _specified_tags(parameters: Parameters, resource_type: str) -> dict[str, str]:
    tags: dict[str, str] = {}
    for specification in parameters.get("TagSpecifications", ()):
        if specification.get("ResourceType") != resource_type:
            raise invalid(f"'{specification.get('ResourceType')}' is not a valid taggable resource type here.")
        tags |= _tags(specification.get("Tags", ()))
    return tags


def _tags(listed: Iterable[Mapping[str, str]]) -> dict[str, str]:
    tags: dict[str, str] = {}
    for tag in listed:
        key = tag.get("Key", "")
        if key in tags:
            raise invalid(f"Duplicate tag key '{key}' specified.")
        tags[key] = tag.get("Value", "")
    return tags


# -- interfaces


def create_network_interface(cloud: Cloud, parameters: Parameters) -> Answer:
    """CreateNetworkInterface."""
    primary, ipv4 = _ipv4_of_new(parameters)
    ipv6 = Wanted(
        addresses=_each(IPv6Address, (item.get("Ipv6Address", "") for item in parameters.get("Ipv6Addresses", ()))),
        count=parameters.get("Ipv6AddressCount"),
        prefixes=_each(IPv6Network, (item.get("Ipv6Prefix", "") for item in parameters.get("Ipv6Prefixes", ()))),
        prefix_count=parameters.get("Ipv6PrefixCount"),
    )
    token = parameters.get("ClientToken", "")
    request = NewInterface(
        subnet_id=parameters["SubnetId"],
        group_ids=tuple(parameters.get("Groups", ())),
        description=parameters.get("Description", ""),
        primary=primary,
        ipv4=ipv4,
        ipv6=ipv6,
        interface_type=parameters.get("InterfaceType", "interface"),
        tags=_specified_tags(parameters, "network-interface"),
    )
    eni = cloud.create_network_interface(request, token)
    return {"NetworkInterface": rows.interface(cloud, eni), "ClientToken": token or None}


def _ipv4_of_new(parameters: Parameters) -> tuple[IPv4Address | None, Wanted]:
    """The primary address asked for, and the rest. `PrivateIpAddresses` may name the primary among the others."""
    listed = parameters.get("PrivateIpAddresses", ())
    primaries = [item.get("PrivateIpAddress", "") for item in listed if item.get("Primary")]
    if "PrivateIpAddress" in parameters:
        primaries.append(parameters["PrivateIpAddress"])
    if len(primaries) > 1:
        raise combination("Only one primary private IP address can be specified.")
    secondary = [item.get("PrivateIpAddress", "") for item in listed if not item.get("Primary")]
    wanted = Wanted(
        addresses=_each(IPv4Address, secondary),
        count=parameters.get("SecondaryPrivateIpAddressCount"),
        prefixes=_each(IPv4Network, (item.get("Ipv4Prefix", "") for item in parameters.get("Ipv4Prefixes", ()))),
        prefix_count=parameters.get("Ipv4PrefixCount"),
    )
    return next(iter(_each(IPv4Address, primaries)), None), wanted


def attach_network_interface(cloud: Cloud, parameters: Parameters) -> Answer:
    """AttachNetworkInterface."""
    attachment = cloud.attach_network_interface(
        parameters["NetworkInterfaceId"],
        parameters["InstanceId"],
        parameters["DeviceIndex"],
        parameters.get("NetworkCardIndex", 0),
    )
    return {"AttachmentId": attachment.attachment_id, "NetworkCardIndex": attachment.card}


def detach_network_interface(cloud: Cloud, parameters: Parameters) -> Answer:
    """DetachNetworkInterface."""
    cloud.detach_network_interface(parameters["AttachmentId"], force=parameters.get("Force", False))
    return {}


def delete_network_interface(cloud: Cloud, parameters: Parameters) -> Answer:
    """DeleteNetworkInterface."""
    cloud.delete_network_interface(parameters["NetworkInterfaceId"])
    return {}


def modify_network_interface_attribute(cloud: Cloud, parameters: Parameters) -> Answer:
    """ModifyNetworkInterfaceAttribute."""
    attachment = parameters.get("Attachment", {})
    change = InterfaceChange(
        description=parameters.get("Description", {}).get("Value"),
        source_dest_check=parameters.get("SourceDestCheck", {}).get("Value"),
        group_ids=tuple(parameters["Groups"]) if "Groups" in parameters else None,
        attachment_id=attachment.get("AttachmentId"),
        delete_on_termination=attachment.get("DeleteOnTermination"),
        associate_public_ip=parameters.get("AssociatePublicIpAddress"),
    )
    cloud.modify_network_interface(parameters["NetworkInterfaceId"], change)
    return {}


# -- addresses


def assign_private_ip_addresses(cloud: Cloud, parameters: Parameters) -> Answer:
    """AssignPrivateIpAddresses."""
    granted = cloud.assign_private_ip_addresses(
        parameters["NetworkInterfaceId"],
        addresses=_each(IPv4Address, parameters.get("PrivateIpAddresses", ())),
        count=parameters.get("SecondaryPrivateIpAddressCount"),
        prefixes=_each(IPv4Network, parameters.get("Ipv4Prefixes", ())),
        prefix_count=parameters.get("Ipv4PrefixCount"),
        allow_reassignment=parameters.get("AllowReassignment", False),
    )
    return {
        "NetworkInterfaceId": parameters["NetworkInterfaceId"],
        "AssignedPrivateIpAddresses": rows.assigned(granted.addresses),
        "AssignedIpv4Prefixes": [{"Ipv4Prefix": prefix} for prefix in granted.prefixes],
    }


def unassign_private_ip_addresses(cloud: Cloud, parameters: Parameters) -> Answer:
    """UnassignPrivateIpAddresses."""
    cloud.unassign_private_ip_addresses(
        parameters["NetworkInterfaceId"],
        _each(IPv4Address, parameters.get("PrivateIpAddresses", ())),
        _each(IPv4Network, parameters.get("Ipv4Prefixes", ())),
    )
    return {}


def assign_ipv6_addresses(cloud: Cloud, parameters: Parameters) -> Answer:
    """AssignIpv6Addresses."""
    granted = cloud.assign_ipv6_addresses(
        parameters["NetworkInterfaceId"],
        addresses=_each(IPv6Address, parameters.get("Ipv6Addresses", ())),
        count=parameters.get("Ipv6AddressCount"),
        prefixes=_each(IPv6Network, parameters.get("Ipv6Prefixes", ())),
        prefix_count=parameters.get("Ipv6PrefixCount"),
    )
    return {
        "NetworkInterfaceId": parameters["NetworkInterfaceId"],
        "AssignedIpv6Addresses": list(granted.addresses),
        "AssignedIpv6Prefixes": list(granted.prefixes),
    }


def unassign_ipv6_addresses(cloud: Cloud, parameters: Parameters) -> Answer:
    """UnassignIpv6Addresses."""
    addresses = _each(IPv6Address, parameters.get("Ipv6Addresses", ()))
    prefixes = _each(IPv6Network, parameters.get("Ipv6Prefixes", ()))
    cloud.unassign_ipv6_addresses(parameters["NetworkInterfaceId"], addresses, prefixes)
    return {
        "NetworkInterfaceId": parameters["NetworkInterfaceId"],
        "UnassignedIpv6Addresses": list(addresses),
        "UnassignedIpv6Prefixes": list(prefixes),
    }


# -- trunks and permissions


def associate_trunk_interface(cloud: Cloud, parameters: Parameters) -> Answer:
    """AssociateTrunkInterface."""
    token = parameters.get("ClientToken", "")
    made = cloud.associate_trunk_interface(
        parameters["BranchInterfaceId"],
        parameters["TrunkInterfaceId"],
        vlan_id=parameters.get("VlanId"),
        gre_key=parameters.get("GreKey"),
        client_token=token,
    )
    return {"InterfaceAssociation": rows.trunk_association(made), "ClientToken": token or None}


def disassociate_trunk_interface(cloud: Cloud, parameters: Parameters) -> Answer:
    """DisassociateTrunkInterface."""
    cloud.disassociate_trunk_interface(parameters["AssociationId"])
    return {"Return": True, "ClientToken": parameters.get("ClientToken")}


def create_network_interface_permission(cloud: Cloud, parameters: Parameters) -> Answer:
    """CreateNetworkInterfacePermission."""
    made = cloud.create_network_interface_permission(
        parameters["NetworkInterfaceId"],
        parameters["Permission"],
        account_id=parameters.get("AwsAccountId", ""),
        service=parameters.get("AwsService", ""),
    )
    return {"InterfacePermission": rows.permission(made)}


def delete_network_interface_permission(cloud: Cloud, parameters: Parameters) -> Answer:
    """DeleteNetworkInterfacePermission."""
    force = parameters.get("Force", False)
    cloud.delete_network_interface_permission(parameters["NetworkInterfacePermissionId"], force=force)
    return {"Return": True}


# -- tags, instances, subnets


def create_tags(cloud: Cloud, parameters: Parameters) -> Answer:
    """CreateTags."""
    cloud.create_tags(parameters["Resources"], _tags(parameters["Tags"]))
    return {}


def delete_tags(cloud: Cloud, parameters: Parameters) -> Answer:
    """DeleteTags: a tag without a value goes whatever its value is."""
    cloud.delete_tags(parameters["Resources"], {tag["Key"]: tag.get("Value") for tag in parameters.get("Tags", ())})
    return {}


def terminate_instances(cloud: Cloud, parameters: Parameters) -> Answer:
    """TerminateInstances: all of them or none."""
    ids = parameters["InstanceIds"]
    before = {instance_id: cloud.instance(instance_id).state for instance_id in ids}
    changes = [
        {
            "InstanceId": instance_id,
            "PreviousState": rows.state(before[instance_id]),
            "CurrentState": rows.state(cloud.terminate_instance(instance_id).state),
        }
        for instance_id in before
    ]
    return {"TerminatingInstances": changes}


def create_subnet_cidr_reservation(cloud: Cloud, parameters: Parameters) -> Answer:
    """CreateSubnetCidrReservation, IPv4."""
    reservation = cloud.create_subnet_cidr_reservation(
        parameters["SubnetId"],
        _each(IPv4Network, [parameters["Cidr"]], "cidr")[0],
        parameters["ReservationType"],
        parameters.get("Description", ""),
    )
    return {"SubnetCidrReservation": rows.cidr_reservation(reservation, cloud.account_id)}


def delete_subnet_cidr_reservation(cloud: Cloud, parameters: Parameters) -> Answer:
    """DeleteSubnetCidrReservation."""
    gone = cloud.delete_subnet_cidr_reservation(parameters["SubnetCidrReservationId"])
    return {"DeletedSubnetCidrReservation": rows.cidr_reservation(gone, cloud.account_id)}


def create_subnet(cloud: Cloud, parameters: Parameters) -> Answer:
    """CreateSubnet."""
    ipv6 = [parameters["Ipv6CidrBlock"]] if "Ipv6CidrBlock" in parameters else []
    subnet = cloud.create_subnet(
        parameters["VpcId"],
        _each(IPv4Network, [parameters.get("CidrBlock", "")], "cidrBlock")[0],
        parameters.get("AvailabilityZone", ""),
        _specified_tags(parameters, "subnet"),
        ipv6_cidr=next(iter(_each(IPv6Network, ipv6, "ipv6CidrBlock")), None),
    )
    return {"Subnet": rows.subnet(cloud, subnet)}


def delete_subnet(cloud: Cloud, parameters: Parameters) -> Answer:
    """DeleteSubnet."""
    cloud.delete_subnet(parameters["SubnetId"])
    return {}


def create_security_group(cloud: Cloud, parameters: Parameters) -> Answer:
    """CreateSecurityGroup."""
    group = cloud.create_security_group(
        parameters.get("VpcId", ""),
        parameters["GroupName"],
        parameters["Description"],
        _specified_tags(parameters, "security-group"),
    )
    return {"GroupId": group.group_id, "Tags": rows.tag_list(group.tags)}
