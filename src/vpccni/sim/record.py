# SPDX-License-Identifier: Apache-2.0
"""What a simulation measures: addresses over time, EC2 calls, time to address, readiness, refusals.

Knows counters and sums over virtual time. Must never influence what is measured. Nodes and the account write in it,
`sim.result` reads it. All times are seconds from the start; `wasted` is held by a node and used by no pod.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field

POINTS = 240  # of each curve


@dataclass(slots=True)
class Level:
    """A quantity over time: its value now, its integral so far and its peak."""

    value: int = 0
    peak: int = 0
    integral: float = 0.0
    _at: float = 0.0

    def add(self, change: int, now: float) -> None:
        """The value changes by so much."""
        self.integral += self.value * (now - self._at)
        self._at = now
        self.value += change
        self.peak = max(self.peak, self.value)

    def restart(self, now: float) -> None:
        """Forget the past."""
        self._at, self.integral, self.peak = now, 0.0, self.value

    def until(self, now: float) -> float:
        """The integral up to a moment."""
        return self.integral + self.value * (now - self._at)


@dataclass(slots=True)
class Record:
    """The record of one run of `duration_s`.

    `held` counts every VPC address of the nodes, primary ones too; `used` those of pods, `cooling` those that rest.
    `undecided`: pods that had waited for less than one retry at the end. `waits` are seconds from a pod's arrival to
    its address.
    """

    duration_s: float
    start: float = 0.0
    held: Level = field(default_factory=Level)
    used: Level = field(default_factory=Level)
    enis: Level = field(default_factory=Level)
    calls: Counter[str] = field(default_factory=Counter)
    throttles: Counter[str] = field(default_factory=Counter)
    ec2_refusals: Counter[str] = field(default_factory=Counter)
    waits: list[float] = field(default_factory=list)
    arrived: int = 0
    given: int = 0
    undecided: int = 0
    unschedulable: int = 0
    refusals: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    ready_at: dict[int, float] = field(default_factory=dict)
    created: int = 0
    freed: int = 0
    calls_over_time: dict[str, Counter[int]] = field(default_factory=lambda: defaultdict(Counter))
    throttles_over_time: Counter[int] = field(default_factory=Counter)
    waits_over_time: dict[int, list[float]] = field(default_factory=lambda: defaultdict(list))
    samples: list[tuple[float, int, int, int]] = field(default_factory=list)  # time, held, used, ENIs

    def called(self, action: str, now: float, *, throttled: bool = False) -> None:
        """An EC2 call arrived."""
        point = self.point(now)
        self.calls[action] += 1
        self.calls_over_time[action][point] += 1
        if throttled:
            self.throttles[action] += 1
            self.throttles_over_time[point] += 1

    def refused(self, action: str, code: str) -> None:
        """EC2 refused a call."""
        self.ec2_refusals[f"{action} {code}"] += 1

    def started(self, wait_s: float, now: float) -> None:
        """A pod got its address after so long."""
        self.given += 1
        self.waits.append(wait_s)
        self.waits_over_time[self.point(now)].append(wait_s)
        self.used.add(1, now)

    def stopped(self, now: float) -> None:
        """A pod gave its address back."""
        self.used.add(-1, now)

    def ready(self, node: int, now: float) -> None:
        """A node has what it is to have; only the first time counts."""
        self.ready_at.setdefault(node, now)

    def point(self, now: float) -> int:
        """The point of the curves that a moment belongs to."""
        return max(0, min(POINTS - 1, int((now - self.start) * POINTS / self.duration_s)))

    def sample(self, now: float) -> None:
        """Take down the levels."""
        self.samples.append((now - self.start, self.held.value, self.used.value, self.enis.value))

    def begin(self, now: float, waiting: int) -> None:
        """The warm-up is over: count anew from here, with so many pods waiting. Levels and readiness stay."""
        self.start, self.arrived, self.given, self.created, self.freed = now, waiting, 0, 0, 0
        for level in (self.held, self.used, self.enis):
            level.restart(now)
        for counts in (self.calls, self.throttles, self.ec2_refusals, self.refusals, self.failed):
            counts.clear()
        self.waits.clear()
        self.calls_over_time.clear()
        self.throttles_over_time.clear()
        self.waits_over_time.clear()
