# SPDX-License-Identifier: Apache-2.0
"""Which kernel objects come back wrong again and again, and how long to leave them alone.

Knows that two programs that both "repair" one object would do so for ever, at full speed. Must never know what the
object is or who the other one may be. `ipamd.repair` asks before each change and tells what it did.
"""

from __future__ import annotations

from dataclasses import dataclass

PATIENCE = 5  # repairs of one object within WINDOW_S that are taken for bad luck
WINDOW_S = 30.0
PAUSE_FIRST_S, PAUSE_LAST_S = 2.0, 60.0
FORGET_S = 300.0  # an object that stayed right for so long is no longer fought about


@dataclass(frozen=True, slots=True)
class Fight:
    """One object: how often it was put right since `since`, and until when it is left alone."""

    subject: str
    times: int
    since: float
    last_at: float
    pause_s: float = 0.0

    @property
    def held_until(self) -> float:
        """No repair before that time."""
        return self.last_at + self.pause_s

    def __str__(self) -> str:
        return f"{self.subject}: put right {self.times} times, and again wrong"


class Fights:
    """The history of repairs by object."""

    def __init__(self) -> None:
        self._of: dict[str, Fight] = {}

    def may_repair(self, subject: str, now: float) -> bool:
        """Whether an object may be changed now."""
        known = self._of.get(subject)
        return known is None or now >= known.held_until

    def repaired(self, subject: str, now: float) -> Fight | None:
        """It was changed. The fight, when this repair makes it one."""
        known = self._of.get(subject)
        if known is None or now - known.last_at > FORGET_S or (not known.pause_s and now - known.since > WINDOW_S):
            known = Fight(subject, 0, now, now)
        times = known.times + 1
        pause_s = min(PAUSE_LAST_S, known.pause_s * 2 or PAUSE_FIRST_S) if times >= PATIENCE else 0.0
        self._of[subject] = fight = Fight(subject, times, known.since, now, pause_s)
        self._of = {name: each for name, each in self._of.items() if now - each.last_at <= FORGET_S}
        return fight if pause_s else None

    def open(self, now: float) -> list[Fight]:
        """Objects that are fought about."""
        return [each for each in self._of.values() if each.pause_s and now - each.last_at <= FORGET_S]
