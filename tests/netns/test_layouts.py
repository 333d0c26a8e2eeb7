# SPDX-License-Identifier: Apache-2.0
"""The two rule layouts with real packets: the same reachability, and no packet lost on the way between them."""

from __future__ import annotations

import random
import time
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

import pytest
from test_packets import ENI1, NODE, OUTSIDE, PEER, POD_A, POD_B, POLICY, World, world

from flows import Flow
from vpccni.core.conventions import POD_TABLE
from vpccni.core.podnet import PodAddress, PodAttachment
from vpccni.host.node import Pods, compare, converge
from vpccni.netlink.values import Route

pytestmark = pytest.mark.netns
__all__ = ["world"]

PODS = Pods(
    [
        PodAttachment("aws-cni", "c-web-0", "eth0", "default", "web-0", (PodAddress(IPv4Address(POD_A), 254),)),
        PodAttachment("aws-cni", "c-web-1", "eth0", "default", "web-1", (PodAddress(IPv4Address(POD_B), 2),)),
    ]
)
SCATTERED = {IPv4Network(f"192.168.{number}.{number * 7 % 250}"): 2 for number in range(2, 30)}
SOURCES = {IPv4Network(POD_A): 254, IPv4Network(POD_B): 2, **SCATTERED}


def flows_of(world: World) -> list[Flow]:
    """From the pod on each ENI to the peer."""
    far = world.places[PEER].fd
    return [Flow(world.places[pod].fd, far, PEER, 9000 + number) for number, pod in enumerate((POD_A, POD_B))]


def in_layout(world: World, layout: str, **changes: object):
    return replace(world.setup, layout=layout, sources=SOURCES if layout == "shared" else {}, **changes)


def test_in_the_shared_layout_everybody_is_reached_and_seen_alike(world: World) -> None:
    converge(world.kernel, in_layout(world, "shared"), PODS)
    rules = world.node.ip("rule")
    assert not [line for line in rules if line.startswith("512:") and POD_A in line]
    assert f"512: from all lookup {POD_TABLE} proto 91" in rules
    expected = {
        (POD_A, POD_B): POD_A,
        (POD_B, POD_A): POD_B,
        (POD_B, PEER): POD_B,
        (PEER, POD_B): PEER,
        (POD_B, OUTSIDE): NODE,
        (NODE, POD_B): NODE,
        (POD_B, ENI1): POD_B,
        (POD_B, NODE): POD_B,
    }
    assert {pair: world.seen(*pair) for pair in expected} == expected
    assert {pod.alias.pod: pod.addresses[0].table for pod in world.kernel.pods()} == {"web-0": 254, "web-1": 2}
    # And the negative: without the rules by source a pod of the second ENI leaves by the first and is dropped.
    for line in [line for line in rules if line.startswith("1537:")]:
        world.node.ip("rule", "del", *line.replace("1537:", "pref 1537").split())
    assert world.fails(POD_B, PEER)
    assert world.seen(POD_A, PEER) == POD_A


def test_no_packet_is_lost_on_the_way_from_one_layout_to_the_other_and_back(world: World) -> None:
    flows = flows_of(world)
    for flow in flows:
        flow.start()
    try:
        for layout in ("shared", "per-pod") * 5:
            converge(world.kernel, in_layout(world, layout), PODS)
            assert compare(world.kernel, in_layout(world, layout), PODS).changes == ()
            time.sleep(0.02)
        good = [(flow.sent, flow.lost) for flow in flows]
        # And the negative: what is old goes first, and a moment later comes what is new.
        found = compare(world.kernel, in_layout(world, "shared"), PODS)
        world.kernel.apply([each for each in found.requests if each.verb == "delete"])
        time.sleep(0.05)
        world.kernel.apply([each for each in found.requests if each.verb != "delete"])
        time.sleep(0.6)
    finally:
        for flow in flows:
            flow.end()
    assert all(sent > 50 and lost == 0 for sent, lost in good), good
    assert all(flow.lost > 0 for flow in flows)


@pytest.mark.parametrize("layout", ["shared", "per-pod"])
def test_a_switch_that_was_killed_half_way_is_completed_or_taken_back(world: World, layout: str) -> None:
    other = {"shared": "per-pod", "per-pod": "shared"}[layout]
    converge(world.kernel, in_layout(world, other), PODS)
    steps = len(compare(world.kernel, in_layout(world, layout), PODS).requests)
    for done in range(1, steps):
        found = compare(world.kernel, in_layout(world, layout), PODS)
        world.kernel.apply(found.requests[:done])
        seen = {pod.alias.pod: pod.addresses for pod in world.kernel.pods()}
        assert {name: each[0].table for name, each in seen.items()} == {"web-0": 254, "web-1": 2}, f"after {done}"
        end = layout if done % 2 else other
        converge(world.kernel, in_layout(world, end), PODS)
        assert compare(world.kernel, in_layout(world, end), PODS).changes == ()
        converge(world.kernel, in_layout(world, other), PODS)
    assert world.seen(POD_B, PEER) == POD_B


def test_a_del_finds_a_pod_in_whichever_layout_it_is(world: World) -> None:
    converge(world.kernel, in_layout(world, "shared"), PODS)
    removed = world.kernel.unwire(PODS.attachments[1].addresses, "", "c-web-1")
    assert [str(each) for each in removed if isinstance(each.value, Route) and each.value.table == POD_TABLE]
    assert world.seen(POD_A, PEER) == POD_A and world.fails(PEER, POD_B)


def test_fifty_configurations_in_any_order_end_in_the_same_state(world: World) -> None:
    dice = random.Random(11)
    final = in_layout(world, "per-pod")
    converge(world.kernel, final, PODS)
    wanted = sorted(world.node.state())
    for _ in range(50):
        external, ports = dice.random() < 0.5, dice.random() < 0.5
        some = in_layout(
            world,
            dice.choice(["per-pod", "shared"]),
            external_snat=external,
            node_port_support=ports,
            mark=dice.choice([0x80, 0x100]),
            versions=dice.choice([(4,), (6,), (4, 6)]),
            enis=world.setup.enis[: dice.choice([1, 2, 2])],
        )
        some = replace(some, sources={net: table for net, table in some.sources.items() if dice.random() < 0.7})
        converge(world.kernel, some, PODS)
        if 4 in some.versions and len(some.enis) == 2:
            world.firewall(replace(POLICY, external_snat=external, node_port_support=ports, mark=some.mark))
        second = compare(world.kernel, some, PODS)
        assert second.changes == (), second.commands
    converge(world.kernel, final, PODS)
    assert sorted(world.node.state()) == wanted
