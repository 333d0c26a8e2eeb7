# SPDX-License-Identifier: Apache-2.0
"""Against the real kernel: what we ask for is what `ip` shows, and what `ip` makes is what we read."""

from __future__ import annotations

from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path

import pytest

from vpccni.netlink import namespace
from vpccni.netlink.ipv6conf import PLACES
from vpccni.netlink.namespace import inside
from vpccni.netlink.values import (
    Address,
    Link,
    Neighbour,
    Route,
    Rule,
    add,
    delete,
    delete_group,
    replace,
    set_link,
)

pytestmark = pytest.mark.netns

V0, V1 = 10, 11
ROUTES = [
    Route(ip_network("10.10.0.0/24"), V0, "v0", scope="link"),
    Route(ip_network("10.20.1.5/32"), V0, "v0", scope="link", protocol=91),
    Route(ip_network("0.0.0.0/0"), V0, "v0", gateway=ip_address("10.0.0.1"), table=10101, protocol=4, onlink=True),
    Route(
        ip_network("10.1.0.0/16"), V0, "v0", gateway=ip_address("10.0.0.1"), metric=7, prefsrc=ip_address("10.0.0.9")
    ),
    Route(ip_network("10.2.0.0/16"), V0, "v0", gateway=ip_address("fe80::1"), onlink=True),
    Route(ip_network("10.3.0.0/16"), 0, kind="blackhole", table=2),
    Route(ip_network("10.4.0.0/16"), 0, kind="unreachable", metric=5),
    Route(ip_network("fd00:1::/64"), V0, "v0", table=300),
    Route(ip_network("::/0"), V0, "v0", gateway=ip_address("fe80::1"), protocol=91),
    Route(ip_network("fd00:2::/64"), 0, kind="blackhole", metric=9),
]
RULES = [
    Rule(512, 254, dst=ip_network("10.20.1.5/32"), protocol=91),
    Rule(1024, 254, fwmark=0x80, fwmask=0x80),
    Rule(1025, 2, fwmark=0x90),
    Rule(1536, 10101, src=ip_network("10.20.1.0/28"), dst=ip_network("10.0.0.0/8")),
    Rule(10, 101, iif="vlan.eth.1"),
    Rule(11, 101, oif="v0"),
    Rule(513, 254, suppress_prefixlength=31),
    Rule(7, kind="blackhole", src=ip_network("10.9.9.9/32")),
    Rule(512, 254, dst=ip_network("fd00::5/128"), protocol=91),
    Rule(514, 254, family=6, suppress_prefixlength=127),
]
ADDRESSES = [
    Address(ip_interface("10.20.1.5/32"), V0, "v0"),
    Address(ip_interface("10.30.0.7/24"), V0, "v0", broadcast=ip_address("10.30.0.255"), noprefixroute=True),
    Address(ip_interface("169.254.9.1/32"), V1, "v1", scope="link"),
    Address(ip_interface("fd00::5/64"), V0, "v0", nodad=True),
    Address(ip_interface("fe80::99/64"), V1, "v1", nodad=True),
]
NEIGHBOURS = [
    Neighbour(ip_address("169.254.1.1"), V0, "v0", mac="02:00:00:00:00:01"),
    Neighbour(ip_address("fe80::1"), V0, "v0", mac="02:00:00:00:00:02"),
    Neighbour(ip_address("10.77.0.1"), V1, "v1", proxy=True),
    Neighbour(ip_address("fd00::77"), V1, "v1", proxy=True),
]


def _prepare(box):
    box.route.run(add(Address(ip_interface("10.0.0.9/24"), V0)))


def _lists(box, value):
    """(what we read, the lines of `ip`) of the kind of `value`."""
    version = (
        value.family if isinstance(value, Rule) else getattr(value, "dst", getattr(value, "interface", None)).version
    )
    family = f"-{version}"
    if isinstance(value, Route):
        return box.route.routes(version), box.lines(family, "route", "show", "table", "all")
    if isinstance(value, Rule):
        return box.route.rules(version), box.lines(family, "rule", "show")
    if isinstance(value, Address):
        # `ip -o` has the device in front; at the end it prints the label, which only IPv4 addresses have.
        text = (line.split(" valid_lft")[0].split() for line in box.lines("-o", family, "addr", "show"))
        return box.route.addresses(), [" ".join(words[2:] + (words[1:2] if version == 6 else [])) for words in text]
    show = ("show", "proxy") if value.proxy else ("show",)
    return box.route.neighbours(proxy=value.proxy), box.lines(family, "neigh", *show)


@pytest.mark.parametrize("value", ROUTES + RULES + ADDRESSES + NEIGHBOURS, ids=str)
def test_what_we_add_is_read_back_equal_and_printed_by_ip_and_gone_after_deletion(node, value):
    if isinstance(value, Route):
        _prepare(node)
    node.route.run(add(value))
    values, lines = _lists(node, value)
    assert values.count(value) == 1
    printed = str(value)
    assert any(line == printed or line.startswith(printed + " ") for line in lines), (printed, lines)
    node.route.run(delete(value))
    values, lines = _lists(node, value)
    assert value not in values
    assert not any(line.startswith(printed) for line in lines)


@pytest.mark.parametrize("value", ROUTES + RULES + ADDRESSES + NEIGHBOURS, ids=str)
def test_the_ip_command_that_a_request_prints_has_the_same_effect(node, value):
    if isinstance(value, Route):
        _prepare(node)
    node.do(str(add(value)))
    assert _lists(node, value)[0].count(value) == 1
    if not isinstance(value, Rule):
        node.do(str(replace(value)))
    node.do(str(delete(value)))
    assert value not in _lists(node, value)[0]


def test_a_veth_is_born_with_its_peer_in_the_other_namespace_and_nothing_left_to_change(sandbox):
    host, pod = sandbox(), sandbox()
    pair = Link(
        "eni0d7763386da",
        index=12,
        kind="veth",
        mac="02:00:00:00:00:01",
        mtu=9001,
        up=True,
        group=91,
        queues=1,
        txqlen=0,
        peer=Link("eth0", index=3, mac="02:00:00:00:00:02", mtu=8000, queues=1, txqlen=5, netns_fd=pod.fd),
    )
    for create in (lambda: host.route.run(add(pair)), lambda: host.do(str(add(pair)))):
        create()
        (ours,), (theirs,) = host.json("link", "show", "eni0d7763386da"), pod.json("link", "show", "eth0")
        assert (ours["ifindex"], ours["address"], ours["mtu"], ours.get("txqlen", 0)) == (
            12,
            "02:00:00:00:00:01",
            9001,
            0,
        )
        assert (ours["group"], ours["num_tx_queues"], ours["num_rx_queues"]) == ("91", 1, 1)
        assert "UP" in ours["flags"]
        assert (theirs["ifindex"], theirs["address"], theirs["mtu"], theirs["txqlen"]) == (
            3,
            "02:00:00:00:00:02",
            8000,
            5,
        )
        assert (theirs["num_tx_queues"], theirs["num_rx_queues"]) == (1, 1)
        assert "UP" not in theirs["flags"]
        assert not host.route.link("eni0d7763386da").lower_up
        pod.route.run(set_link(Link("eth0", up=True)))
        seen = host.route.link_by_index(12)
        assert seen.lower_up
        assert (seen.link_index, seen.link_netnsid, seen.kind, seen.group) == (3, 0, "veth", 91)
        host.route.run(delete(Link("", index=12)))
        assert host.route.link("eni0d7763386da") is None
        assert pod.route.link("eth0") is None


def test_both_ends_of_a_veth_may_be_placed_in_namespaces_other_than_the_sockets(sandbox):
    here, left, right = sandbox(), sandbox(), sandbox()
    here.route.run(add(Link("a", kind="veth", netns_fd=left.fd, peer=Link("b", netns_fd=right.fd))))
    assert [link.name for link in here.route.links()] == ["lo"]
    assert left.route.link("a").kind == right.route.link("b").kind == "veth"


def test_a_link_is_changed_field_by_field(node):
    change = Link(
        "", index=V0, mtu=1400, mac="02:00:00:00:00:09", alias="aws-cni n/p", group=7, txqlen=9, addr_gen_none=True
    )
    node.route.run(set_link(change))
    (seen,) = node.json("link", "show", "v0")
    assert (seen["mtu"], seen["address"], seen["ifalias"]) == (1400, "02:00:00:00:00:09", "aws-cni n/p")
    assert (seen["group"], seen["txqlen"], seen["inet6_addr_gen_mode"]) == ("7", 9, "none")
    assert "UP" in seen["flags"]
    read = node.route.link("v0")
    assert (read.alias, read.group, read.txqlen, read.addr_gen_none, read.mtu) == ("aws-cni n/p", 7, 9, True, 1400)
    node.route.run(set_link(Link("v0"), "up", "alias", "group", "addr_gen_none"))
    read = node.route.link("v0")
    assert (read.up, read.alias, read.group, read.addr_gen_none, read.mtu) == (False, "", 0, False, 1400)


@pytest.mark.parametrize(
    "request_",
    [
        set_link(Link("v0", mtu=1300, alias="it's", group=5, mac="02:00:00:00:00:0a", txqlen=3, addr_gen_none=True)),
        set_link(Link("v0"), "up", "alias", "group"),
    ],
)
def test_the_printed_ip_link_set_has_the_same_effect(sandbox, request_):
    seen = []
    for by_us in (True, False):
        box = sandbox()
        box.route.run(add(Link("v0", kind="veth", mac="02:00:00:00:00:01", up=True, peer=Link("v1"))))
        if by_us:
            box.route.run(request_)
        else:
            box.do(str(request_))
        seen.append(box.route.link("v0"))
    assert seen[0] == seen[1]


def test_a_link_is_renamed_and_moved_only_when_asked(node, sandbox):
    other = sandbox()
    node.route.run(set_link(Link("v9", index=V1, mtu=1300)))
    assert node.route.link_by_index(V1).name == "v1"
    node.route.run(set_link(Link("v9", index=V1), "up"))
    node.route.run(set_link(Link("v9", index=V1), "name"))
    assert node.route.link_by_index(V1).name == "v9"
    node.route.run(set_link(Link("v9", netns_fd=other.fd)))
    assert node.route.link("v9") is None
    assert other.route.link("v9").mtu == 1300


def test_a_device_group_is_deleted_whole_and_alone(node):
    for number in range(4):
        node.route.run(add(Link(f"g{number}", kind="veth", group=91, peer=Link(f"p{number}"))))
    node.route.run(delete_group(91))
    assert [link.name for link in node.route.links()] == ["lo", "v1", "v0"] or {
        link.name for link in node.route.links()
    } == {"lo", "v0", "v1"}


def test_replace_overwrites_where_add_would_be_refused(node):
    _prepare(node)
    first = Route(ip_network("10.8.0.0/16"), V0, gateway=ip_address("10.0.0.1"))
    second = Route(ip_network("10.8.0.0/16"), V0, gateway=ip_address("10.0.0.2"))
    node.route.batch([add(first), replace(second)])
    assert [route for route in node.route.routes() if route.dst == first.dst] == [second]
    old, new = NEIGHBOURS[0], Neighbour(NEIGHBOURS[0].dst, V0, mac="02:00:00:00:00:99")
    node.route.batch([add(old), replace(new)])
    assert [entry for entry in node.route.neighbours(4) if entry.dst == old.dst] == [new]


def test_a_rule_deletion_takes_the_first_match_and_leaves_other_priorities(node):
    pod = ip_network("10.20.1.5/32")
    node.route.batch([add(Rule(1536, 2, src=pod, dst=ip_network(f"10.{n}.0.0/16"))) for n in range(3)])
    node.route.run(add(Rule(1537, 2, src=pod)))
    wild = delete(Rule(1536, 2, src=pod))
    assert [error is None for error in node.route.batch([wild] * 4)] == [True, True, True, False]
    assert [rule.priority for rule in node.route.rules()] == [0, 1537, 32766, 32767]


def test_foreign_objects_are_marked_as_not_ours(node):
    _prepare(node)
    node.ip("rule", "add", "pref", "512", "not", "to", "10.20.1.5", "ipproto", "tcp", "table", "main")
    node.ip("route", "add", "10.5.0.0/16", "nexthop", "via", "10.0.0.1", "nexthop", "via", "10.0.0.2")
    node.ip("route", "add", "10.6.0.0/16", "via", "10.0.0.1", "mtu", "1400")
    rule = next(rule for rule in node.route.rules() if rule.priority == 512)
    assert rule.unmodelled == ("not", "ipproto")
    found = {str(route.dst): route.unmodelled for route in node.route.routes(table=254)}
    assert found == {"10.0.0.0/24": (), "10.5.0.0/16": ("multipath",), "10.6.0.0/16": ("metrics",)}


def test_everything_the_kernel_has_in_a_namespace_prints_as_ip_prints_it(node):
    _prepare(node)
    node.route.batch([add(value) for value in ROUTES + RULES + ADDRESSES])
    for version in (4, 6):
        ours = sorted(str(route) for route in node.route.routes(version))
        noisy = node.lines(f"-{version}", "route", "show", "table", "all")
        assert ours == sorted(noisy)
        assert [str(rule) for rule in node.route.rules(version)] == node.lines(f"-{version}", "rule", "show")


def test_routes_of_one_table_are_filtered_by_the_kernel(node):
    _prepare(node)
    node.route.batch([add(route) for route in ROUTES])
    assert node.route.routes(table=10101) == [ROUTES[2]]
    assert node.route.routes(6, table=300) == [ROUTES[7]]
    assert node.route.routes(table=4711) == []


def test_names_are_filled_on_request(node):
    node.route.run(add(ADDRESSES[0]))
    dev = {address.dev for address in node.route.addresses(4) if address == ADDRESSES[0]}
    assert dev == {"v0"}
    assert {address.dev for address in node.route.addresses(4, names={})} == {""}
    assert {address.dev for address in node.route.addresses(4, names={V0: "ens5"}) if address.index == V0} == {"ens5"}


def test_a_socket_keeps_to_its_namespace_after_its_thread_has_left(node):
    assert namespace.identity() != namespace.identity(node.fd)
    assert node.route.link("v0") is not None


def test_ipv6_settings_of_all_links_are_what_the_files_say(sandbox):
    box = sandbox()
    box.ip("link", "add", "s0", "type", "veth", "peer", "name", "s1")
    box.ip("link", "set", "s1", "mtu", "1000")  # too small for IPv6: no settings
    written = {"forwarding": 1, "accept_ra": 2, "accept_redirects": 0, "disable_ipv6": 1, "accept_dad": 0}
    written["addr_gen_mode"] = 1
    conf = Path("/proc/sys/net/ipv6/conf")
    with inside(box.fd):
        for key, value in written.items():
            (conf / "s0" / key).write_text(str(value))
        of_loopback = {key: int((conf / "lo" / key).read_text()) for key in PLACES}
    assert box.route.ipv6_settings() == {"lo": of_loopback, "s0": written}
    assert of_loopback != written
