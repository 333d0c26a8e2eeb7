# SPDX-License-Identifier: Apache-2.0
"""What had to be put right, how often, and about what there is a fight with another program.

Knows how repairs are counted, logged and held back. Must never find or make one: `ipamd.nodeside` does, and asks here.
All of it runs on the event loop.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable
from math import inf

from vpccni.core.difference import Change, command_of, kind_of, subject_of
from vpccni.core.fights import Fight, Fights

log = logging.getLogger(__name__)


class Repairs:
    """The daemon's repairs. `counted` hears the kind of each one (the metric)."""

    def __init__(self, now: Callable[[], float], counted: Callable[[str], None]) -> None:
        self._now, self._counted = now, counted
        self._fights = Fights()
        self.by_kind: Counter[str] = Counter()

    def held(self) -> frozenset[str]:
        """Objects to leave alone for now."""
        now = self._now()
        return frozenset(each.subject for each in self._fights.open(now) if not self.may(each.subject))

    def may(self, subject: str) -> bool:
        """Whether an object may be put right now."""
        return self._fights.may_repair(subject, self._now())

    def next_pause_s(self) -> float:
        """Seconds until something that is left alone may be put right; infinite when there is nothing."""
        pauses = [each.held_until - self._now() for each in self.fights()]
        return min((pause_s for pause_s in pauses if pause_s > 0), default=inf)

    def made(self, changes: Iterable[Change]) -> None:
        """These changes undid what somebody else did."""
        for change in changes:
            self.one(kind_of(change), subject_of(change), command_of(change))

    def one(self, kind: str, subject: str, command: str) -> None:
        """One repair of `kind`, by `command`."""
        self.by_kind[kind] += 1
        self._counted(kind)
        log.warning("repaired: %s", command, extra={"facts": {"kind": kind}})
        fight = self._fights.repaired(subject, self._now())
        if fight is not None:
            facts = {"subject": subject, "times": fight.times, "pause_s": fight.pause_s}
            log.error("another program undoes this again and again: %s", subject, extra={"facts": facts})

    def fights(self) -> list[Fight]:
        """What is fought about now."""
        return self._fights.open(self._now())
