# SPDX-License-Identifier: Apache-2.0
"""Security groups and their rules through an unmodified client: answers, and refusals that change nothing."""

from __future__ import annotations

from typing import Any

import pytest
from tests.lab.ec2.ec2_box import Box

from vpccni.lab.cloud.events import GroupRulesChanged, SecurityGroupsChanged
from vpccni.lab.cloud.groups import MAX_RULES

WEB = {"IpProtocol": "tcp", "FromPort": 80, "ToPort": 80, "IpRanges": [{"CidrIp": "10.0.0.0/8", "Description": "in"}]}


def group(box: Box, name: str = "web", vpc_id: str = "") -> str:
    vpc_id = vpc_id or box.vpc().vpc_id
    return str(box.ec2.create_security_group(VpcId=vpc_id, GroupName=name, Description="d")["GroupId"])


def described(box: Box, group_id: str) -> dict[str, Any]:
    return box.ec2.describe_security_groups(GroupIds=[group_id])["SecurityGroups"][0]


def test_a_new_group_lets_nothing_in_and_everything_out_in_the_vpcs_families(box: Box) -> None:
    group_id = group(box)
    found = described(box, group_id)
    assert found["IpPermissions"] == []
    (egress,) = found["IpPermissionsEgress"]
    assert egress["IpProtocol"] == "-1" and egress["IpRanges"] == [{"CidrIp": "0.0.0.0/0"}]
    assert egress["Ipv6Ranges"] == [{"CidrIpv6": "::/0"}]


def test_the_default_group_lets_its_own_members_in_and_cannot_be_deleted(box: Box) -> None:
    vpc_id = box.vpc().vpc_id
    (default,) = box.ec2.describe_security_groups(Filters=[{"Name": "vpc-id", "Values": [vpc_id]}])["SecurityGroups"]
    pairs = [pair["GroupId"] for one in default["IpPermissions"] for pair in one["UserIdGroupPairs"]]
    assert pairs == [default["GroupId"]]
    box.refused("CannotDelete", "delete_security_group", GroupId=default["GroupId"])


def test_a_rule_is_allowed_described_and_revoked_and_each_is_told_to_the_fabric(box: Box) -> None:
    group_id = group(box)
    box.wait(0)
    answer = box.ec2.authorize_security_group_ingress(GroupId=group_id, IpPermissions=[WEB])
    (made,) = answer["SecurityGroupRules"]
    assert made["SecurityGroupRuleId"].startswith("sgr-0") and made["CidrIpv4"] == "10.0.0.0/8"
    assert (made["FromPort"], made["ToPort"], made["IsEgress"], made["Description"]) == (80, 80, False, "in")
    (told,) = [event for event in box.wait(0) if isinstance(event, GroupRulesChanged)]
    assert "tcp 80 from 10.0.0.0/8" in map(str, told.rules)
    (shown,) = described(box, group_id)["IpPermissions"]
    assert (shown["IpProtocol"], shown["FromPort"], shown["IpRanges"]) == ("tcp", 80, WEB["IpRanges"])
    listed = box.ec2.describe_security_group_rules(Filters=[{"Name": "group-id", "Values": [group_id]}])
    assert [row["IsEgress"] for row in listed["SecurityGroupRules"]] == [True, True, False]
    box.ec2.revoke_security_group_ingress(GroupId=group_id, IpPermissions=[WEB])
    assert described(box, group_id)["IpPermissions"] == []
    (told,) = [event for event in box.wait(0) if isinstance(event, GroupRulesChanged)]
    assert not any(rule.egress is False for rule in told.rules)


def test_a_rule_is_revoked_by_its_id_and_egress_is_a_table_of_its_own(box: Box) -> None:
    group_id = group(box)
    (made,) = box.ec2.authorize_security_group_egress(GroupId=group_id, IpPermissions=[WEB])["SecurityGroupRules"]
    assert made["IsEgress"] and described(box, group_id)["IpPermissions"] == []
    box.refused("InvalidPermission.NotFound", "revoke_security_group_ingress", GroupId=group_id, IpPermissions=[WEB])
    ids = [made["SecurityGroupRuleId"]]
    box.ec2.revoke_security_group_egress(GroupId=group_id, SecurityGroupRuleIds=ids)
    box.refused(
        "InvalidSecurityGroupRuleId.NotFound",
        "revoke_security_group_egress",
        GroupId=group_id,
        SecurityGroupRuleIds=ids,
    )
    box.refused("InvalidSecurityGroupRuleId.NotFound", "describe_security_group_rules", SecurityGroupRuleIds=ids)


@pytest.mark.parametrize(
    ("code", "permission"),
    [
        ("InvalidPermission.Duplicate", WEB | {"IpRanges": [{"CidrIp": "10.0.0.0/8"}]}),
        ("InvalidPermission.Duplicate", WEB | {"IpRanges": [{"CidrIp": "10.1.2.3/8"}]}),  # host bits are cut off
        ("InvalidPermission.Duplicate", WEB | {"IpProtocol": "6"}),
        ("InvalidParameterValue", WEB | {"IpRanges": [{"CidrIp": "10.0.0.0/33"}]}),
        ("InvalidParameterValue", WEB | {"IpProtocol": "tpc"}),
        ("InvalidParameterValue", WEB | {"FromPort": 90}),
        ("InvalidParameterValue", WEB | {"IpProtocol": "icmp", "FromPort": 300}),
        ("InvalidGroup.NotFound", {"IpProtocol": "-1", "UserIdGroupPairs": [{"GroupId": "sg-0123456789abcdef0"}]}),
        ("InvalidGroupId.Malformed", {"IpProtocol": "-1", "UserIdGroupPairs": [{"GroupId": "web"}]}),
    ],
)
def test_what_cannot_be_a_rule_is_refused_and_nothing_of_the_call_happens(
    box: Box, code: str, permission: dict[str, Any]
) -> None:
    group_id = group(box)
    box.ec2.authorize_security_group_ingress(GroupId=group_id, IpPermissions=[WEB])
    good = {"IpProtocol": "udp", "FromPort": 53, "ToPort": 53, "IpRanges": [{"CidrIp": "10.0.0.0/8"}]}
    box.refused(code, "authorize_security_group_ingress", GroupId=group_id, IpPermissions=[good, permission])
    assert len(described(box, group_id)["IpPermissions"]) == 1


def test_a_group_has_sixty_rules_of_a_direction_and_family_and_no_more(box: Box) -> None:
    group_id = group(box)
    ranges = [{"CidrIp": f"10.0.{number}.0/24"} for number in range(MAX_RULES)]
    box.ec2.authorize_security_group_ingress(GroupId=group_id, IpPermissions=[WEB | {"IpRanges": ranges}])
    box.refused(
        "RulesPerSecurityGroupLimitExceeded", "authorize_security_group_ingress", GroupId=group_id, IpPermissions=[WEB]
    )
    six = {"IpProtocol": "tcp", "FromPort": 80, "ToPort": 80, "Ipv6Ranges": [{"CidrIpv6": "2001:db8::/64"}]}
    box.ec2.authorize_security_group_ingress(GroupId=group_id, IpPermissions=[six])


def test_a_group_in_use_or_named_by_another_is_not_deleted(box: Box) -> None:
    subnet = box.subnet()
    used, named = group(box, "used", subnet.vpc_id), group(box, "named", subnet.vpc_id)
    eni_id = box.eni(subnet, Groups=[used])
    box.refused("DependencyViolation", "delete_security_group", GroupId=used)
    pair = {"IpProtocol": "-1", "UserIdGroupPairs": [{"GroupId": named}]}
    box.ec2.authorize_security_group_ingress(GroupId=used, IpPermissions=[pair])
    box.refused("DependencyViolation", "delete_security_group", GroupId=named)
    box.ec2.revoke_security_group_ingress(GroupId=used, IpPermissions=[pair])
    box.ec2.delete_security_group(GroupId=named)
    box.refused("InvalidGroup.NotFound", "delete_security_group", GroupId=named)
    box.ec2.delete_network_interface(NetworkInterfaceId=eni_id)
    box.ec2.delete_security_group(GroupId=used)


def test_the_groups_of_an_interface_change_at_once(box: Box) -> None:
    subnet = box.subnet()
    group_id, eni_id = group(box, "new", subnet.vpc_id), box.eni(subnet)
    box.wait(1)
    box.ec2.modify_network_interface_attribute(NetworkInterfaceId=eni_id, Groups=[group_id])
    assert SecurityGroupsChanged(eni_id, (group_id,)) in box.wait(0)
