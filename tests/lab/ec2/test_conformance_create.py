# SPDX-License-Identifier: Apache-2.0
"""CreateNetworkInterface and subnets as EC2 behaves, through unmodified boto3. One test per row of the table."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

import pytest
from tests.lab.ec2.ec2_box import Box

evidence = pytest.mark.evidence


@evidence(row=1, source="?")
def test_a_subnet_smaller_than_28_is_refused(box: Box) -> None:
    vpc = box.vpc()
    box.refused("InvalidSubnet.Range", "create_subnet", VpcId=vpc.vpc_id, CidrBlock="10.0.9.0/29")
    assert box.ec2.create_subnet(VpcId=vpc.vpc_id, CidrBlock="10.0.9.0/28")["Subnet"]["AvailableIpAddressCount"] == 11


@evidence(row=2, source="D")
def test_a_subnet_that_overlaps_or_lies_outside_the_vpc_is_refused(box: Box) -> None:
    vpc = box.vpc()
    box.ec2.create_subnet(VpcId=vpc.vpc_id, CidrBlock="10.0.0.0/24")
    box.refused("InvalidSubnet.Conflict", "create_subnet", VpcId=vpc.vpc_id, CidrBlock="10.0.0.128/25")
    box.refused("InvalidSubnet.Range", "create_subnet", VpcId=vpc.vpc_id, CidrBlock="10.1.0.0/24")


@evidence(row=3, source="D")
@pytest.mark.parametrize(("cidr", "free"), [("10.0.0.0/24", 251), ("10.0.0.0/28", 11), ("10.0.0.0/16", 65531)])
def test_five_addresses_of_a_fresh_subnet_are_reserved(box: Box, cidr: str, free: int) -> None:
    assert box.free(box.subnet(cidr)) == free


@evidence(row=4, source="D")
def test_a_new_interface_is_pending_then_available_with_id_mac_tags_and_name(box: Box) -> None:
    subnet = box.subnet()
    group = box.cloud.create_security_group(subnet.vpc_id, "nodes")
    tags = [{"ResourceType": "network-interface", "Tags": [{"Key": "a", "Value": "1"}]}]
    made = box.ec2.create_network_interface(
        SubnetId=subnet.subnet_id, Groups=[group.group_id], TagSpecifications=tags, Description="aws-K8S-x"
    )["NetworkInterface"]
    assert made["Status"] == "pending"
    assert made["NetworkInterfaceId"].startswith("eni-0") and len(made["NetworkInterfaceId"]) == 21
    assert int(made["MacAddress"].split(":")[0], 16) & 3 == 2, "a locally administered unicast address"
    assert made["TagSet"] == [{"Key": "a", "Value": "1"}]
    assert made["Groups"] == [{"GroupId": group.group_id, "GroupName": "nodes"}]
    assert made["PrivateDnsName"] == f"ip-{made['PrivateIpAddress'].replace('.', '-')}.us-west-2.compute.internal"
    box.wait(1)
    now = box.describe(made["NetworkInterfaceId"])
    assert now["Status"] == "available"
    assert "Attachment" not in now and now["Description"] == "aws-K8S-x" and now["VpcId"] == subnet.vpc_id


@evidence(row=4, source="D")
def test_an_interface_without_groups_gets_the_default_group(box: Box) -> None:
    eni = box.describe(box.eni(box.subnet()))
    assert [group["GroupName"] for group in eni["Groups"]] == ["default"]


@evidence(row=5, source="D")
def test_secondary_addresses_are_distinct_over_many_interfaces(box: Box) -> None:
    subnet = box.subnet()
    seen: list[str] = []
    for _ in range(20):
        made = box.ec2.create_network_interface(SubnetId=subnet.subnet_id, SecondaryPrivateIpAddressCount=10)
        addresses = made["NetworkInterface"]["PrivateIpAddresses"]
        assert [entry["Primary"] for entry in addresses] == [True] + [False] * 10
        seen += [entry["PrivateIpAddress"] for entry in addresses]
    assert len(seen) == len(set(seen)) == 220
    assert all(IPv4Address(address) in IPv4Network("10.0.0.4/30").supernet(new_prefix=24) for address in seen)
    assert box.free(subnet) == 251 - 220


@evidence(row=6, source="D")
def test_a_prefix_count_gives_aligned_28s_and_takes_16_addresses_each(box: Box) -> None:
    subnet = box.subnet()
    made = box.ec2.create_network_interface(SubnetId=subnet.subnet_id, Ipv4PrefixCount=1)["NetworkInterface"]
    (prefix,) = made["Ipv4Prefixes"]
    assert IPv4Network(prefix["Ipv4Prefix"]).prefixlen == 28
    assert len(made["PrivateIpAddresses"]) == 1
    assert box.free(subnet) == 251 - 17


@evidence(row=7, source="D")
def test_a_prefix_asked_for_by_name_is_given_and_ipv6_prefixes_too(box: Box) -> None:
    subnet = box.subnet(ipv6=True)
    made = box.ec2.create_network_interface(
        SubnetId=subnet.subnet_id, Ipv4Prefixes=[{"Ipv4Prefix": "10.0.0.32/28"}], Ipv6PrefixCount=1
    )["NetworkInterface"]
    assert made["Ipv4Prefixes"] == [{"Ipv4Prefix": "10.0.0.32/28"}]
    (ipv6,) = made["Ipv6Prefixes"]
    assert IPv6Network(ipv6["Ipv6Prefix"]).prefixlen == 80
    assert IPv6Network(ipv6["Ipv6Prefix"]).subnet_of(IPv6Network("2001:db8::/64"))


@evidence(row=8, source="D")
def test_prefixes_and_secondary_addresses_in_one_request_are_refused(box: Box) -> None:
    box.refused(
        "InvalidParameterCombination",
        "create_network_interface",
        SubnetId=box.subnet().subnet_id,
        Ipv4PrefixCount=1,
        SecondaryPrivateIpAddressCount=2,
    )


@evidence(row=9, source="D")
def test_ipv6_addresses_come_from_the_subnets_64(box: Box) -> None:
    subnet = box.subnet(ipv6=True)
    made = box.ec2.create_network_interface(SubnetId=subnet.subnet_id, Ipv6AddressCount=2)["NetworkInterface"]
    addresses = {IPv6Address(entry["Ipv6Address"]) for entry in made["Ipv6Addresses"]}
    assert len(addresses) == 2 and all(address in IPv6Network("2001:db8::/64") for address in addresses)


@evidence(row=10, source="D")
@pytest.mark.parametrize("kind", ["interface", "efa", "efa-only", "trunk", "branch"])
def test_interface_types_are_kept(box: Box, kind: str) -> None:
    assert box.describe(box.eni(box.subnet(), InterfaceType=kind))["InterfaceType"] == kind


@evidence(row=10, source="D")
def test_an_unknown_interface_type_is_refused(box: Box) -> None:
    subnet_id = box.subnet().subnet_id
    box.refused("InvalidParameterValue", "create_network_interface", SubnetId=subnet_id, InterfaceType="wire")


@evidence(row=11, source="R")
def test_a_subnet_that_is_too_small_for_the_request_is_insufficient(box: Box) -> None:
    subnet = box.subnet("10.0.0.0/28")
    message = box.refused(
        "InsufficientFreeAddressesInSubnet",
        "create_network_interface",
        SubnetId=subnet.subnet_id,
        SecondaryPrivateIpAddressCount=20,
    )
    assert message == "The specified subnet does not have enough free addresses to satisfy the request."
    box.eni(subnet, SecondaryPrivateIpAddressCount=10)
    assert box.free(subnet) == 0
    box.refused("InsufficientFreeAddressesInSubnet", "create_network_interface", SubnetId=subnet.subnet_id)


@evidence(row=12, source="R")
def test_prefixes_in_a_fragmented_subnet_are_insufficient_cidr_blocks(box: Box) -> None:
    subnet = box.subnet("10.0.0.0/26")  # blocks .0 and .48 hold EC2's own, .16 and .32 get one address each
    for address in ("10.0.0.20", "10.0.0.40"):
        box.eni(subnet, PrivateIpAddress=address)
    assert box.free(subnet) == 57
    message = box.refused(
        "InsufficientCidrBlocks", "create_network_interface", SubnetId=subnet.subnet_id, Ipv4PrefixCount=1
    )
    assert message == "The specified subnet does not have enough free cidr blocks to satisfy the request."


@evidence(row=12, source="R")
def test_prefixes_in_a_full_subnet_are_an_invalid_parameter_value(box: Box) -> None:
    subnet = box.subnet("10.0.0.0/28")
    message = box.refused(
        "InvalidParameterValue", "create_network_interface", SubnetId=subnet.subnet_id, Ipv4PrefixCount=1
    )
    assert message == "There aren't sufficient free Ipv4 addresses or prefixes"


@evidence(row=13, source="R")
def test_an_address_outside_the_subnet_reserved_or_in_use_is_refused(box: Box) -> None:
    subnet = box.subnet()
    create = {"operation": "create_network_interface", "SubnetId": subnet.subnet_id}
    box.refused("InvalidParameterValue", PrivateIpAddress="10.0.1.7", **create)
    for reserved in ("10.0.0.0", "10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.255"):
        box.refused("InvalidParameterValue", PrivateIpAddress=reserved, **create)
    box.refused("InvalidParameterValue", PrivateIpAddress="seven", **create)
    box.eni(subnet, PrivateIpAddress="10.0.0.7")
    box.refused("InvalidIPAddress.InUse", PrivateIpAddress="10.0.0.7", **create)
    box.eni(subnet, Ipv4Prefixes=[{"Ipv4Prefix": "10.0.0.32/28"}])
    box.refused("InvalidIPAddress.InUse", PrivateIpAddress="10.0.0.33", **create)


@evidence(row=14, source="D")
def test_an_unknown_subnet_is_not_found_and_a_wrong_id_malformed(box: Box) -> None:
    box.refused("InvalidSubnetID.NotFound", "create_network_interface", SubnetId="subnet-0123456789abcdef0")
    box.refused("InvalidSubnetID.Malformed", "create_network_interface", SubnetId="mine")


@evidence(row=15, source="R")
def test_an_unknown_security_group_is_not_found_and_not_created(box: Box) -> None:
    subnet = box.subnet()
    message = box.refused(
        "InvalidSecurityGroupID.NotFound",
        "create_network_interface",
        SubnetId=subnet.subnet_id,
        Groups=["sg-0123456789abcdef0"],
    )
    assert message == "The securityGroup ID 'sg-0123456789abcdef0' does not exist"
    box.refused("InvalidGroup.NotFound", "describe_security_groups", GroupIds=["sg-0123456789abcdef0"])


@evidence(row=16, source="D")
def test_the_same_client_token_gives_the_same_interface(box: Box) -> None:
    subnet = box.subnet()
    first = box.eni(subnet, ClientToken="once", SecondaryPrivateIpAddressCount=3)
    assert box.eni(subnet, ClientToken="once", SecondaryPrivateIpAddressCount=3) == first
    assert box.free(subnet) == 251 - 4
    assert box.eni(subnet, ClientToken="twice", SecondaryPrivateIpAddressCount=3) != first


@evidence(row=16, source="R")
def test_the_same_client_token_with_other_parameters_is_refused(box: Box) -> None:
    subnet = box.subnet()
    box.eni(subnet, ClientToken="mismatch")
    box.refused(
        "IdempotentParameterMismatch",
        "create_network_interface",
        SubnetId=subnet.subnet_id,
        ClientToken="mismatch",
        Description="other",
    )


@evidence(row=17, source="D")
def test_a_dry_run_says_so_with_412_and_does_nothing(box: Box) -> None:
    subnet = box.subnet()
    box.refused("DryRunOperation", "create_network_interface", SubnetId=subnet.subnet_id, DryRun=True)
    box.refused("DryRunOperation", "describe_network_interfaces", DryRun=True)
    assert box.free(subnet) == 251


@evidence(row=42, source="D")
def test_automatic_addresses_avoid_a_prefix_reservation_and_prefixes_come_from_it(box: Box) -> None:
    subnet = box.subnet()
    reservation = box.ec2.create_subnet_cidr_reservation(
        SubnetId=subnet.subnet_id, Cidr="10.0.0.64/26", ReservationType="prefix"
    )["SubnetCidrReservation"]
    assert reservation["Cidr"] == "10.0.0.64/26" and reservation["SubnetCidrReservationId"].startswith("scr-")
    assert box.free(subnet) == 251 - 64
    reserved = IPv4Network("10.0.0.64/26")
    made = [
        entry["PrivateIpAddress"]
        for _ in range(5)
        for entry in box.ec2.create_network_interface(SubnetId=subnet.subnet_id, SecondaryPrivateIpAddressCount=30)[
            "NetworkInterface"
        ]["PrivateIpAddresses"]
    ]
    assert len(made) == 155 and not any(IPv4Address(address) in reserved for address in made)
    eni_id = box.eni(subnet)
    for _ in range(4):
        assigned = box.ec2.assign_private_ip_addresses(NetworkInterfaceId=eni_id, Ipv4PrefixCount=1)
        assert IPv4Network(assigned["AssignedIpv4Prefixes"][0]["Ipv4Prefix"]).subnet_of(reserved)
