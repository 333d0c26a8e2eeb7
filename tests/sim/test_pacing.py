# SPDX-License-Identifier: Apache-2.0
"""When calls may be made: a lone node at once, a fleet that cannot see itself at the account's rate."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vpccni.aws.values import Launched
from vpccni.core import pacing
from vpccni.core.census import YOUNG_S, Place, place
from vpccni.core.pacing import Pacer, act_at, rate_of, serving_s, turn_s
from vpccni.core.stats import Tally
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


def placed(rank: int, fleet: int = 1000, lead_s: float = 0.0, now: float = 0.0) -> Pacer:
    """A node that has asked for its place, first of all."""
    pacer = Pacer()
    pacer.reserve("DescribeInstances", now)
    pacer.admitted("DescribeInstances", now)
    pacer.told(Place(fleet, rank, lead_s), now)
    return pacer


def test_a_node_that_was_never_refused_never_waits() -> None:
    pacer = placed(900)
    for number in range(200):
        now = number * 0.01
        assert pacer.reserve("CreateNetworkInterface", now) == now
        pacer.admitted("CreateNetworkInterface", now)
    assert pacer.refusing(2.0) is None


def test_a_refusal_delays_only_its_own_action_without_a_place() -> None:
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


def test_a_refused_node_that_knows_its_place_waits_for_its_turn_with_everything() -> None:
    pacer = placed(500)
    slot = pacer.refused("CreateNetworkInterface", 0.5, 0.3)
    assert slot == turn_s(500) == pytest.approx(90.0 / pacing.PACE)
    for action in ACTIONS:
        assert pacer.free_at(action, 1.0) == slot


def test_a_node_that_queued_for_its_place_takes_its_turn_unasked() -> None:
    pacer = Pacer()
    pacer.reserve("DescribeInstances", 0.0)
    pacer.refused("DescribeInstances", 0.0, 0.5)
    pacer.admitted("DescribeInstances", 12.0)
    pacer.told(Place(1000, 800, 0.0), 12.0)
    assert pacer.free_at("DescribeNetworkInterfaces", 12.0) == turn_s(800)


def test_a_node_under_way_waits_with_the_refused_action_alone() -> None:
    pacer = placed(700)
    pacer.reserve("CreateNetworkInterface", 0.0)
    pacer.admitted("CreateNetworkInterface", 0.0)
    assert pacer.refused("AttachNetworkInterface", 0.5, 0.9) == turn_s(700)
    assert pacer.free_at("AssignPrivateIpAddresses", 0.5) == 0.5


def test_a_node_whose_turn_has_passed_is_served_soon() -> None:
    pacer = placed(10)
    assert pacer.refused("AttachNetworkInterface", 30.0, 1.0) <= 30.0 + pacing.MISSED_S + 1.0


def test_turns_count_from_the_start_of_the_first_node() -> None:
    late = placed(600, lead_s=80.0, now=80.0)
    assert late.refused("AttachNetworkInterface", 80.0, 0.0) == pytest.approx(turn_s(600))


def test_a_place_is_forgotten_when_the_node_is_young_no_more() -> None:
    pacer = placed(900)
    later = YOUNG_S + 1.0
    assert pacer.refused("AttachNetworkInterface", later, 0.0) < later + 1.0


def test_places_are_by_launch_and_then_by_id_and_alike_for_all() -> None:
    found = [Launched("i-c", 10.0), Launched("i-b", 12.0), Launched("i-a", 12.0)]
    assert [place(found, name) for name in ("i-c", "i-a", "i-b")] == [
        Place(3, 0, 0.0),
        Place(3, 1, 2.0),
        Place(3, 2, 2.0),
    ]
    assert place(reversed(found), "i-b") == place(found, "i-b")
    assert place(found, "i-x") is None


def test_growing_waits_a_moment_only_while_addresses_are_left() -> None:
    empty, some = Tally(total=9, assigned=9), Tally(total=9, assigned=5)
    assert act_at(10.0, empty, 5, now=10.0) == 10.0
    assert act_at(10.0, some, 5, now=10.0) == 10.0 + pacing.GATHER_S
    assert act_at(10.0, some, 5, now=60.0) == 60.0


def test_pods_that_were_refused_are_gathered_for_half_a_second() -> None:
    refused = Tally(total=9, assigned=9, waiting=1)
    assert act_at(10.0, refused, 5, now=10.0) == 10.0 + pacing.HURRY_S


@settings(max_examples=100)
@given(
    st.none() | st.integers(0, 5000),
    st.lists(st.tuples(st.sampled_from(ACTIONS), st.booleans(), st.floats(0, 50), st.floats(0, 0.999)), max_size=40),
)
def test_no_call_is_ever_put_off_for_longer_than_its_turn_or_the_last_window_needs(
    rank: int | None, outcomes: list[tuple[str, bool, float, float]]
) -> None:
    pacer, now = Pacer() if rank is None else placed(rank, rank + 1), 0.0
    for action, admitted, pause_s, draw in outcomes:
        at = pacer.reserve(action, now)
        longest = max(turn_s(rank or 0), pacing.LONGEST_S) + 2 * len(outcomes) + 1
        assert now <= at <= now + longest
        now = at + pause_s
        if admitted:
            pacer.admitted(action, now)
        else:
            assert pacer.refused(action, now, draw) >= now


def _contend(nodes: int, seed: int, *, places: bool) -> tuple[float, float]:
    """Nodes that each need one attach, nothing else: seconds until the last has it, refusals per node."""
    rng, size = random.Random(seed), published("AttachNetworkInterface")
    bucket = Bucket(size.burst, size.refill_per_s)
    waiting = [(0.0, node) for node in range(nodes)]
    pacers = [placed(rank, nodes) if places else Pacer() for rank in range(nodes)]
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
def test_nodes_that_know_their_places_share_a_bucket_with_few_refusals(nodes: int) -> None:
    last, refused = _contend(nodes, 1, places=True)
    assert last <= serving_s(nodes) * 1.1 + 5.0
    assert refused <= 1.0


def test_without_places_they_get_there_too_but_waste_more() -> None:
    last, refused = _contend(400, 1, places=False)
    assert refused > _contend(400, 1, places=True)[1] * 1.5
    assert last <= serving_s(400) * 3
