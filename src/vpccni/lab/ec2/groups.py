# SPDX-License-Identifier: Apache-2.0
"""The operations on security groups' rules: from the API's nested permissions to rules of the model and back.

Knows how one IpPermission stands for several rules. Must never check what the model checks. `app` calls them by the
name of the API action.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from ipaddress import IPv4Network, IPv6Network
from typing import Any

from vpccni.aws.values import IPNetwork
from vpccni.lab.cloud.cloud import Cloud
from vpccni.lab.cloud.errors import ApiError, invalid
from vpccni.lab.cloud.grouprules import GroupRule, rule
from vpccni.lab.ec2 import filters, rows
from vpccni.lab.ec2.describe import listing

Parameters = Mapping[str, Any]
Answer = dict[str, Any]
_RANGES: tuple[tuple[str, str, Callable[[str, bool], IPNetwork]], ...] = (
    ("IpRanges", "CidrIp", IPv4Network),
    ("Ipv6Ranges", "CidrIpv6", IPv6Network),
)


def authorize_ingress(cloud: Cloud, parameters: Parameters) -> Answer:
    """AuthorizeSecurityGroupIngress."""
    return _authorize(cloud, parameters, egress=False)


def authorize_egress(cloud: Cloud, parameters: Parameters) -> Answer:
    """AuthorizeSecurityGroupEgress."""
    return _authorize(cloud, parameters, egress=True)


def revoke_ingress(cloud: Cloud, parameters: Parameters) -> Answer:
    """RevokeSecurityGroupIngress."""
    return _revoke(cloud, parameters, egress=False)


def revoke_egress(cloud: Cloud, parameters: Parameters) -> Answer:
    """RevokeSecurityGroupEgress."""
    return _revoke(cloud, parameters, egress=True)


def delete_security_group(cloud: Cloud, parameters: Parameters) -> Answer:
    """DeleteSecurityGroup."""
    group_id = _group_id(cloud, parameters)
    cloud.delete_security_group(group_id)
    return {"Return": True, "GroupId": group_id}


def describe_rules(cloud: Cloud, parameters: Parameters) -> Answer:
    """DescribeSecurityGroupRules."""
    wanted = parameters.get("SecurityGroupRuleIds", ())
    found = {
        one.rule_id: rows.security_group_rule(group, one)
        for group in sorted(cloud.groups.values(), key=lambda group: group.serial)
        for one in group.rules.values()
    }
    for rule_id in wanted:
        if rule_id not in found:
            message = f"The security group rule ID '{rule_id}' does not exist"
            raise ApiError("InvalidSecurityGroupRuleId.NotFound", message)
    listed = enumerate(row for rule_id, row in found.items() if not wanted or rule_id in wanted)
    chosen, token = listing(
        cloud, "DescribeSecurityGroupRules", parameters, filters.GROUP_RULE, listed, ids="SecurityGroupRuleIds"
    )
    return {"SecurityGroupRules": chosen, "NextToken": token}


def _authorize(cloud: Cloud, parameters: Parameters, *, egress: bool) -> Answer:
    group_id = _group_id(cloud, parameters)
    wanted = list(_rules(parameters, egress))
    if not wanted:
        raise ApiError("MissingParameter", "The request must contain the parameter ipPermissions")
    made = cloud.authorize(group_id, wanted)
    group = cloud.group(group_id)
    return {"Return": True, "SecurityGroupRules": [rows.security_group_rule(group, one) for one in made]}


def _revoke(cloud: Cloud, parameters: Parameters, *, egress: bool) -> Answer:
    rule_ids = tuple(parameters.get("SecurityGroupRuleIds", ()))
    wanted = list(_rules(parameters, egress))
    if not wanted and not rule_ids:
        raise ApiError("MissingParameter", "The request must contain ipPermissions or securityGroupRuleIds")
    cloud.revoke(_group_id(cloud, parameters), wanted, rule_ids)
    return {"Return": True}


def _group_id(cloud: Cloud, parameters: Parameters) -> str:
    """By id, or by the name that EC2 still accepts for a group of the only VPC."""
    name = parameters.get("GroupName", "")
    if "GroupId" in parameters:
        return str(parameters["GroupId"])
    for group in cloud.groups.values():
        if name and group.name == name:
            return group.group_id
    if name:
        raise ApiError("InvalidGroup.NotFound", f"The security group '{name}' does not exist")
    raise ApiError("MissingParameter", "The request must contain the parameter groupName or groupId")


def _rules(parameters: Parameters, egress: bool) -> Iterator[GroupRule]:
    permissions = list(parameters.get("IpPermissions", ()))
    if "CidrIp" in parameters:  # the short form, which knows IPv4 only
        permissions.append({**parameters, "IpRanges": [{"CidrIp": parameters["CidrIp"]}]})
    for permission in permissions:
        if permission.get("PrefixListIds"):
            raise ApiError("UnsupportedOperation", "Prefix lists are not part of this cloud.")
        yield from _of_permission(permission, egress)


def _of_permission(permission: Parameters, egress: bool) -> Iterator[GroupRule]:
    protocol, ports = str(permission.get("IpProtocol", "")), (permission.get("FromPort"), permission.get("ToPort"))
    for member, key, kind in _RANGES:
        for item in permission.get(member, ()):
            text = item.get(key, "")
            try:
                network = kind(text, False)  # EC2 cuts host bits off
            except ValueError:
                raise invalid(f"CIDR block {text} is malformed") from None
            yield rule(egress, protocol, network, *ports, description=item.get("Description", ""))
    for pair in permission.get("UserIdGroupPairs", ()):
        if not pair.get("GroupId"):
            raise ApiError("MissingParameter", "A group in a VPC is named by its GroupId")
        yield rule(egress, protocol, pair["GroupId"], *ports, description=pair.get("Description", ""))
