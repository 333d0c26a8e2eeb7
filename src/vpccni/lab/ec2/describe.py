# SPDX-License-Identifier: Apache-2.0
"""The describe operations: look up by id, filter, page, describe.

Knows which rows, filters and refusals go with each. Must never change the model. `app` calls them by the name of the
API action; each takes the parsed parameters and returns the members of the output shape.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from vpccni.lab.cloud.cloud import Cloud
from vpccni.lab.cloud.errors import ApiError, invalid
from vpccni.lab.cloud.resources import Eni, Instance
from vpccni.lab.cloud.view import zone_id
from vpccni.lab.ec2 import filters, rows
from vpccni.lab.ec2.paging import page

Parameters = Mapping[str, Any]
Answer = dict[str, Any]


def listing(
    cloud: Cloud,
    action: str,
    parameters: Parameters,
    table: filters.Table,
    listed: Iterable[tuple[int, Any]],
    *,
    ids: str = "",
) -> tuple[list[Any], str | None]:
    """Those that pass the call's filters, one page of them, and the token of the next."""
    tests = filters.compile_filters(table, parameters.get("Filters", ()))
    passing = [(serial, item) for serial, item in listed if all(test(cloud, item) for test in tests)]
    return page(action, parameters, passing, ids=ids)


def _wanted(found: Mapping[str, Any], look_up: Callable[[str], Any], ids: Sequence[str]) -> list[tuple[int, Any]]:
    """Those of the given ids, or all; in order of creation. `look_up` raises for an unknown id."""
    chosen = {look_up(one).serial: look_up(one) for one in ids} if ids else {r.serial: r for r in found.values()}
    return sorted(chosen.items())


def network_interfaces(cloud: Cloud, parameters: Parameters) -> Answer:
    """DescribeNetworkInterfaces. Its paging parameters do not go with ids."""
    ids = parameters.get("NetworkInterfaceIds", ())
    listed = _wanted({} if ids else cloud.listed_enis(), lambda eni_id: cloud.described(cloud.eni(eni_id)), ids)
    found, token = listing(
        cloud, "DescribeNetworkInterfaces", parameters, filters.INTERFACE, listed, ids="NetworkInterfaceIds"
    )
    return {"NetworkInterfaces": [rows.interface(cloud, eni) for eni in found], "NextToken": token}


def network_interface_attribute(cloud: Cloud, parameters: Parameters) -> Answer:
    """DescribeNetworkInterfaceAttribute, one attribute."""
    eni: Eni = cloud.eni(parameters["NetworkInterfaceId"])
    row, attribute = rows.interface(cloud, eni), parameters.get("Attribute")
    answers: dict[str, Answer] = {
        "description": {"Description": {"Value": eni.description}},
        "groupSet": {"Groups": row["Groups"]},
        "sourceDestCheck": {"SourceDestCheck": {"Value": eni.source_dest_check}},
        "attachment": {"Attachment": row["Attachment"]},
        "associatePublicIpAddress": {"AssociatePublicIpAddress": eni.public is not None},
    }
    if attribute not in answers:
        raise invalid(f"Value ({attribute}) for parameter attribute is invalid.")
    return {"NetworkInterfaceId": eni.eni_id} | answers[attribute]


def subnets(cloud: Cloud, parameters: Parameters) -> Answer:
    """DescribeSubnets."""
    listed = _wanted(cloud.subnets, cloud.subnet, parameters.get("SubnetIds", ()))
    found, token = listing(cloud, "DescribeSubnets", parameters, filters.SUBNET, listed, ids="SubnetIds")
    return {"Subnets": [rows.subnet(cloud, subnet) for subnet in found], "NextToken": token}


def vpcs(cloud: Cloud, parameters: Parameters) -> Answer:
    """DescribeVpcs."""
    listed = _wanted(cloud.vpcs, cloud.vpc, parameters.get("VpcIds", ()))
    found, token = listing(cloud, "DescribeVpcs", parameters, filters.VPC, listed, ids="VpcIds")
    return {"Vpcs": [rows.vpc(cloud, vpc) for vpc in found], "NextToken": token}


def security_groups(cloud: Cloud, parameters: Parameters) -> Answer:
    """DescribeSecurityGroups, by id or by name."""
    names = parameters.get("GroupNames", ())
    listed = _wanted(cloud.groups, cloud.group, parameters.get("GroupIds", ()))
    for name in names:
        if not any(group.name == name for group in cloud.groups.values()):
            raise ApiError("InvalidGroup.NotFound", f"The security group '{name}' does not exist")
    listed = [pair for pair in listed if not names or pair[1].name in names]
    found, token = listing(cloud, "DescribeSecurityGroups", parameters, filters.GROUP, listed, ids="GroupIds")
    return {"SecurityGroups": [rows.security_group(cloud, group) for group in found], "NextToken": token}


def instances(cloud: Cloud, parameters: Parameters) -> Answer:
    """DescribeInstances; every instance is a reservation of its own."""
    listed = _wanted(cloud.instances, cloud.instance, parameters.get("InstanceIds", ()))
    found: list[Instance]
    found, token = listing(cloud, "DescribeInstances", parameters, filters.INSTANCE, listed, ids="InstanceIds")
    return {"Reservations": [rows.reservation(cloud, instance) for instance in found], "NextToken": token}


def instance_types(cloud: Cloud, parameters: Parameters) -> Answer:
    """DescribeInstanceTypes, from the limits that the cloud was made with."""
    names = parameters.get("InstanceTypes", ())
    if names:
        found = {name: cloud.limits_of(name) for name in names}
        missing = sorted(name for name, limits in found.items() if limits is None)
        if missing:
            message = f"The following supplied instance types do not exist: [{', '.join(missing)}]"
            raise ApiError("InvalidInstanceType", message)
        listed = list(enumerate(found.values()))
    else:
        listed = list(enumerate(cloud.all_limits()))
    chosen, token = listing(
        cloud, "DescribeInstanceTypes", parameters, filters.INSTANCE_TYPE, listed, ids="InstanceTypes"
    )
    return {"InstanceTypes": [rows.instance_type(limits) for limits in chosen], "NextToken": token}


def trunk_interface_associations(cloud: Cloud, parameters: Parameters) -> Answer:
    """DescribeTrunkInterfaceAssociations."""
    listed = [(one.serial, one) for one in cloud.trunk_associations(parameters.get("AssociationIds", ()))]
    found, token = listing(
        cloud, "DescribeTrunkInterfaceAssociations", parameters, filters.TRUNK, sorted(listed, key=_serial),
        ids="AssociationIds",
    )  # fmt: skip
    return {"InterfaceAssociations": [rows.trunk_association(one) for one in found], "NextToken": token}


def network_interface_permissions(cloud: Cloud, parameters: Parameters) -> Answer:
    """DescribeNetworkInterfacePermissions."""
    ids = parameters.get("NetworkInterfacePermissionIds", ())
    listed = _wanted(cloud.permissions, cloud.permission, ids)
    found, token = listing(
        cloud, "DescribeNetworkInterfacePermissions", parameters, filters.PERMISSION, listed,
        ids="NetworkInterfacePermissionIds",
    )  # fmt: skip
    return {"NetworkInterfacePermissions": [rows.permission(one) for one in found], "NextToken": token}


def subnet_cidr_reservations(cloud: Cloud, parameters: Parameters) -> Answer:
    """GetSubnetCidrReservations; IPv6 ones are not modelled."""
    reservations = cloud.subnet(parameters["SubnetId"]).v4.reservations
    found, token = listing(
        cloud, "GetSubnetCidrReservations", parameters, filters.RESERVATION, list(enumerate(reservations))
    )
    listed = [rows.cidr_reservation(one, cloud.account_id) for one in found]
    return {"SubnetIpv4CidrReservations": listed, "SubnetIpv6CidrReservations": [], "NextToken": token}


def _serial(pair: tuple[int, object]) -> int:
    return pair[0]


def tags(cloud: Cloud, parameters: Parameters) -> Answer:
    """DescribeTags."""
    listed = list(enumerate(cloud.all_tags()))
    found, token = listing(cloud, "DescribeTags", parameters, filters.TAG, listed)
    return {
        "Tags": [
            {"ResourceId": one, "ResourceType": kind, "Key": key, "Value": text} for one, kind, key, text in found
        ],
        "NextToken": token,
    }


def availability_zones(cloud: Cloud, parameters: Parameters) -> Answer:
    """DescribeAvailabilityZones: those that have a subnet."""
    zones = sorted({subnet.zone for subnet in cloud.subnets.values()})
    return {
        "AvailabilityZones": [
            {
                "ZoneName": zone,
                "ZoneId": zone_id(zone),
                "RegionName": cloud.region,
                "State": "available",
                "ZoneType": "availability-zone",
                "OptInStatus": "opt-in-not-required",
                "GroupName": cloud.region,
                "NetworkBorderGroup": cloud.region,
                "Messages": [],
            }
            for zone in zones
        ]
    }
