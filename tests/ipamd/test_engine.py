# SPDX-License-Identifier: Apache-2.0
"""The engine's loop and its truth: it stops when told, never spins, and believes only what EC2 confirmed."""

from __future__ import annotations

import asyncio
from ipaddress import IPv6Network

import virtual
from rig import Rig

from vpccni.errors import NoAddress
from vpccni.ipamd.explain import explained
from vpccni.lab.cloud.errors import ApiError


def test_a_cancellation_that_comes_together_with_a_wake_up_ends_the_engine() -> None:
    async def story() -> None:
        rig = Rig()
        node = await rig.started()
        engine = node._task
        assert engine is not None
        node.engine.wake()
        engine.cancel()
        await asyncio.wait([engine], timeout=10)
        assert engine.done()

    virtual.run(story())


def test_the_engine_sleeps_while_a_slow_reconcile_is_overdue() -> None:
    async def story() -> None:
        rig = Rig()
        node = await rig.started()
        turns = 0
        counted = node.engine.plan

        def plan():  # type: ignore[no-untyped-def]
            nonlocal turns
            turns += 1
            assert turns < 1000, "it spins"
            return counted()

        async def slow() -> list[str]:
            await asyncio.sleep(300)
            return []

        node.engine.plan = plan  # type: ignore[method-assign]
        node.runner.reconcile = slow  # type: ignore[method-assign]
        await asyncio.sleep(600)
        assert turns < 10

    virtual.run(story())


def test_addresses_whose_unassignment_was_never_answered_are_nobodys_until_ec2_was_asked() -> None:
    async def story() -> None:
        rig = Rig(WARM_IP_TARGET="2")
        node = await rig.started()
        keys = [grant.key for grant in await node.arrive(6)]
        await asyncio.sleep(40)
        rig.lose = lambda action: action == "UnassignPrivateIpAddresses"
        await node.drop(keys)
        await asyncio.sleep(31.5)
        assert len(rig.interfaces()[0].addresses) == 2, "EC2 did take them back"
        await node.arrive(5)
        rig.check()
        rig.lose = lambda action: False
        await asyncio.sleep(60)
        rig.check()
        assert sum(rig.held()) == 7, "five pods and two spare"

    virtual.run(story())


def test_an_assignment_that_was_never_answered_is_found_and_used() -> None:
    async def story() -> None:
        rig = Rig(WARM_IP_TARGET="4")
        rig.lose = lambda action: action == "AssignPrivateIpAddresses"
        node = await rig.process_started()
        await asyncio.sleep(0.2)
        rig.lose = lambda action: False
        await asyncio.sleep(60)
        assert sum(rig.held()) == 4, "what came twice goes back"
        await node.add(4)
        rig.check()

    virtual.run(story())


def test_a_refused_unassignment_leaves_the_addresses_usable_at_once() -> None:
    async def story() -> None:
        rig = Rig(WARM_IP_TARGET="2")
        node = await rig.started()
        keys = [grant.key for grant in await node.arrive(6)]
        await asyncio.sleep(40)

        def refuse(action: str) -> None:
            if action == "UnassignPrivateIpAddresses":
                raise ApiError("UnauthorizedOperation", "no", status=403)

        rig.refuse = refuse
        await node.drop(keys)
        await asyncio.sleep(32)
        await node.add(8)
        rig.check()

    virtual.run(story())


def test_reconcile_is_not_starved_by_a_pool_that_changes_all_the_time() -> None:
    """Upstream reconciles only when the pool has been quiet for 60 s."""

    async def story() -> None:
        rig = Rig(WARM_IP_TARGET="1", IP_COOLDOWN_PERIOD="3")
        node = await rig.started()
        await node.arrive(1)
        await asyncio.sleep(3)
        (stolen,) = set(rig.interfaces()[0].addresses) - _used(rig)
        rig.cloud.unassign_private_ip_addresses(rig.node.eni_id, [stolen])  # type: ignore[list-item]
        for _ in range(120):
            made = await node.arrive(2, patience_s=20)
            await asyncio.sleep(1)
            await node.drop([grant.key for grant in made])
            await asyncio.sleep(1)
        assert len(rig.mutations()) > 20, "it did change all the time"
        listed = rig.interfaces()[0].addresses
        eni = node.pool.eni(rig.node.eni_id)
        assert eni is not None and {block.network.network_address for block in eni.blocks} <= set(listed)

    virtual.run(story())


def _used(rig: Rig) -> set[object]:
    return {at.address for grant in rig.wired.values() for at in grant.addresses}


def test_ipv6_gives_every_eni_one_prefix_of_80_bits_that_never_runs_out() -> None:
    async def story() -> None:
        rig = Rig(ipv6=True, ENABLE_IPv4="false", ENABLE_IPv6="true", ENABLE_PREFIX_DELEGATION="true")
        node = await rig.started()
        (prefix,) = rig.interfaces()[0].prefixes
        assert prefix.prefixlen == 80 and prefix.version == 6
        made = await node.add(200)
        assert made[0].addresses[0].address == IPv6Network(prefix).network_address, "the first one too"
        assert made[1].addresses[0].address == IPv6Network(prefix).network_address + 1
        await asyncio.sleep(300)
        assert rig.mutations() == ["AssignIpv6Addresses"]
        await node.kill()
        node = await rig.started()
        await node.add(1)
        assert rig.mutations() == ["AssignIpv6Addresses"], "a restart asks for nothing more"
        rig.check()

    virtual.run(story())


def test_ipv6_pods_are_no_longer_refused() -> None:
    rig_environ = {"ENABLE_IPv4": "false", "ENABLE_IPv6": "true", "ENABLE_PREFIX_DELEGATION": "true"}
    from vpccni.settings import parse

    assert parse(rig_environ).not_built == ()
    assert parse({"ENABLE_PREFIX_DELEGATION": "true"}).not_built == ()


def test_trying_again_in_a_full_subnet_does_not_hide_that_it_is_full() -> None:
    async def story() -> None:
        rig = Rig(subnet="10.0.0.0/28")  # 16, less 5 reserved, less the node's own and those of ENIs that come
        node = await rig.started()
        codes: list[str] = []
        while len(codes) < 600:
            try:
                await node.add()
            except NoAddress as refusal:
                codes.append(explained(refusal, node.engine.obstacles, node.holds.last_error).error_code)
                node.engine.wake()
            await asyncio.sleep(0.1)
        full = codes.index("subnet-empty")
        assert full < 40
        assert set(codes[full:]) == {"subnet-empty"}, "for a minute, through every new attempt"

    virtual.run(story())
