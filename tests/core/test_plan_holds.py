# SPDX-License-Identifier: Apache-2.0
"""What a plan leaves alone and why: holds, pauses, young and foreign ENIs, reserved slots, other network cards."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address

import pytest

from vpccni.core.block import Block, BlockKind
from vpccni.core.eni import Eni
from vpccni.core.grant import PodIdentity, PodKey
from vpccni.core.plan import AssignBlocks, AttachEni, FreeEni, Holds, UnassignBlocks, Wait, next_wake, plan
from vpccni.core.pool import Pool
from vpccni.core.targets import NodeLimits, Targets

NOW = 10_000.0
M5_LARGE = NodeLimits(3, 10)
WARM_2 = Targets(warm_ip=2)


def eni(device: int, addresses: int = 0, **fields: object) -> Eni:
    blocks = tuple(Block.of(IPv4Address("10.0.0.4") + 256 * device + n) for n in range(addresses))
    plain = Eni(f"E{device}", device=device, primary=device == 0, subnet_id=f"subnet-{device}", blocks=blocks)
    return replace(plain, **fields)  # type: ignore[arg-type]  # fields by name


def pool_of(*enis: Eni) -> Pool:
    pool = Pool(30.0)
    for each in enis:
        pool.add_eni(each)
    return pool


def actions(steps: list[object]) -> list[type]:
    return [type(step) for step in steps]


def only(steps: list[object]) -> Wait:
    (step,) = steps
    assert isinstance(step, Wait)
    return step


def test_a_full_subnet_gets_no_request_until_its_hold_is_over_and_others_do() -> None:
    pool, holds = pool_of(eni(0), eni(1)), Holds(subnets={"subnet-0": NOW + 120})
    (step,) = plan(pool, WARM_2, M5_LARGE, NOW, holds=holds)
    assert isinstance(step, AssignBlocks) and step.eni_id == "E1"
    (step,) = plan(pool, WARM_2, M5_LARGE, NOW + 120, holds=holds)
    assert isinstance(step, AssignBlocks) and step.eni_id == "E0", "over at that very second"


def test_when_every_subnet_is_full_the_plan_says_so_and_wakes_at_the_end_of_the_hold() -> None:
    holds = Holds(subnets={"subnet-0": NOW + 120}, attach_until=NOW + 60)
    steps = plan(pool_of(eni(0)), WARM_2, M5_LARGE, NOW, holds=holds)
    assert [(step.code, step.until) for step in steps if isinstance(step, Wait)] == [
        ("subnet-hold", NOW + 120),
        ("attach-blocked", NOW + 60),
    ]
    assert "2 short; 0 of 0 addresses available" in str(steps[0])
    assert next_wake(steps, pool_of(), NOW) == NOW + 60


def test_a_request_asks_for_no_more_than_the_subnet_has() -> None:
    """Upstream asks for 9, then 1, then 8, then 1 ... while 4 addresses are free."""
    steps = plan(pool_of(eni(0)), Targets(), NodeLimits(1, 10), NOW, holds=Holds(subnet_free={"subnet-0": 4}))
    assert isinstance(steps[0], AssignBlocks) and steps[0].count == 4


@pytest.mark.parametrize(
    ("holds", "code"),
    [(Holds(throttled_until=NOW + 1), "throttled"), (Holds(paused="the node is cordoned"), "paused")],
)
def test_a_hold_on_everything_turns_steps_into_a_wait(holds: Holds, code: str) -> None:
    assert only(plan(pool_of(eni(0)), WARM_2, M5_LARGE, NOW, holds=holds)).code == code
    assert plan(pool_of(eni(0, 2)), WARM_2, M5_LARGE, NOW, holds=holds) == [], "nothing is due: nothing to wait for"
    assert actions(plan(pool_of(eni(0)), WARM_2, M5_LARGE, NOW)) == [AssignBlocks]


def test_the_pool_shrinks_at_most_every_30_seconds_and_grows_at_any_time() -> None:
    pool = pool_of(eni(0, 9))
    wait = only(plan(pool, WARM_2, M5_LARGE, NOW, last_decrease=NOW - 29.9))
    assert (wait.code, wait.until) == ("shrink-interval", pytest.approx(NOW + 0.1))
    assert actions(plan(pool, WARM_2, M5_LARGE, NOW, last_decrease=NOW - 30)) == [UnassignBlocks]
    assert actions(plan(pool_of(eni(0)), WARM_2, M5_LARGE, NOW, last_decrease=NOW)) == [AssignBlocks]
    assert actions(plan(pool, WARM_2, M5_LARGE, NOW, last_decrease=NOW + 5000)) == [UnassignBlocks], "clock set back"


def test_an_eni_younger_than_60_seconds_is_not_freed_nor_emptied() -> None:
    pool = pool_of(eni(0, 9), eni(1, 9, created_at=NOW - 59))
    wait = only(plan(pool, Targets(), M5_LARGE, NOW))
    assert (wait.code, wait.until) == ("eni-young", NOW + 1)
    assert actions(plan(pool, Targets(), M5_LARGE, NOW + 1)) == [FreeEni]


@pytest.mark.parametrize("field", ["trunk", "efa", "primary", "unmanaged"])
def test_an_eni_that_is_not_ours_to_free_stays(field: str) -> None:
    kept = {"managed": False} if field == "unmanaged" else {field: True}
    assert FreeEni not in actions(plan(pool_of(eni(0, 9), eni(1, 9, **kept)), Targets(), M5_LARGE, NOW))
    assert FreeEni in actions(plan(pool_of(eni(0, 9), eni(1, 9)), Targets(), M5_LARGE, NOW))


def test_an_eni_with_a_pod_or_a_cooling_address_is_not_freed() -> None:
    pool = pool_of(eni(0, 1), eni(1, 9))
    keys = [PodKey("aws-cni", name, "eth0") for name in "ab"]
    for key in keys:
        pool.assign(key, PodIdentity("default", "x"), NOW)  # the second one lands on E1
    targets, limits = Targets(warm_ip=1), NodeLimits(3, 3)
    pool.release(keys[0], NOW)
    assert FreeEni not in actions(plan(pool, targets, limits, NOW + 100))
    pool.release(keys[1], NOW + 100)
    assert FreeEni not in actions(plan(pool, targets, limits, NOW + 130)), "cooling, to the last instant"
    assert FreeEni in actions(plan(pool, targets, limits, NOW + 130.1))


def test_the_secondary_eni_drains_before_the_primary_and_the_emptier_one_first() -> None:
    pool = Pool(30.0)
    for device in range(3):
        pool.add_eni(eni(device, 6, efa=device > 0))  # EFA: such ENIs are drained but not freed
    for serial in range(10):
        pool.assign(PodKey("aws-cni", str(serial), "eth0"), PodIdentity("default", "x"), NOW)
    steps = plan(pool, Targets(warm_ip=1), M5_LARGE, NOW)
    assert [(step.eni_id, len(step.blocks)) for step in steps if isinstance(step, UnassignBlocks)] == [
        ("E2", 6),
        ("E1", 1),
    ]


def test_of_equal_enis_the_highest_device_goes_first() -> None:
    steps = plan(pool_of(eni(0, 9), eni(1, 9), eni(2, 9)), Targets(), M5_LARGE, NOW)
    assert [step.eni_id for step in steps if isinstance(step, FreeEni)] == ["E2", "E1"]
    (step,) = plan(pool_of(eni(0, 9), eni(1, 9), eni(2, 9)), Targets(warm_eni=2), M5_LARGE, NOW)
    assert isinstance(step, FreeEni) and step.eni_id == "E2"


def test_an_eni_on_its_way_out_gets_nothing_more_and_is_not_freed_twice() -> None:
    pool = pool_of(eni(0, 9), eni(1, 0))
    (step,) = plan(pool, Targets(warm_ip=10), M5_LARGE, NOW)
    assert isinstance(step, AssignBlocks) and step.eni_id == "E1"
    pool.withdraw("E1")
    assert actions(plan(pool, Targets(warm_ip=10), M5_LARGE, NOW)) == [AttachEni]
    assert plan(pool, Targets(), M5_LARGE, NOW) == []


def test_steps_that_are_being_run_are_not_planned_again_and_nothing_shrinks_meanwhile() -> None:
    pool = pool_of(eni(0, 9))
    pool.assign(PodKey("aws-cni", "a", "eth0"), PodIdentity("default", "x"), NOW)
    first = plan(pool, Targets(), M5_LARGE, NOW)
    assert actions(first) == [AttachEni]
    assert plan(pool, Targets(), M5_LARGE, NOW, pending=first) == []
    assert plan(pool_of(eni(0, 9)), WARM_2, M5_LARGE, NOW, pending=first) == []
    in_flight = [AssignBlocks("E0", 7, BlockKind.ADDRESS, "")]
    (more,) = plan(pool_of(eni(0)), Targets(warm_ip=9), M5_LARGE, NOW, pending=in_flight)
    assert isinstance(more, AssignBlocks) and more.count == 2


def test_unmanaged_enis_and_the_slot_for_a_trunk_leave_less_room() -> None:
    full, demanding = eni(0, 9), Targets(warm_ip=30)
    assert actions(plan(pool_of(full), demanding, M5_LARGE, NOW)) == [AttachEni, AttachEni, Wait]
    unmanaged = pool_of(full, eni(1, managed=False, usable_for_pods=False))
    assert actions(plan(unmanaged, demanding, M5_LARGE, NOW)) == [AttachEni, Wait]
    reserved = NodeLimits(3, 10, reserve_trunk=True)
    assert actions(plan(pool_of(full), demanding, reserved, NOW)) == [AttachEni, Wait]
    with_trunk = pool_of(full, eni(1, trunk=True, usable_for_pods=False))
    assert actions(plan(with_trunk, demanding, reserved, NOW)) == [AttachEni, Wait], (
        "the trunk is there, one slot is left"
    )


def test_max_eni_is_named_when_it_is_the_limit() -> None:
    steps = plan(pool_of(eni(0, 9)), Targets(warm_ip=30, max_eni=2), M5_LARGE, NOW)
    assert actions(steps) == [AttachEni, Wait]
    assert isinstance(steps[1], Wait) and steps[1].code == "max-eni" and steps[1].until is None
    assert "all 2 ENIs that MAX_ENI allows" in steps[1].reason


def test_a_second_network_card_has_its_own_pool_with_one_spare_address() -> None:
    limits = NodeLimits(3, 10, cards=(0, 1))
    pool = pool_of(eni(0, 9))
    (step,) = plan(pool, Targets(), limits, NOW)
    assert isinstance(step, AttachEni) and (step.card, step.count) == (1, 1)
    pool.add_eni(eni(5, 1, card=1))
    assert plan(pool, Targets(), limits, NOW) == []


def test_idle_addresses_of_an_eni_that_is_not_for_pods_go_back_and_the_eni_with_them() -> None:
    excluded = eni(1, 4, usable_for_pods=False)
    (step,) = plan(pool_of(eni(0, 9), excluded), Targets(), M5_LARGE, NOW)
    assert isinstance(step, FreeEni)
    (step,) = plan(pool_of(eni(0, 9), replace(excluded, efa=True)), Targets(), M5_LARGE, NOW)
    assert isinstance(step, UnassignBlocks) and step.eni_id == "E1" and len(step.blocks) == 4


def test_next_wake_is_the_end_of_the_first_cooldown_and_none_for_a_node_at_rest() -> None:
    pool = pool_of(eni(0, 9))
    assert next_wake([], pool, NOW) is None
    key = PodKey("aws-cni", "a", "eth0")
    pool.assign(key, PodIdentity("default", "x"), NOW)
    pool.release(key, NOW)
    wake = next_wake([], pool, NOW + 1)
    assert wake is not None and NOW + 30 < wake < NOW + 30.001
    assert next_wake([], pool, wake) is None
