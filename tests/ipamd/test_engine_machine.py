# SPDX-License-Identifier: Apache-2.0
"""Any order of pods, faults, crashes, settings and interference, on pool, engine and EC2 together.

The same rules drive a state machine that hypothesis shrinks, and long random days by seed (marker `long`: 1,000).
"""

from __future__ import annotations

import random
from collections.abc import Coroutine
from contextlib import suppress
from ipaddress import ip_network
from typing import Any

import pytest
import virtual
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from lives import Life
from rig import Rig

from vpccni.core.pool import Pool
from vpccni.lab.cloud.direct import DirectEc2
from vpccni.lab.cloud.errors import ApiError
from vpccni.lab.cloud.interfaces import NewInterface

MODES: tuple[dict[str, str], ...] = (
    {},
    {"WARM_IP_TARGET": "2"},
    {"WARM_ENI_TARGET": "0"},
    {"MINIMUM_IP_TARGET": "5"},
    {"ENABLE_PREFIX_DELEGATION": "true"},
    {"ENABLE_PREFIX_DELEGATION": "true", "WARM_IP_TARGET": "3"},
    {"ENABLE_PREFIX_DELEGATION": "true", "VPCCNI_PREFIX_FALLBACK": "false"},
    {"VPCCNI_DUAL_STACK": "true"},
    {"VPCCNI_DUAL_STACK": "true", "ENABLE_PREFIX_DELEGATION": "true", "WARM_IP_TARGET": "3"},
    {"ENABLE_IPv4": "false", "ENABLE_IPv6": "true", "ENABLE_PREFIX_DELEGATION": "true"},
)
CODES = (
    "RequestLimitExceeded", "InternalError", "UnauthorizedOperation", "InsufficientFreeAddressesInSubnet",
    "InsufficientCidrBlocks", "PrivateIpAddressLimitExceeded", "AttachmentLimitExceeded",

)  # fmt: skip


def refuse_some(rig: Rig, code: str, percent: int) -> None:
    def refuse(action: str) -> None:
        if rig.rng.random() * 100 < percent:
            raise ApiError(code, "as the test wants", status=503 if code == "RequestLimitExceeded" else 400)

    rig.refuse = refuse


def lose_some(rig: Rig, percent: int) -> None:
    rig.lose = lambda action: rig.rng.random() * 100 < percent


def interfere(life: Life, how: str) -> None:
    """Somebody else changes what the daemon holds."""
    rig = life.rig
    enis = rig.interfaces()
    if how == "crowd":
        taken = rig.rng.sample([*rig.subnet.v4._enumerable()], 40)
        for value in taken:
            if rig.subnet.v4._free(value):
                address = rig.subnet.v4.address(value)
                rig.cloud.create_network_interface(NewInterface(rig.subnet.subnet_id, primary=address))  # type: ignore[arg-type]
        return
    if how == "leave":
        others = [eni for eni in rig.cloud.enis.values() if eni.attachment is None and not eni.tags]
        for eni in others:
            rig.cloud.delete_network_interface(eni.eni_id)
        return
    if how == "unassign" and (enis[0].addresses or enis[0].prefixes):
        singles = [each for each in enis[0].addresses if each.version == 4][:1]
        prefixes = rig.rng.sample(enis[0].prefixes, min(1, len(enis[0].prefixes)))
        life.taken |= {ip_network(address) for address in singles} | set(prefixes)
        DirectEc2(rig.cloud).unassign(enis[0].eni_id, singles, prefixes)
    if how == "assign" and len(enis[0].addresses) + len(enis[0].prefixes) < 9:
        with suppress(ApiError):
            rig.cloud.assign_private_ip_addresses(enis[0].eni_id, count=1)
    if how == "detach" and len(enis) > 1 and enis[-1].attachment and enis[-1].attachment.status == "attached":
        life.taken |= {ip_network(address) for address in enis[-1].addresses} | set(enis[-1].prefixes)
        life.detached.add(enis[-1].eni_id)
        rig.cloud.detach_network_interface(enis[-1].attachment.attachment_id)


class EngineMachine(RuleBasedStateMachine):
    """One node; the virtual loop runs on from rule to rule."""

    def run(self, program: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(program)

    @initialize(
        seed=st.integers(0, 999), mode=st.sampled_from(MODES), size=st.sampled_from(["10.0.0.0/26", "10.0.0.0/23"])
    )
    def start(self, seed: int, mode: dict[str, str], size: str) -> None:
        self.loop = virtual.VirtualLoop()

        async def begin() -> None:
            self.life = Life(Rig("m5.large", size, seed=seed, ipv6=True))
            await self.life.restart(**mode)

        self.run(begin())

    @rule(count=st.integers(1, 12))
    def pods_arrive(self, count: int) -> None:
        self.run(self.life.arrive(count, patience_s=5.0))

    @rule(count=st.integers(1, 12))
    def pods_go(self, count: int) -> None:
        self.run(self.life.drop(count))

    @rule(duration_s=st.sampled_from([0.15, 1.0, 12.0, 40.0, 130.0]))
    def time_passes(self, duration_s: float) -> None:
        self.run(self.life.sleep(duration_s))

    @rule(moment=st.integers(1, 30))
    def it_will_die(self, moment: int) -> None:
        self.life.rig.blow_at = self.life.rig.moments + moment

    @rule(mode=st.sampled_from(MODES))
    def it_is_restarted_with_other_settings(self, mode: dict[str, str]) -> None:
        self.run(self.life.restart(**mode))

    @rule(code=st.sampled_from(CODES), percent=st.sampled_from([0, 20, 90]))
    def ec2_refuses(self, code: str, percent: int) -> None:
        refuse_some(self.life.rig, code, percent)

    @rule(percent=st.sampled_from([0, 30]))
    def answers_get_lost(self, percent: int) -> None:
        lose_some(self.life.rig, percent)

    @rule(how=st.sampled_from(["unassign", "assign", "detach", "crowd", "leave"]))
    def somebody_interferes(self, how: str) -> None:
        self.run(self._interfere(how))

    async def _interfere(self, how: str) -> None:
        interfere(self.life, how)

    @invariant()
    @precondition(lambda self: hasattr(self, "life"))
    def nothing_is_doubled_lost_or_leaked(self) -> None:
        self.run(self._check())

    async def _check(self) -> None:
        self.life.check()

    def teardown(self) -> None:
        if hasattr(self, "life"):
            try:
                self.run(self.life.rest(sweep=True))
            finally:
                self.run(self._end())
                self.loop.close()

    async def _end(self) -> None:
        if self.life.node is not None:
            await self.life.node.kill()


TestEngineMachine = EngineMachine.TestCase
TestEngineMachine.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)


def a_random_day(seed: int, steps: int = 40) -> None:
    async def story() -> None:
        rng = random.Random(seed)
        life = Life(Rig("m5.large", rng.choice(["10.0.0.0/26", "10.0.0.0/23"]), seed=seed, ipv6=True))
        await life.restart(**rng.choice(MODES))
        for _ in range(steps):
            match rng.choice(["arrive", "arrive", "drop", "sleep", "die", "mode", "refuse", "lose", "interfere"]):
                case "arrive":
                    await life.arrive(rng.randint(1, 12), patience_s=5.0)
                case "drop":
                    await life.drop(rng.randint(1, 12))
                case "sleep":
                    await life.sleep(rng.choice([0.15, 1.0, 12.0, 40.0, 130.0]))
                case "die":
                    life.rig.blow_at = life.rig.moments + rng.randint(1, 30)
                case "mode":
                    await life.restart(**rng.choice(MODES))
                case "refuse":
                    refuse_some(life.rig, rng.choice(CODES), rng.choice([0, 20, 90]))
                case "lose":
                    lose_some(life.rig, rng.choice([0, 30]))
                case "interfere":
                    interfere(life, rng.choice(["unassign", "assign", "detach", "crowd", "leave"]))
            life.check()
        await life.rest(sweep=True)

    virtual.run(story())


@pytest.mark.parametrize("seed", range(20))
def test_a_random_day_loses_nothing_and_ends_at_rest(seed: int) -> None:
    a_random_day(seed)


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_a_thousand_random_days_lose_nothing_and_end_at_rest() -> None:
    for seed in range(1000):
        try:
            a_random_day(seed)
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise


def test_a_day_notices_a_pool_that_forgets_who_owns_what(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = Pool.restore

    def forgetful(pool: Pool, grant: Any) -> None:
        if grant.key.container_id.endswith("1"):
            return
        honest(pool, grant)

    monkeypatch.setattr(Pool, "restore", forgetful)

    async def story() -> None:
        life = Life(Rig())
        await life.restart(WARM_IP_TARGET="2")
        await life.arrive(5)
        await life.restart()
        await life.arrive(8)
        life.check()
        await life.rest()

    with pytest.raises(AssertionError):
        virtual.run(story())
