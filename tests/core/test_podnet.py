# SPDX-License-Identifier: Apache-2.0
"""A pod's wiring as text, for one and several interfaces and both address families."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpccni.core import conventions as c
from vpccni.core.diff import identity, inverse
from vpccni.core.podnet import PodAddress, PodAttachment, PodLinkPlan, link_sysctls, wiring
from vpccni.core.podseen import is_pod_link, is_pod_route, is_pod_rule, link_of, pods
from vpccni.netlink.values import Address, Link, Route, Rule

PLAN = PodLinkPlan(1005, "0a:58:00:00:00:03")


def pod(*addresses: PodAddress, name: str = "web-1") -> PodAttachment:
    return PodAttachment("aws-cni", "c1", "eth0", "default", name, addresses)


SECONDARY = PodAddress(IPv4Address("192.168.0.201"), 2, device=1)


def text(requests) -> list[str]:
    return [str(request) for request in requests]


def test_a_pod_on_a_secondary_eni_gets_these_commands_in_this_order():
    wired = wiring(pod(SECONDARY), PLAN)
    assert (
        wired.link.name == "eni0761ccbeace" and not wired.link.up and wired.link.mtu == 9001 and wired.link.queues == 1
    )
    assert wired.inside.name == "eth0" and wired.inside.mtu == 9001 and wired.inside.queues == 1 and not wired.inside.up
    assert text(wired.link_requests) == [
        "ip link set eni0761ccbeace alias 'aws-cni aws-cni c1 eth0 default/web-1' group 9100",
        "ip rule add pref 512 to 192.168.0.201 table main protocol 91",
        "ip rule add pref 1536 from 192.168.0.201/32 table 2 protocol 91",
        "ip link set eni0761ccbeace up",
    ]
    assert text(wired.pod_requests) == [
        "ip addr add 192.168.0.201/32 scope global dev eth0",
        "ip link set eth0 up",
        "ip route add 169.254.1.1 dev eth0 table main scope link",
        "ip route add default via 169.254.1.1 dev eth0 table main scope global",
        "ip neigh add 169.254.1.1 lladdr 0a:58:00:00:00:03 dev eth0 nud permanent",
    ]
    assert text(wired.host_requests) == [
        "ip route add 192.168.0.201 dev eni0761ccbeace table main proto 91 scope link",
    ]
    assert wired.sysctls == (("net/ipv6/conf/eni0761ccbeace/disable_ipv6", "1"),)
    assert wired.pod_sysctls == ()


def test_a_pod_on_the_primary_eni_needs_no_rule_from_it():
    for table in (254, 1, 0):  # 0 and 1 are encodings of older releases
        wired = wiring(pod(PodAddress(IPv4Address("192.168.0.101"), table)), PLAN)
        assert [value.priority for value in wired.host_values if isinstance(value, Rule)] == [512]


def test_undo_and_unwire_remove_in_reverse_and_unwire_spares_the_link():
    wired = wiring(pod(SECONDARY), PLAN)
    assert text(wired.undo_requests) == [
        "ip rule del pref 512 to 192.168.0.201 table main",
        "ip rule del pref 1536 from 192.168.0.201/32 table 2",
        "ip route del 192.168.0.201 dev eni0761ccbeace table main proto unspec scope link",
        "ip route del 192.168.0.201 dev eni0761ccbeace table 9100 proto unspec scope link",
        "ip link del eni0761ccbeace",
    ]
    assert wired.unwire_requests == wired.undo_requests[:-1]


def test_an_ipv6_pod_differs_only_by_its_addresses():
    wired = wiring(pod(PodAddress(IPv6Address("2600:1f13::5"))), PLAN)
    assert text(wired.pod_requests) == [
        "ip addr add 2600:1f13::5/128 nodad dev eth0",
        "ip link set eth0 up",
        "ip -6 route add fe80::1 dev eth0 table main metric 1024",
        "ip -6 route add default via fe80::1 dev eth0 table main metric 1024",
        "ip neigh add fe80::1 lladdr 0a:58:00:00:00:03 dev eth0 nud permanent",
    ]
    assert [f"{path.rpartition('/')[2]}={value}" for path, value in wired.sysctls] == [
        "accept_ra=0",
        "accept_redirects=1",
        "forwarding=0",
    ]
    assert text(wired.link_requests)[0].endswith("addrgenmode none")
    assert [path.rpartition("/")[2] for path, _ in link_sysctls("eni1", wired.addresses)][3:] == ["addr_gen_mode"]
    assert text(wired.link_requests)[1] == "ip addr add fe80::858:ff:fe00:3/128 nodad noprefixroute dev eni0761ccbeace"
    assert ("net/ipv6/conf/eth0/disable_ipv6", "0") in wired.pod_sysctls


def test_an_interface_with_addresses_of_both_families_gets_a_gateway_of_each():
    addresses = (SECONDARY, PodAddress(IPv4Address("192.168.0.202"), 2), PodAddress(IPv6Address("2600:1f13::5")))
    wired = wiring(pod(*addresses), PLAN)
    routes = [request.value for request in wired.pod_requests if isinstance(request.value, Route)]
    assert [str(route.dst) for route in routes] == ["169.254.1.1/32", "0.0.0.0/0", "fe80::1/128", "::/0"]
    assert len({identity(request.value) for request in wired.pod_requests}) == len(wired.pod_requests)


def test_a_second_interface_lives_in_a_table_of_its_own():
    both = pod(SECONDARY, PodAddress(IPv4Address("192.168.0.231"), 10101, 1, 1, nic=1))
    first, second = wiring(both, PLAN), wiring(both, PodLinkPlan(1006, "0a:58:00:00:00:04", pod_index=3, nic=1))
    assert [str(each.address) for each in first.addresses + second.addresses] == ["192.168.0.201", "192.168.0.231"]
    assert second.link.name == c.host_link_name("eni", "default", "web-1", 1) and second.inside.name == "mNicIf1"
    assert text(second.pod_requests)[2:] == [
        "ip route add 169.254.1.2 dev mNicIf1 table 1 scope link",
        "ip route add default via 169.254.1.2 dev mNicIf1 table 1 scope global",
        "ip neigh add 169.254.1.2 lladdr 0a:58:00:00:00:04 dev mNicIf1 nud permanent",
        "ip rule add pref 1 from 192.168.0.231/32 table 1",
    ]
    assert "ip rule add pref 1536 from 192.168.0.231/32 table 10101 protocol 91" in text(second.link_requests)


def test_a_wiring_moves_to_the_indexes_and_the_mac_of_a_veth_that_is_there():
    wired = wiring(pod(SECONDARY), PLAN)
    moved = wired.over(Link("eni0761ccbeace", index=77, mac="0a:58:00:00:00:99"), Link("eth0", index=9))
    assert {request.value.index for request in moved.pod_requests} == {9}
    assert "0a:58:00:00:00:99" in str(moved.pod_requests[-1]) and moved.link.index == 77
    assert moved.attachment == wired.attachment


@given(
    st.lists(
        st.tuples(
            # The local addresses of egress have objects of another kind.
            st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)).filter(lambda address: not c.is_egress(address)),
            st.sampled_from([254, 2, 3, 10101]),
        ),
        min_size=1,
        max_size=4,
        unique_by=lambda pair: pair[0],
    )
)
def test_every_host_request_has_an_inverse_and_is_recognised_as_a_pods(pairs):
    addresses = tuple(PodAddress(address, table) for address, table in pairs)
    wired = wiring(pod(*addresses), PLAN)
    for request in (*wired.link_requests, *wired.host_requests):
        assert inverse(request, [wired.link]).verb in ("delete", "set")
    for value in wired.host_values:
        assert (
            (isinstance(value, Rule) and is_pod_rule(value))
            or (isinstance(value, Route) and is_pod_route(value))
            or (isinstance(value, Address) and value.scope == "link")
        )
    values = wired.host_values
    link = Link(wired.link.name, index=1005, kind="veth", alias=wired.alias)
    (seen,) = pods(
        [link],
        [value for value in values if isinstance(value, Route)],
        [value for value in values if isinstance(value, Rule)],
    )
    assert {(each.address, each.table) for each in seen.addresses} == set(pairs)
    assert seen.alias is not None and seen.alias.pod == "web-1"


@pytest.mark.parametrize(
    ("link", "answer"),
    [
        (Link("eni0761ccbeace", kind="veth"), True),
        (Link("eni0761ccbeace", kind="bridge"), False),
        (Link("eni0761ccbeac", kind="veth"), False),
        (Link("enixyzccbeacee", kind="veth"), False),
        (Link("pod0761ccbeace", kind="veth"), False),
        (Link("pod0761ccbeace", kind="veth", alias="aws-cni aws-cni c1 eth0 default/web-1"), True),
        (Link("eth1", kind="veth", alias="uplink"), False),
    ],
)
def test_pod_links_are_told_by_name_or_by_alias(link, answer):
    assert is_pod_link(link) is answer


@pytest.mark.parametrize(
    "line",
    [
        {"priority": 513, "table": 254, "dst": "192.168.0.1"},
        {"priority": 512, "table": 77, "dst": "192.168.0.1"},
        {"priority": 512, "table": 254, "src": "192.168.0.1"},
        {"priority": 1536, "table": 2, "dst": "192.168.0.1"},
        {"priority": 1536, "table": 2, "src": "192.168.0.1", "iif": "eth0"},
        {"priority": 1536, "table": 2, "src": "192.168.0.1", "protocol": 4},
        {"priority": 1536, "table": 2},
    ],
)
def test_rules_of_another_shape_are_nobodys_pods(line):
    fields = {key: c.host_network(ip_address(value)) if key in ("src", "dst") else value for key, value in line.items()}
    assert not is_pod_rule(Rule(**fields))
    assert is_pod_rule(Rule(1536, 2, src=c.host_network(ip_address("192.168.0.1")), protocol=0))


def test_a_veth_of_the_go_implementation_joins_the_group_by_which_firewall_rules_know_pods():
    pod = PodAttachment("aws-cni", "c1", "eth0", "default", "web", ())
    found = Link("eni0123456789a", index=7, kind="veth", mtu=9001)
    wanted = link_of(found, pod, 9001)
    assert (wanted.group, wanted.index) == (c.VETH_GROUP, 7)
    assert c.parse_alias(wanted.alias) == c.PodAlias("aws-cni", "c1", "eth0", "default", "web")
