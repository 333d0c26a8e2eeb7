# SPDX-License-Identifier: Apache-2.0
"""What the VPC router delivers and drops of IPv6, with real packets: the same rules as for IPv4, and no translation."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from ipaddress import IPv6Address

import pytest
from netns_world import INTERNET6, PRIMARY6, SITE6, World

from vpccni.lab.discovery import Solicitation, advertisement, checksum, parse

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


def test_whoever_takes_the_subnet_for_on_link_is_told_the_way_to_owned_addresses_only(world: World) -> None:
    world.own("eni-b0", "10.20.0.20", B, PREFIX)
    pod, nobody = world.pod("b", LAST), world.pod("b", "2001:db8:20:1a00::77")
    world.run("a", "ip", "-6", "route", "add", "2001:db8:20:1a00::/64", "dev", "eth0")
    assert world.seen("a", pod, LAST) is None  # nobody answers yet
    with world.answering():
        world.run("a", "ip", "-6", "neigh", "flush", "dev", "eth0")
        assert world.seen("a", pod, LAST, timeout_s=2) == A and world.seen("a", "b", B) == A
        assert world.seen("a", nobody, "2001:db8:20:1a00::77") is None
    neighbours = world.run("a", "ip", "-6", "neigh", "show", "dev", "eth0").splitlines()
    router = next(line for line in world.run("fabric", "ip", "-o", "link", "show", "peni-a0").splitlines())
    told = {line.split()[0]: line.split()[2] for line in neighbours if "lladdr" in line}
    assert told[LAST] == told[B] and told[B] in router
    assert "2001:db8:20:1a00::77" not in told and B in told


def test_duplicate_address_detection_of_an_owned_address_finds_none(world: World) -> None:
    with world.answering():
        world.run("a", "sysctl", "-qw", "net.ipv6.conf.eth0.accept_dad=1")
        world.own("eni-a0", "10.20.0.10", A, "2001:db8:20:1a00::a2")
        world.run("a", "ip", "addr", "add", "2001:db8:20:1a00::a2/128", "dev", "eth0")
        deadline = time.monotonic() + 5
        while "tentative" in (shown := world.run("a", "ip", "-6", "addr", "show", "dev", "eth0")):
            assert time.monotonic() < deadline
            time.sleep(0.05)
    assert "2001:db8:20:1a00::a2/128" in shown and "dadfailed" not in shown


def test_an_advertisement_is_what_the_rfc_says() -> None:
    asker, mac = bytes.fromhex("020000000001"), bytes.fromhex("020000000002")
    asked = Solicitation(asker, IPv6Address("fe80::1"), IPv6Address(B))
    frame = advertisement(asked, mac)
    assert frame[:12] == asker + mac and frame[21] == 255 and frame[54] == 136
    assert IPv6Address(frame[22:38]) == IPv6Address(frame[62:78]) == IPv6Address(B) and frame[80:] == mac
    assert checksum(frame[22:54] + (len(frame) - 54).to_bytes(4) + (58).to_bytes(4) + frame[54:]) == 0
    assert parse(frame[:21] + b"\x40" + frame[22:]) is None and parse(frame[:60]) is None


def test_a_fabric_without_ipv6_has_none(tmp_path_factory: pytest.TempPathFactory) -> None:
    world = World(tmp_path_factory.mktemp("lab"))
    try:
        assert world.run("fabric", "ip", "-6", "addr") == ""
        assert "2001:db8" not in world.run("internet", "ip", "-6", "addr")
    finally:
        world.close()
