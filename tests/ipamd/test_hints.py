# SPDX-License-Identifier: Apache-2.0
"""A node at rest does not ask EC2: the metadata service raises the doubts, EC2 settles them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import virtual
from rig import Process, Rig

from vpccni.aws.values import MetadataInterface
from vpccni.core.hints import contradiction
from vpccni.errors import CloudError
from vpccni.lab.cloud.direct import DirectEc2


def listed(rig: Rig) -> tuple[MetadataInterface, ...]:
    """What a metadata service without lag lists."""
    return tuple(
        MetadataInterface(
            each.mac,
            each.eni_id,
            each.attachment.device,
            each.attachment.card,
            each.subnet_id,
            None,
            (each.primary_address, *each.addresses),  # type: ignore[arg-type]
            each.prefixes,
        )
        for each in DirectEc2(rig.cloud).attached(rig.node.instance_id)
        if each.attachment
    )


def asked(rig: Rig, since: float) -> int:
    return sum(1 for at, action in rig.calls if at >= since and action == "DescribeNetworkInterfaces")


async def at_rest(rig: Rig, *, hints: bool) -> Process:
    if hints:

        async def metadata() -> Sequence[MetadataInterface]:
            return listed(rig)

        rig.listed = metadata
    node = await rig.started()
    await node.add(3)
    await asyncio.sleep(120)
    return node


def test_a_node_at_rest_asks_ec2_once_an_hour_and_without_hints_every_minute() -> None:
    async def story(hints: bool, minutes: int) -> int:
        rig = Rig()
        await at_rest(rig, hints=hints)
        since = rig.clock.now()
        await asyncio.sleep(60 * minutes)
        rig.check()
        return asked(rig, since)

    async def both() -> None:
        assert await story(True, 40) == 0
        assert await story(True, 24 * 60) in range(19, 31)  # 0.8 to 1.2 hours apart
        assert await story(False, 40) in range(38, 42)

    virtual.run(both())


def test_a_change_behind_our_back_raises_a_doubt_that_ec2_settles() -> None:
    async def story() -> None:
        rig = Rig()
        node = await at_rest(rig, hints=True)
        since, total = rig.clock.now(), node.pool.tally(rig.clock.now()).total
        taken = node.pool.held()[-1].releasable()[0]
        rig.cloud.unassign_private_ip_addresses(node.pool.held()[-1].eni.id, [taken.network.network_address])
        await asyncio.sleep(75)
        assert asked(rig, since) >= 1
        assert node.pool.tally(rig.clock.now()).total <= total
        assert contradiction(node.pool, listed(rig)) == ""
        rig.check()

    virtual.run(story())


def test_metadata_that_cannot_be_read_are_no_reason_to_believe_the_pool() -> None:
    async def story() -> None:
        async def silent() -> Sequence[MetadataInterface]:
            raise CloudError("read instance metadata", "no answer")

        rig = Rig()
        rig.listed = silent
        await rig.started()
        since = rig.clock.now()
        await asyncio.sleep(300)
        assert asked(rig, since) in range(4, 7)

    virtual.run(story())


def test_each_kind_of_contradiction_is_named() -> None:
    async def story() -> None:
        rig = Rig()
        node = await at_rest(rig, hints=True)
        truth = listed(rig)
        assert contradiction(node.pool, truth) == ""
        assert "does not list" in contradiction(node.pool, truth[:1])
        fewer = MetadataInterface("m", truth[0].eni_id, 0, 0, "s", None, truth[0].addresses[:-1])
        assert "lists 8 blocks" in contradiction(node.pool, (fewer, *truth[1:]))
        more = MetadataInterface("m", "eni-new", 2, 0, "s", None, ())
        assert "which the pool does not have" in contradiction(node.pool, (*truth, more))
        other_card = MetadataInterface("m", "eni-new", 2, 1, "s", None, ())
        assert contradiction(node.pool, (*truth, other_card)) == ""
        node.pool.withdraw(truth[-1].eni_id)
        assert "on its way out" in contradiction(node.pool, truth)

    virtual.run(story())
