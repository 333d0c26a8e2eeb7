# SPDX-License-Identifier: Apache-2.0
"""What pods needed in the last while: demand that comes in waves comes again, and what rises goes on rising.

Knows how long a peak counts, for ENIs and for single blocks, and how fast the need grows. Must never plan: `shrink`
keeps what the peak of a moment ago would need, `grow` asks for more when calls are rare. The engine and the simulator's
nodes note the first card's counters whenever these change, and hand the `Wave` to the plan.

What it costs is bounded: never more than was needed at one moment of the window, and never beyond its end.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from math import inf

from vpccni.core.stats import Tally

# In cooldowns, the one setting that says how fast pods come and go: ten minutes and one by default. An ENI costs seven
# calls and ten seconds to have again, an address one call and a second.
ENI_COOLDOWNS, BLOCK_COOLDOWNS = 20, 2
RISE_S = 10.0  # about as long as a node among many waits for its next call when EC2 is crowded


class Peak:
    """The highest value of a number over the last `window_s` seconds. The number keeps its value until the next one."""

    def __init__(self, window_s: float) -> None:
        self._window_s = window_s
        self._past: deque[tuple[int, float]] = deque()  # (value, when it ended), values falling
        self._value, self._since = 0, -inf

    def note(self, value: int, now: float) -> None:
        """The number is this from now on."""
        if now < self._since:  # the clock was set back: what is remembered would count for too long
            self._past.clear()
        elif value < self._value and self._window_s > 0:
            while self._past and self._past[-1][0] <= self._value:
                self._past.pop()
            self._past.append((self._value, now))
        self._value, self._since = value, now
        while self._past and (self._past[0][0] <= value or self._past[0][1] + self._window_s <= now):
            self._past.popleft()

    def above(self, now: float) -> tuple[int, float]:
        """By how much the peak is higher than the number is now, and until when that counts."""
        while self._past and self._past[0][1] + self._window_s <= now:
            self._past.popleft()
        if not self._past:
            return 0, inf
        value, ended = self._past[0]
        return max(0, value - self._value), ended + self._window_s


@dataclass(frozen=True, slots=True)
class Wave:
    """Addresses beyond those that pods need now: needed lately, with the time until which they are kept, or soon."""

    for_enis: int = 0
    enis_until: float = inf
    for_blocks: int = 0
    blocks_until: float = inf
    rising: int = 0  # by how much the need grew in the last moment, when EC2 is crowded: as much again is asked for

    def kept(self, *, whole_enis: bool) -> int:
        """What is certainly not given back, in a pool that gives back whole ENIs only or one that gives back blocks."""
        return self.for_enis if whole_enis else min(self.for_enis, self.for_blocks)


CALM = Wave()


class Lately:
    """The two peaks and the trend of one pool's demand: what pods have, and what cools."""

    def __init__(self, cooldown_s: float) -> None:
        """0: nothing is remembered."""
        self._enis, self._blocks = Peak(ENI_COOLDOWNS * cooldown_s), Peak(BLOCK_COOLDOWNS * cooldown_s)
        self._lows = Peak(RISE_S)  # of the need with its sign turned

    def note(self, tally: Tally, now: float, *, crowded: bool = False) -> Wave:
        """The counters are these; what is kept beside them. `crowded`: EC2 refuses calls (`pacing`)."""
        needed = tally.total - tally.available  # refused pods that never came back are no peak
        self._enis.note(needed, now)
        self._blocks.note(needed, now)
        self._lows.note(-needed, now)
        rising = self._lows.above(now)[0] if crowded else 0
        return Wave(*self._enis.above(now), *self._blocks.above(now), rising)


def again(tally: Tally, addresses: int) -> Tally:
    """The counters with so many pods expected."""
    return tally if addresses == tally.coming else replace(tally, coming=addresses)
