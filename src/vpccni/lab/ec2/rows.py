# SPDX-License-Identifier: Apache-2.0
"""Resources as the EC2 API describes them: one function per output shape.

Knows EC2's member names. Must never decide or change anything. The describe operations list these rows, `xml` writes
them; a member that is None is left out.
"""

from __future__ import annotations

from typing import Any

from vpccni.aws.values import InstanceLimits, IPAddress
from vpccni.lab.cloud.grouprules import ICMP, LAST_PORT, PORTED, GroupRule
from vpccni.lab.cloud.resources import (
    Attachment,
    Eni,
    Instance,
    Permission,
    SecurityGroup,
    Subnet,
    TrunkAssociation,
    Vpc,
)
from vpccni.lab.cloud.space import Reservation
from vpccni.lab.cloud.view import private_name, public_name, zone_id
from vpccni.lab.cloud.world import World

Row = dict[str, Any]
STATE_CODES = {"pending": 0, "running": 16, "shutting-down": 32, "terminated": 48}


def tag_list(tags: dict[str, str]) -> list[Row]:
    """Tags as EC2 lists them."""
    return [{"Key": key, "Value": value} for key, value in tags.items()]


def _groups(world: World, group_ids: tuple[str, ...]) -> list[Row]:
    return [{"GroupId": gid, "GroupName": world.groups[gid].name} for gid in group_ids if gid in world.groups]


def _association(world: World, eni: Eni) -> Row | None:
    if eni.public is None:
        return None
    name = public_name(eni.public, world.region)
    return {"IpOwnerId": "amazon", "PublicDnsName": name, "PublicIp": eni.public}


def attachment(found: Attachment, owner_id: str) -> Row:
    """NetworkInterfaceAttachment."""
    return {
        "AttachTime": found.attached_at,
        "AttachmentId": found.attachment_id,
        "DeleteOnTermination": found.delete_on_termination,
        "DeviceIndex": found.device,
        "NetworkCardIndex": found.card,
        "InstanceId": found.instance_id,
        "InstanceOwnerId": owner_id,
        "Status": found.status,
    }


def _described(world: World, eni: Eni) -> Row:
    """What the interface of DescribeNetworkInterfaces and that of DescribeInstances have in common."""
    association = _association(world, eni)
    v4 = [eni.primary, *eni.addresses]
    return {
        "Association": association,
        "Description": eni.description,
        "Groups": _groups(world, eni.group_ids),
        "InterfaceType": eni.interface_type,
        "Ipv6Addresses": [{"Ipv6Address": address} for address in eni.ipv6],
        "MacAddress": eni.mac,
        "NetworkInterfaceId": eni.eni_id,
        "OwnerId": eni.owner_id,
        "PrivateDnsName": private_name(eni.primary, world.region),
        "PrivateIpAddress": eni.primary,
        "PrivateIpAddresses": [
            {
                "Primary": address == eni.primary,
                "PrivateDnsName": private_name(address, world.region),
                "PrivateIpAddress": address,
                "Association": association if address == eni.primary else None,
            }
            for address in v4
        ],
        "Ipv4Prefixes": [{"Ipv4Prefix": prefix} for prefix in eni.prefixes] or None,
        "Ipv6Prefixes": [{"Ipv6Prefix": prefix} for prefix in eni.ipv6_prefixes] or None,
        "SourceDestCheck": eni.source_dest_check,
        "Status": eni.status,
        "SubnetId": eni.subnet_id,
        "VpcId": eni.vpc_id,
    }


def interface(world: World, eni: Eni) -> Row:
    """NetworkInterface."""
    return _described(world, eni) | {
        "Attachment": None if eni.attachment is None else attachment(eni.attachment, eni.owner_id),
        "AvailabilityZone": eni.zone,
        "RequesterManaged": bool(eni.requester),
        "RequesterId": eni.requester or None,
        "TagSet": tag_list(eni.tags),
    }


def _instance_interface(world: World, eni: Eni) -> Row:
    row = _described(world, eni)
    if eni.attachment is not None:
        row["Attachment"] = attachment(eni.attachment, eni.owner_id)
        del row["Attachment"]["InstanceId"], row["Attachment"]["InstanceOwnerId"]
    return row


def instance(world: World, found: Instance) -> Row:
    """Instance. A terminated one keeps its id, type and times only."""
    options = found.options
    row: Row = {
        "AmiLaunchIndex": 0,
        "Architecture": "x86_64",
        "ImageId": found.image_id,
        "InstanceId": found.instance_id,
        "InstanceType": found.instance_type,
        "LaunchTime": found.launched_at,
        "Placement": {"AvailabilityZone": found.zone, "Tenancy": "default"},
        "State": state(found.state),
        "Tags": tag_list(found.tags),
        "VirtualizationType": "hvm",
        "MetadataOptions": {
            "State": "applied",
            "HttpTokens": options.http_tokens,
            "HttpPutResponseHopLimit": options.http_put_response_hop_limit,
            "HttpEndpoint": options.http_endpoint,
            "InstanceMetadataTags": options.instance_metadata_tags,
        },
        "NetworkInterfaces": [
            _instance_interface(world, world.described(eni)) for eni in world.enis_of(found.instance_id)
        ],
    }
    primary = world.enis.get(found.primary_eni_id)
    if primary is not None and found.state != "terminated":
        row |= {
            "PrivateDnsName": private_name(primary.primary, world.region),
            "PrivateIpAddress": primary.primary,
            "PublicIpAddress": primary.public,
            "PublicDnsName": public_name(primary.public, world.region) if primary.public else "",
            "SecurityGroups": _groups(world, primary.group_ids),
            "SourceDestCheck": primary.source_dest_check,
            "SubnetId": found.subnet_id,
            "VpcId": found.vpc_id,
        }
    return row


def state(name: str) -> Row:
    """InstanceState."""
    return {"Code": STATE_CODES[name], "Name": name}


def reservation(world: World, found: Instance) -> Row:
    """Reservation of one instance."""
    return {"OwnerId": found.owner_id, "ReservationId": found.reservation_id, "Instances": [instance(world, found)]}


def subnet(world: World, found: Subnet) -> Row:
    """Subnet."""
    ipv6 = [] if found.v6 is None else [found.v6.network]
    return {
        "AvailabilityZone": found.zone,
        "AvailabilityZoneId": zone_id(found.zone),
        "AvailableIpAddressCount": found.v4.free_count,
        "CidrBlock": found.v4.network,
        "DefaultForAz": False,
        "MapPublicIpOnLaunch": found.map_public_ip,
        "State": "available",
        "SubnetId": found.subnet_id,
        "VpcId": found.vpc_id,
        "OwnerId": found.owner_id,
        "AssignIpv6AddressOnCreation": False,
        "Ipv6CidrBlockAssociationSet": _ipv6_blocks(ipv6, found.subnet_id, "subnet-cidr-assoc"),
        "Tags": tag_list(found.tags) or None,
        "SubnetArn": f"arn:aws:ec2:{world.region}:{found.owner_id}:subnet/{found.subnet_id}",
    }


def _ipv6_blocks(networks: list[Any], resource_id: str, prefix: str) -> list[Row]:
    return [
        {
            "AssociationId": f"{prefix}-{resource_id.rpartition('-')[2]}{number}",
            "Ipv6CidrBlock": network,
            "Ipv6CidrBlockState": {"State": "associated"},
        }
        for number, network in enumerate(networks)
    ]


def vpc(world: World, found: Vpc) -> Row:
    """Vpc."""
    return {
        "CidrBlock": found.cidrs[0],
        "DhcpOptionsId": "default",
        "State": "available",
        "VpcId": found.vpc_id,
        "OwnerId": found.owner_id,
        "InstanceTenancy": "default",
        "Ipv6CidrBlockAssociationSet": _ipv6_blocks(list(found.ipv6_cidrs), found.vpc_id, "vpc-cidr-assoc6") or None,
        "CidrBlockAssociationSet": vpc_cidrs(found),
        "IsDefault": False,
        "Tags": tag_list(found.tags) or None,
    }


def vpc_cidrs(found: Vpc) -> list[Row]:
    """VpcCidrBlockAssociation, in the order in which they came."""
    stem = found.vpc_id.rpartition("-")[2]
    return [
        {"AssociationId": f"vpc-cidr-assoc-{stem}{n}", "CidrBlock": cidr, "CidrBlockState": {"State": "associated"}}
        for n, cidr in enumerate(found.cidrs)
    ]


def security_group(world: World, found: SecurityGroup) -> Row:
    """SecurityGroup."""
    return {
        "Description": found.description,
        "GroupName": found.name,
        "IpPermissions": _permissions(found, egress=False),
        "OwnerId": found.owner_id,
        "GroupId": found.group_id,
        "IpPermissionsEgress": _permissions(found, egress=True),
        "Tags": tag_list(found.tags) or None,
        "VpcId": found.vpc_id,
    }


def _permissions(group: SecurityGroup, *, egress: bool) -> list[Row]:
    """IpPermissions: the rules of a direction, those of the same protocol and ports together."""
    found: dict[tuple[object, ...], Row] = {}
    for one in (each for each in group.rules.values() if each.egress == egress):
        row = found.setdefault(
            (one.protocol, one.first, one.last),
            {"IpProtocol": one.protocol, **_ports(one), "IpRanges": [], "Ipv6Ranges": [], "UserIdGroupPairs": []},
        )
        text = {"Description": one.description or None}
        if isinstance(one.peer, str):
            row["UserIdGroupPairs"].append({"GroupId": one.peer, "UserId": group.owner_id, **text})
        elif one.peer.version == 4:
            row["IpRanges"].append({"CidrIp": one.peer, **text})
        else:
            row["Ipv6Ranges"].append({"CidrIpv6": one.peer, **text})
    return list(found.values())


def _ports(one: GroupRule) -> Row:
    """Ports, or type and code of ICMP, as EC2 writes "all"."""
    if one.protocol in ICMP:
        return {"FromPort": -1 if one.first is None else one.first, "ToPort": -1 if one.last is None else one.last}
    if one.protocol in PORTED:
        return {"FromPort": one.first or 0, "ToPort": LAST_PORT if one.last is None else one.last}
    return {}


def security_group_rule(group: SecurityGroup, one: GroupRule) -> Row:
    """SecurityGroupRule."""
    peer: Row = {"ReferencedGroupInfo": {"GroupId": one.peer, "UserId": group.owner_id, "VpcId": group.vpc_id}}
    if not isinstance(one.peer, str):
        peer = {"CidrIpv4" if one.peer.version == 4 else "CidrIpv6": one.peer}
    return {
        "SecurityGroupRuleId": one.rule_id,
        "GroupId": group.group_id,
        "GroupOwnerId": group.owner_id,
        "IsEgress": one.egress,
        "IpProtocol": one.protocol,
        **({"FromPort": -1, "ToPort": -1} | _ports(one)),
        **peer,
        "Description": one.description or None,
    }


def cidr_reservation(found: Reservation, owner_id: str) -> Row:
    """SubnetCidrReservation."""
    return {
        "SubnetCidrReservationId": found.reservation_id,
        "SubnetId": found.subnet_id,
        "Cidr": found.network,
        "ReservationType": found.kind,
        "OwnerId": owner_id,
        "Description": found.description or None,
    }


def trunk_association(found: TrunkAssociation) -> Row:
    """TrunkInterfaceAssociation."""
    return {
        "AssociationId": found.association_id,
        "BranchInterfaceId": found.branch_id,
        "TrunkInterfaceId": found.trunk_id,
        "InterfaceProtocol": found.protocol,
        "VlanId": found.vlan_id,
        "GreKey": found.gre_key,
    }


def permission(found: Permission) -> Row:
    """NetworkInterfacePermission."""
    return {
        "NetworkInterfacePermissionId": found.permission_id,
        "NetworkInterfaceId": found.eni_id,
        "AwsAccountId": found.account_id or None,
        "AwsService": found.service or None,
        "Permission": found.permission,
        "PermissionState": {"State": "granted"},
    }


def instance_type(limits: InstanceLimits) -> Row:
    """InstanceTypeInfo, as far as limits go. EC2 leaves the hypervisor out where there is none."""
    return {
        "InstanceType": limits.instance_type,
        "BareMetal": limits.bare_metal,
        "Hypervisor": limits.hypervisor if limits.hypervisor in ("nitro", "xen") else None,
        "VCpuInfo": {"DefaultVCpus": limits.vcpus} if limits.vcpus else None,
        "NetworkInfo": {
            "MaximumNetworkInterfaces": limits.total_enis,
            "MaximumNetworkCards": len(limits.cards),
            "DefaultNetworkCardIndex": limits.default_card,
            "NetworkCards": [
                {"NetworkCardIndex": card.card, "MaximumNetworkInterfaces": card.max_enis} for card in limits.cards
            ],
            "Ipv4AddressesPerInterface": limits.ipv4_per_eni,
            "Ipv6AddressesPerInterface": limits.ipv6_per_eni,
            "Ipv6Supported": limits.ipv6_per_eni > 0,
        },
    }


def assigned(addresses: tuple[IPAddress, ...]) -> list[Row]:
    """AssignedPrivateIpAddressList."""
    return [{"PrivateIpAddress": address} for address in addresses]
