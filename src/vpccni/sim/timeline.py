# SPDX-License-Identifier: Apache-2.0
"""Virtual time: a queue of what happens when, and processes as generators that wait in it.

Knows order, never meaning. Must never read a clock or draw a number. The fleet, the account and every node of a
simulation share one `Timeline`.

A process is a generator: it yields seconds to sleep, or a `Flag` to wait for.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Generator
from math import inf
from typing import Any, TypeVar

T = TypeVar("T")


class Flag:
    """Something that happens once; processes that wait for it go on at that moment."""

    __slots__ = ("raised", "waiting")

    def __init__(self) -> None:
        self.raised = False
        self.waiting: list[Process[Any]] = []


Process = Generator["float | Flag", None, T]


class Timeline:
    """The queue. `now` is in seconds from the start; things of one moment happen in the order of their entry."""

    def __init__(self) -> None:
        self.now = 0.0
        self._queue: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._serial = 0

    def clock(self) -> float:
        """`now`, as a callable for those who want one."""
        return self.now

    def at(self, when: float, what: Callable[..., None], *arguments: Any) -> None:
        """Call `what` at a moment, at once if it has passed."""
        self._serial += 1
        heapq.heappush(self._queue, (when, self._serial, what, arguments))

    def next_at(self) -> float:
        """When the next thing happens; infinity: nothing will."""
        return self._queue[0][0] if self._queue else inf

    def step(self) -> None:
        """Let the next thing happen."""
        when, _, what, arguments = heapq.heappop(self._queue)
        self.now = max(self.now, when)
        what(*arguments)

    def spawn(self, process: Process[Any]) -> None:
        """Start a process now."""
        self._resume(process)

    def raise_flag(self, flag: Flag) -> None:
        """It happened."""
        flag.raised = True
        waiting, flag.waiting = flag.waiting, []
        for process in waiting:
            self._resume(process)

    def _resume(self, process: Process[Any]) -> None:
        try:
            wanted = next(process)
        except StopIteration:
            return
        if isinstance(wanted, Flag):
            if wanted.raised:
                self.at(self.now, self._resume, process)
            else:
                wanted.waiting.append(process)
        else:
            self.at(self.now + wanted, self._resume, process)
