# SPDX-License-Identifier: Apache-2.0
"""The pool: who gets which address in which order, cooldown, orphans, refusals and their texts."""

from __future__ import annotations

import time
from ipaddress import IPv4Address, IPv4Network, IPv6Network, ip_address

import pytest

from vpccni.core.block import Block, Mode
from vpccni.core.eni import Eni
from vpccni.core.grant import Grant, GrantedAddress, PodIdentity, PodKey
from vpccni.core.pool import Pool
from vpccni.errors import NoAddress, Refused

POD = PodIdentity("default", "web-0")


def key(name: str) -> PodKey:
    return PodKey("aws-cni", name, "eth0")


def singles(*addresses: str) -> tuple[Block, ...]:
    return tuple(Block.of(ip_address(address)) for address in addresses)


def prefixes(*networks: str) -> tuple[Block, ...]:
    return tuple(Block(IPv4Network(network)) for network in networks)


def two_enis() -> Pool:
    pool = Pool(30.0)
    pool.add_eni(Eni("eni-b", device=1, table=2, blocks=singles("10.0.1.5", "10.0.1.4")))
    pool.add_eni(Eni("eni-a", device=0, primary=True, blocks=singles("10.0.0.5", "10.0.0.4")))
    return pool


def given(pool: Pool, name: str, now: float = 0.0) -> str:
    return str(pool.assign(key(name), POD, now).addresses[0].address)


def test_addresses_are_packed_on_the_lowest_device_in_ascending_order() -> None:
    pool = two_enis()
    assert [given(pool, name) for name in "abcd"] == ["10.0.0.4", "10.0.0.5", "10.0.1.4", "10.0.1.5"]


def test_a_grant_says_on_which_eni_and_in_which_table_the_address_lives() -> None:
    pool = two_enis()
    given(pool, "a"), given(pool, "b")
    assert pool.assign(key("c"), POD, 7.0) == Grant(
        key("c"), POD, (GrantedAddress(IPv4Address("10.0.1.4"), "eni-b", 0, 1, 2),), 7.0
    )


def test_the_fullest_prefix_is_filled_first_wherever_it_is() -> None:
    pool = Pool(30.0, Mode.PREFIX)
    pool.add_eni(Eni("eni-a", primary=True, blocks=prefixes("10.0.0.16/28", "10.0.0.32/28")))
    pool.add_eni(Eni("eni-b", device=1, blocks=prefixes("10.0.1.16/28")))
    for name in range(3):
        pool.restore(Grant(key(str(name)), POD, (GrantedAddress(IPv4Address(f"10.0.1.{20 + name}")),), 0.0))
    pool.restore(Grant(key("lone"), POD, (GrantedAddress(IPv4Address("10.0.0.40")),), 0.0))
    assert given(pool, "x") == "10.0.1.16", "three pods are there"
    for serial in range(12):
        assert given(pool, f"fill-{serial}").startswith("10.0.1.")
    assert given(pool, "next") == "10.0.0.32", "then the one with one pod, not the empty one on the same ENI"


def test_sixteen_pods_over_four_empty_prefixes_leave_three_free() -> None:
    """Upstream's random placement leaves none free in 68 of 100 runs."""
    pool = Pool(30.0, Mode.PREFIX)
    pool.add_eni(Eni("eni-a", primary=True, blocks=prefixes(*(f"10.0.0.{16 * n}/28" for n in range(1, 5)))))
    assert [given(pool, str(n)) for n in range(16)] == [f"10.0.0.{n}" for n in range(16, 32)], "all 16 are usable"
    assert pool.stats(0.0).free_prefixes == 3


def test_a_released_address_is_used_again_after_all_others() -> None:
    pool = two_enis()
    given(pool, "a"), given(pool, "b")
    pool.release(key("b"), 1.0)
    pool.release(key("a"), 2.0)
    assert [given(pool, name, 100.0) for name in "wxyz"] == ["10.0.0.5", "10.0.0.4", "10.0.1.4", "10.0.1.5"]


def test_a_retried_assignment_returns_the_same_grant_and_takes_nothing() -> None:
    pool = two_enis()
    first = pool.assign(key("a"), POD, 1.0)
    assert pool.assign(key("a"), PodIdentity("other", "name"), 9.0) is first
    assert pool.stats(9.0).assigned == 1


def test_an_address_cools_up_to_and_including_the_last_instant() -> None:
    pool = Pool(30.0)
    pool.add_eni(Eni("eni-a", primary=True, blocks=singles("10.0.0.4")))
    given(pool, "a")
    pool.release(key("a"), 100.0)
    with pytest.raises(NoAddress) as refused:
        given(pool, "b", 130.0)
    assert refused.value.error_code == "all-cooling"
    wake = pool.next_rest(130.0)
    assert wake is not None
    assert refused.value.evidence["next_rest_in_s"] == round(wake - 130.0, 1)
    assert wake is not None and 130.0 < wake < 130.001
    assert given(pool, "b", wake) == "10.0.0.4"


def test_a_cooldown_survives_a_clock_that_is_set_back_an_hour() -> None:
    pool = Pool(30.0)
    pool.add_eni(Eni("eni-a", primary=True, blocks=singles("10.0.0.4")))
    given(pool, "a", 10_000.0)
    pool.release(key("a"), 10_000.0)
    pool.stats(10_010.0)
    for now in (6_410.0, 6_430.0):
        with pytest.raises(NoAddress):
            given(pool, "b", now)
    assert given(pool, "b", 6_430.1) == "10.0.0.4"


def test_undoing_an_assignment_leaves_no_trace() -> None:
    pool = two_enis()
    given(pool, "a")
    pool.undo_assign(key("a"))
    assert pool.stats(0.0).cooling == 0 and pool.owner(IPv4Address("10.0.0.4")) is None
    assert [given(pool, name) for name in "bc"] == ["10.0.0.4", "10.0.0.5"]


def test_undoing_the_use_of_a_rested_address_puts_it_back_in_its_turn() -> None:
    pool = Pool(0.0)
    pool.add_eni(Eni("eni-a", primary=True, blocks=singles("10.0.0.4", "10.0.0.5")))
    given(pool, "a"), given(pool, "b")
    pool.release(key("b"), 1.0), pool.release(key("a"), 2.0)
    assert given(pool, "c", 3.0) == "10.0.0.5"
    pool.undo_assign(key("c"))
    assert [given(pool, name, 4.0) for name in "de"] == ["10.0.0.5", "10.0.0.4"]


def test_undoing_within_a_prefix_keeps_the_order_of_its_rested_addresses() -> None:
    pool = Pool(0.0, Mode.PREFIX)
    pool.add_eni(Eni("eni-a", primary=True, blocks=prefixes("10.0.0.16/28")))
    for name in range(16):
        given(pool, f"first-{name}")
    for name in range(16):
        pool.release(key(f"first-{name}"), float(name))
    assert given(pool, "a", 100.0) == "10.0.0.16"
    pool.undo_assign(key("a"))
    assert [given(pool, name, 100.0) for name in "bc"] == ["10.0.0.16", "10.0.0.17"]


def test_adding_a_block_again_changes_nothing() -> None:
    pool = two_enis()
    before = pool.stats(0.0)
    assert pool.add_blocks("eni-a", singles("10.0.0.4", "10.0.0.9")) == singles("10.0.0.9")
    pool.remove_blocks("eni-a", singles("10.0.0.9"))
    assert pool.stats(0.0) == before


def test_a_grant_without_an_eni_is_kept_and_reserves_its_address_when_the_block_appears() -> None:
    pool = two_enis()
    lost = Grant(key("lost"), POD, (GrantedAddress(IPv4Address("10.0.2.20")),), 0.0)
    pool.restore(lost)
    assert pool.orphans() == (IPv4Address("10.0.2.20"),) and list(pool.grants()) == [lost]
    with pytest.raises(NoAddress) as refused:
        pool.assign(key("lost"), POD, 1.0)
    assert refused.value.error_code == "address-unconfirmed"
    pool.add_eni(Eni("eni-c", device=2, table=3, blocks=singles("10.0.2.20", "10.0.2.21")))
    assert pool.orphans() == ()
    assert pool.assign(key("lost"), POD, 1.0).addresses == (GrantedAddress(IPv4Address("10.0.2.20"), "eni-c", 0, 2, 3),)
    assert [given(pool, name) for name in "abcde"][-1] == "10.0.2.21", "never the reserved one"


def test_an_address_cools_on_although_its_block_went_and_came_back() -> None:
    pool = Pool(30.0)
    pool.add_eni(Eni("eni-a", primary=True, blocks=singles("10.0.0.4")))
    given(pool, "a")
    pool.release(key("a"), 10.0)
    pool.remove_blocks("eni-a", singles("10.0.0.4"))
    pool.add_blocks("eni-a", singles("10.0.0.4"))
    with pytest.raises(NoAddress):
        given(pool, "b", 40.0)
    assert given(pool, "b", 40.1) == "10.0.0.4"


def test_a_restored_cooldown_counts_from_the_release_before_the_restart() -> None:
    pool = two_enis()
    pool.restore_cooling(IPv4Address("10.0.0.4"), 90.0)
    pool.restore_cooling(IPv4Address("10.0.0.5"), 80.0)
    assert list(pool.cooling(100.0)) == [IPv4Address("10.0.0.5"), IPv4Address("10.0.0.4")]
    assert pool.stats(110.5).cooling == 1
    assert pool.stats(120.5).cooling == 0


def test_blocks_in_use_cannot_be_removed_unless_they_are_lost_and_then_the_grant_stays() -> None:
    pool = two_enis()
    given(pool, "a")
    for removal in (
        lambda: pool.remove_blocks("eni-a", singles("10.0.0.4")),
        lambda: pool.remove_eni("eni-a"),
        lambda: pool.withdraw("eni-a"),
    ):
        with pytest.raises(Refused) as refused:
            removal()
        assert refused.value.error_code == "address-in-use" and "10.0.0.4" in str(refused.value)
    assert pool.stats(0.0).total == 4, "nothing changed"
    pool.remove_eni("eni-a", lost=True)
    assert pool.orphans() == (IPv4Address("10.0.0.4"),)
    assert pool.grant(key("a")) is not None


def test_withdrawn_blocks_are_not_handed_out_until_they_are_confirmed_again() -> None:
    pool = two_enis()
    pool.withdraw("eni-a", singles("10.0.0.4"))
    assert pool.stats(0.0).total == 3
    assert given(pool, "a") == "10.0.0.5"
    pool.confirm("eni-a", singles("10.0.0.4"))
    assert given(pool, "b") == "10.0.0.4"
    pool.withdraw("eni-b")
    assert pool.stats(0.0).total == 2


def test_an_eni_that_is_not_for_pods_gives_nothing_but_keeps_what_it_has() -> None:
    pool = two_enis()
    given(pool, "a")
    eni = pool.eni("eni-a")
    assert eni is not None
    pool.update_eni(Eni("eni-a", primary=True, usable_for_pods=False))
    assert given(pool, "b") == "10.0.1.4"
    stats = pool.stats(0.0)
    assert (stats.total, stats.assigned, stats.lingering) == (2, 1, 1)


def test_the_mode_decides_from_which_blocks_new_pods_get_addresses() -> None:
    pool = Pool(30.0)
    pool.add_eni(Eni("eni-a", primary=True, blocks=singles("10.0.0.4", "10.0.0.5") + prefixes("10.0.0.16/28")))
    assert given(pool, "a") == "10.0.0.4"
    pool.set_mode(Mode.PREFIX)
    assert given(pool, "b") == "10.0.0.16"
    stats = pool.stats(0.0)
    assert (stats.total, stats.assigned, stats.lingering, stats.prefixes) == (16, 1, 1, 1)


def test_an_ipv6_prefix_is_a_block_like_any_other_and_is_never_enumerated() -> None:
    pool = Pool(30.0, Mode.PREFIX, version=6)
    pool.add_eni(Eni("eni-a", primary=True, blocks=(Block(IPv6Network("2001:db8:1:2:3::/80")),)))
    assert [given(pool, name) for name in "ab"] == ["2001:db8:1:2:3::", "2001:db8:1:2:3::1"]
    pool.release(key("a"), 0.0)
    assert given(pool, "c", 100.0) == "2001:db8:1:2:3::2"
    assert pool.stats(100.0).total == 2**48


def test_a_pod_gets_one_address_per_card_or_none_at_all() -> None:
    pool = two_enis()
    pool.add_eni(Eni("eni-x", card=1, device=1, table=10101, blocks=singles("10.0.9.4")))
    grant = pool.assign(key("a"), POD, 0.0, cards=(0, 1))
    assert [granted.table for granted in grant.addresses] == [254, 10101]
    with pytest.raises(NoAddress) as refused:
        pool.assign(key("b"), POD, 0.0, cards=(0, 1))
    assert refused.value.evidence["card"] == 1
    assert pool.stats(0.0).assigned == 2, "the address of card 0 was not taken"


def test_an_address_cannot_be_added_twice_nor_restored_to_a_second_owner() -> None:
    pool = two_enis()
    given(pool, "a")
    with pytest.raises(Refused) as refused:
        pool.add_blocks("eni-b", singles("10.0.0.4"))
    assert refused.value.error_code == "duplicate-address"
    with pytest.raises(Refused) as refused:
        pool.add_blocks("eni-b", prefixes("10.0.0.0/28"))
    assert refused.value.error_code == "duplicate-address"
    with pytest.raises(Refused) as refused:
        pool.restore(Grant(key("thief"), POD, (GrantedAddress(IPv4Address("10.0.0.4")),), 0.0))
    assert refused.value.error_code == "address-in-use"
    assert pool.grant(key("thief")) is None


def test_a_refused_eni_leaves_the_pool_as_it_was() -> None:
    pool = two_enis()
    with pytest.raises(Refused):
        pool.add_eni(Eni("eni-c", device=2, blocks=singles("10.0.2.4", "10.0.0.4")))
    assert pool.eni("eni-c") is None
    pool.add_eni(Eni("eni-c", device=2, blocks=singles("10.0.2.4")))


def test_releasing_an_unknown_key_is_nothing() -> None:
    pool = two_enis()
    assert pool.release(key("nobody"), 0.0) is None
    given(pool, "a")
    assert pool.release(key("a"), 0.0) is not None
    assert pool.release(key("a"), 0.0) is None


REFUSALS = [
    ((), 0, 0, "pool-starting", "cannot assign an address to default/web-0: the daemon has not found its ENIs yet"),
    (
        (Eni("eni-a", primary=True),),
        0,
        0,
        "pool-empty",
        "cannot assign an address to default/web-0: 1 ENIs hold no address for pods",
    ),
    (
        (Eni("eni-a", primary=True, blocks=singles("10.0.0.4", "10.0.0.5")),),
        2,
        0,
        "all-assigned",
        "cannot assign an address to default/web-0: all 2 addresses are in use",
    ),
    (
        (Eni("eni-a", primary=True, blocks=singles("10.0.0.4", "10.0.0.5")),),
        2,
        1,
        "all-cooling",
        "cannot assign an address to default/web-0: 1 of 2 addresses are in use and the other 1 are cooling down",
    ),
]


@pytest.mark.parametrize(("enis", "pods", "released", "code", "message"), REFUSALS, ids=[row[3] for row in REFUSALS])
def test_every_refusal_has_a_code_a_reason_numbers_and_a_next_step(
    enis: tuple[Eni, ...], pods: int, released: int, code: str, message: str
) -> None:
    pool = Pool(30.0)
    for eni in enis:
        pool.add_eni(eni)
    for name in range(pods):
        given(pool, str(name))
    for name in range(released):
        pool.release(key(str(name)), 1.0)
    with pytest.raises(NoAddress) as refused:
        pool.assign(key("one-too-many"), POD, 2.0)
    error = refused.value
    assert (error.error_code, error.message) == (code, message)
    assert error.hint and error.can_retry and error.cni_error_code == 11
    assert {name: error.evidence[name] for name in ("enis", "assigned", "cooling")} == {
        "enis": len(enis),
        "assigned": pods - released,
        "cooling": released,
    }


@pytest.mark.parametrize("mode", Mode)
def test_assigning_costs_the_same_with_10_and_with_700_grants(mode: Mode) -> None:
    def median_us(grants: int) -> float:
        pool = Pool(30.0, mode)
        for device in range(15):
            base = int(IPv4Address("10.0.0.0")) + 65536 * device
            size, length = (1, 32) if mode is Mode.SECONDARY else (16, 28)
            blocks = tuple(Block(IPv4Network((base + size * n, length))) for n in range(49))
            pool.add_eni(Eni(f"eni-{device}", device=device, primary=device == 0, blocks=blocks))
        for serial in range(grants):
            given(pool, f"before-{serial}")
        durations = []
        for serial in range(300):
            start = time.perf_counter()
            pool.assign(key(f"c{serial}"), POD, float(serial))
            durations.append(time.perf_counter() - start)
            pool.release(key(f"c{serial}"), float(serial))
        return sorted(durations)[150] * 1e6

    few, many = min(median_us(10) for _ in range(3)), min(median_us(700) for _ in range(3))
    assert many < 2.0 * few, f"{few:.1f} us with 10 grants, {many:.1f} us with 700"
