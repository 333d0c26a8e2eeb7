# SPDX-License-Identifier: Apache-2.0
"""Prefix delegation through the engine and the model of EC2: growth, release, switching modes, no /28 to be had."""

from __future__ import annotations

import asyncio
from ipaddress import IPv4Address, IPv4Network

import virtual
from rig import Rig

from vpccni.core.block import BlockKind, Mode
from vpccni.core.limits import limits
from vpccni.ipamd.sizing import sizing
from vpccni.lab.cloud.interfaces import NewInterface
from vpccni.settings import parse

PREFIX = {"ENABLE_PREFIX_DELEGATION": "true"}


def kinds(rig: Rig) -> list[tuple[int, int]]:
    """(single addresses, prefixes) by ENI."""
    return [(len(each.addresses), len(each.prefixes)) for each in rig.interfaces()]


def fragment(rig: Rig, subnet: str = "") -> list[str]:
    """Somebody else takes one address out of every /28 of a subnet."""
    subnet = subnet or rig.subnet.subnet_id
    space = rig.cloud.subnet(subnet).v4
    blockers = []
    for base in range(space.first, space.last, 16):
        address = IPv4Address(base + 7)
        if space.owner(int(address)) is None:
            eni = rig.cloud.create_network_interface(NewInterface(subnet, primary=address))
            blockers.append(eni.eni_id)
    return blockers


def test_a_node_grows_by_prefixes_and_packs_pods_into_them() -> None:
    async def story() -> None:
        rig = Rig(**PREFIX)
        node = await rig.started()
        assert kinds(rig) == [(0, 1)]
        await node.add(17 - 1)
        await asyncio.sleep(10)
        assert kinds(rig) == [(0, 2)] and rig.used() == [16]
        await node.add(1)
        await asyncio.sleep(10)
        assert kinds(rig) == [(0, 3)], "one spare prefix beyond the one in use"
        rig.check()

    virtual.run(story())


def test_empty_prefixes_go_back_when_their_addresses_have_rested() -> None:
    async def story() -> None:
        rig = Rig(**PREFIX)
        node = await rig.started()
        for _ in range(3):
            await node.add(16)
            await asyncio.sleep(10)
        await asyncio.sleep(100)
        assert kinds(rig) == [(0, 4)]
        await node.drop(list(rig.wired))
        await asyncio.sleep(25)
        assert kinds(rig) == [(0, 4)], "all of them still cool"
        await asyncio.sleep(60)
        assert kinds(rig) == [(0, 1)]

    virtual.run(story())


def test_ip_targets_win_over_the_prefix_target() -> None:
    async def story(prefixes: int, **targets: str) -> None:
        rig = Rig(**PREFIX, WARM_PREFIX_TARGET="3", **targets)
        await rig.started()
        assert kinds(rig) == [(0, prefixes)]

    virtual.run(story(3))
    virtual.run(story(1, WARM_IP_TARGET="5"))
    virtual.run(story(2, MINIMUM_IP_TARGET="20"))


def test_a_full_eni_is_followed_by_another_one() -> None:
    async def story() -> None:
        rig = Rig("t3.small", **PREFIX)
        node = await rig.started()
        for _ in range(3):
            await node.add(16)
            await asyncio.sleep(20)
        assert kinds(rig) == [(0, 3), (0, 1)]

    virtual.run(story())


def test_types_without_prefixes_fall_back_to_secondary_addresses_and_say_so() -> None:
    for name, mode in (("m5.large", Mode.PREFIX), ("c5.metal", Mode.PREFIX), ("m4.large", Mode.SECONDARY)):
        size = sizing(parse(PREFIX), limits(name))
        assert size.mode is mode
        assert bool(size.notes) == (mode is Mode.SECONDARY)
    assert sizing(parse(PREFIX), limits("m5.large")).targets.max_pods == 3 * 9 * 16 + 2
    assert sizing(parse(PREFIX), limits("m4.large")).targets.max_pods == 2 * 9 + 2
    assert sizing(parse({}), limits("m5.large")).mode is Mode.SECONDARY


def test_a_live_node_changes_to_prefixes_and_back_without_losing_a_pod() -> None:
    async def story() -> None:
        rig = Rig(WARM_IP_TARGET="3")
        node = await rig.started()
        old = await node.add(3)
        await asyncio.sleep(20)
        assert kinds(rig) == [(6, 0)]
        await node.kill()

        node = await rig.started(**PREFIX)
        assert kinds(rig) == [(3, 1)], "free ones of the other kind go back, those in use linger"
        (new,) = await node.add(1)
        assert rig.home(new.addresses[0].address) and node.pool.stats(rig.clock.now()).lingering == 3
        rig.check()
        await node.drop([grant.key for grant in old])
        await asyncio.sleep(120)
        assert kinds(rig) == [(0, 1)]
        await node.kill()

        node = await rig.started()
        assert kinds(rig) == [(3, 1)], "the prefix with a pod lingers"
        assert new.key in rig.wired
        rig.check()
        await node.drop([new.key])
        await asyncio.sleep(120)
        assert kinds(rig) == [(3, 0)]

    virtual.run(story())


def test_without_a_free_prefix_single_addresses_stand_in_until_prefixes_are_back() -> None:
    async def story() -> None:
        rig = Rig(**PREFIX, WARM_IP_TARGET="5")
        blockers = fragment(rig)
        node = await rig.started()
        assert kinds(rig) == [(5, 0)]
        pods = await node.add(3)
        await asyncio.sleep(10)
        assert kinds(rig) == [(8, 0)] and rig.used() == [3]

        for eni_id in blockers:
            rig.cloud.delete_network_interface(eni_id)
        await asyncio.sleep(300)
        assert kinds(rig) == [(3, 1)], "the prefix came, idle single addresses went"
        await node.add(1)
        assert rig.used() == [4]
        await node.drop([grant.key for grant in pods])
        await asyncio.sleep(120)
        assert kinds(rig) == [(0, 1)]
        rig.check()

    virtual.run(story())


def test_fallback_can_be_switched_off_and_then_says_why_nothing_grows() -> None:
    async def story() -> None:
        rig = Rig(**PREFIX, VPCCNI_PREFIX_FALLBACK="false")
        fragment(rig)
        node = await rig.started()
        assert kinds(rig) == [(0, 0)]
        assert {wait.code for wait in node.engine.waits} & {"subnet-fragmented", "attach-blocked"}
        assert node.holds.last_error is not None and node.holds.last_error.error_code == "subnet-fragmented"
        await asyncio.sleep(600)
        assert 4 < len(rig.mutations()) < 40, "it keeps asking, ever less often"

    virtual.run(story())


def test_a_tagged_subnet_with_a_prefix_is_used_before_single_addresses_are() -> None:
    async def story() -> None:
        rig = Rig(**PREFIX)
        fragment(rig)
        other = rig.cloud.create_subnet(
            rig.vpc.vpc_id, IPv4Network("10.0.4.0/24"), tags={"kubernetes.io/role/cni": "1"}
        )
        await rig.started()
        assert kinds(rig) == [(0, 0), (0, 1)]
        assert rig.interfaces()[1].subnet_id == other.subnet_id

    virtual.run(story())


def test_partly_free_prefixes_are_taken_in_few_calls() -> None:
    async def story() -> None:
        rig = Rig(**PREFIX, WARM_PREFIX_TARGET="4", MAX_ENI="1")
        for eni_id in fragment(rig)[3:6]:
            rig.cloud.delete_network_interface(eni_id)
        await rig.started()
        assert kinds(rig)[0][1] == 3
        assert rig.mutations().count("AssignPrivateIpAddresses") <= 6

    virtual.run(story())


def test_pods_take_prefixes_first_and_single_addresses_last() -> None:
    async def story() -> None:
        rig = Rig(**PREFIX, WARM_IP_TARGET="5")
        for eni_id in fragment(rig)[3:4]:
            rig.cloud.delete_network_interface(eni_id)
        node = await rig.started()
        await node.add(14)
        await asyncio.sleep(20)
        assert kinds(rig) == [(3, 1)]
        more = await node.add(3)
        where = [node.pool._inventory.find(grant.addresses[0].address) for grant in more]
        assert [held.block.kind for held in where if held] == [BlockKind.PREFIX, BlockKind.PREFIX, BlockKind.ADDRESS]

    virtual.run(story())
