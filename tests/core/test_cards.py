# SPDX-License-Identifier: Apache-2.0
"""From which network cards a pod's addresses come."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from vpccni.core import cards
from vpccni.core.block import Block
from vpccni.core.conventions import route_table
from vpccni.core.eni import Eni
from vpccni.core.grant import PodIdentity, PodKey
from vpccni.core.pool import Pool
from vpccni.errors import NoAddress, Refused

POD = PodIdentity("default", "web")


def pool_of(*counts: int, efa_only: int = -1) -> Pool:
    """A pool with so many addresses on each card."""
    pool = Pool(0)
    for card, count in enumerate(counts):
        blocks = tuple(Block.of(ip_address(f"10.0.{card}.{n + 1}")) for n in range(count))
        managed = card != efa_only
        pool.add_eni(
            Eni(
                f"eni-{card}",
                card=card,
                table=route_table(card, card),
                managed=managed,
                efa_only=not managed,
                blocks=blocks,
            )
        )
    return pool


def key(number: int) -> PodKey:
    return PodKey("aws-cni", f"c{number}", "eth0")


def test_without_the_annotation_cards_are_filled_in_order() -> None:
    pool = pool_of(1, 0, 2)
    placed = [cards.assign(pool, key(n), POD, 1.0, (0, 1, 2)).addresses for n in range(3)]
    assert [[at.card for at in addresses] for addresses in placed] == [[0], [2], [2]]
    with pytest.raises(NoAddress) as caught:
        cards.assign(pool, key(3), POD, 1.0, (0, 1, 2))
    assert "card" not in caught.value.evidence and caught.value.error_code == "all-assigned"


def test_with_it_each_card_gives_one_or_none_does() -> None:
    pool = pool_of(3, 3, 1)
    grant = cards.assign(pool, key(0), POD, 1.0, (0, 1, 2), every=True)
    assert [at.card for at in grant.addresses] == [0, 1, 2]
    before = pool.tally(1.0)
    with pytest.raises(NoAddress) as caught:
        cards.assign(pool, key(1), POD, 1.0, (0, 1, 2), every=True)
    assert caught.value.evidence["card"] == 2 and pool.tally(1.0) == before


def test_a_card_of_efa_alone_carries_no_pods() -> None:
    pool = pool_of(2, 1, 2, efa_only=1)
    assert cards.carrying(pool, (0, 1, 2)) == (0, 2)
    assert [at.card for at in cards.assign(pool, key(0), POD, 1.0, (0, 1, 2), every=True).addresses] == [0, 2]


def test_only_the_switch_allows_several() -> None:
    cards.check_allowed(POD, enabled=True)
    with pytest.raises(Refused, match="first network card only") as caught:
        cards.check_allowed(POD, enabled=False)
    assert caught.value.error_code == "multi-nic-disabled" and "ENABLE_MULTI_NIC" in caught.value.hint
