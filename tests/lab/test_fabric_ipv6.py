# SPDX-License-Identifier: Apache-2.0
"""What the VPC router delivers and drops of IPv6, with real packets: the same rules as for IPv4, and no translation."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from netns_world import INTERNET6, PRIMARY6, SITE6, World

pytestmark = [pytest.mark.netns, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

A, B = PRIMARY6["a"], PRIMARY6["b"]
PREFIX = "2001:db8:20:1a00:1::/80"
FIRST, LAST = "2001:db8:20:1a00:1::", "2001:db8:20:1a00:1:ffff:ffff:ffff"


@pytest.fixture
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    made = World(tmp_path_factory.mktemp("lab"), (4, 6))
    yield made
    made.close()


def dropped(world: World) -> dict[str, int]:
    return {name: count for name, count in world.fabric.dropped().items() if count}


def test_nodes_and_hosts_outside_reach_each_other_in_both_families(world: World) -> None:
    assert world.seen("a", "b", B) == A
    assert world.seen("a", "b", "10.20.0.20") == "10.20.0.10"
    for host, address in (("internet", INTERNET6), ("site", SITE6)):
        assert world.seen("b", host, str(address)) == B  # b has no public IPv4 address; IPv6 needs none
        assert world.seen(host, "b", B) == str(address)
    assert dropped(world) == {}


def test_the_first_and_the_last_address_of_a_prefix_are_delivered_and_only_while_it_is_owned(world: World) -> None:
    world.own("eni-b0", "10.20.0.20", B, PREFIX)
    pods = [world.pod("b", FIRST), world.pod("b", LAST)]
    for pod, address in zip(pods, (FIRST, LAST), strict=True):
        assert world.seen("a", pod, address) == A
        assert world.seen(pod, "internet", str(INTERNET6)) == address
    world.own("eni-b0", "10.20.0.20", B)
    assert world.seen("a", pods[1], LAST) is None
    assert dropped(world)["unknown_destination"] >= 1
    assert world.seen(pods[1], "a", A) is None
    assert dropped(world)["spoofed_source"] >= 1


def test_a_prefix_costs_the_router_one_route_and_no_neighbour(world: World) -> None:
    neighbours = world.run("fabric", "ip", "-6", "neigh", "show", "nud", "permanent")
    world.own("eni-b0", "10.20.0.20", B, PREFIX)
    assert f"{PREFIX} via fe80::2 dev peni-b0" in world.run("fabric", "ip", "-6", "route")
    assert world.run("fabric", "ip", "-6", "neigh", "show", "nud", "permanent") == neighbours != ""


def test_a_source_that_the_interface_does_not_own_is_dropped_and_counted(world: World) -> None:
    spoofed = "2001:db8:20:1a00::66"
    pod = world.pod("a", spoofed)
    assert world.seen(pod, "b", B) is None
    assert dropped(world) == {"spoofed_source": dropped(world)["spoofed_source"]}
    world.own("eni-a0", "10.20.0.10", A, spoofed)
    assert world.seen(pod, "b", B) == spoofed


def test_an_address_of_nobody_is_unreachable_from_inside_and_outside(world: World) -> None:
    nobody = "2001:db8:20:1a00::77"
    pod = world.pod("b", nobody)
    assert world.seen("a", pod, nobody) is None
    counted = dropped(world)["unknown_destination"]
    assert world.seen("internet", pod, nobody) is None
    assert dropped(world)["unknown_destination"] > counted >= 1
    world.own("eni-b0", "10.20.0.20", B, nobody)
    assert world.seen("internet", pod, nobody) == str(INTERNET6)


def test_a_wrong_mac_is_dropped_and_counted(world: World) -> None:
    assert world.seen("a", "b", B) == A
    world.run("a", "ip", "link", "set", "eth0", "address", "02:00:00:99:99:99")
    assert world.seen("a", "b", B) is None
    assert dropped(world)["wrong_mac"] >= 1


def test_every_subnets_gateway_answers_neighbour_discovery(world: World) -> None:
    assert "default via fe80:ec2::1 dev eth0 proto ra metric 512" in world.run("a", "ip", "-6", "route")
    assert world.seen("a", "b", B) == A
    assert "fe80:ec2::1 dev eth0 lladdr" in world.run("a", "ip", "-6", "neigh")
    assert world.seen("a", "b", "fe80:ec2::2%eth0") is None  # a link-local address of nobody


def test_a_fabric_without_ipv6_has_none(tmp_path_factory: pytest.TempPathFactory) -> None:
    world = World(tmp_path_factory.mktemp("lab"))
    try:
        assert world.run("fabric", "ip", "-6", "addr") == ""
        assert "2001:db8" not in world.run("internet", "ip", "-6", "addr")
    finally:
        world.close()
