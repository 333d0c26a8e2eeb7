# SPDX-License-Identifier: Apache-2.0
"""The arithmetic of the targets, in addresses."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpccni.core.block import Mode
from vpccni.core.stats import Tally
from vpccni.core.targets import NodeLimits, Targets, demand

M5_LARGE = NodeLimits(3, 10)

# targets, mode -> spare, minimum, whole ENIs
DEMANDS = [
    (Targets(), Mode.SECONDARY, 9, 0, True),
    (Targets(warm_eni=2), Mode.SECONDARY, 18, 0, True),
    (Targets(warm_eni=0), Mode.SECONDARY, 1, 0, True),
    (Targets(warm_eni=3, warm_ip=2), Mode.SECONDARY, 2, 0, False),
    (Targets(warm_ip=0, minimum_ip=5), Mode.SECONDARY, 1, 5, False),
    (Targets(warm_ip=0, minimum_ip=0), Mode.SECONDARY, 9, 0, True),
    (Targets(warm_prefix=2), Mode.PREFIX, 32, 0, False),
    (Targets(warm_prefix=2, warm_ip=5, minimum_ip=20), Mode.PREFIX, 5, 20, False),
    (Targets(warm_eni=3), Mode.PREFIX, 1, 0, False),
]


@pytest.mark.parametrize(("targets", "mode", "spare", "minimum", "whole"), DEMANDS)
def test_precedence_of_the_targets(targets: Targets, mode: Mode, spare: int, minimum: int, whole: bool) -> None:
    wanted = demand(targets, M5_LARGE, mode)
    assert (wanted.spare, wanted.minimum, wanted.whole_enis) == (spare, minimum, whole)


def test_further_network_cards_keep_one_spare_address_whatever_the_settings_say() -> None:
    wanted = demand(Targets(warm_eni=3, minimum_ip=50), M5_LARGE, Mode.SECONDARY, card=1)
    assert (wanted.spare, wanted.minimum, wanted.whole_enis) == (1, 1, False)


def test_cooling_addresses_are_not_available() -> None:
    """Upstream counts them, and the pool looks fine while ADDs fail."""
    wanted = demand(Targets(warm_ip=3), M5_LARGE, Mode.SECONDARY)
    assert wanted.short(Tally(total=9, assigned=2, cooling=7)) == 3
    assert wanted.short(Tally(total=9, assigned=2, cooling=0)) == 0


def test_max_pods_bounds_the_pool_but_cooling_addresses_do_not_count_against_it() -> None:
    wanted = demand(Targets(warm_ip=3, max_pods=9), M5_LARGE, Mode.SECONDARY)
    assert wanted.short(Tally(total=9, assigned=9)) == 0
    assert wanted.short(Tally(total=9, assigned=8, cooling=1)) == 1
    assert wanted.short(Tally(total=5, assigned=5, lingering=3)) == 1


def test_an_ipv6_node_needs_one_prefix() -> None:
    wanted = demand(Targets(warm_prefix=1), M5_LARGE, Mode.PREFIX, version=6)
    assert wanted.blocks(wanted.short(Tally())) == 1
    assert wanted.short(Tally(total=2**48, assigned=250, blocks=1)) == 0


def test_an_explanation_names_the_settings_and_the_numbers() -> None:
    wanted = demand(Targets(warm_ip=2, minimum_ip=30, max_pods=110), M5_LARGE, Mode.SECONDARY)
    assert wanted.explain(Tally(total=9, assigned=4, cooling=1)) == (
        "4 of 9 addresses available, 1 cooling; WARM_IP_TARGET=2 MINIMUM_IP_TARGET=30 wants 2 available and 30 in "
        "total, at most 110 for max pods"
    )


def test_enis_of_a_card_are_bounded_by_type_and_max_eni() -> None:
    limits = NodeLimits(3, 10, cards=(0, 1), card_enis={1: 7})
    assert (limits.enis_on(0), limits.enis_on(1), limits.enis_on(1, 2), limits.enis_on(0, 5)) == (3, 7, 2, 3)


@given(
    targets=st.builds(
        Targets,
        warm_eni=st.integers(0, 4),
        warm_ip=st.one_of(st.none(), st.integers(0, 50)),
        minimum_ip=st.one_of(st.none(), st.integers(0, 50)),
        warm_prefix=st.one_of(st.none(), st.integers(0, 4)),
        max_pods=st.one_of(st.none(), st.integers(1, 110)),
    ),
    mode=st.sampled_from(Mode),
    assigned=st.integers(0, 60),
    cooling=st.integers(0, 30),
    available=st.integers(0, 90),
)
def test_what_goes_leaves_nothing_short_and_what_comes_leaves_nothing_over(
    targets: Targets, mode: Mode, assigned: int, cooling: int, available: int
) -> None:
    wanted = demand(targets, M5_LARGE, mode)
    tally = Tally(total=assigned + cooling + available, assigned=assigned, cooling=cooling)
    short, over = wanted.short(tally), wanted.over(tally)
    assert short == 0 or over == 0
    for fewer in {over, over // 2}:
        assert wanted.short(Tally(tally.total - fewer, assigned, cooling)) == short
    if over:
        assert wanted.short(Tally(tally.total - over - 1, assigned, cooling)) > 0 or over == available
    more = Tally(tally.total + wanted.blocks(short) * wanted.block_size, assigned, cooling)
    assert wanted.short(more) == 0
    if short:
        assert wanted.over(more) < wanted.block_size, "not a whole block too many"
