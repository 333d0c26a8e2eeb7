# SPDX-License-Identifier: Apache-2.0
"""Pods that were refused are demand, and growth waits a moment so that one call serves all of them."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network
from math import inf

import pytest

from vpccni.core.block import Block, BlockKind
from vpccni.core.eni import Eni
from vpccni.core.gather import Gathering
from vpccni.core.grant import PodIdentity, PodKey
from vpccni.core.pacing import GATHER_S, HURRY_S
from vpccni.core.plan import plan
from vpccni.core.pool import Pool
from vpccni.core.stats import Tally
from vpccni.core.steps import AssignBlocks, AttachEni, FreeEni, UnassignBlocks, Wait, first_call
from vpccni.core.targets import NodeLimits, Targets
from vpccni.core.waiting import MOST, PATIENCE_S, Waiting
from vpccni.errors import NoAddress

GROW = AssignBlocks("eni-0", 3, BlockKind.ADDRESS, "short")
SHRINK = UnassignBlocks("eni-0", (Block(IPv4Network("10.0.0.9/32")),), "over")
SOME, NONE = Tally(total=9, assigned=5), Tally(total=9, assigned=9)


def at_once(_action: str, now: float) -> float:
    return now


def refuse(pool: Pool, count: int, now: float, attempt: int = 0) -> None:
    """So many pods, each in a sandbox of its own, ask in vain."""
    for number in range(count):
        with pytest.raises(NoAddress):
            pool.assign(PodKey("n", f"sandbox-{attempt}-{number}", "eth0"), PodIdentity("default", f"p{number}"), now)


def full_pool() -> Pool:
    pool = Pool()
    pool.add_eni(Eni("eni-0", blocks=(Block(IPv4Network("10.0.0.10/32")),)))
    pool.assign(PodKey("n", "first", "eth0"), PodIdentity("default", "first"), 0.0)
    return pool


def test_pods_that_were_refused_are_asked_for_in_one_call() -> None:
    pool = full_pool()
    refuse(pool, 4, 1.0)
    refuse(pool, 4, 2.0, attempt=1)  # the same pods once more, in new sandboxes
    assert pool.tally(2.0).waiting == 4
    (step,) = plan(pool, Targets(warm_ip=1), NodeLimits(3, 10), 2.0)
    assert isinstance(step, AssignBlocks) and step.count == 5, "four that wait and one to spare"
    assert "4 pods waiting" in step.reason


def test_a_pod_that_does_not_ask_again_is_forgotten_and_its_address_given_back() -> None:
    pool = full_pool()
    refuse(pool, 4, 1.0)
    assert pool.next_rest(1.0) == 1.0 + PATIENCE_S
    pool.add_blocks("eni-0", [Block(IPv4Network(f"10.0.0.{number}/32")) for number in range(20, 25)])
    assert plan(pool, Targets(warm_ip=1), NodeLimits(3, 10), 5.0) == []
    assert pool.tally(1.0 + PATIENCE_S).waiting == 0
    (step,) = plan(pool, Targets(warm_ip=1), NodeLimits(3, 10), 1.0 + PATIENCE_S)
    assert isinstance(step, UnassignBlocks) and len(step.blocks) == 4


def test_a_served_pod_waits_no_more() -> None:
    pool = full_pool()
    refuse(pool, 2, 1.0)
    pool.add_blocks("eni-0", [Block(IPv4Network("10.0.0.20/32"))])
    pool.assign(PodKey("n", "sandbox-1-0", "eth0"), PodIdentity("default", "p0"), 2.0)
    assert pool.tally(2.0).waiting == 1


def test_those_who_wait_are_bounded() -> None:
    waiting = Waiting()
    for number in range(MOST + 10):
        waiting.refused(PodIdentity("default", f"p{number}"), 0.0)
    assert waiting.count(0.0) == MOST


def test_growth_waits_a_moment_while_half_of_the_spare_addresses_are_left() -> None:
    gathering = Gathering()
    assert gathering.due([GROW], SOME, 5, 10.0, at_once) == ([], 10.0 + GATHER_S)
    assert gathering.patient(SOME, 5, 11.0)
    assert gathering.due([GROW], SOME, 5, 11.0, at_once) == ([], 10.0 + GATHER_S), "the moment does not start anew"
    assert gathering.due([GROW], SOME, 5, 12.0, at_once) == ([GROW], inf)
    assert gathering.due([GROW], SOME, 5, 12.5, at_once) == ([], 12.5 + GATHER_S), "the next shortage has its own"


def test_growth_begins_at_once_when_little_is_left_and_soon_when_pods_are_refused() -> None:
    assert Gathering().due([GROW], NONE, 5, 10.0, at_once) == ([GROW], inf)
    refused = Tally(total=9, assigned=9, waiting=2)
    gathering = Gathering()
    assert gathering.due([GROW], refused, 5, 10.0, at_once) == ([], 10.0 + HURRY_S)
    assert gathering.due([GROW], refused, 5, 10.0 + HURRY_S, at_once) == ([GROW], inf)


def test_a_shortage_that_is_over_leaves_no_trace() -> None:
    gathering = Gathering()
    gathering.due([GROW], SOME, 5, 10.0, at_once)
    gathering.due([], SOME, 5, 11.0, at_once)
    assert not gathering.patient(SOME, 5, 11.0)
    assert gathering.due([GROW], SOME, 5, 11.5, at_once) == ([], 11.5 + GATHER_S)


def test_a_step_whose_first_call_has_to_wait_is_dropped_until_then_and_others_begin() -> None:
    throttled = {"AssignPrivateIpAddresses": 42.0}
    ready, again = Gathering().due([GROW, SHRINK, Wait("eni-limit", None, "")], NONE, 5, 10.0, throttled.get)
    assert (ready, again) == ([SHRINK], 42.0)


def test_every_step_has_a_first_call() -> None:
    v6 = UnassignBlocks("eni-0", (Block(IPv6Network("2001:db8::/80")),), "")
    attach = AttachEni(0, 3, BlockKind.ADDRESS, "")
    assert [first_call(step) for step in (GROW, attach, SHRINK, v6, FreeEni("eni-1", ""))] == [
        "AssignPrivateIpAddresses",
        "CreateNetworkInterface",
        "UnassignPrivateIpAddresses",
        "UnassignIpv6Addresses",
        "DetachNetworkInterface",
    ]
