# SPDX-License-Identifier: Apache-2.0
"""What the plan of a dual-stack node asks for: a /80 first, then as many IPv4 addresses as any node."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network

import pytest

from vpccni.core.block import Block, BlockKind, Mode
from vpccni.core.eni import Eni
from vpccni.core.holds import Holds
from vpccni.core.plan import AssignBlocks, AttachEni, FreeEni, UnassignBlocks, Wait, low_watermark, plan
from vpccni.core.pool import Pool
from vpccni.core.targets import NodeLimits, Targets

LIMITS = NodeLimits(max_enis=3, ips_per_eni=10)
TARGETS = Targets(warm_ip=3)
SINGLES = tuple(Block(IPv4Network((f"10.0.{0}.{n}", 32))) for n in range(10, 14))
WIDE = Block(IPv6Network("2001:db8:0:0:1::/80"))
NOW = 1000.0


def pool(*blocks: Block, dual: bool = True, mode: Mode = Mode.SECONDARY) -> Pool:
    made = Pool(30.0, mode, dual=dual)
    made.add_eni(Eni("eni-0", primary=True, subnet_id="subnet-0", blocks=blocks))
    return made


def test_the_prefix_is_asked_for_first_and_addresses_count_once_it_is_there() -> None:
    node = pool(*SINGLES)
    assert node.tally(NOW).total == 0 and low_watermark(node, TARGETS, LIMITS, NOW)
    (step,) = plan(node, TARGETS, LIMITS, NOW)
    assert isinstance(step, AssignBlocks) and (step.version, step.kind, step.count) == (6, BlockKind.PREFIX, 1)
    assert "1 prefix (IPv6) to eni-0" in str(step)
    assert plan(node, TARGETS, LIMITS, NOW, pending=[step]) == [], "nothing else while it is on its way"
    node.add_blocks("eni-0", [WIDE])
    assert node.tally(NOW).total == 4
    (over,) = plan(node, TARGETS, LIMITS, NOW)
    assert isinstance(over, UnassignBlocks) and over.version == 4 and len(over.blocks) == 1


def test_without_dual_stack_the_same_node_asks_for_no_prefix() -> None:
    assert not [
        step for step in plan(pool(*SINGLES, dual=False), TARGETS, LIMITS, NOW) if isinstance(step, AssignBlocks)
    ]


@pytest.mark.parametrize("mode", Mode)
def test_a_new_eni_comes_with_its_prefix(mode: Mode) -> None:
    node = pool(WIDE, mode=mode)
    (grow,) = plan(node, Targets(warm_ip=500, max_eni=2), LIMITS, NOW)[:1]
    attach = next(step for step in plan(node, Targets(warm_ip=500), LIMITS, NOW) if isinstance(step, AttachEni))
    assert isinstance(grow, AssignBlocks) and grow.version == 4 and grow.count == 9, "a /80 takes no IPv4 slot"
    assert attach.dual and "and a /80" in str(attach)


def test_a_refused_prefix_is_waited_for_and_other_enis_grow_meanwhile() -> None:
    node = pool(*SINGLES)
    holds = Holds(enis={"eni-0": NOW + 20})
    wait, attach = plan(node, TARGETS, LIMITS, NOW, holds=holds)
    assert isinstance(wait, Wait) and (wait.code, wait.until) == ("ipv6-prefix-refused", NOW + 20)
    assert isinstance(attach, AttachEni)
    cordoned = plan(node, TARGETS, LIMITS, NOW, holds=Holds(cordoned="the node is cordoned"))
    assert {step.code for step in cordoned if isinstance(step, Wait)} == {"cordoned"} and len(cordoned) == 2


def test_an_idle_eni_that_gets_no_prefix_goes_and_its_addresses_are_not_taken_for_leftovers() -> None:
    node = pool(*SINGLES, WIDE)
    other = tuple(Block(IPv4Network((f"10.0.1.{n}", 32))) for n in range(10, 14))
    node.add_eni(Eni("eni-1", device=1, table=2, subnet_id="subnet-1", blocks=other))
    steps = plan(node, TARGETS, LIMITS, NOW, holds=Holds(enis={"eni-1": NOW + 20}))
    assert [type(step) for step in steps if not isinstance(step, Wait)] == [FreeEni, UnassignBlocks]
    assert {step.eni_id for step in steps if isinstance(step, UnassignBlocks)} == {"eni-0"}


def test_an_ipv6_node_asks_for_one_prefix_whatever_the_targets_say_and_gives_no_second_one_back() -> None:
    node = Pool(30.0, Mode.PREFIX, 6)
    node.add_eni(Eni("eni-0", primary=True, subnet_id="subnet-0"))
    for targets in (Targets(warm_prefix=1), Targets(warm_prefix=5), Targets(warm_ip=400), Targets(minimum_ip=700)):
        (step,) = plan(node, targets, LIMITS, NOW)
        assert isinstance(step, AssignBlocks) and (step.version, step.count) == (6, 1)
    node.add_blocks("eni-0", [WIDE, Block(IPv6Network("2001:db8:0:0:2::/80"))])
    assert plan(node, Targets(warm_prefix=1, max_pods=110), LIMITS, NOW) == []
