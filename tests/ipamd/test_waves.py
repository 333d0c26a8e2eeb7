# SPDX-License-Identifier: Apache-2.0
"""Pods that come in waves, over the model of EC2: what the last wave needed is there for the next one, for a while."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
import virtual
from rig import Rig


@pytest.mark.parametrize(("waves", "created"), [(True, 1), (False, 4)])
def test_an_eni_that_each_wave_needs_is_created_once_and_goes_when_no_wave_comes(waves: bool, created: int) -> None:
    """Twelve pods every five minutes do not fit on the first ENI. Without a memory each wave creates and frees one."""

    async def story() -> None:
        rig = Rig(waves=waves, WARM_IP_TARGET="2")
        node = await rig.started()
        for _ in range(4):
            granted = await node.arrive(12)
            await asyncio.sleep(60)
            await node.drop([grant.key for grant in granted])
            await asyncio.sleep(240)
        calls = Counter(rig.mutations())
        assert calls["CreateNetworkInterface"] == created
        assert calls["DeleteNetworkInterface"] == (0 if waves else created)
        await asyncio.sleep(600)
        assert rig.held() == [2], "nothing is kept for ever"
        rig.check()

    virtual.run(story())


@pytest.mark.parametrize("waves", [True, False])
def test_addresses_that_come_and_go_within_a_minute_are_not_asked_for_each_time(waves: bool) -> None:
    """Two pods take turns with none, their addresses rest for three seconds: six seconds are what is remembered."""

    async def story() -> None:
        rig = Rig(waves=waves, WARM_IP_TARGET="1", IP_COOLDOWN_PERIOD="3")
        node = await rig.started()
        for _ in range(60):
            granted = await node.arrive(2, patience_s=20)
            await asyncio.sleep(1)
            await node.drop([grant.key for grant in granted])
            await asyncio.sleep(5)
        changes = sum(name in ("AssignPrivateIpAddresses", "UnassignPrivateIpAddresses") for name in rig.mutations())
        assert changes < 8 if waves else changes > 12
        rig.check()

    virtual.run(story())


def test_addresses_go_before_the_eni_that_is_left_empty_does() -> None:
    async def story() -> None:
        rig = Rig(waves=True, WARM_IP_TARGET="2")
        node = await rig.started()
        granted = await node.arrive(12)
        await asyncio.sleep(60)
        assert rig.held() == [9, 5]
        await node.drop([grant.key for grant in granted])
        await asyncio.sleep(30 + 50)
        assert rig.held() == [9, 5], "they cooled, and are remembered for a minute"
        await asyncio.sleep(45)
        assert rig.held() == [2, 0]
        await asyncio.sleep(600)
        assert rig.held() == [2]
        rig.check()

    virtual.run(story())
