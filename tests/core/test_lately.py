# SPDX-License-Identifier: Apache-2.0
"""Peaks of demand: how long they count, and what they keep."""

from __future__ import annotations

from ipaddress import IPv4Address
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpccni.core.block import Block, Mode
from vpccni.core.eni import Eni
from vpccni.core.grant import PodIdentity, PodKey
from vpccni.core.lately import CALM, Lately, Peak, Wave, again
from vpccni.core.plan import plan
from vpccni.core.pool import Pool
from vpccni.core.stats import Tally
from vpccni.core.steps import AssignBlocks, AttachEni, FreeEni, Wait
from vpccni.core.targets import NodeLimits, Targets, demand


def tally(needed: int, total: int = 20, waiting: int = 0) -> Tally:
    return Tally(total=total, assigned=needed, waiting=waiting)


def test_a_peak_counts_until_its_window_has_passed_and_a_lower_one_after_it() -> None:
    peak = Peak(10.0)
    peak.note(7, 0.0)
    peak.note(5, 3.0)
    peak.note(1, 6.0)
    assert peak.above(6.0) == (6, 13.0)
    assert peak.above(13.0) == (4, 16.0)
    assert peak.above(16.0) == (0, inf)


def test_a_number_that_lasts_is_no_peak() -> None:
    peak = Peak(10.0)
    peak.note(7, 0.0)
    peak.note(7, 100.0)
    assert peak.above(1000.0) == (0, inf)
    peak.note(2, 1000.0)
    assert peak.above(1000.0) == (5, 1010.0), "seven were needed until now"


def test_a_clock_that_is_set_back_forgets_rather_than_keeping_for_too_long() -> None:
    peak = Peak(10.0)
    peak.note(7, 1000.0)
    peak.note(2, 1001.0)
    peak.note(2, 5.0)
    assert peak.above(5.0) == (0, inf)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 4)), max_size=40))
def test_a_peak_is_the_highest_value_that_was_in_force_in_the_window(steps: list[tuple[int, int]]) -> None:
    peak, now, value, spans = Peak(6.0), 0.0, 0, []
    for number, pause in steps:
        spans.append((value, now))
        value = number
        peak.note(number, now)
        now += pause
        expected = max([value, *(each for each, ended in spans if ended + 6.0 > now)])
        assert peak.above(now)[0] == expected - value


def test_enis_are_kept_for_longer_than_blocks_and_without_a_cooldown_nothing_is() -> None:
    lately, never = Lately(30.0), Lately(0.0)
    for each in (lately, never):
        each.note(tally(12), 0.0)
    wave = lately.note(tally(2), 10.0)
    assert (wave.for_enis, wave.enis_until) == (10, 610.0)
    assert (wave.for_blocks, wave.blocks_until) == (10, 70.0)
    assert never.note(tally(2), 10.0) == CALM
    assert (wave.kept(whole_enis=True), lately.note(tally(2), 100.0).kept(whole_enis=False)) == (10, 0)


def test_pods_that_were_refused_and_never_came_back_are_no_peak() -> None:
    lately = Lately(30.0)
    lately.note(tally(2, waiting=5), 0.0)
    assert lately.note(tally(2), 40.0) == CALM


def test_what_is_kept_counts_like_pods_that_are_about_to_come() -> None:
    wanted = demand(Targets(warm_ip=3), NodeLimits(3, 10), Mode.SECONDARY)
    now, expected = tally(2, total=9), again(tally(2, total=9), 6)
    assert (wanted.short(now), wanted.over(now)) == (0, 4)
    assert (wanted.short(expected), wanted.over(expected)) == (2, 0)
    assert "6 more expected" in wanted.explain(expected)
    assert again(tally(2), 0) == tally(2)


def test_when_ec2_is_crowded_as_much_again_is_asked_for_as_the_need_has_grown_by() -> None:
    lately = Lately(30.0)
    lately.note(tally(0), 0.0)
    lately.note(tally(4), 5.0)
    assert lately.note(tally(7), 8.0).rising == 0
    assert lately.note(tally(7), 8.0, crowded=True).rising == 7
    assert lately.note(tally(7), 16.0, crowded=True).rising == 3, "what grew more than ten seconds ago is no trend"
    assert lately.note(tally(7), 40.0, crowded=True).rising == 0


def test_one_request_brings_what_is_missing_and_what_is_expected_but_nothing_without_a_shortage() -> None:
    def asked(total: int, rising: int, ipv4_per_eni: int = 10) -> list[int]:
        pool = Pool(30.0, Mode.SECONDARY)
        pool.add_eni(Eni("eni-1", primary=True, blocks=tuple(Block.of(IPv4Address(n)) for n in range(1, total + 1))))
        pool.assign(PodKey("net", "a", "eth0"), PodIdentity("ns", "a"), 0.0)
        steps = plan(pool, Targets(warm_ip=2), NodeLimits(3, ipv4_per_eni), 0.0, wave=Wave(rising=rising))
        return [step.count for step in steps if isinstance(step, AssignBlocks | AttachEni)]

    assert asked(2, 0) == [1]
    assert asked(2, 3) == [4]
    assert asked(3, 3) == []
    assert asked(2, 3, ipv4_per_eni=3) == [1], "no ENI is attached for what is only expected"


@pytest.mark.parametrize(("usable", "kind"), [(True, Wait), (False, FreeEni)])
def test_an_eni_that_serves_no_pods_is_not_kept_for_them(usable: bool, kind: type) -> None:
    pool = Pool(30.0, Mode.SECONDARY)
    pool.add_eni(Eni("eni-1", primary=True, blocks=tuple(Block.of(IPv4Address(n)) for n in range(1, 3))))
    pool.add_eni(Eni("eni-2", device=1, usable_for_pods=usable))
    (step,) = plan(pool, Targets(warm_ip=2), NodeLimits(3, 10), 1000.0, wave=Wave(for_enis=5, enis_until=1100.0))
    assert isinstance(step, kind)
