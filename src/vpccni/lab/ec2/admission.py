# SPDX-License-Identifier: Apache-2.0
"""The seam between the wire and the operation: latency, throttling, faults.

Knows one call at a time, before it takes effect and before its answer is sent. Must never know what the call means to
the model. `app` asks it; the default only waits as the profile says.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from vpccni.lab.cloud.profile import Profile


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
        """May wait, and may raise `ApiError`: the call then has no effect (`errors.throttled()` for RequestLimit)."""

    async def after(self, call: Call) -> bool:
        """May wait. False: the call had its effect but its answer is lost, the connection closes without a word."""


class Latency:
    """Every call takes its time, none is refused or lost."""

    def __init__(
        self, profile: Profile, rng: random.Random, sleep: Callable[[float], Awaitable[object]] = asyncio.sleep
    ) -> None:
        self._profile, self._rng, self._sleep = profile, rng, sleep

    async def before(self, call: Call) -> None:
        """Wait as long as this action usually takes."""
        delay_s = self._profile.latency_of(call.action).draw(self._rng)
        if delay_s > 0:
            await self._sleep(delay_s)

    async def after(self, call: Call) -> bool:
        """Every answer arrives."""
        return True
