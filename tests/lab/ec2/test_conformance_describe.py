# SPDX-License-Identifier: Apache-2.0
"""Describe, page, filter and tag as EC2 does, through unmodified boto3. One test per row of the table."""

from __future__ import annotations

import pytest
from tests.lab.ec2.ec2_box import Box

from vpccni.core.limits import limits
from vpccni.lab.ec2 import filters as known

evidence = pytest.mark.evidence


def _ids(answer: dict) -> list[str]:
    return [eni["NetworkInterfaceId"] for eni in answer["NetworkInterfaces"]]


def _find(box: Box, subnet, **filters) -> set[str]:
    chosen = [{"Name": "vpc-id", "Values": [subnet.vpc_id]}]
    chosen += [{"Name": name, "Values": values} for name, values in filters.items()]
    return set(_ids(box.ec2.describe_network_interfaces(Filters=chosen)))


@evidence(row=33, source="D")
def test_pages_cover_everything_once(box: Box) -> None:
    subnet = box.subnet()
    made = [box.eni(subnet) for _ in range(12)]
    mine = [{"Name": "vpc-id", "Values": [subnet.vpc_id]}]
    first = box.ec2.describe_network_interfaces(MaxResults=5, Filters=mine)
    assert len(first["NetworkInterfaces"]) == 5 and first["NextToken"]
    pages = box.ec2.get_paginator("describe_network_interfaces").paginate(
        Filters=mine, PaginationConfig={"PageSize": 5}
    )
    assert [_ids(page) for page in pages] == [made[:5], made[5:10], made[10:]]


@evidence(row=33, source="D")
@pytest.mark.parametrize(
    ("operation", "key"), [("describe_subnets", "Subnets"), ("describe_security_groups", "SecurityGroups")]
)
def test_subnets_and_groups_are_paged_too(box: Box, operation: str, key: str) -> None:
    vpc = box.vpc()
    for number in range(7):
        box.subnet(f"10.0.{number}.0/24", vpc=vpc)
        box.cloud.create_security_group(vpc.vpc_id, f"group-{number}")
    pages = list(
        box.ec2.get_paginator(operation).paginate(
            Filters=[{"Name": "vpc-id", "Values": [vpc.vpc_id]}], PaginationConfig={"PageSize": 5}
        )
    )
    assert len(pages) == 2 and len(pages[0][key]) == 5
    assert sum(len(page[key]) for page in pages) == (7 if key == "Subnets" else 8)


@evidence(row=33, source="?")
def test_what_is_created_and_deleted_between_pages_hides_and_doubles_nothing(box: Box) -> None:
    subnet = box.subnet()
    made = [box.eni(subnet) for _ in range(12)]
    mine = [{"Name": "vpc-id", "Values": [subnet.vpc_id]}]
    first = box.ec2.describe_network_interfaces(MaxResults=5, Filters=mine)
    box.ec2.delete_network_interface(NetworkInterfaceId=made[0])
    box.ec2.delete_network_interface(NetworkInterfaceId=made[4])
    rest = box.ec2.describe_network_interfaces(MaxResults=100, Filters=mine, NextToken=first["NextToken"])
    assert _ids(first) + _ids(rest) == made


@evidence(row=33, source="?")
def test_a_token_of_another_query_or_a_made_up_one_is_refused(box: Box) -> None:
    subnet = box.subnet()
    for _ in range(6):
        box.eni(subnet)
    token = box.ec2.describe_network_interfaces(MaxResults=5, Filters=[{"Name": "vpc-id", "Values": [subnet.vpc_id]}])[
        "NextToken"
    ]
    for wrong in (token, "AAAA", "not base64"):
        box.refused("InvalidNextToken", "describe_network_interfaces", NextToken=wrong)


@evidence(row=34, source="D")
def test_max_results_does_not_go_with_ids_and_has_bounds(box: Box) -> None:
    eni_id = box.eni(box.subnet())
    box.refused(
        "InvalidParameterCombination", "describe_network_interfaces", NetworkInterfaceIds=[eni_id], MaxResults=5
    )
    assert _ids(box.ec2.describe_network_interfaces(NetworkInterfaceIds=[eni_id])) == [eni_id]


@evidence(row=35, source="D")
def test_the_filters_that_a_node_uses_find_what_they_name(box: Box) -> None:
    subnet = box.subnet()
    instance = box.instance(subnet)
    tags = [{"ResourceType": "network-interface", "Tags": [{"Key": "node", "Value": "one"}]}]
    eni_id = box.eni(subnet, TagSpecifications=tags, Description="aws-K8S-i-1", SecondaryPrivateIpAddressCount=1)
    other = box.eni(subnet, Description="else")
    secondary = box.describe(eni_id)["PrivateIpAddresses"][1]["PrivateIpAddress"]
    box.attach(eni_id, instance)
    everything = {eni_id, other, instance.primary_eni_id}
    assert _find(box, subnet) == everything
    assert _find(box, subnet, **{"tag:node": ["one"]}) == {eni_id}
    assert _find(box, subnet, **{"tag:node": ["two"]}) == set()
    assert _find(box, subnet, **{"tag-key": ["node"]}) == {eni_id}
    assert _find(box, subnet, status=["available"]) == {other}
    assert _find(box, subnet, **{"attachment.instance-id": [instance.instance_id]}) == everything - {other}
    assert _find(box, subnet, **{"subnet-id": [subnet.subnet_id]}) == everything
    assert _find(box, subnet, **{"addresses.private-ip-address": [secondary]}) == {eni_id}
    assert _find(box, subnet, **{"network-interface-id": [other, "eni-0123456789abcdef0"]}) == {other}
    assert _find(box, subnet, status=["available"], **{"tag-key": ["node"]}) == set(), "filters add up"


@evidence(row=35, source="D")
def test_filter_values_are_alternatives_with_wildcards(box: Box) -> None:
    subnet = box.subnet()
    made = {name: box.eni(subnet, Description=name) for name in ("aws-K8S-i-1", "aws-K8S-i-22", "star*", "starry")}
    for patterns, names in (
        (["aws-K8S-*"], ["aws-K8S-i-1", "aws-K8S-i-22"]),
        (["aws-K8S-i-?"], ["aws-K8S-i-1"]),
        (["aws-K8S-i-??", "starry"], ["aws-K8S-i-22", "starry"]),
        (["star\\*"], ["star*"]),
        (["AWS-K8S-*"], []),
        (["*"], list(made)),
    ):
        assert _find(box, subnet, description=patterns) == {made[name] for name in names}, patterns


@evidence(row=36, source="D")
def test_device_index_and_attachment_status_are_filters(box: Box) -> None:
    subnet = box.subnet()
    instance, eni_id = box.instance(subnet), box.eni(subnet)
    box.ec2.attach_network_interface(NetworkInterfaceId=eni_id, InstanceId=instance.instance_id, DeviceIndex=1)
    assert _find(box, subnet, **{"attachment.device-index": ["1"]}) == {eni_id}
    assert _find(box, subnet, **{"attachment.status": ["attaching"]}) == {eni_id}
    box.wait(10)
    assert _find(box, subnet, **{"attachment.status": ["attached"]}) == {eni_id, instance.primary_eni_id}
    assert _find(box, subnet, **{"attachment.delete-on-termination": ["true"]}) == {instance.primary_eni_id}


@evidence(row=36, source="?")
@pytest.mark.parametrize(
    "operation",
    ["describe_network_interfaces", "describe_subnets", "describe_instances", "describe_vpcs", "describe_tags"],
)
def test_an_unknown_filter_is_refused_with_400(box: Box, operation: str) -> None:
    message = box.refused("InvalidParameterValue", operation, Filters=[{"Name": "colour", "Values": ["red"]}])
    assert message == "The filter 'colour' is invalid"


@evidence(row=43, source="D")
@pytest.mark.parametrize("name", ["m5.large", "t3.nano", "c5.4xlarge", "p4d.24xlarge", "m4.large", "c5.metal"])
def test_instance_types_are_described_with_their_limits(box: Box, name: str) -> None:
    (found,) = box.ec2.describe_instance_types(InstanceTypes=[name])["InstanceTypes"]
    known, network = limits(name), found["NetworkInfo"]
    assert network["MaximumNetworkInterfaces"] == known.total_enis
    assert [card["MaximumNetworkInterfaces"] for card in network["NetworkCards"]] == [c.max_enis for c in known.cards]
    assert network["Ipv4AddressesPerInterface"] == known.ipv4_per_eni
    assert found["BareMetal"] is known.bare_metal
    assert found.get("Hypervisor", "unknown") == known.hypervisor


@evidence(row=43, source="D")
def test_an_unknown_instance_type_is_named_and_all_types_are_listed_in_pages(box: Box) -> None:
    message = box.refused("InvalidInstanceType", "describe_instance_types", InstanceTypes=["m5.large", "m5.huge"])
    assert message == "The following supplied instance types do not exist: [m5.huge]"
    pages = box.ec2.get_paginator("describe_instance_types").paginate(
        Filters=[{"Name": "instance-type", "Values": ["m5.*"]}], PaginationConfig={"PageSize": 5}
    )
    found = [item["InstanceType"] for page in pages for item in page["InstanceTypes"]]
    assert {"m5.large", "m5.24xlarge", "m5.metal"} <= set(found) and len(found) == len(set(found))


@evidence(row=45, source="D")
def test_tags_are_created_listed_and_deleted(box: Box) -> None:
    subnet = box.subnet()
    eni_id = box.eni(subnet)
    box.ec2.create_tags(
        Resources=[eni_id, subnet.subnet_id], Tags=[{"Key": "a", "Value": "1"}, {"Key": "b", "Value": ""}]
    )
    box.ec2.create_tags(Resources=[eni_id], Tags=[{"Key": "a", "Value": "2"}])
    assert box.describe(eni_id)["TagSet"] == [{"Key": "a", "Value": "2"}, {"Key": "b", "Value": ""}]
    listed = box.ec2.describe_tags(Filters=[{"Name": "resource-id", "Values": [eni_id, subnet.subnet_id]}])["Tags"]
    assert {(tag["ResourceType"], tag["Key"], tag["Value"]) for tag in listed} == {
        ("network-interface", "a", "2"), ("network-interface", "b", ""), ("subnet", "a", "1"), ("subnet", "b", ""),
    }  # fmt: skip
    box.ec2.delete_tags(Resources=[eni_id], Tags=[{"Key": "a", "Value": "other"}])
    assert len(box.describe(eni_id)["TagSet"]) == 2, "the value does not match"
    box.ec2.delete_tags(Resources=[eni_id], Tags=[{"Key": "a"}])
    assert box.describe(eni_id)["TagSet"] == [{"Key": "b", "Value": ""}]
    box.ec2.delete_tags(Resources=[eni_id])
    assert box.describe(eni_id)["TagSet"] == []


@evidence(row=45, source="D")
def test_more_than_fifty_tags_and_missing_resources_are_refused(box: Box) -> None:
    eni_id = box.eni(box.subnet())
    box.ec2.create_tags(Resources=[eni_id], Tags=[{"Key": f"k{n}", "Value": "v"} for n in range(50)])
    box.refused("TagLimitExceeded", "create_tags", Resources=[eni_id], Tags=[{"Key": "one-more", "Value": ""}])
    box.ec2.create_tags(Resources=[eni_id], Tags=[{"Key": "k7", "Value": "changed"}])
    tags = [{"Key": "a", "Value": "b"}]
    box.refused(
        "InvalidNetworkInterfaceID.NotFound", "create_tags", Resources=[eni_id, "eni-0123456789abcdef0"], Tags=tags
    )
    box.refused("InvalidID", "create_tags", Resources=["thing"], Tags=tags)
    box.refused("InvalidParameterValue", "create_tags", Resources=[eni_id], Tags=[{"Key": "aws:x", "Value": ""}])


@evidence(row=47, source="D")
def test_instances_are_described_with_interfaces_cards_and_metadata_options(box: Box) -> None:
    subnet = box.subnet()
    instance, eni_id = box.instance(subnet, "p4d.24xlarge"), box.eni(subnet, SecondaryPrivateIpAddressCount=2)
    box.attach(eni_id, instance, 1, NetworkCardIndex=3)
    (reservation,) = box.ec2.describe_instances(InstanceIds=[instance.instance_id])["Reservations"]
    (found,) = reservation["Instances"]
    slots = [(i["Attachment"]["NetworkCardIndex"], i["Attachment"]["DeviceIndex"]) for i in found["NetworkInterfaces"]]
    assert slots == [(0, 0), (3, 1)]
    assert found["MetadataOptions"]["HttpTokens"] == "required"
    assert found["MetadataOptions"]["HttpPutResponseHopLimit"] == 1
    assert found["State"] == {"Code": 16, "Name": "running"}
    assert found["PrivateIpAddress"] == str(box.cloud.enis[instance.primary_eni_id].primary)
    assert len(found["NetworkInterfaces"][1]["PrivateIpAddresses"]) == 3
    box.refused("InvalidInstanceID.NotFound", "describe_instances", InstanceIds=["i-0123456789abcdef0"])


@evidence(row=3, source="D")
def test_vpcs_list_all_their_cidrs(box: Box) -> None:
    vpc = box.vpc("10.20.0.0/16", "100.64.0.0/16")
    (found,) = box.ec2.describe_vpcs(VpcIds=[vpc.vpc_id])["Vpcs"]
    assert found["CidrBlock"] == "10.20.0.0/16"
    assert [block["CidrBlock"] for block in found["CidrBlockAssociationSet"]] == ["10.20.0.0/16", "100.64.0.0/16"]
    assert {block["CidrBlockState"]["State"] for block in found["CidrBlockAssociationSet"]} == {"associated"}
    box.refused("InvalidVpcID.NotFound", "describe_vpcs", VpcIds=["vpc-0123456789abcdef0"])


@evidence(row=36, source="D")
@pytest.mark.parametrize(
    ("operation", "table"),
    [
        ("describe_network_interfaces", known.INTERFACE),
        ("describe_subnets", known.SUBNET),
        ("describe_vpcs", known.VPC),
        ("describe_security_groups", known.GROUP),
        ("describe_instances", known.INSTANCE),
        ("describe_tags", known.TAG),
        ("describe_trunk_interface_associations", known.TRUNK),
        ("describe_network_interface_permissions", known.PERMISSION),
    ],
)
def test_every_documented_filter_is_taken_and_matches_nothing_by_accident(
    box: Box, operation: str, table: known.Table
) -> None:
    subnet = box.subnet(ipv6=True)
    box.attach(box.eni(subnet, InterfaceType="trunk", Ipv6AddressCount=1), box.instance(subnet))
    for name in table:
        answer = getattr(box.ec2, operation)(Filters=[{"Name": name, "Values": ["no such value"]}])
        listed = [value for key, value in answer.items() if key not in ("ResponseMetadata", "NextToken")]
        assert listed == [[]], name
