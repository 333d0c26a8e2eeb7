# SPDX-License-Identifier: Apache-2.0
"""Assign and unassign as EC2 behaves, through unmodified boto3. One test per row of the table."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network

import pytest
from tests.lab.ec2.ec2_box import Box

evidence = pytest.mark.evidence


def _addresses(box: Box, eni_id: str) -> list[str]:
    return [entry["PrivateIpAddress"] for entry in box.describe(eni_id)["PrivateIpAddresses"]]


@evidence(row=27, source="P")
def test_assign_answers_with_the_new_addresses_only(box: Box) -> None:
    eni_id = box.eni(box.subnet(), SecondaryPrivateIpAddressCount=3)
    before = _addresses(box, eni_id)
    answer = box.ec2.assign_private_ip_addresses(NetworkInterfaceId=eni_id, SecondaryPrivateIpAddressCount=2)
    new = [entry["PrivateIpAddress"] for entry in answer["AssignedPrivateIpAddresses"]]
    assert answer["NetworkInterfaceId"] == eni_id
    assert len(new) == 2 and not set(new) & set(before)
    assert _addresses(box, eni_id) == before + new


@evidence(row=28, source="R")
def test_the_types_limit_of_addresses_holds_for_attached_interfaces(box: Box) -> None:
    subnet = box.subnet()
    eni_id = box.eni(subnet, SecondaryPrivateIpAddressCount=4)
    box.attach(eni_id, box.instance(subnet))  # t3.medium: 6
    assign = {"operation": "assign_private_ip_addresses", "NetworkInterfaceId": eni_id}
    message = box.refused("PrivateIpAddressLimitExceeded", SecondaryPrivateIpAddressCount=2, **assign)
    assert message == f"{eni_id}: Number of private addresses will exceed limit."
    box.ec2.assign_private_ip_addresses(NetworkInterfaceId=eni_id, SecondaryPrivateIpAddressCount=1)
    box.refused("PrivateIpAddressLimitExceeded", Ipv4PrefixCount=1, **assign)


@evidence(row=28, source="?")
def test_an_interface_with_more_than_the_type_allows_cannot_be_attached(box: Box) -> None:
    subnet = box.subnet()
    box.refused(
        "PrivateIpAddressLimitExceeded",
        "attach_network_interface",
        NetworkInterfaceId=box.eni(subnet, SecondaryPrivateIpAddressCount=6),
        InstanceId=box.instance(subnet).instance_id,
        DeviceIndex=1,
    )


@evidence(row=29, source="D")
def test_assigned_prefixes_are_aligned_disjoint_28s(box: Box) -> None:
    subnet = box.subnet()
    eni_id = box.eni(subnet)
    answer = box.ec2.assign_private_ip_addresses(NetworkInterfaceId=eni_id, Ipv4PrefixCount=3)
    prefixes = {IPv4Network(entry["Ipv4Prefix"]) for entry in answer["AssignedIpv4Prefixes"]}
    assert len(prefixes) == 3 and {prefix.prefixlen for prefix in prefixes} == {28}
    assert not answer.get("AssignedPrivateIpAddresses")
    assert {IPv4Network(e["Ipv4Prefix"]) for e in box.describe(eni_id)["Ipv4Prefixes"]} == prefixes
    assert box.free(subnet) == 251 - 1 - 48


@evidence(row=29, source="?")
def test_a_xen_instance_gets_no_prefixes(box: Box) -> None:
    subnet = box.subnet()
    eni_id = box.eni(subnet)
    box.attach(eni_id, box.instance(subnet, "m4.large"))
    box.refused("UnsupportedOperation", "assign_private_ip_addresses", NetworkInterfaceId=eni_id, Ipv4PrefixCount=1)


@evidence(row=30, source="D")
def test_an_address_of_another_interface_moves_only_when_reassignment_is_allowed(box: Box) -> None:
    subnet = box.subnet()
    holder = box.eni(subnet, PrivateIpAddresses=[{"PrivateIpAddress": "10.0.0.50", "Primary": False}])
    taker = box.eni(subnet)
    assign = {"operation": "assign_private_ip_addresses", "NetworkInterfaceId": taker}
    box.refused("InvalidIPAddress.InUse", PrivateIpAddresses=["10.0.0.50"], **assign)
    box.refused("InvalidIPAddress.InUse", PrivateIpAddresses=["10.0.0.50"], AllowReassignment=False, **assign)
    primary = _addresses(box, holder)[0]
    box.refused("InvalidIPAddress.InUse", PrivateIpAddresses=[primary], AllowReassignment=True, **assign)
    box.refused("InvalidParameterValue", PrivateIpAddresses=["10.9.9.9"], AllowReassignment=True, **assign)
    answer = box.ec2.assign_private_ip_addresses(
        NetworkInterfaceId=taker, PrivateIpAddresses=["10.0.0.50"], AllowReassignment=True
    )
    assert answer["AssignedPrivateIpAddresses"] == [{"PrivateIpAddress": "10.0.0.50"}]
    assert "10.0.0.50" in _addresses(box, taker) and "10.0.0.50" not in _addresses(box, holder)


@evidence(row=30, source="D")
def test_two_ways_of_asking_at_once_or_none_are_refused(box: Box) -> None:
    assign = {"operation": "assign_private_ip_addresses", "NetworkInterfaceId": box.eni(box.subnet())}
    box.refused("InvalidParameterCombination", SecondaryPrivateIpAddressCount=1, Ipv4PrefixCount=1, **assign)
    box.refused("InvalidParameterCombination", **assign)
    box.refused("InvalidParameterValue", SecondaryPrivateIpAddressCount=0, **assign)


@evidence(row=31, source="R")
def test_unassign_refuses_the_primary_and_unknown_addresses_and_takes_all_or_none(box: Box) -> None:
    eni_id = box.eni(box.subnet(), SecondaryPrivateIpAddressCount=2)
    primary, first, second = _addresses(box, eni_id)
    unassign = {"operation": "unassign_private_ip_addresses", "NetworkInterfaceId": eni_id}
    box.refused("InvalidParameterValue", PrivateIpAddresses=[primary], **unassign)
    unknown = next(f"10.0.0.{n}" for n in range(10, 20) if f"10.0.0.{n}" not in (primary, first, second))
    message = box.refused("InvalidParameterValue", PrivateIpAddresses=[first, unknown], **unassign)
    assert message == f"Some of the specified addresses are not assigned to interface {eni_id}"
    box.ec2.unassign_private_ip_addresses(NetworkInterfaceId=eni_id, PrivateIpAddresses=[first])
    assert _addresses(box, eni_id) == [primary, second]
    box.refused("InvalidParameterValue", PrivateIpAddresses=[first], **unassign)


@evidence(row=31, source="D")
def test_unassign_removes_prefixes(box: Box) -> None:
    subnet = box.subnet()
    eni_id = box.eni(subnet, Ipv4PrefixCount=2)
    one, other = [entry["Ipv4Prefix"] for entry in box.describe(eni_id)["Ipv4Prefixes"]]
    box.ec2.unassign_private_ip_addresses(NetworkInterfaceId=eni_id, Ipv4Prefixes=[one])
    assert box.describe(eni_id)["Ipv4Prefixes"] == [{"Ipv4Prefix": other}]
    assert box.free(subnet) == 251 - 17
    box.refused("InvalidParameterValue", "unassign_private_ip_addresses", NetworkInterfaceId=eni_id, Ipv4Prefixes=[one])


@evidence(row=32, source="D")
def test_an_ipv6_prefix_is_an_80_and_goes_again(box: Box) -> None:
    eni_id = box.eni(box.subnet(ipv6=True))
    answer = box.ec2.assign_ipv6_addresses(NetworkInterfaceId=eni_id, Ipv6PrefixCount=1)
    (prefix,) = answer["AssignedIpv6Prefixes"]
    assert IPv6Network(prefix).prefixlen == 80 and not answer.get("AssignedIpv6Addresses")
    assert box.describe(eni_id)["Ipv6Prefixes"] == [{"Ipv6Prefix": prefix}]
    gone = box.ec2.unassign_ipv6_addresses(NetworkInterfaceId=eni_id, Ipv6Prefixes=[prefix])
    assert gone["UnassignedIpv6Prefixes"] == [prefix]
    assert not box.describe(eni_id).get("Ipv6Prefixes")


@evidence(row=32, source="?")
def test_ipv6_on_a_subnet_without_it_is_refused_politely(box: Box) -> None:
    box.refused(
        "InvalidParameterValue", "assign_ipv6_addresses", NetworkInterfaceId=box.eni(box.subnet()), Ipv6PrefixCount=1
    )


@evidence(row=32, source="?")
def test_the_types_limit_of_ipv6_addresses_holds(box: Box) -> None:
    subnet = box.subnet(ipv6=True)
    eni_id = box.eni(subnet, Ipv6AddressCount=5)
    box.attach(eni_id, box.instance(subnet))
    assign = {"operation": "assign_ipv6_addresses", "NetworkInterfaceId": eni_id}
    box.refused("PrivateIpAddressLimitExceeded", Ipv6AddressCount=2, **assign)
    assert (
        len(box.ec2.assign_ipv6_addresses(NetworkInterfaceId=eni_id, Ipv6AddressCount=1)["AssignedIpv6Addresses"]) == 1
    )


@evidence(row=32, source="D")
def test_ipv6_is_asked_for_in_one_way_and_given_by_name_when_it_is_free(box: Box) -> None:
    subnet = box.subnet(ipv6=True)
    eni_id, other = box.eni(subnet), box.eni(subnet)
    assign = {"operation": "assign_ipv6_addresses", "NetworkInterfaceId": eni_id}
    box.refused("InvalidParameterCombination", **assign)
    box.refused("InvalidParameterCombination", Ipv6AddressCount=1, Ipv6PrefixCount=1, **assign)
    box.refused("InvalidParameterValue", Ipv6Addresses=["2001:db8::1"], **assign)  # EC2's own
    box.refused("InvalidParameterValue", Ipv6Addresses=["2001:db8:1::5"], **assign)
    box.refused("InvalidParameterValue", Ipv6Prefixes=["2001:db8::/96"], **assign)
    box.ec2.assign_ipv6_addresses(NetworkInterfaceId=other, Ipv6Prefixes=["2001:db8:0:0:7::/80"])
    box.refused("InvalidIPAddress.InUse", Ipv6Addresses=["2001:db8:0:0:7::9"], **assign)
    box.refused("InvalidIPAddress.InUse", Ipv6Prefixes=["2001:db8:0:0:7::/80"], **assign)
    answer = box.ec2.assign_ipv6_addresses(NetworkInterfaceId=eni_id, Ipv6Addresses=["2001:db8::50"])
    assert answer["AssignedIpv6Addresses"] == ["2001:db8::50"]


@evidence(row=32, source="D")
def test_ipv6_that_an_interface_does_not_hold_is_not_unassigned(box: Box) -> None:
    eni_id = box.eni(box.subnet(ipv6=True), Ipv6AddressCount=1)
    unassign = {"operation": "unassign_ipv6_addresses", "NetworkInterfaceId": eni_id}
    box.refused("InvalidParameterValue", Ipv6Addresses=["2001:db8::99"], **unassign)
    box.refused("InvalidParameterValue", Ipv6Prefixes=["2001:db8:0:0:7::/80"], **unassign)
    box.refused("InvalidParameterCombination", **unassign)
