# SPDX-License-Identifier: Apache-2.0
"""The node's own objects as text, and which observed objects count as the node's."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Interface

import pytest

from vpccni.core import conventions as c
from vpccni.core.diff import diff
from vpccni.core.nodenet import EniNet, NodeNet, desired, existing_table, former_marks, owned, sysctls
from vpccni.netlink.values import Address, Link, Route, Rule

ETH0 = EniNet(Link("eth0", index=2), (IPv4Interface("192.168.0.10/19"),), 254, primary=True)
ETH1 = EniNet(Link("eth1", index=3), (IPv4Interface("192.168.0.20/19"),), 2)
NODE = NodeNet((ETH0, ETH1))


def text(node: NodeNet) -> list[str]:
    return [str(value).replace(f" proto {c.PROTOCOL}", "") for value in desired(node)]


def test_the_worked_example_comes_out():
    assert text(NODE) == [
        "2: eth0: <UP> mtu 9001",
        "3: eth1: <UP> mtu 9001",
        "inet 192.168.0.20/19 brd 192.168.31.255 scope global noprefixroute eth1",
        "192.168.0.1 dev eth1 table 2 scope link",
        "default via 192.168.0.1 dev eth1 table 2",
        "32765: from 192.168.0.20 lookup 2",
        "1024: from all fwmark 0x80/0x80 lookup main",
    ]


@pytest.mark.parametrize(
    ("external", "node_port", "present"),
    [(False, True, True), (False, False, True), (True, True, True), (True, False, False)],
)
def test_the_mark_rule_exists_unless_nothing_marks(external, node_port, present):
    node = replace(NODE, external_snat=external, node_port_support=node_port, mark=0x4000)
    assert ("1024: from all fwmark 0x4000/0x4000 lookup main" in text(node)) is present


def test_the_rule_of_a_former_mark_stays_as_long_as_flows_may_carry_it():
    before = desired(replace(NODE, mark=0x100))
    assert former_marks(before, 0x80) == (0x100,) and former_marks(before, 0x100) == ()
    foreign = Rule(c.RULE_MARK, c.TABLE_MAIN, fwmark=0x200, fwmask=0x200, protocol=99)
    assert former_marks([foreign, *desired(NODE)], 0x80) == ()
    both = replace(NODE, former_marks=(0x100,))
    assert [str(each) for each in diff(owned(both, before), desired(both))] == [
        "ip rule add pref 1024 fwmark 0x80/0x80 table main protocol 91"
    ]
    gone = [str(each) for each in diff(owned(NODE, desired(both)), desired(NODE))]
    assert gone == ["ip rule del pref 1024 fwmark 0x100/0x100 table main protocol 91"]


def test_external_services_go_by_main_before_the_rules_from_pods():
    node = replace(NODE, external_services=(IPv4Network("198.51.100.0/24"),))
    assert "1535: from all to 198.51.100.0/24 lookup main" in text(node)


def test_both_families_of_an_eni_get_their_table():
    v6 = IPv6Interface("2600:1f13:1::20/64")
    node = NodeNet(
        (
            replace(ETH0, interfaces=(*ETH0.interfaces, IPv6Interface("2600:1f13:1::10/64"))),
            replace(ETH1, interfaces=(*ETH1.interfaces, v6)),
        ),
        versions=(4, 6),
    )
    lines = text(node)
    assert "fe80:ec2::1 dev eth1 table 2 metric 1024" in lines
    assert "default via fe80:ec2::1 dev eth1 table 2 metric 1024" in lines
    assert "32765: from 2600:1f13:1::20 lookup 2" in lines
    assert lines.count("1024: from all fwmark 0x80/0x80 lookup main") == 2
    assert sysctls(node)[-3:] == (
        ("net/ipv6/conf/eth0/accept_ra", "2"),
        ("net/ipv6/conf/all/forwarding", "1"),
        ("net/ipv4/ip_forward", "1"),
    ), "what advertisements taught survives the start of forwarding"
    assert sysctls(node)[0] == ("net/ipv6/conf/eth1/accept_dad", "0")


def test_an_eni_without_an_ipv6_address_of_its_own_still_gets_the_table_of_its_pods():
    lines = text(NodeNet((ETH0, ETH1), versions=(6,)))
    assert lines == [
        "2: eth0: <UP> mtu 9001",
        "3: eth1: <UP> mtu 9001",
        "fe80:ec2::1 dev eth1 table 2 metric 1024",
        "default via fe80:ec2::1 dev eth1 table 2 metric 1024",
        "1024: from all fwmark 0x80/0x80 lookup main",
    ]


def test_only_the_primary_eni_filters_loosely():
    assert sysctls(NODE) == (("net/ipv4/conf/eth0/rp_filter", "2"), ("net/ipv4/ip_forward", "1"))
    assert ("net/ipv4/tcp_early_demux", "0") in sysctls(replace(NODE, tcp_early_demux=False))


def test_what_is_desired_is_owned_and_needs_no_change():
    assert owned(NODE, desired(NODE)) == desired(NODE)
    assert diff(owned(NODE, desired(NODE)), desired(NODE)) == []


NETWORK = c.host_network(IPv4Address("192.168.0.20"))
FOREIGN = [
    Link("eth7", index=7, mtu=1500),
    Address(IPv4Interface("192.168.0.10/19"), 2),
    Address(IPv4Interface("10.1.1.1/24"), 7),
    Route(IPv4Network("192.168.0.0/19"), 2, protocol=2, scope="link"),
    Route(IPv4Network("10.0.0.0/8"), 3, table=254, protocol=4),
    Route(IPv4Network("10.0.0.0/8"), 3, table=2, protocol=4),
    Route(IPv4Network("10.0.0.0/8"), 2, table=77, protocol=3),
    Route(IPv4Network("192.168.0.101/32"), 9, protocol=c.PROTOCOL, scope="link"),
    Rule(512, 254, dst=NETWORK, protocol=c.PROTOCOL),
    Rule(1536, 2, src=NETWORK, protocol=c.PROTOCOL),
    Rule(100, 2, src=NETWORK, protocol=3),
    Rule(32765, 2, src=IPv4Network("10.1.2.3/32"), protocol=3),
    Rule(32765, 2, src=NETWORK, iif="eth0", protocol=0),
    Rule(32765, 2, src=NETWORK, protocol=4),
    Rule(1024, 254, fwmark=0x10, fwmask=0x10, protocol=0),
    Rule(32766, 254, protocol=2),
]


@pytest.mark.parametrize("value", FOREIGN, ids=str)
def test_foreign_objects_and_those_of_pods_are_not_the_nodes(value):
    assert owned(NODE, [value]) == []


OURS = [
    Address(IPv4Interface("192.168.0.99/19"), 3),
    Route(IPv4Network("192.168.0.0/19"), 3, protocol=2, scope="link"),
    Route(IPv4Network("0.0.0.0/0"), 3, gateway=IPv4Address("192.168.0.1"), table=2, protocol=3),
    Route(IPv4Network("0.0.0.0/0"), 8, gateway=IPv4Address("192.168.0.1"), table=10101, protocol=c.PROTOCOL),
    Rule(1024, 254, fwmark=0x80, fwmask=0x80, protocol=0),
    Rule(1024, 254, fwmark=0x10, fwmask=0x10, protocol=c.PROTOCOL),
    Rule(1535, 254, dst=IPv4Network("10.0.0.0/8"), protocol=0),
    Rule(32765, 5, src=NETWORK, protocol=3),
    Rule(32765, 9, src=IPv4Network("10.1.2.3/32"), protocol=c.PROTOCOL),
]


@pytest.mark.parametrize("value", OURS, ids=str)
def test_our_own_objects_and_those_of_the_go_implementation_are_the_nodes(value):
    assert owned(NODE, [value]) == [value]


def test_a_rule_of_an_eni_that_left_is_known_by_its_address():
    rule = Rule(32765, 3, src=IPv4Network("192.168.0.30/32"))
    assert owned(NODE, [rule]) == []
    assert owned(replace(NODE, former=(IPv4Address("192.168.0.30"),)), [rule]) == [rule]


def test_the_table_that_an_older_release_chose_is_kept():
    address = IPv4Address("192.168.0.20")
    rule = Rule(c.RULE_FROM_ENI, 10, src=NETWORK)
    assert existing_table([], address, 10101, old=10) == 10101
    assert existing_table([rule], address, 10101, old=10) == 10
    assert existing_table([rule, replace(rule, table=10101)], address, 10101, old=10) == 10
    assert existing_table([replace(rule, table=7), replace(rule, table=8)], address, 10101, old=10) == 10101
    assert existing_table([replace(rule, priority=100)], address, 10101) == 10101
