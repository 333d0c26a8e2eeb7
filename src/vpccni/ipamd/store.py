# SPDX-License-Identifier: Apache-2.0
"""The daemon's files together: read and judged at start, journal compacted and `ipam.json` written behind.

Knows when which file is read or written. Must never decide which grants are true (`ipamd.recovery` does).
`ipamd.program` opens it and runs `write_behind`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from pathlib import Path

from vpccni.clock import Clock
from vpccni.core.pool import Pool
from vpccni.errors import StateError
from vpccni.ipamd import checkpoint, journal, records, recovery
from vpccni.ipamd.checkpoint import Allocation
from vpccni.ipamd.journal import Journal
from vpccni.ipamd.records import Intent, JournalState
from vpccni.ipamd.recovery import Recovered
from vpccni.ipamd.worker import Worker

log = logging.getLogger(__name__)

WRITE_BEHIND_S = 0.5
COMPACT_AT_LINES = 2000


def read_journal(path: Path, now: float) -> JournalState:
    """What the journal says; one that cannot be believed is set aside and counts as empty."""
    try:
        return records.replay(journal.read(path))
    except StateError as error:
        _set_aside(path, error, now)
        return JournalState()


def read_checkpoint(path: Path, now: float) -> list[Allocation]:
    """What `ipam.json` says; one that cannot be believed is set aside and counts as empty."""
    try:
        return checkpoint.read(path)
    except StateError as error:
        _set_aside(path, error, now)
        return []


def open_journal(path: Path, found: Recovered, intents: dict[str, Intent]) -> Journal:
    """A fresh journal that holds what was recovered."""
    state = JournalState({grant.key: grant for grant in found.grants}, dict(found.released), dict(intents))
    return Journal(path, records.snapshot(state))


def fill(pool: Pool, found: Recovered) -> None:
    """Put what was recovered into an empty pool: grants wait as orphans until EC2 names their ENIs."""
    for grant in found.grants:
        pool.restore(grant)
    for address, released_at in found.released.items():
        pool.restore_cooling(address, released_at)


class WriteBehind:
    """Keeps `ipam.json` at most a second behind the pool, and the journal short."""

    def __init__(
        self,
        path: Path,
        pool: Pool,
        worker: Worker,
        log_lines: Callable[[], int],
        intents: Callable[[], Iterable[Intent]],
        clock: Clock,
    ) -> None:
        """`log_lines` is the journal's length, `intents` the unfinished sagas."""
        self._path, self._pool, self._worker = path, pool, worker
        self._log_lines, self._intents, self._clock = log_lines, intents, clock
        self._changed = asyncio.Event()

    def changed(self) -> None:
        """The pool's grants changed."""
        self._changed.set()

    async def run(self) -> None:
        """Write until cancelled. A full disk is reported and tried again: the journal holds the truth."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            await asyncio.sleep(WRITE_BEHIND_S)
            try:
                await asyncio.to_thread(checkpoint.write, self._path, self.allocations())
                if self._log_lines() > COMPACT_AT_LINES + 4 * sum(1 for _ in self._pool.grants()):
                    await self._worker.compact(records.snapshot(self._state()))
            except StateError as error:
                log.error("%s", error, extra={"facts": error.evidence})
                self._changed.set()

    def allocations(self) -> list[Allocation]:
        """All grants in the Go daemon's form."""
        return [entry for grant in self._pool.grants() for entry in recovery.allocation_of(grant)]

    def _state(self) -> JournalState:
        grants = {grant.key: grant for grant in self._pool.grants()}
        released = self._pool.cooling(self._clock.now())
        return JournalState(grants, released, {intent.token: intent for intent in self._intents()})


def _set_aside(path: Path, error: StateError, now: float) -> None:
    kept = journal.quarantine(path, now)
    log.error("%s", error, extra={"facts": {**error.evidence, "kept_as": str(kept), "next": error.hint}})
