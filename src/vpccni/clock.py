# SPDX-License-Identifier: Apache-2.0
"""Time as a dependency: what a program asks for the time and how it waits.

Knows wall time in Unix seconds. Must never be imported by `core`, where `now` is an argument.
Composition roots pass `SystemClock`; tests and the simulator pass a clock of their own.
"""

from __future__ import annotations

import asyncio
import time
from typing import Protocol


class Clock(Protocol):
    """Unix time in seconds, and waiting on it."""

    def now(self) -> float:
        """The time now, in Unix seconds."""

    async def sleep(self, duration_s: float) -> None:
        """Return `duration_s` seconds from now."""


class SystemClock:
    """The machine's clock and asyncio's timer."""

    def now(self) -> float:
        """The time now, in Unix seconds."""
        return time.time()

    async def sleep(self, duration_s: float) -> None:
        """Return `duration_s` seconds from now."""
        await asyncio.sleep(duration_s)
