# SPDX-License-Identifier: Apache-2.0
"""What security groups let through and what they drop, with real packets between interfaces of the fabric."""

from __future__ import annotations

import contextlib
import itertools
import os
import select
import socket
import struct
from collections.abc import Iterator
from ipaddress import ip_network

import pytest
from netns_world import PRIMARY6, World

from vpccni.lab.cloud.events import AddressesChanged, GroupRulesChanged, LinkVanishes, SecurityGroupsChanged
from vpccni.lab.cloud.grouprules import GroupRule, rule
from vpccni.lab.sockets import listener, namespace_handle, tcp_socket

pytestmark = [pytest.mark.netns, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

A, B = "10.20.0.10", "10.20.0.20"
A6, B6 = PRIMARY6["a"], PRIMARY6["b"]
WEB, CLIENTS = "sg-0000000000000000a", "sg-0000000000000000b"
_numbers = itertools.count(1)
SEND = [rule(True, "-1", ip_network(each)) for each in ("0.0.0.0/0", "::/0")]


@pytest.fixture
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    made = World(tmp_path_factory.mktemp("lab"), (4, 6))
    yield made
    made.close()


def receive(protocol: str, peer: str, first: int | None = None, last: int | None = None) -> GroupRule:
    return rule(False, protocol, peer if peer.startswith("sg-") else ip_network(peer), first, last)


def let(world: World, *rules: GroupRule, group: str = WEB) -> None:
    world.fabric.apply([GroupRulesChanged(group, rules)])


def join(world: World, eni: str, *groups: str) -> None:
    world.fabric.apply([SecurityGroupsChanged(eni, groups)])


def refused(world: World) -> int:
    return world.fabric.dropped()["security_group"]


def test_nothing_comes_in_until_a_rule_says_so_and_not_after_it_is_gone(world: World) -> None:
    join(world, "eni-b0", WEB)
    let(world, *SEND)
    assert world.seen("a", "b", B) is None and world.seen("a", "b", B6) is None
    assert world.seen("b", "a", A) == B and world.seen("b", "a", A6) == B6  # out, and the answers in
    assert refused(world) >= 2
    counted = world.fabric.refused()
    assert [(row["eni_id"], row["direction"]) for row in counted] == [("eni-b0", "in")]
    let(world, *SEND, receive("tcp", "10.20.0.0/24", 80, 81))
    assert world.seen("a", "b", B) == A and world.seen("a", "b", B, port=81) == A
    assert world.seen("a", "b", B, port=82) is None and world.seen("a", "b", B6) is None
    let(world, *SEND, receive("tcp", f"{A6}/128", 80, 80))
    assert world.seen("a", "b", B6) == A6 and world.seen("a", "b", B) is None
    let(world, *SEND)
    assert world.seen("a", "b", B6) is None


def test_what_may_leave_is_limited_as_well(world: World) -> None:
    join(world, "eni-a0", WEB)
    let(world, receive("-1", "0.0.0.0/0"), rule(True, "tcp", ip_network(f"{B}/32"), 80, 80))
    assert world.seen("a", "b", B) == A
    assert world.seen("a", "b", B, port=81) is None
    assert world.seen("a", "site", "203.0.113.169") is None
    assert world.seen("b", "a", A, port=82) == B
    assert {(row["eni_id"], row["direction"]) for row in world.fabric.refused()} == {("eni-a0", "out")}


def test_a_rule_about_a_group_follows_its_members_and_their_addresses(world: World) -> None:
    join(world, "eni-b0", WEB)
    let(world, *SEND, receive("tcp", CLIENTS, 80, 80))
    let(world, *SEND, group=CLIENTS)
    assert world.seen("a", "b", B) is None
    join(world, "eni-a0", CLIENTS)
    assert world.seen("a", "b", B) == A and world.seen("a", "b", B6) == A6
    pod = world.pod("a", "10.20.0.11")
    world.fabric.apply([AddressesChanged("eni-a0", "vpc-1", (ip_network(A), ip_network("10.20.0.11")))])
    assert world.seen(pod, "b", B) == "10.20.0.11"
    join(world, "eni-a0", WEB)
    assert world.seen(pod, "b", B) is None


def test_two_pods_of_one_node_never_meet_a_group_and_pods_of_two_nodes_do(world: World) -> None:
    for eni, primary, second in (("eni-a0", A, "10.20.0.11"), ("eni-b0", B, "10.20.0.21")):
        join(world, eni, WEB)
        world.own(eni, primary, second, *(["10.20.0.12"] if primary == A else []))
    let(world, *SEND)
    one, other, away = world.pod("a", "10.20.0.11"), world.pod("a", "10.20.0.12"), world.pod("b", "10.20.0.21")
    assert world.seen(one, other, "10.20.0.12") is not None
    assert world.seen(one, away, "10.20.0.21") is None
    let(world, *SEND, receive("-1", WEB))
    assert world.seen(one, away, "10.20.0.21") == "10.20.0.11"


def test_a_flow_that_was_allowed_outlives_its_rule_and_a_new_one_does_not_begin(world: World) -> None:
    join(world, "eni-b0", WEB)
    let(world, *SEND, receive("tcp", "10.20.0.0/24", 80, 80))
    with connected(world) as (client, accepted):
        let(world, *SEND)
        assert carries(client, accepted) and carries(accepted, client)
    assert world.seen("a", "b", B) is None


def test_a_flow_that_was_not_tracked_ends_with_the_rule_that_allowed_everything(world: World) -> None:
    everything = [receive("-1", "0.0.0.0/0"), receive("-1", "::/0")]
    join(world, "eni-b0", WEB)
    let(world, *SEND, *everything)
    with connected(world) as (client, accepted):
        assert carries(client, accepted)
        let(world, *SEND)
        assert not carries(client, accepted)


@contextlib.contextmanager
def connected(world: World) -> Iterator[tuple[socket.socket, socket.socket]]:
    """A connection from node a to node b."""
    with contextlib.ExitStack() as stack:
        here, there = (stack.enter_context(namespace_handle(world.netns(name))) for name in "ab")
        server = stack.enter_context(listener(there, "0.0.0.0", 80))
        client = stack.enter_context(tcp_socket(here))
        client.connect_ex((B, 80))
        assert select.select([server], [], [], 1)[0]
        yield client, stack.enter_context(server.accept()[0])


def carries(sender: socket.socket, receiver: socket.socket) -> bool:
    sender.send(b"x")
    return bool(select.select([receiver], [], [], 0.5)[0]) and receiver.recv(16) == b"x"


def test_groups_that_allow_everything_cost_no_tracking_and_no_rule(world: World) -> None:
    bare = world.run("fabric", "nft", "list", "table", "inet", "vpc")
    join(world, "eni-b0", WEB)
    everything = [receive("-1", "0.0.0.0/0"), receive("-1", "::/0")]
    let(world, *SEND, *everything)
    assert world.seen("a", "b", B) == A
    assert rules_of(world) == rules_of_text(bare)
    let(world, *SEND, everything[0])  # IPv6 is not among it
    assert WEB.replace("-", "_") in rules_of(world)
    assert world.seen("a", "b", B6) is None
    let(world, *SEND, *everything)
    assert rules_of(world) == rules_of_text(bare)


def rules_of(world: World) -> str:
    return rules_of_text(world.run("fabric", "nft", "list", "table", "inet", "vpc"))


def rules_of_text(text: str) -> str:
    return "\n".join(line for line in text.splitlines() if "packets" not in line)


def test_an_interface_that_vanishes_takes_its_filters_along(world: World) -> None:
    bare = rules_of(world)
    world.attach("b", 1, ["10.20.0.25"])
    join(world, "eni-b1", WEB, CLIENTS)
    let(world, receive("tcp", CLIENTS, 80, 80))
    assert "peni-b1_in" in rules_of(world)
    world.fabric.apply([LinkVanishes("i-b", "eni-b1", world.macs["eni-b1"], 1, 0)])
    assert rules_of(world) == bare


@pytest.mark.parametrize(
    ("rules", "protocol", "passes"),
    [
        ([receive("icmp", "0.0.0.0/0", 8)], "icmp", True),
        ([receive("icmp", "0.0.0.0/0", 8, 0)], "icmp", True),
        ([receive("icmp", "0.0.0.0/0")], "icmp", True),
        ([receive("icmp", "0.0.0.0/0", 13)], "icmp", False),
        ([receive("icmpv6", "::/0", 128), receive("icmp", "::/0", 8), receive("tcp", "0.0.0.0/0")], "icmp", False),
        ([receive("udp", "0.0.0.0/0", 53, 53)], "udp", True),
        ([receive("17", f"{A}/32")], "udp", True),
        ([receive("tcp", "0.0.0.0/0"), receive("132", "0.0.0.0/0")], "udp", False),
    ],
)
def test_protocols_and_types_are_told_apart(rules: list[GroupRule], protocol: str, passes: bool, shared: World) -> None:
    join(shared, "eni-b0", WEB)
    let(shared, *SEND, *rules)
    assert (arrives_icmp(shared) if protocol == "icmp" else arrives_udp(shared)) == passes


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    made = World(tmp_path_factory.mktemp("lab"), (4, 6))
    yield made
    made.close()


def arrives_udp(world: World) -> bool:
    with bound(world, "b", socket.SOCK_DGRAM, 0) as there, bound(world, "a", socket.SOCK_DGRAM, 0) as here:
        there.bind((B, 53))
        here.sendto(b"x", (B, 53))
        return bool(select.select([there], [], [], 0.4)[0])


def arrives_icmp(world: World) -> bool:
    with bound(world, "a", socket.SOCK_RAW, socket.IPPROTO_ICMP) as here:
        number = next(_numbers)  # the same one again would be the same flow
        here.sendto(struct.pack("!BBHHH", 8, 0, 0xFFFF - 0x0800 - number, number, 0), (B, 0))
        return bool(select.select([here], [], [], 0.4)[0])


def bound(world: World, name: str, kind: int, protocol: int) -> socket.socket:
    from vpccni.netlink.namespace import inside

    with namespace_handle(world.netns(name)) as handle, inside(handle):
        return socket.socket(socket.AF_INET, kind, protocol)
