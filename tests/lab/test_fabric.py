# SPDX-License-Identifier: Apache-2.0
"""What the VPC router delivers, answers and drops, with real packets."""

from __future__ import annotations

import os
from collections.abc import Iterator
from ipaddress import IPv4Address

import pytest
from netns_world import INTERNET, SITE, VPC, World

from vpccni.lab.cloud.events import LinkVanishes, PublicAddressChanged, SourceDestCheckChanged

pytestmark = [pytest.mark.netns, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]


@pytest.fixture
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    made = World(tmp_path_factory.mktemp("lab"))
    yield made
    made.close()


def dropped(world: World) -> dict[str, int]:
    return {name: count for name, count in world.fabric.dropped().items() if count}


def test_an_owned_address_is_delivered_with_its_sender_intact(world: World) -> None:
    world.own("eni-a0", "10.20.0.10", "10.20.0.11")
    world.own("eni-b0", "10.20.0.20", "10.20.0.21")
    pod_a, pod_b = world.pod("a", "10.20.0.11"), world.pod("b", "10.20.0.21")
    assert world.seen(pod_a, pod_b, "10.20.0.21") == "10.20.0.11"
    assert world.seen("a", "b", "10.20.0.20") == "10.20.0.10"
    assert dropped(world) == {}


def test_an_address_that_nobody_owns_is_neither_delivered_nor_answered(world: World) -> None:
    world.own("eni-b0", "10.20.0.20", "10.20.0.21")
    pod = world.pod("b", "10.20.0.21")
    assert world.seen("a", pod, "10.20.0.21") == "10.20.0.10"
    world.own("eni-b0", "10.20.0.20")
    world.run("a", "ip", "neigh", "flush", "dev", "eth0")
    assert world.seen("a", pod, "10.20.0.21") is None
    assert "lladdr" not in world.run("a", "ip", "neigh", "show", "10.20.0.21")
    # From a subnet away it goes to the gateway, which counts it.
    assert world.seen("a", pod, "10.20.7.7") is None
    assert dropped(world)["unknown_destination"] >= 1


def test_every_address_of_a_prefix_is_delivered(world: World) -> None:
    world.own("eni-b0", "10.20.0.20", "10.20.0.32/28")
    pod = world.pod("b", "10.20.0.47")
    assert world.seen("a", pod, "10.20.0.47") == "10.20.0.10"
    assert world.seen(pod, "a", "10.20.0.10") == "10.20.0.47"
    world.own("eni-b0", "10.20.0.20")
    assert world.seen(pod, "a", "10.20.0.10") is None


def test_a_source_that_the_interface_does_not_own_is_dropped_and_counted(world: World) -> None:
    pod = world.pod("a", "10.20.0.11")  # wired, but EC2 never gave the address to the interface
    assert world.seen(pod, "b", "10.20.0.20") is None
    assert dropped(world)["spoofed_source"] >= 1
    world.own("eni-a0", "10.20.0.10", "10.20.0.11")
    assert world.seen(pod, "b", "10.20.0.20") == "10.20.0.11"


def test_without_source_check_any_source_passes(world: World) -> None:
    pod = world.pod("a", "10.20.9.9")
    world.run("b", "ip", "route", "add", "10.20.9.9/32", "via", "10.20.0.1")
    assert world.seen(pod, "b", "10.20.0.20") is None
    before = dropped(world)["spoofed_source"]
    world.fabric.apply([SourceDestCheckChanged("eni-a0", enabled=False)])
    world.seen(pod, "b", "10.20.0.20")
    assert dropped(world)["spoofed_source"] == before
    world.fabric.apply([SourceDestCheckChanged("eni-a0", enabled=True)])
    world.seen(pod, "b", "10.20.0.20")
    assert dropped(world)["spoofed_source"] > before


def test_a_wrong_mac_is_dropped_and_counted(world: World) -> None:
    assert world.seen("a", "b", "10.20.0.20") == "10.20.0.10"
    world.run("a", "ip", "link", "set", "eth0", "address", "02:00:00:99:99:99")
    assert world.seen("a", "b", "10.20.0.20") is None
    assert dropped(world)["wrong_mac"] >= 1


def test_the_internet_sees_the_public_address_and_reaches_it(world: World) -> None:
    assert world.seen("a", "internet", str(INTERNET)) == "192.0.2.10"
    assert world.seen("internet", "a", "192.0.2.10") == str(INTERNET)
    world.fabric.apply([PublicAddressChanged("eni-a0", VPC, IPv4Address("10.20.0.10"), None)])
    assert world.seen("a", "internet", str(INTERNET)) is None
    assert world.seen("internet", "a", "192.0.2.10") is None
    assert dropped(world)["no_public_address"] >= 1


def test_a_private_source_without_a_public_address_does_not_leave(world: World) -> None:
    assert world.seen("b", "internet", str(INTERNET)) is None
    assert dropped(world) == {"no_public_address": dropped(world)["no_public_address"]}


def test_the_internet_cannot_address_the_vpc_directly(world: World) -> None:
    assert world.seen("internet", "a", "10.20.0.10") is None
    assert dropped(world)["not_public"] >= 1


def test_a_private_site_sees_and_reaches_private_addresses(world: World) -> None:
    assert world.seen("b", "site", str(SITE)) == "10.20.0.20"
    world.own("eni-b0", "10.20.0.20", "10.20.0.21")
    pod = world.pod("b", "10.20.0.21")
    assert world.seen(pod, "site", str(SITE)) == "10.20.0.21"
    assert world.seen("site", pod, "10.20.0.21") == str(SITE)


def test_a_second_interface_appears_down_and_bare_and_vanishes_with_its_traffic(world: World) -> None:
    world.attach("a", 1, ["10.20.0.15"])
    shown = world.run("a", "ip", "addr", "show", "dev", "eth1")
    assert "state DOWN" in shown and "inet" not in shown and world.macs["eni-a1"] in shown
    assert world.fabric.port_of("eni-a1") == "peni-a1"
    world.fabric.apply([LinkVanishes("i-a", "eni-a1", world.macs["eni-a1"], 1, 0)])
    assert "eth1" not in world.run("a", "ip", "link")
    assert "peni-a1" not in world.run("fabric", "nft", "list", "ruleset")
    assert "10.20.0.15" not in world.run("fabric", "ip", "route")


def test_an_address_may_move_to_another_interface_in_either_order(world: World) -> None:
    pod = world.pod("b", "10.20.0.21")
    world.own("eni-a0", "10.20.0.10", "10.20.0.21")
    world.own("eni-b0", "10.20.0.20", "10.20.0.21")  # the gain is heard of before the loss
    world.own("eni-a0", "10.20.0.10")
    assert world.seen("a", pod, "10.20.0.21") == "10.20.0.10"


def test_an_instance_starts_as_its_image_and_dhcp_leave_it(world: World) -> None:
    assert world.run("a", "ip", "route").split("\n")[0].split() == (
        ["default", "via", "10.20.0.1", "dev", "eth0", "proto", "dhcp", "src", "10.20.0.10", "metric", "512"]
    )
    assert "10.20.0.0/24 dev eth0 proto kernel scope link src 10.20.0.10" in world.run("a", "ip", "route")
    assert world.run("a", "sysctl", "-n", "net.ipv4.ip_forward").strip() == "1"
    assert "mtu 9001" in world.run("a", "ip", "link", "show", "eth0")


def test_the_box_has_no_link_to_the_machine(world: World) -> None:
    """Every device of the fabric has its other end in a namespace of the lab."""
    links = world.run("fabric", "ip", "-o", "link").strip().splitlines()
    assert len(links) == 1 + 2 + 2  # lo, two nodes, internet and site
    machine = os.popen("ip -o link").read()
    assert not any(world.prefix in line or "peni-" in line for line in machine.splitlines())
