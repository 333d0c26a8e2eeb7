# SPDX-License-Identifier: Apache-2.0
"""A VPC that gains a CIDR while it runs, through an unmodified client."""

from __future__ import annotations

from ipaddress import IPv4Network

import pytest
from tests.lab.ec2.ec2_box import Box

from vpccni.lab.cloud.events import VpcChanged

evidence = pytest.mark.evidence


@evidence(row=0, source="D")
def test_a_vpc_gains_a_cidr_and_fabric_metadata_and_subnets_know_it(box: Box) -> None:
    vpc = box.vpc()
    instance = box.instance(box.subnet(vpc=vpc))
    box.refused("InvalidSubnet.Range", "create_subnet", VpcId=vpc.vpc_id, CidrBlock="100.64.0.0/24")
    box.wait(0)
    answer = box.ec2.associate_vpc_cidr_block(VpcId=vpc.vpc_id, CidrBlock="100.64.0.0/16")
    made = answer["CidrBlockAssociation"]
    assert made["CidrBlock"] == "100.64.0.0/16" and made["CidrBlockState"]["State"] == "associating"
    (shown,) = box.ec2.describe_vpcs(VpcIds=[vpc.vpc_id])["Vpcs"]
    assert shown["CidrBlock"] == "10.0.0.0/16"
    assert [one["CidrBlock"] for one in shown["CidrBlockAssociationSet"]] == ["10.0.0.0/16", "100.64.0.0/16"]
    assert made["AssociationId"] == shown["CidrBlockAssociationSet"][1]["AssociationId"]
    (told,) = [event for event in box.wait(0) if isinstance(event, VpcChanged)]
    assert told.cidrs == (IPv4Network("10.0.0.0/16"), IPv4Network("100.64.0.0/16"))
    metadata = box.cloud.instance_metadata(instance.instance_id)
    assert metadata is not None
    assert all(IPv4Network("100.64.0.0/16") in each.vpc_ipv4_cidr_blocks for each in metadata.interfaces)
    assert box.ec2.create_subnet(VpcId=vpc.vpc_id, CidrBlock="100.64.0.0/24")["Subnet"]["CidrBlock"] == "100.64.0.0/24"


@evidence(row=0, source="?")
def test_a_cidr_that_overlaps_is_too_large_or_one_too_many_is_refused(box: Box) -> None:
    vpc = box.vpc()
    for cidr in ("10.0.128.0/17", "100.0.0.0/8", "100.64.0.0/29"):
        box.refused("InvalidVpc.Range", "associate_vpc_cidr_block", VpcId=vpc.vpc_id, CidrBlock=cidr)
    box.refused("InvalidParameterValue", "associate_vpc_cidr_block", VpcId=vpc.vpc_id, CidrBlock="100.64.0.1/16")
    box.refused("InvalidVpcID.NotFound", "associate_vpc_cidr_block", VpcId="vpc-0", CidrBlock="100.64.0.0/16")
    for number in range(4):
        box.ec2.associate_vpc_cidr_block(VpcId=vpc.vpc_id, CidrBlock=f"100.{64 + number}.0.0/16")
    box.refused("CidrLimitExceeded", "associate_vpc_cidr_block", VpcId=vpc.vpc_id, CidrBlock="100.99.0.0/16")
