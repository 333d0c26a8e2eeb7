# SPDX-License-Identifier: Apache-2.0
"""When calls may be made: a lone node at once, a fleet that cannot see itself at the account's rate."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vpccni.core import pacing
from vpccni.core.pacing import Pacer, act_at, rate_of, serving_s
from vpccni.lab.cloud.buckets import Bucket, published

ACTIONS = [
    "DescribeNetworkInterfaces",
    "DescribeSubnets",
    "DescribeInstances",
    "CreateNetworkInterface",
    "AttachNetworkInterface",
    "DetachNetworkInterface",
    "DeleteNetworkInterface",
    "ModifyNetworkInterfaceAttribute",
    "AssignPrivateIpAddresses",
    "UnassignPrivateIpAddresses",
    "AssignIpv6Addresses",
    "UnassignIpv6Addresses",
    "CreateTags",
]


@pytest.mark.parametrize("action", ACTIONS)
def test_the_daemon_and_the_lab_know_the_same_published_bucket(action: str) -> None:
    assert (rate_of(action).burst, rate_of(action).refill_per_s) == (
        published(action).burst,
        published(action).refill_per_s,
    )


def test_a_node_that_was_never_refused_never_waits() -> None:
    pacer = Pacer(fleet=1000)
    for number in range(200):
        now = number * 0.01
        assert pacer.reserve("CreateNetworkInterface", now) == now
        pacer.admitted("CreateNetworkInterface", now)
    assert pacer.refusing(2.0) is None


def test_a_refusal_delays_only_its_own_action_without_a_hint() -> None:
    pacer = Pacer()
    pacer.reserve("AttachNetworkInterface", 0.0)
    until = pacer.refused("AttachNetworkInterface", 0.0, 0.5)
    assert until > 0.0
    assert pacer.reserve("AttachNetworkInterface", 0.0) == until
    assert pacer.reserve("AssignPrivateIpAddresses", 0.0) == 0.0
    assert pacer.refusing(0.0) is not None


def test_windows_double_with_every_refusal_in_a_row_and_are_bounded() -> None:
    pacer, waits = Pacer(), []
    for _ in range(10):
        waits.append(pacer.refused("DetachNetworkInterface", 0.0, 1.0))
    assert waits == sorted(waits)
    assert waits[1] > 1.8 * waits[0]
    assert waits[-1] <= pacing.LAST_S + 1.0


def test_an_admission_ends_the_refusals_of_an_action() -> None:
    pacer = Pacer()
    pacer.refused("DetachNetworkInterface", 0.0, 1.0)
    pacer.admitted("DetachNetworkInterface", 10.0)
    assert pacer.reserve("DetachNetworkInterface", 10.0) == 10.0


def test_while_refused_an_action_is_tried_by_one_call_at_a_time() -> None:
    pacer = Pacer()
    first = pacer.refused("AssignPrivateIpAddresses", 0.0, 0.0)
    at = [pacer.reserve("AssignPrivateIpAddresses", 0.0) for _ in range(3)]
    assert at == [first, first + pacing.SPACING_S, first + 2 * pacing.SPACING_S]


def test_a_look_at_when_a_call_could_be_made_reserves_nothing() -> None:
    pacer = Pacer()
    pacer.refused("AssignPrivateIpAddresses", 0.0, 0.3)
    assert pacer.free_at("AssignPrivateIpAddresses", 0.0) == pacer.free_at("AssignPrivateIpAddresses", 0.0)


def test_a_starting_node_with_a_hint_takes_one_slot_for_everything() -> None:
    pacer = Pacer(fleet=1000)
    pacer.reserve("DescribeNetworkInterfaces", 0.0)
    slot = pacer.refused("DescribeNetworkInterfaces", 0.0, 0.5)
    assert slot == pytest.approx(serving_s(1000) / 2, abs=1.0)
    for action in ACTIONS:
        assert pacer.free_at(action, 1.0) == slot


def test_a_node_that_is_under_way_takes_no_slot() -> None:
    pacer = Pacer(fleet=1000)
    pacer.reserve("CreateNetworkInterface", 0.0)
    pacer.admitted("CreateNetworkInterface", 0.0)
    pacer.refused("AttachNetworkInterface", 0.5, 0.9)
    assert pacer.free_at("AssignPrivateIpAddresses", 0.5) == 0.5


def test_a_node_that_starts_later_than_the_first_draws_from_what_is_left() -> None:
    early, late = Pacer(fleet=1000, since=0.0), Pacer(fleet=1000, since=0.0)
    assert early.refused("DescribeSubnets", 0.0, 1.0) == pytest.approx(190.0, abs=1.0)
    assert late.refused("DescribeSubnets", 100.0, 1.0) == pytest.approx(190.0, abs=1.0)


def test_growing_waits_a_moment_only_while_addresses_are_left() -> None:
    assert act_at(10.0, available=0, spare=5, now=10.0) == 10.0
    assert act_at(10.0, available=4, spare=5, now=10.0) == 10.0 + pacing.GATHER_S
    assert act_at(10.0, available=4, spare=5, now=60.0) == 60.0


@settings(max_examples=100)
@given(
    st.integers(0, 5000),
    st.lists(st.tuples(st.sampled_from(ACTIONS), st.booleans(), st.floats(0, 50), st.floats(0, 0.999)), max_size=40),
)
def test_no_call_is_ever_put_off_for_longer_than_the_fleet_or_the_last_window_needs(
    fleet: int, outcomes: list[tuple[str, bool, float, float]]
) -> None:
    pacer, now = Pacer(fleet=fleet), 0.0
    for action, admitted, pause_s, draw in outcomes:
        at = pacer.reserve(action, now)
        longest = max(serving_s(fleet), pacing.LONGEST_S) + 2 * len(outcomes) + 1
        assert now <= at <= now + longest
        now = at + pause_s
        if admitted:
            pacer.admitted(action, now)
        else:
            assert pacer.refused(action, now, draw) >= now


def _contend(nodes: int, hint: int, seed: int) -> tuple[float, float]:
    """Nodes that each need one attach, nothing else: seconds until the last has it, refusals per node."""
    rng, size = random.Random(seed), published("AttachNetworkInterface")
    bucket = Bucket(size.burst, size.refill_per_s)
    waiting = [(0.0, node) for node in range(nodes)]
    pacers = [Pacer(fleet=hint) for _ in range(nodes)]
    refused, last = 0, 0.0
    while waiting:
        waiting.sort(reverse=True)
        now, node = waiting.pop()
        pacers[node].reserve("AttachNetworkInterface", now)
        if bucket.take(now):
            last = now
            continue
        refused += 1
        waiting.append((pacers[node].refused("AttachNetworkInterface", now, rng.random()), node))
    return last, refused / nodes


@pytest.mark.parametrize("nodes", [100, 400])
def test_nodes_that_do_not_see_each_other_share_a_bucket_with_few_refusals(nodes: int) -> None:
    last, refused = _contend(nodes, nodes, 1)
    assert last <= serving_s(nodes) * 1.1 + 5.0
    assert refused <= 1.3


def test_without_a_hint_they_get_there_too_but_waste_more() -> None:
    last, refused = _contend(400, 0, 1)
    assert refused > _contend(400, 400, 1)[1] * 1.5
    assert last <= serving_s(400) * 3
