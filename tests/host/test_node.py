# SPDX-License-Identifier: Apache-2.0
"""The node's own objects in a real kernel: golden state, empty second pass, any order of states, foreign objects."""

from __future__ import annotations

import random
from dataclasses import replace
from ipaddress import IPv4Interface, IPv4Network

import pytest

from vpccni.core import conventions as c
from vpccni.core.nodenet import EniNet, NodeNet
from vpccni.host.kernel import NodeKernel
from vpccni.host.node import clear, converge
from vpccni.netlink.namespace import inside

pytestmark = pytest.mark.netns


def bare_node(spaces):
    """A node as it boots: primary ENI configured by DHCP, two more ENIs that are down."""
    node = spaces()
    eth0 = node.dummy("eth0", "02:00:00:00:00:10")
    node.ip("addr", "add", "192.168.0.10/19", "brd", "192.168.31.255", "dev", "eth0")
    node.ip("link", "set", "eth0", "up")
    default = "route add default via 192.168.0.1 dev eth0 proto dhcp src 192.168.0.10 metric 512"
    node.ip(default)
    eth1, eth2 = node.dummy("eth1", "02:00:00:00:00:20"), node.dummy("eth2", "02:00:00:00:00:30")
    enis = (
        EniNet(eth0, (IPv4Interface("192.168.0.10/19"),), 254, primary=True),
        EniNet(eth1, (IPv4Interface("192.168.0.20/19"),), 2),
        EniNet(eth2, (IPv4Interface("192.168.64.30/18"),), 10101),
    )
    return node, enis


def tagged(lines):
    return [line.replace(f" proto {c.PROTOCOL}", "") for line in lines]


def test_a_node_looks_like_that_of_the_worked_example(spaces):
    node, enis = bare_node(spaces)
    setup = NodeNet(enis[:2], external_services=(IPv4Network("198.51.100.0/24"),))
    with NodeKernel(node.fd) as kernel:
        converge(kernel, setup)
    assert tagged(node.ip("rule")) == [
        "0: from all lookup local",
        "1024: from all fwmark 0x80/0x80 lookup main",
        "1535: from all to 198.51.100.0/24 lookup main",
        "32765: from 192.168.0.20 lookup 2",
        "32766: from all lookup main",
        "32767: from all lookup default",
    ]
    assert tagged(node.ip("route", "show", "table", "main")) == [
        "default via 192.168.0.1 dev eth0 proto dhcp src 192.168.0.10 metric 512",
        "192.168.0.0/19 dev eth0 proto kernel scope link src 192.168.0.10",
    ]
    assert tagged(node.ip("route", "show", "table", "2")) == [
        "default via 192.168.0.1 dev eth1",
        "192.168.0.1 dev eth1 scope link",
    ]
    # noprefixroute is how the connected route stays out of main; upstream deletes it afterwards.
    shown = [line.replace(" noprefixroute", "") for line in node.ip("-4", "addr", "show", "dev", "eth1")]
    assert "inet 192.168.0.20/19 brd 192.168.31.255 scope global eth1" in shown
    assert all("mtu 9001" in node.ip("link", "show", name)[0] for name in ("eth0", "eth1"))
    sysctls = ("net/ipv4/conf/eth0/rp_filter", "net/ipv4/ip_forward", "net/ipv4/conf/eth1/rp_filter")
    assert node.run("cat", *(f"/proc/sys/{path}" for path in sysctls)).split()[:2] == ["2", "1"]


@pytest.mark.parametrize("versions", [(4, 6), (4,)])
def test_an_eni_for_ipv6_pods_can_ask_for_its_gateway_at_once(spaces, versions):
    """Only where IPv6 pods live: elsewhere the kernel looks for duplicates, as it would without us."""
    node, enis = bare_node(spaces)
    with NodeKernel(node.fd) as kernel:
        converge(kernel, NodeNet(enis[:2], versions=versions))
    (own,) = [line for line in node.ip("-6", "addr", "show", "dev", "eth1") if line.startswith("inet6 fe80:")]
    assert ("tentative" in own) == (versions == (4,))


def test_the_second_pass_is_empty(spaces):
    node, enis = bare_node(spaces)
    with NodeKernel(node.fd) as kernel:
        done = converge(kernel, NodeNet(enis))
        assert "sysctl -w net.ipv4.conf.eth0.rp_filter=2" in done and len(done) > 10
        state = node.state()
        assert converge(kernel, NodeNet(enis)) == []
        assert node.state() == state


def test_any_order_of_configurations_ends_in_the_same_state(spaces):
    node, enis = bare_node(spaces)
    final = NodeNet(enis, mtu=9001)
    dice = random.Random(7)
    with NodeKernel(node.fd) as kernel:
        converge(kernel, final)
        wanted = node.state()
        for _ in range(20):
            some = tuple(eni for eni in enis[1:] if dice.random() < 0.6)
            moved = tuple(replace(eni, interfaces=(dice.choice(eni.interfaces) + dice.choice([0, 5]),)) for eni in some)
            other = NodeNet(
                (enis[0], *(replace(eni, table=eni.table + dice.choice([0, 0, 1])) for eni in moved)),
                mtu=dice.choice([1500, 9001]),
                mark=dice.choice([0x80, 0x100]),
                external_snat=dice.random() < 0.5,
                node_port_support=dice.random() < 0.5,
                external_services=tuple(
                    IPv4Network(f"198.51.{dice.randrange(3)}.0/24") for _ in range(dice.randrange(2))
                ),
            )
            converge(kernel, other)
            assert converge(kernel, other) == [], "the second pass is empty in every state"
        converge(kernel, final)
        assert sorted(node.state()) == sorted(wanted)


def test_an_eni_that_was_configured_by_somebody_else_is_taken_over(spaces):
    node, enis = bare_node(spaces)
    node.ip("link", "set", "eth1", "up")
    node.ip("addr", "add", "192.168.0.99/19", "dev", "eth1")  # first, so that ours would become its secondary
    node.ip("addr", "add", "192.168.0.20/19", "dev", "eth1")
    with NodeKernel(node.fd) as kernel:
        converge(kernel, NodeNet(enis))
        assert converge(kernel, NodeNet(enis)) == []
    assert [line.split()[1] for line in node.ip("-4", "addr", "show", "eth1") if "inet" in line] == ["192.168.0.20/19"]
    assert not [line for line in node.ip("route") if "eth1" in line]
    assert tagged(node.ip("route", "show", "table", "2"))[0] == "default via 192.168.0.1 dev eth1"


def test_untagged_objects_of_the_go_implementation_are_adopted_without_a_gap(spaces):
    node, enis = bare_node(spaces)
    go = [
        "link set eth1 mtu 9001 up",
        "addr add 192.168.0.20/19 brd 192.168.31.255 dev eth1",
        "route del 192.168.0.0/19 dev eth1",
        "route add 192.168.0.1 dev eth1 scope link table 2",
        "route add default via 192.168.0.1 dev eth1 table 2",
        "rule add pref 1024 fwmark 0x80/0x80 lookup main",
        "rule add pref 32765 from 192.168.0.20 lookup 2",
    ]
    for line in go:
        node.ip(line)
    rules = node.ip("rule")
    with NodeKernel(node.fd) as kernel:
        done = converge(kernel, NodeNet(enis[:2]))
        assert not [line for line in done if " del " in line or "rule" in line or "addr" in line]
        assert node.ip("rule") == rules
        assert all(f"proto {c.PROTOCOL}" in line for line in node.ip("route", "show", "table", "2"))
        assert converge(kernel, NodeNet(enis[:2])) == []
        converge(kernel, NodeNet(enis[:1], former=(enis[1].interfaces[0].ip,)))
        assert not [line for line in node.ip("rule") if "lookup 2" in line]


def test_foreign_objects_are_never_touched(spaces):
    node, enis = bare_node(spaces)
    node.ip("link", "set", "eth2", "up")
    foreign = [
        "rule add pref 100 from 192.168.0.20 lookup 77",
        "rule add pref 32765 from 10.1.2.3 lookup 2",  # where the kernel puts rules without a priority
        "rule add pref 1024 fwmark 0x10/0xff lookup 77",
        "rule add pref 512 to 10.9.8.7 lookup main",
        "route add 10.5.0.0/16 dev eth0 proto bird",
        "route add 10.6.0.0/16 dev eth0 table 77 proto static",
        "addr add 192.168.0.44/19 dev eth0",
    ]
    for line in foreign:
        node.ip(line)
    kept = set(node.state())
    with NodeKernel(node.fd) as kernel:
        converge(kernel, NodeNet(enis))
        converge(kernel, NodeNet(enis[:1], mtu=1500))
        clear(kernel, NodeNet(enis))
    lost = {line for line in kept - set(node.state()) if "eth1" not in line and "eth2" not in line}
    assert lost == set()


def test_an_eni_that_left_takes_its_rule_and_table_with_it(spaces):
    node, enis = bare_node(spaces)
    with NodeKernel(node.fd) as kernel:
        converge(kernel, NodeNet(enis[:1]))
        before = node.ip("rule"), node.ip("route", "show", "table", "all")
        converge(kernel, NodeNet(enis))
        assert "lookup 2" in " ".join(node.ip("rule"))
        converge(kernel, NodeNet(enis[:1]))
    assert node.ip("rule") == before[0]
    gone = [line for line in node.ip("route", "show", "table", "all") if "table 2" in line or "table 10101" in line]
    assert gone == []


def test_clearing_a_node_leaves_no_rule_and_no_table(spaces):
    node, enis = bare_node(spaces)
    rules = node.ip("rule")
    setup = NodeNet(enis, external_services=(IPv4Network("198.51.100.0/24"),))
    with NodeKernel(node.fd) as kernel:
        converge(kernel, setup)
        assert clear(kernel, setup)
        assert clear(kernel, setup) == []
    assert node.ip("rule") == rules
    assert not [line for line in node.ip("route", "show", "table", "all") if "table 2" in line or "10101" in line]


def test_links_are_found_by_mac_and_pod_links_are_not_among_them(spaces):
    node, _ = bare_node(spaces)
    node.dummy("eni0761ccbeace", "0a:58:00:00:00:03")
    with NodeKernel(node.fd) as kernel:
        found = kernel.links_by_mac()
    assert found["02:00:00:00:00:20"].name == "eth1" and "0a:58:00:00:00:03" not in found


def test_without_an_argument_the_calling_threads_namespace_is_the_node(spaces):
    node, enis = bare_node(spaces)
    with inside(node.fd), NodeKernel() as kernel:
        converge(kernel, NodeNet(enis))
    assert "32765: from 192.168.0.20 lookup 2" in tagged(node.ip("rule"))
