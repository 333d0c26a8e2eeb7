# SPDX-License-Identifier: Apache-2.0
"""An event loop whose clock jumps: where a real one would sleep, time is turned forward.

Knows asyncio's selector only. A program under it may use `asyncio.sleep` and time-outs as always; it must not use
threads, because the loop would turn the clock while they work.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")
EPOCH = 1_700_000_000.0


class _Jumping(selectors.BaseSelector):
    def __init__(self) -> None:
        self._real = selectors.SelectSelector()
        self.offset_s = 0.0

    def register(self, *arguments: Any) -> Any:
        return self._real.register(*arguments)

    def unregister(self, fileobj: Any) -> Any:
        return self._real.unregister(fileobj)

    def select(self, timeout: float | None = None) -> Any:
        ready = self._real.select(0)
        if ready:
            return ready
        if timeout is None:
            raise RuntimeError("the program waits for nothing")
        self.offset_s += timeout
        return []

    def get_map(self) -> Any:
        return self._real.get_map()

    def close(self) -> None:
        self._real.close()


class VirtualLoop(asyncio.SelectorEventLoop):
    """`time()` is virtual; it starts at 0."""

    def __init__(self) -> None:
        self._jumping = _Jumping()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.offset_s


class VirtualClock:
    """The daemon's clock over a virtual loop."""

    def now(self) -> float:
        return EPOCH + asyncio.get_running_loop().time()

    async def sleep(self, duration_s: float) -> None:
        await asyncio.sleep(duration_s)


def run(program: Coroutine[Any, Any, T]) -> T:
    """Run a program in virtual time."""
    loop = VirtualLoop()
    try:
        return loop.run_until_complete(program)
    finally:
        for _ in range(20):  # what is cancelled may have something to undo first
            tasks = asyncio.all_tasks(loop)
            for task in tasks:
                task.cancel()
            loop.run_until_complete(asyncio.sleep(1))
        loop.close()
