# SPDX-License-Identifier: Apache-2.0
"""Single decisions of the planner, as tables: what upstream (Amazon VPC CNI 1.23) decides, and where we differ.

A state is written `attached/used` per ENI, E0 being the primary one; in prefix mode as the pods on each prefix.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

import pytest

from vpccni.core.block import Block, Mode
from vpccni.core.eni import Eni
from vpccni.core.grant import Grant, GrantedAddress, PodIdentity, PodKey
from vpccni.core.plan import AssignBlocks, AttachEni, FreeEni, UnassignBlocks, Wait, low_watermark, plan
from vpccni.core.pool import Pool
from vpccni.core.targets import NodeLimits, Targets

NOW = 1_700_000_000.0
M5_LARGE, T3_SMALL = NodeLimits(3, 10), NodeLimits(3, 4)


def secondary(state: str, *, custom: bool = False) -> Pool:
    """`9/8 9/0`: two ENIs with nine addresses each, eight pods on the first one."""
    pool = Pool()
    for device, part in enumerate(state.split()):
        attached, used = map(int, part.split("/"))
        network = IPv4Network((int(IPv4Address("10.0.0.0")) + 256 * device, 24))
        blocks = tuple(Block.of(network[4 + index]) for index in range(attached))
        usable = not (custom and device == 0)
        pool.add_eni(Eni(f"E{device}", device=device, primary=device == 0, usable_for_pods=usable, blocks=blocks))
        for index in range(used):
            _pod(pool, network[4 + index])
    return pool


def prefixed(*enis: list[int], custom: bool = False) -> Pool:
    """`[1, 0], [16]`: pods per /28, ENI by ENI."""
    pool = Pool(mode=Mode.PREFIX)
    for device, prefixes in enumerate(enis):
        base = int(IPv4Address("10.0.0.0")) + 4096 * device
        blocks = tuple(Block(IPv4Network((base + 16 * index, 28))) for index in range(len(prefixes)))
        usable = not (custom and device == 0)
        pool.add_eni(Eni(f"E{device}", device=device, primary=device == 0, usable_for_pods=usable, blocks=blocks))
        for block, pods in zip(blocks, prefixes, strict=True):
            for index in range(pods):
                _pod(pool, block.network[index])
    return pool


def _pod(pool: Pool, address: IPv4Address) -> None:
    key = PodKey("aws-cni", str(address), "eth0")
    pool.restore(Grant(key, PodIdentity("default", str(address)), (GrantedAddress(address),), NOW - 1000))


def short_form(step: object) -> str:
    match step:
        case AssignBlocks(eni_id=eni, count=count):
            return f"assign {eni} {count}"
        case AttachEni(count=count):
            return f"attach {count}"
        case UnassignBlocks(eni_id=eni, blocks=blocks):
            return f"unassign {eni} {len(blocks)}"
        case FreeEni(eni_id=eni):
            return f"free {eni}"
        case Wait(code=code):
            return f"wait {code}"
    raise AssertionError(step)


def decided(pool: Pool, targets: Targets, limits: NodeLimits) -> str:
    steps = plan(pool, targets, limits, NOW)
    assert all(step.reason for step in steps)
    return ", ".join(short_form(step) for step in steps)


def t(we: int = 1, wi: int = 0, mi: int = 0, wp: int = 0, pods: int = 0) -> Targets:
    return Targets(
        warm_eni=we, warm_ip=wi or None, minimum_ip=mi or None, warm_prefix=wp or None, max_pods=pods or None
    )


# id, targets, state, low, steps: upstream and we decide alike. Upstream takes one ENI a tick, we write down all steps.
SECONDARY = [
    ("A1", t(1), "0/0", True, "assign E0 9"),
    ("A2", t(1), "9/0", False, ""),
    ("A3", t(1), "9/1", True, "attach 9"),
    ("A4", t(1), "9/9 9/0", False, ""),
    ("A5", t(1), "9/0 9/0", False, "free E1"),
    ("A7", t(1), "9/9 9/9 9/9", True, "wait eni-limit"),
    ("A8", t(0), "9/8", False, ""),
    ("A9", t(0), "9/9", True, "attach 9"),
    ("A11", t(1, 2), "0/0", True, "assign E0 2"),
    ("A12", t(1, 2, 5), "0/0", True, "assign E0 5"),
    ("A14", t(1, 2, 5), "5/4", True, "assign E0 1"),
    ("A15", t(1, 2, 5), "9/2", False, "unassign E0 4"),
    ("A16", t(1, 2, 5), "9/6", False, "unassign E0 1"),
    ("A21", t(1, 3, 12), "9/0", True, "attach 3"),
    ("A22", t(1, 30), "0/0", True, "assign E0 9, attach 9, attach 9, wait eni-limit"),
    ("A23", t(1, pods=9), "9/9", False, ""),
    ("A28", t(1, 1, 1), "6/5 4/0", False, "free E1"),
]

CUSTOM_NETWORKING = [
    ("A25", t(1), "0/0", True, "attach 9"),
    ("A26", t(1, 2, 3), "0/0", True, "attach 3"),
]


@pytest.mark.parametrize(
    ("targets", "state", "low", "steps"), [row[1:] for row in SECONDARY], ids=[r[0] for r in SECONDARY]
)
def test_secondary_mode_decides_as_upstream_does(targets: Targets, state: str, low: bool, steps: str) -> None:
    assert low_watermark(secondary(state), targets, M5_LARGE, NOW) is low
    assert decided(secondary(state), targets, M5_LARGE) == steps


@pytest.mark.parametrize(
    ("targets", "state", "low", "steps"), [row[1:] for row in CUSTOM_NETWORKING], ids=[r[0] for r in CUSTOM_NETWORKING]
)
def test_custom_networking_grows_on_a_new_eni_and_never_on_the_primary(
    targets: Targets, state: str, low: bool, steps: str
) -> None:
    assert low_watermark(secondary(state, custom=True), targets, M5_LARGE, NOW) is low
    assert decided(secondary(state, custom=True), targets, M5_LARGE) == steps
    assert "E0" in decided(secondary(state), targets, M5_LARGE), "without custom networking the primary would grow"


def test_difference_warm_eni_target_0_does_not_attach_and_free_an_eni_in_a_loop() -> None:
    """A10: upstream frees E1 although nothing would be left, then attaches it again, every 65 s."""
    assert decided(secondary("9/9 9/0"), t(0), M5_LARGE) == ""
    assert decided(secondary("9/8 9/0"), t(0), M5_LARGE) == "free E1", "one free address is enough"


def test_difference_minimum_ip_target_alone_still_lets_the_next_pod_start() -> None:
    """A18, A19: upstream never grows above the minimum, so that pod minimum+1 waits for ever."""
    assert decided(secondary("5/5"), t(1, mi=5), M5_LARGE) == "assign E0 1"
    assert decided(secondary("9/5"), t(1, mi=5), M5_LARGE) == "unassign E0 3", "upstream: 4, nothing would be left"


def test_difference_an_eni_is_filled_no_further_than_max_pods_allows() -> None:
    """Upstream adds whole ENIs past max pods: 42 addresses for 29 pods on an m5.xlarge."""
    m5_xlarge = NodeLimits(4, 15)
    assert decided(secondary("14/14 14/1"), t(1, pods=29), m5_xlarge) == "attach 1"
    assert decided(secondary("14/14 14/1"), t(1), m5_xlarge) == "attach 14"


# Prefix mode; `pods on each prefix`, ENI by ENI.
PREFIX = [
    ("P1", t(wp=1), ([],), True, "assign E0 1"),
    ("P2", t(wp=1), ([0],), False, ""),
    ("P3", t(wp=1), ([1],), True, "assign E0 1"),
    ("P4", t(wp=1), ([1, 0],), False, ""),
    ("P5", t(wp=1), ([8, 8],), False, ""),
    ("P7", t(wp=1), ([1, 0, 0],), False, "unassign E0 1"),
    ("P8", t(wp=3), ([],), True, "assign E0 3"),
    ("P10", t(wi=1, mi=1), ([16],), True, "assign E0 1"),
    ("P11", t(wi=16), ([0],), False, ""),
    ("P13", t(wi=5, mi=20), ([],), True, "assign E0 2"),
    ("P14", t(wi=5, mi=20), ([0, 0, 0],), False, "unassign E0 1"),
    ("P15", t(wi=15), ([1, 1, 1],), False, ""),
]


@pytest.mark.parametrize(("targets", "enis", "low", "steps"), [row[1:] for row in PREFIX], ids=[r[0] for r in PREFIX])
def test_prefix_mode_decides_as_upstream_does(
    targets: Targets, enis: tuple[list[int], ...], low: bool, steps: str
) -> None:
    assert low_watermark(prefixed(*enis), targets, M5_LARGE, NOW) is low
    assert decided(prefixed(*enis), targets, M5_LARGE) == steps


def test_prefix_mode_attaches_an_eni_when_the_attached_ones_are_full() -> None:
    """P17 and, with the primary not used for pods, P22."""
    assert decided(prefixed([16, 16, 16]), t(wp=1), T3_SMALL) == "attach 1"
    assert decided(prefixed([], custom=True), t(wp=1), M5_LARGE) == "attach 1"


def test_difference_an_empty_prefix_on_a_second_eni_goes_with_its_eni_in_one_step() -> None:
    """P19, P20: upstream unassigns the prefix, then keeps the empty ENI for ever (it wants 16 free elsewhere)."""
    assert decided(prefixed([1], [0]), t(wi=1, mi=1), M5_LARGE) == "free E1"
    assert decided(prefixed([1], []), t(wi=1, mi=1), M5_LARGE) == "free E1"


def test_difference_warm_prefix_target_0_keeps_one_prefix_instead_of_fetching_it_every_35_s() -> None:
    assert decided(prefixed([0]), t(), M5_LARGE) == ""
    assert decided(prefixed([]), t(), M5_LARGE) == "assign E0 1"


def test_difference_minimum_ip_target_that_is_used_up_gets_another_prefix() -> None:
    """P21: upstream does nothing with 16 of 16 addresses in use and MINIMUM_IP_TARGET=16."""
    assert decided(prefixed([16]), t(mi=16), M5_LARGE) == "assign E0 1"


# addresses per ENI 4 (L=3), max pods 500: (state, targets, low)
DECISIONS = [
    ("0/0", t(1), True),
    ("0/0", t(0), True),
    ("0/0", t(1, 3), True),
    ("3/0", t(1, 1), False),
    ("3/1", t(1), True),
    ("3/1", t(0), False),
    ("3/3", t(1), True),
    ("3/3", t(0), True),
    ("3/3", t(1, 5, pods=3), False),
]


@pytest.mark.parametrize(("state", "targets", "low"), DECISIONS)
def test_the_low_watermark_of_three_address_enis(state: str, targets: Targets, low: bool) -> None:
    assert low_watermark(secondary(state), targets, T3_SMALL, NOW) is low


PREFIX_DECISIONS = [
    ([], t(), True),
    ([0], t(wp=1), False),
    ([1], t(wp=1), True),
    ([1], t(), False),
    ([3], t(wp=1, pods=4), False),
]


@pytest.mark.parametrize(("prefixes", "targets", "low"), PREFIX_DECISIONS)
def test_the_low_watermark_of_prefixes(prefixes: list[int], targets: Targets, low: bool) -> None:
    assert low_watermark(prefixed(prefixes), targets, NodeLimits(3, 17), NOW) is low


# Which ENI may go: state, WARM_IP_TARGET, MINIMUM_IP_TARGET, the ENI freed.
FREEABLE = [
    ("2/2 2/0 1/0", 3, 1, None),
    ("2/2 2/0 1/0", 1, 5, None),
    ("2/2 2/0 1/0", 2, 4, "E2"),
    ("2/2 2/0", 0, 3, None),
]


@pytest.mark.parametrize(("state", "warm_ip", "minimum", "freed"), FREEABLE)
def test_an_eni_is_freed_only_if_the_rest_meets_the_targets(
    state: str, warm_ip: int, minimum: int, freed: str | None
) -> None:
    steps = plan(secondary(state), t(1, warm_ip, minimum), M5_LARGE, NOW)
    assert [step.eni_id for step in steps if isinstance(step, FreeEni)] == ([freed] if freed else [])


def test_difference_the_last_free_address_keeps_its_eni() -> None:
    """Upstream frees E1 here with MINIMUM_IP_TARGET=2, and the third pod could never start."""
    assert decided(secondary("2/2 2/0"), t(1, mi=2), M5_LARGE) == "unassign E1 1"
