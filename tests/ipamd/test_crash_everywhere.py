# SPDX-License-Identifier: Apache-2.0
"""The daemon dies between any two effects of its engine, and another one takes over: nothing is lost, nothing leaks."""

from __future__ import annotations

import pytest
import virtual
from lives import Life
from rig import Rig

from vpccni.ipamd.journal import Record

MODES = {
    "secondary": {"WARM_IP_TARGET": "2"},
    "whole ENIs": {},
    "prefixes": {"ENABLE_PREFIX_DELEGATION": "true", "WARM_IP_TARGET": "2"},
    "dual stack": {"VPCCNI_DUAL_STACK": "true", "WARM_IP_TARGET": "2"},
    "IPv6": {"ENABLE_IPv4": "false", "ENABLE_IPv6": "true", "ENABLE_PREFIX_DELEGATION": "true"},
}


async def a_day(life: Life, pods: int) -> None:
    """Grow to a second ENI, shrink to one, grow again."""
    await life.sleep(5)
    assert await life.arrive(pods) == pods
    await life.sleep(70)
    await life.drop(pods - 2)
    await life.sleep(120)
    assert await life.arrive(3) == 3
    await life.sleep(10)


def moments(environ: dict[str, str], pods: int) -> int:
    async def story() -> int:
        rig = Rig("t3.small", ipv6=True, **environ)
        await a_day(Life(rig), pods)
        return rig.moments

    return virtual.run(story())


def killed_at(environ: dict[str, str], pods: int, moment: int, seed: int = 1) -> None:
    async def story() -> None:
        rig = Rig("t3.small", seed=seed, ipv6=True, **environ)
        life = Life(rig)
        rig.blow_at = moment
        await a_day(life, pods)
        life.check()
        await life.rest()
        assert len(rig.wired) == 5

    virtual.run(story())


def test_the_days_notice_a_daemon_that_does_not_write_its_intents_down() -> None:
    class Forgetful(Rig):
        async def record(self, line: Record) -> None:
            if line["t"] != "intent":
                await super().record(line)

    async def story(moment: int) -> None:
        rig = Forgetful("t3.small", **MODES["secondary"])
        life = Life(rig)
        rig.blow_at = moment
        await a_day(life, 5)
        await life.rest()

    with pytest.raises(AssertionError):
        for moment in range(1, 40):
            virtual.run(story(moment))


@pytest.mark.parametrize("mode", MODES)
def test_killed_between_any_two_effects_the_node_converges(mode: str) -> None:
    pods = 50 if mode == "prefixes" else 5
    total = moments(MODES[mode], pods)
    assert total >= (40 if mode != "IPv6" else 10)
    for moment in range(1, total + 1):
        try:
            killed_at(MODES[mode], pods, moment)
        except BaseException as error:
            error.add_note(f"killed at moment {moment} of {total}")
            raise
