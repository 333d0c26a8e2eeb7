# SPDX-License-Identifier: Apache-2.0
"""Which steps of a plan begin now, and which are better planned anew in a moment.

Knows that one EC2 call for ten addresses costs as much as one for a single address, and that a call which EC2 throttles
is worth nothing. Must never plan: a step that does not begin is dropped, and the plan at the later time says what is
needed then. The daemon's engine and the simulator's nodes ask it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf

from vpccni.core.pacing import act_at
from vpccni.core.stats import Tally
from vpccni.core.steps import Growth, Step, Wait, first_call


class Gathering:
    """Remembers since when the pool is short."""

    def __init__(self) -> None:
        self._short_since: float | None = None

    def patient(self, tally: Tally, spare: int, now: float) -> bool:
        """Whether it is known that the pool is short, and more is being waited for: planning now would start nothing
        that grows it."""
        return self._short_since is not None and act_at(self._short_since, tally, spare, now) > now

    def due(
        self, steps: Sequence[Step], tally: Tally, spare: int, now: float, free_at: Callable[[str, float], float]
    ) -> tuple[list[Step], float]:
        """The steps to run now, and when to plan again because of the others (infinity: no need).

        `tally` and `spare` are the first card's counters and target; `free_at(action, now)` is when EC2 may be asked,
        `now` at the earliest.
        """
        growth = [step for step in steps if isinstance(step, Growth)]
        if not growth:
            self._short_since = None
        elif self._short_since is None:
            self._short_since = now
        gathered_at = now if self._short_since is None else act_at(self._short_since, tally, spare, now)
        ready: list[Step] = []
        again = inf
        for step in steps:
            if isinstance(step, Wait):
                continue
            at = free_at(first_call(step), now)
            if isinstance(step, Growth):
                at = max(at, gathered_at)
            if at > now:
                again = min(again, at)
            else:
                ready.append(step)
        if any(step in ready for step in growth):
            self._short_since = None
        return ready, again
