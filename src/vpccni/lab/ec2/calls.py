# SPDX-License-Identifier: Apache-2.0
"""What was asked of the EC2 endpoint: the last calls one by one, and all of them in totals.

Knows who called what, how it ended and how long it took. Must never grow without bound: the ring forgets, the totals
do not. `app` writes, `vpccni lab calls` and tests read.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

CAPACITY = 20_000
LOST_BEFORE, LOST_AFTER = "lost-request", "lost-reply"  # in place of an error code: nobody got one


@dataclass(frozen=True, slots=True)
class Entry:
    """One call. `at` is when it came in (Unix seconds), `code` EC2's error code, "" for success; `subject` the ids that
    it named."""

    number: int
    at: float
    action: str
    client: str
    code: str
    status: int
    took_s: float
    request_id: str
    subject: str = ""


@dataclass(slots=True)
class Total:
    """All calls of one action. Seconds."""

    calls: int = 0
    took_s: float = 0.0
    worst_s: float = 0.0
    codes: dict[str, int] = field(default_factory=dict)

    def add(self, entry: Entry) -> None:
        """One more."""
        self.calls += 1
        self.took_s += entry.took_s
        self.worst_s = max(self.worst_s, entry.took_s)
        self.codes[entry.code] = self.codes.get(entry.code, 0) + 1


class CallLog:
    """The calls of one endpoint."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._ring: deque[Entry] = deque(maxlen=capacity)
        self._totals: dict[str, Total] = {}
        self._number = 0

    def record(
        self,
        *,
        at: float,
        action: str,
        client: str,
        code: str,
        status: int,
        took_s: float,
        request_id: str,
        subject: str = "",
    ) -> None:
        """A call has ended."""
        self._number += 1
        entry = Entry(self._number, at, action, client, code, status, took_s, request_id, subject)
        self._ring.append(entry)
        self._totals.setdefault(action, Total()).add(entry)

    @property
    def forgotten(self) -> int:
        """Calls that are in the totals only."""
        return self._number - len(self._ring)

    def totals(self) -> dict[str, Total]:
        """Since the endpoint started, by action."""
        return dict(sorted(self._totals.items()))

    def entries(self, wanted: Callable[[Entry], bool] = lambda entry: True) -> list[Entry]:
        """Those still remembered, oldest first."""
        return [entry for entry in self._ring if wanted(entry)]


def summed(entries: Iterable[Entry]) -> dict[str, Total]:
    """Totals of some entries, by action."""
    totals: dict[str, Total] = {}
    for entry in entries:
        totals.setdefault(entry.action, Total()).add(entry)
    return dict(sorted(totals.items()))
