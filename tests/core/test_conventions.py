# SPDX-License-Identifier: Apache-2.0
"""Names and numbers that other software derives as well."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpccni.core import conventions as c

SUFFIXES = [
    ("kube-system", "coredns-57ff979f67-qqbdh", 0, "b5faff8a083"),
    ("kube-system", "coredns-57ff979f67-8ns9b", 0, "9571956a6cc"),
    ("default", "sample-pod", 0, "cc21c2d7785"),
    ("default", "web-0", 0, "0d7763386da"),
    ("default", "web-1", 0, "0761ccbeace"),
    ("default", "web-2", 0, "9fb0db7f13e"),
    ("default", "web-0", 1, "b813f772d20"),
    ("kube-system", "web-2", 0, "ca82d32c244"),
    ("kube-system", "web-2", 1, "7cd2485543c"),
    ("", "", 0, "3a52ce78095"),
    ("", "", 1, "ce799470a46"),
]
CNI_NAME = st.from_regex(r"[a-zA-Z0-9][a-zA-Z0-9_.\-]{0,80}", fullmatch=True)
LABEL = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", fullmatch=True)
POD_NAME = st.from_regex(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?", fullmatch=True)


@pytest.mark.parametrize(("namespace", "pod", "nic", "suffix"), SUFFIXES)
def test_host_link_names_are_those_of_the_amazon_vpc_cni(namespace, pod, nic, suffix):
    assert c.host_link_name("eni", namespace, pod, nic) == f"eni{suffix}"
    assert c.host_link_name("vlan", namespace, pod, nic) == f"vlan{suffix}"
    assert len(c.host_link_name("vlan", namespace, pod, nic)) <= c.LINK_NAME_LENGTH
    if not nic:
        assert c.dummy_name(namespace, pod) == f"dummy{suffix}"


def test_interfaces_inside_a_pod_are_named_after_the_first_one():
    assert [c.pod_link_name("eth0", nic) for nic in range(3)] == ["eth0", "mNicIf1", "mNicIf2"]


def test_route_tables_follow_card_and_device():
    vectors = {(0, 0): 254, (0, 1): 2, (0, 2): 3, (1, 1): 10101, (2, 3): 10203, (1, 0): 10100}
    assert {place: c.route_table(*place) for place in vectors} == vectors
    assert c.old_route_table(1, 1, 8) == 10 and c.old_route_table(0, 2, 8) == 3
    assert [table for table in (0, 1, 2, 254, 255) if c.is_main(table)] == [0, 1, 254]


@given(st.integers(0, 30), st.integers(0, 99))
def test_a_table_number_tells_where_the_eni_is(card, device):
    assert c.place_of_table(c.route_table(card, device)) == (card, device)


def test_gateways_are_the_reserved_ones():
    assert c.pod_gateway(4) == IPv4Address("169.254.1.1") and c.pod_gateway(4, 1) == IPv4Address("169.254.1.2")
    assert c.pod_gateway(6) == IPv6Address("fe80::1") and c.pod_gateway(6, 1) == IPv6Address("fe80::2")
    assert c.subnet_gateway(IPv4Network("192.168.32.0/19")) == IPv4Address("192.168.32.1")
    assert c.subnet_gateway(IPv6Network("2600:1f13::/64")) == IPv6Address("fe80:ec2::1")
    assert c.host_network(IPv6Address("::2")).prefixlen == 128


def test_our_protocol_number_is_nobody_elses():
    known = {0, 1, 2, 3, 4, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 42, 80, 84, 99, 186, 187, 188, 189, 192}
    assert c.PROTOCOL not in known
    for path in (Path("/etc/iproute2/rt_protos"), Path("/usr/share/iproute2/rt_protos")):
        if path.exists():
            numbers = [line.split()[0] for line in path.read_text().splitlines() if line and line[0].isdigit()]
            assert str(c.PROTOCOL) not in numbers


@given(CNI_NAME, CNI_NAME, st.sampled_from(["eth0", "net1"]), LABEL, POD_NAME)
def test_an_alias_fits_the_kernel_and_names_the_same_sandbox_again(network, container, ifname, namespace, pod):
    text = c.pod_alias(network, container, ifname, namespace, pod)
    assert len(text.encode()) <= 255
    if text:
        parsed = c.parse_alias(text)
        assert parsed is not None
        assert (parsed.network, parsed.container_id, parsed.ifname) == (network, container, ifname)
        assert parsed.namespace == namespace
        assert parsed.pod == pod if parsed.complete else pod.startswith(parsed.pod[:-1])
        assert str(parsed) == text


def test_long_names_are_cut_and_say_so():
    parsed = c.parse_alias(c.pod_alias("aws-cni", "f" * 64, "eth0", "n" * 63, "p" * 253))
    assert parsed is not None and not parsed.complete and parsed.container_id == "f" * 64
    assert c.pod_alias("n" * 130, "f" * 130, "eth0", "default", "web-0") == ""


@pytest.mark.parametrize(
    "text", ["", "aws-cni", "uplink of rack 3", "aws-cni a b c d", "aws-cni a b  d/e", "aws-cni a b c d/e f"]
)
def test_other_aliases_name_nobody(text):
    assert c.parse_alias(text) is None


def test_an_attachment_without_kubernetes_names_is_told_by_its_key():
    parsed = c.parse_alias(c.pod_alias("aws-cni", "c1", "eth0", "", ""))
    assert parsed is not None and parsed.container_id == "c1" and parsed.pod == ""
