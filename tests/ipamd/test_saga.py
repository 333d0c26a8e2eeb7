# SPDX-License-Identifier: Apache-2.0
"""Attaching and freeing ENIs: killed at every moment or refused at every call, nothing leaks and nothing is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from world import Fuse, Killed, World, link_is_there

from vpccni.aws import tags as eni_tags
from vpccni.aws.values import Interface
from vpccni.errors import CloudError, HostError
from vpccni.ipamd.saga import NewEni, Sagas
from vpccni.lab.cloud.interfaces import NewInterface


def new_eni(world: World) -> NewEni:
    return NewEni(world.subnet.subnet_id, (), 0, 5, 0, "test")


async def attach(world: World, sagas: Sagas) -> Interface:
    return await sagas.attach(new_eni(world), link_is_there)


async def recover(world: World) -> Sagas:
    """A new process takes over, as the daemon does at its start."""
    sagas = world.process()
    await sagas.adopt(world.intents(), world.attached())
    for _ in range(3):
        await sagas.retry_open()
        world.clock.at += 60
    await sagas.sweep(youngest_s=0.0)
    return sagas


def moments(
    prepare: Callable[[World], Awaitable[None]] | None, run: Callable[[World, Sagas], Awaitable[object]]
) -> int:
    """How many moments an undisturbed run has."""

    async def count() -> int:
        world = World()
        if prepare:
            await prepare(world)
        fuse = Fuse()
        await run(world, world.process(fuse))
        return fuse.moments

    return asyncio.run(count())


async def one_secondary(world: World) -> None:
    await attach(world, world.process())


async def free(world: World, sagas: Sagas) -> None:
    secondary = next(each for each in world.attached() if each.eni_id != world.node.eni_id)
    await sagas.free(secondary.eni_id, "test")


def test_an_attached_eni_has_its_addresses_tags_and_dies_with_the_instance() -> None:
    async def story() -> None:
        world = World()
        interface = await attach(world, world.process())
        assert interface.attachment is not None
        assert (interface.attachment.device, interface.attachment.status) == (1, "attached")
        assert interface.attachment.delete_on_termination
        assert len(interface.addresses) == 5
        assert interface.tags["node.k8s.amazonaws.com/instance_id"] == world.node.instance_id
        assert interface.description == f"aws-K8S-{world.node.instance_id}"
        assert world.intents() == {}

    asyncio.run(story())


def test_a_place_that_somebody_else_took_in_the_meantime_is_found_out_and_another_one_used() -> None:
    """Which device indexes are free is asked once and remembered; EC2's refusal ends that."""

    async def story() -> None:
        world = World(instance_type="m5.xlarge")
        sagas = world.process()
        await attach(world, sagas)
        foreign = world.cloud.create_network_interface(NewInterface(world.subnet.subnet_id))
        world.clock.at += 60
        world.cloud.attach_network_interface(foreign.eni_id, world.node.instance_id, 2, 0)
        third = await attach(world, sagas)
        assert third.attachment is not None and third.attachment.device == 3
        assert world.intents() == {} and world.leaked() == []

    asyncio.run(story())


def test_two_attachments_at_once_take_different_slots() -> None:
    async def story() -> None:
        world = World()
        sagas = world.process()
        both = await asyncio.gather(attach(world, sagas), attach(world, sagas))
        assert {each.attachment.device for each in both if each.attachment} == {1, 2}

    asyncio.run(story())


@pytest.mark.parametrize("moment", range(1, 60))
def test_killed_at_any_moment_of_an_attach_the_eni_is_used_or_gone(moment: int) -> None:
    async def story() -> bool:
        world = World()
        fuse = Fuse(moment)
        try:
            await attach(world, world.process(fuse))
        except Killed:
            pass
        else:
            return False
        sagas = await recover(world)
        assert world.leaked() == []
        assert world.intents() == {}
        assert sagas.open == {}
        assert len(world.attached()) in (1, 2)
        return True

    if not asyncio.run(story()):
        assert moment > moments(None, attach)


@pytest.mark.parametrize("moment", range(1, 40))
def test_killed_at_any_moment_of_a_free_the_eni_is_gone_or_whole(moment: int) -> None:
    async def story() -> bool:
        world = World()
        await one_secondary(world)
        try:
            await free(world, world.process(Fuse(moment)))
        except Killed:
            pass
        else:
            return False
        await recover(world)
        assert world.leaked() == []
        assert world.intents() == {}
        whole = [each for each in world.attached() if each.eni_id != world.node.eni_id]
        assert all(each.attachment and each.attachment.status == "attached" for each in whole)
        return True

    if not asyncio.run(story()):
        assert moment > moments(one_secondary, free)


@pytest.mark.parametrize("call", range(1, 12))
@pytest.mark.parametrize("code", ["RequestLimitExceeded", "UnauthorizedOperation", "InternalError"])
def test_refused_at_any_call_of_an_attach_it_is_undone(call: int, code: str) -> None:
    async def story() -> None:
        world = World()
        fuse = Fuse(call, refuse=code)
        sagas = world.process(fuse)
        try:
            await attach(world, sagas)
        except CloudError as error:
            assert error.aws_code == code
        await sagas.retry_open()
        await sagas.sweep(0.0)
        assert world.leaked() == []
        assert world.intents() == {}

    asyncio.run(story())


@pytest.mark.parametrize("call", range(1, 8))
def test_a_refused_free_leaves_an_ordinary_eni_or_is_finished_later(call: int) -> None:
    async def story() -> None:
        world = World()
        await one_secondary(world)
        sagas = world.process(Fuse(call, refuse="RequestLimitExceeded"))
        try:
            await free(world, sagas)
        except CloudError:
            await sagas.retry_open()
        left = [each for each in world.attached() if each.eni_id != world.node.eni_id]
        assert world.leaked() == []
        assert world.intents() == {}
        assert all(each.attachment and each.attachment.status == "attached" for each in left)

    asyncio.run(story())


def test_a_link_that_never_appears_takes_the_eni_back() -> None:
    async def never(_interface: Interface) -> None:
        raise HostError("use the new ENI", "no link")

    async def story() -> None:
        world = World()
        with pytest.raises(HostError):
            await world.process().attach(new_eni(world), never)
        assert world.leaked() == []
        assert len(world.attached()) == 1
        assert world.intents() == {}

    asyncio.run(story())


def test_the_sweep_leaves_young_attached_and_foreign_enis_alone() -> None:
    async def story() -> None:
        world = World()
        sagas = world.process()
        attached = await attach(world, sagas)
        calls = sagas._calls.interfaces
        ours = f"aws-K8S-{world.node.instance_id}"
        young = calls.create(
            world.subnet.subnet_id, (), description=ours, tags=world.own_tags(world.clock.now()), address_count=0
        )
        foreign = calls.create(world.subnet.subnet_id, (), description=ours, tags={"owner": "me"})
        by_hand = calls.create(world.subnet.subnet_id, (), description="mine", tags=world.own_tags(world.clock.now()))
        elsewhere = {**world.own_tags(world.clock.now()), "cluster.k8s.amazonaws.com/name": "another"}
        other_cluster = calls.create(world.subnet.subnet_id, (), description=ours, tags=elsewhere)
        other_node = {**world.own_tags(world.clock.now()), "node.k8s.amazonaws.com/instance_id": "i-2"}
        neighbour = calls.create(world.subnet.subnet_id, (), description="aws-K8S-i-2", tags=other_node)
        unmarked = calls.create(
            world.subnet.subnet_id, (), description=ours, tags={**world.own_tags(0), eni_tags.CREATED_TAG: "yesterday"}
        )
        world.clock.at += 10
        assert await sagas.sweep(youngest_s=300) == []
        world.clock.at += 295
        assert await sagas.sweep(youngest_s=300) == [young.eni_id]
        kept = [each.eni_id for each in (attached, foreign, by_hand, other_cluster, neighbour, unmarked)]
        assert [each.eni_id for each in calls.interfaces(kept)] == kept  # type: ignore[attr-defined]
        world.clock.at += 301
        assert await sagas.sweep(youngest_s=300) == [unmarked.eni_id], "marked in the sweep before"

    asyncio.run(story())
