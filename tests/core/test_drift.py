# SPDX-License-Identifier: Apache-2.0
"""Which changes call for a comparison; how long a fight is left alone."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, ip_interface

import pytest

from vpccni.core import conventions as c
from vpccni.core.drift import Known, concerns, firewall_concerns
from vpccni.core.fights import FORGET_S, PATIENCE, Fights
from vpccni.netlink.values import Address, Link, Neighbour, Route, Rule

POD, OTHER = IPv4Address("192.168.0.201"), IPv4Address("192.168.0.9")
KNOWN = Known(
    enis={2: None, 3: (IPv4Interface("192.168.0.20/19"),)},
    tables=frozenset({2}),
    mtus={1005: 9001},
    held=lambda address: address == POD,
    wired=lambda alias: alias.container_id == "c1",
)
VETH = Link(
    c.host_link_name("eni", "default", "web-1"),
    index=1005,
    kind="veth",
    mtu=9001,
    up=True,
    group=c.VETH_GROUP,
    alias=c.pod_alias("aws-cni", "c1", "eth0", "default", "web-1"),
)
ROUTE = Route(c.host_network(POD), 1005, scope="link", protocol=c.PROTOCOL)
RULE = Rule(c.RULE_TO_POD, c.TABLE_MAIN, dst=c.host_network(POD), protocol=c.PROTOCOL)


@pytest.mark.parametrize(
    ("verb", "value"),
    [
        ("resync", None),
        ("del", ROUTE),
        ("new", replace(ROUTE, protocol=4, index=1)),
        ("del", RULE),
        ("del", Rule(c.RULE_MARK, c.TABLE_MAIN, fwmark=0x80, fwmask=0x80, protocol=c.PROTOCOL)),
        ("del", Rule(c.RULE_FROM_BLOCK, 2, src=IPv4Network("192.168.0.16/28"), protocol=c.PROTOCOL)),
        ("del", Route(IPv4Network("0.0.0.0/0"), 3, gateway=IPv4Address("192.168.0.1"), table=2, protocol=c.PROTOCOL)),
        ("new", replace(VETH, up=False)),
        ("new", replace(VETH, mtu=1400)),
        ("new", replace(VETH, group=0)),
        ("new", Link("eth1", index=3, mtu=1500, up=True)),
        ("new", Link("eth0", index=2, mtu=9001)),
        ("del", Address(ip_interface("192.168.0.20/19"), 3)),
        ("del", Address(ip_interface("fe80::1/64"), 1005)),
        ("new", Address(ip_interface("192.168.0.77/19"), 3)),
    ],
    ids=str,
)
def test_what_somebody_takes_or_bends_is_a_reason(verb, value):
    assert concerns(verb, value, KNOWN)


@pytest.mark.parametrize(
    ("verb", "value"),
    [
        ("new", ROUTE),
        ("new", RULE),
        ("del", replace(ROUTE, dst=c.host_network(OTHER))),  # a DEL of ours
        ("del", replace(RULE, dst=c.host_network(OTHER))),
        ("new", VETH),
        ("new", replace(VETH, up=False, alias=VETH.alias.replace("c1", "c2"))),  # it dies with its namespace
        ("del", VETH),
        ("new", replace(VETH, alias="", mtu=1500, index=7)),  # just made
        ("new", Link("docker0", index=9, mtu=1500)),
        ("del", Rule(700, 77, src=IPv4Network("10.9.9.9"))),
        ("del", Route(IPv4Network("10.9.0.0/16"), 2, protocol=12)),
        ("new", Neighbour(OTHER, 2)),
        ("new", Address(ip_interface("192.168.0.77/19"), 2)),  # on the primary ENI
        ("new", Address(ip_interface("fe80::1/64"), 3)),
        ("del", Address(ip_interface("fe80::1/64"), 1006)),  # of a pod that is deleted
        ("new", Address(ip_interface("fe80::1/64"), 1005)),
    ],
    ids=str,
)
def test_what_the_daemon_does_itself_and_what_is_foreign_is_none(verb, value):
    assert not concerns(verb, value, KNOWN)


def test_of_the_firewall_our_chains_and_losses_in_the_kernels_chains_count():
    assert firewall_concerns("del", "nat", c.SNAT_CHAIN) and firewall_concerns("new", "nat", c.SNAT_CHAIN)
    assert firewall_concerns("del", "nat", "POSTROUTING") and firewall_concerns("del", "nat", "")
    assert firewall_concerns("del", c.NFT_OWN_TABLE, "") and firewall_concerns("new", c.NFT_OWN_TABLE, "prerouting")
    assert not firewall_concerns("new", "nat", "POSTROUTING")
    assert not firewall_concerns("del", "nat", "KUBE-SERVICES")


def test_a_fight_is_named_after_some_repairs_and_left_alone_ever_longer():
    fights, now = Fights(), 100.0
    for _ in range(PATIENCE - 1):
        assert fights.repaired("rule x", now) is None and fights.may_repair("rule x", now)
        now += 1
    pauses = []
    for _ in range(7):
        fight = fights.repaired("rule x", now)
        assert fight is not None and not fights.may_repair("rule x", now + fight.pause_s - 0.1)
        pauses.append(fight.pause_s)
        now = fight.held_until
        assert fights.may_repair("rule x", now)
    assert pauses == [2, 4, 8, 16, 32, 60, 60]
    assert [fight.subject for fight in fights.open(now)] == ["rule x"]
    assert fights.may_repair("rule y", now)
    assert fights.repaired("rule x", now + FORGET_S + 1) is None, "it was right for long"


def test_repairs_now_and_then_are_no_fight():
    fights = Fights()
    assert not any(fights.repaired("rule x", 40.0 * turn) for turn in range(20))
