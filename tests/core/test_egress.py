# SPDX-License-Identifier: Apache-2.0
"""Egress in the other family: the objects of one pod, the rules of the node, and who gets which local address."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest

from vpccni.core import conventions as c
from vpccni.core import egress
from vpccni.core.block import Block
from vpccni.core.eni import Eni
from vpccni.core.firewall.chains import parse_save, transaction
from vpccni.core.grant import PodIdentity, PodKey
from vpccni.core.podnet import PodAddress, PodAttachment, PodLinkPlan, wiring
from vpccni.core.podseen import pods, repairs
from vpccni.core.pool import Pool
from vpccni.errors import NoAddress
from vpccni.netlink.values import Address, Link, Route, Rule

NODE4, NODE6 = IPv4Address("192.168.0.10"), IPv6Address("2600:1f13:aaaa:bb00::10")
POD6 = PodAddress(IPv6Address("2600:1f13:aaaa:bb00:1::5"))
POD4 = PodAddress(IPv4Address("192.168.0.101"))


def attachment(own: PodAddress, local: str) -> PodAttachment:
    places = (own, PodAddress(ip_address(local), nic=c.EGRESS_NIC))
    return PodAttachment("aws-cni", "c1", "eth0", "default", "web-1", places)


def plan(nic: int) -> PodLinkPlan:
    return PodLinkPlan(1006, "0a:58:00:00:00:03", pod_index=3, nic=nic)


def text(requests) -> list[str]:
    return [str(request) for request in requests]


def test_a_pod_of_an_ipv6_cluster_leaves_by_v4if0():
    pod = attachment(POD6, "169.254.172.2")
    assert pod.nics == (0, c.EGRESS_NIC)
    wired = wiring(pod, plan(c.EGRESS_NIC))
    name = c.egress_link_name("aws-cni", "c1", "eth0")
    assert wired.link.name == name and len(name) == 12 and wired.inside.name == "v4if0"
    assert text(wired.pod_requests) == [
        "ip link set v4if0 up",
        "ip addr add 169.254.172.2/22 broadcast 169.254.175.255 scope global noprefixroute dev v4if0",
        "ip route add 169.254.172.1 dev v4if0 table main scope link src 169.254.172.2",
        "ip route add 169.254.172.0/22 via 169.254.172.1 dev v4if0 table main scope global src 169.254.172.2",
        "ip route add default via 169.254.172.1 dev v4if0 table main scope global",
    ]
    assert text(wired.link_requests[1:] + wired.host_requests) == [
        f"ip addr add 169.254.172.1/32 scope link dev {name}",
        f"ip link set {name} up",
        f"ip route add 169.254.172.2 dev {name} table main proto 91 scope link",
    ]
    assert wired.pod_sysctls == ()
    assert [request.verb for request in wired.unwire_requests] == ["delete"], "the route, and no rule"


def test_a_pod_of_an_ipv4_cluster_leaves_by_v6if0_through_the_hosts_link_local_address():
    wired = wiring(attachment(POD4, "fd00::ac:2"), plan(c.EGRESS_NIC))
    assert text(wired.pod_requests) == [
        "ip link set v6if0 up",
        "ip addr add fd00::ac:2/118 nodad dev v6if0",
        "ip -6 route add default via fe80::858:ff:fe00:3 dev v6if0 table main metric 1024",
        "ip neigh add fe80::858:ff:fe00:3 lladdr 0a:58:00:00:00:03 dev v6if0 nud permanent",
    ]
    assert text(wired.host_requests)[0] == (
        f"ip -6 route add fd00::ac:2 dev {wired.link.name} table main proto 91 metric 1024"
    )
    assert [(path.removeprefix("net/ipv6/conf/"), value) for path, value in wired.pod_sysctls] == [
        ("eth0/disable_ipv6", "1"),
        ("lo/disable_ipv6", "0"),
        ("v6if0/disable_ipv6", "0"),
        ("v6if0/accept_dad", "0"),
    ]


def test_the_first_interface_is_wired_as_without_egress():
    alone = PodAttachment("aws-cni", "c1", "eth0", "default", "web-1", (POD6,))
    with_it, without = wiring(attachment(POD6, "169.254.172.2"), plan(0)), wiring(alone, plan(0))
    assert with_it.link_requests == without.link_requests and with_it.host_requests == without.host_requests
    assert with_it.pod_requests == without.pod_requests


def test_one_rule_translates_the_range_and_one_refuses_what_comes_for_it():
    assert str(egress.rules(NODE4)) == (
        "*nat\n"
        "-A POSTROUTING -s 169.254.172.0/22 ! -d 224.0.0.0/4 "
        '-m comment --comment "AWS, egress" -j SNAT --to-source 192.168.0.10 --random-fully\n'
        "*filter\n"
        "-A FORWARD -d 169.254.172.0/22 -m conntrack --ctstate NEW "
        '-m comment --comment "Block Node Local Pod access via IPv4" -j REJECT --reject-with icmp-port-unreachable\n'
    )
    assert str(egress.rules(NODE6, "hashrandom")) == (
        "*nat\n"
        "-A POSTROUTING -s fd00::ac:0/118 ! -d ff00::/8 "
        '-m comment --comment "AWS, egress" -j SNAT --to-source 2600:1f13:aaaa:bb00::10 --random\n'
        "*filter\n"
        "-A FORWARD -d fd00::ac:0/118 -m conntrack --ctstate NEW "
        '-m comment --comment "Block Node Local Pod access via IPv6" -j REJECT --reject-with icmp6-port-unreachable\n'
    )


def test_the_refusal_is_the_first_rule_and_chains_of_the_go_plugin_go():
    chain = "CNI-E4-5740307710ebfd5fb24f5"
    comment = r'-m comment --comment "name: \"aws-cni\" id: \"containerId-123\""'
    have = parse_save(
        "*nat\n:POSTROUTING ACCEPT [0:0]\n"
        f":{chain} - [0:0]\n:CNI-E4-short - [0:0]\n"
        "-A POSTROUTING -j KUBE-POSTROUTING\n"
        f"-A POSTROUTING -s 169.254.172.2/32 {comment} -j {chain}\n"
        f"-A {chain} -d 224.0.0.0/4 {comment} -j ACCEPT\nCOMMIT\n"
        "*filter\n:FORWARD ACCEPT [0:0]\n-A FORWARD -j KUBE-FORWARD\nCOMMIT\n"
    )
    lines = transaction(have, egress.rules(NODE4)).splitlines()
    assert [line for line in lines if line.startswith("-I FORWARD 1 ")]
    assert f"-D POSTROUTING -s 169.254.172.2/32 {comment} -j {chain}" in lines
    assert f"-F {chain}" in lines and f"-X {chain}" in lines
    assert not [line for line in lines if "KUBE" in line or "CNI-E4-short" in line]
    # Behind somebody's accept it would be without effect: it goes back to the front, once.
    refuse = str(egress.rules(NODE4)).splitlines()[3]
    second = {"nat": {"POSTROUTING": [str(egress.rules(NODE4)).splitlines()[1]]}}
    late = {**second, "filter": {"FORWARD": ["-A FORWARD -j ACCEPT", refuse]}}
    assert transaction(late, egress.rules(NODE4)).count("FORWARD") == 2
    first = {**second, "filter": {"FORWARD": [refuse, "-A FORWARD -j ACCEPT"]}}
    assert transaction(first, egress.rules(NODE4)) == ""


@pytest.mark.parametrize(("version", "first", "last"), [(4, "169.254.172.2", "169.254.175.254"), (6, "fd00::ac:2", "")])
def test_addresses_go_round_and_one_that_is_held_is_passed_over(version: int, first: str, last: str):
    local = egress.LocalAddresses(version)
    taken = [local.take() for _ in range(3)]
    assert [str(each) for each in taken] == [str(ip_address(first) + n) for n in range(3)]
    local.give_back(taken[1])
    local.hold([taken[2] + 1])
    assert local.take() == taken[2] + 2, "the one that was given back rests"
    rest = []
    with pytest.raises(NoAddress) as caught:
        while True:
            rest.append(local.take())
    assert caught.value.error_code == "egress-exhausted"
    assert rest[-1] == taken[1] and len({*rest, *taken}) == {4: 1021, 6: 1022}[version] - 2
    assert max(rest) == (ip_address(last) if last else ip_address("fd00::ac:3ff"))


def pool_of(*addresses: str) -> Pool:
    pool = Pool(0)
    pool.add_eni(Eni("eni-1", primary=True, blocks=tuple(Block.of(ip_address(each)) for each in addresses)))
    return pool


def test_a_grant_carries_its_local_address_until_it_is_released_or_undone():
    pool = pool_of("10.0.0.1", "10.0.0.2", "10.0.0.3")
    pool.local = egress.LocalAddresses(6)
    keys = [PodKey("aws-cni", f"c{n}", "eth0") for n in range(4)]
    grants = [pool.assign(key, PodIdentity("default", key.container_id), 1.0) for key in keys[:2]]
    assert [str(grant.egress) for grant in grants] == ["fd00::ac:2", "fd00::ac:3"]
    assert pool.assign(keys[0], grants[0].pod, 2.0).egress == grants[0].egress
    pool.release(keys[0], 2.0)
    pool.undo_assign(keys[1])
    held = egress.LocalAddresses(6)
    held.hold([ip_address("fd00::ac:4")])
    pool.local = held
    pool.restore(grants[1])
    assert [str(pool.assign(key, grants[0].pod, 9.0).egress) for key in keys[2:]] == ["fd00::ac:5", "fd00::ac:6"]
    pool.local = None
    pool.release(keys[2], 9.0)
    assert pool.assign(PodKey("aws-cni", "c9", "eth0"), grants[0].pod, 99.0).egress is None


def host_of(wired, index: int) -> tuple[Link, list]:
    link = Link(wired.link.name, index=index, kind="veth", mac=wired.link.mac, alias=wired.alias)
    return link, wired.host_values


def test_the_kernel_alone_tells_the_two_links_of_a_pod_and_what_is_missing():
    pod = attachment(POD6, "169.254.172.2")
    (link, values), (local, further) = (
        host_of(wiring(pod, PodLinkPlan(1000 + nic, "0a:58:00:00:00:03", nic=nic)), 1000 + nic)
        for nic in (0, c.EGRESS_NIC)
    )
    objects = values + further
    routes = [value for value in objects if isinstance(value, Route)]
    (seen,) = pods([local, link], routes, [value for value in objects if isinstance(value, Rule)])
    assert seen.link == link and seen.further == (local,) and str(seen.egress) == "169.254.172.2"
    assert [each.address for each in seen.addresses] == [POD6.address]
    live = {pod.addresses[0]: link, pod.addresses[1]: local}
    assert repairs(objects, live) == []
    missing = [value for value in objects if not isinstance(value, Address)]
    assert text(repairs(missing, live)) == [
        f"ip addr replace fe80::858:ff:fe00:3/128 nodad noprefixroute dev {link.name}",
        f"ip addr replace 169.254.172.1/32 scope link dev {local.name}",
    ]


def test_the_gos_random_links_keep_their_addresses_reserved():
    routes = [
        Route(c.host_network(ip_address("169.254.172.9")), 7),
        Route(c.host_network(ip_address("10.0.0.9")), 7),
        Route(c.V4_EGRESS_RANGE, 7),
    ]
    assert egress.held_in(routes) == [ip_address("169.254.172.9")]
