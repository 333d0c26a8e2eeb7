# SPDX-License-Identifier: Apache-2.0
"""The seam between the wire and the operation: latency, throttling, faults.

Knows one call at a time, before it takes effect and before its answer is sent. Must never know what the call means to
the model. `app` asks it; the default takes latencies and faults from the cloud, as they are at that moment.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from vpccni.lab.cloud.errors import ApiError
from vpccni.lab.cloud.gate import Lost, is_filtered
from vpccni.lab.cloud.world import World

Sleep = Callable[[float], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Call:
    """One API call. `client` is the caller's address, `access_key` who signed (not verified)."""

    action: str
    parameters: Mapping[str, Any]
    client: str
    access_key: str


class Admission(Protocol):
    """What may happen to a call around its effect."""

    async def before(self, call: Call) -> None:
        """May wait, and may raise `ApiError` or `gate.Lost`: the call then has no effect."""

    async def after(self, call: Call) -> bool:
        """May wait. False: the call had its effect but its answer is lost, the connection closes without a word."""


class Weather:
    """Every call takes its time and goes through the cloud's gate."""

    def __init__(self, world: World, rng: random.Random, sleep: Sleep = asyncio.sleep) -> None:
        self._world, self._rng, self._sleep = world, rng, sleep

    async def before(self, call: Call) -> None:
        """Refuse at once what is refused; else wait as long as this action usually takes."""
        resources = len(call.parameters.get("InstanceIds", ())) if call.action == "TerminateInstances" else 0
        filtered = is_filtered(call.parameters)
        try:
            self._world.gate.before(call.action, self._world.now, filtered=filtered, resources=resources)
        except ApiError:
            await self._wait("")  # a refusal takes no less than the quickest answer
            raise
        await self._wait(call.action)

    async def after(self, call: Call) -> bool:
        """The answer may get lost."""
        try:
            self._world.gate.after(call.action)
        except Lost:
            return False
        return True

    async def _wait(self, action: str) -> None:
        profile, factor = self._world.profile, self._world.gate.faults.latency
        delay_s = profile.latency_of(action).draw(self._rng) * factor
        if delay_s > 0:
            await self._sleep(delay_s)
