# SPDX-License-Identifier: Apache-2.0
"""The wiring thread: the only place that enters namespaces and the only writer of the journal.

Knows batches: what must be durable before the kernel is touched, the kernel work, and what must be durable before the
answer. Must never decide anything, and starts no thread (a thread started inside a pod's
namespace would stay there). The event loop submits jobs and awaits their futures.

rtnl is one mutex for the whole machine, so a second wiring thread would only wait (decision 4).
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from vpccni.errors import StateError
from vpccni.ipamd.journal import Record

log = logging.getLogger(__name__)

BATCH_LIMIT = 16


class DurableLog(Protocol):
    """The part of `Journal` that the worker needs."""

    def append(self, records: Sequence[Record]) -> None:
        """Make records durable, or raise StateError and leave the file as it was."""

    def rewrite(self, records: Sequence[Record]) -> None:
        """Replace the file's content, durably."""


@dataclass(slots=True)
class Job:
    """One unit of kernel work between its two durable moments.

    `before` is durable before `act` runs; `after` (or `failed`, when `act` raised) before the future resolves.
    """

    act: Callable[[], object]
    before: tuple[Record, ...] = ()
    after: tuple[Record, ...] = ()
    failed: tuple[Record, ...] = ()
    outcome: object = None
    error: BaseException | None = None
    future: asyncio.Future[object] | None = field(default=None, repr=False)


class Worker:
    """Owns the thread. `submit` from the event loop; `stop` drains what is queued and joins."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        journal: DurableLog,
        died: Callable[[BaseException], None],
    ) -> None:
        """`died` is told, on the loop, when the thread breaks."""
        self._loop, self._journal, self._died = loop, journal, died
        self._queue: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="wiring", daemon=True)

    def start(self) -> None:
        """Start the thread, in the namespace that the caller is in."""
        self._thread.start()

    async def submit(self, job: Job) -> object:
        """Run a job and return what `act` returned, or raise what it raised."""
        job.future = self._loop.create_future()
        self._queue.put(job)
        # Shielded: a caller that goes away (a runtime's deadline) must not leave half a transition behind.
        return await asyncio.shield(job.future)

    async def record(self, *records: Record) -> None:
        """Make records durable in the order of submission, with no kernel work."""
        await self.submit(Job(_nothing, before=records))

    async def compact(self, records: Sequence[Record]) -> None:
        """Replace the journal by `records`; the caller guarantees that they cover every job submitted before."""
        await self.submit(Job(lambda: self._journal.rewrite(records)))

    def stop(self, timeout_s: float = 10.0) -> None:
        """Finish everything queued, then end the thread."""
        self._queue.put(None)
        self._thread.join(timeout_s)

    def _run(self) -> None:
        try:
            while jobs := self._drain():
                self._batch(jobs)
                self._loop.call_soon_threadsafe(_resolve, jobs)
        except BaseException as error:  # a dead wiring thread must end the process, loudly
            self._loop.call_soon_threadsafe(self._died, error)

    def _drain(self) -> list[Job]:
        first = self._queue.get()
        if first is None:
            return []
        jobs = [first]
        while len(jobs) < BATCH_LIMIT:
            try:
                following = self._queue.get_nowait()
            except queue.Empty:
                break
            if following is None:
                self._queue.put(None)
                break
            jobs.append(following)
        return jobs

    def _batch(self, jobs: list[Job]) -> None:
        self._persist(jobs, [job.before for job in jobs])
        for job in jobs:
            if job.error is None:
                try:
                    job.outcome = job.act()
                except Exception as error:
                    job.error = error
        self._persist(jobs, [job.failed if job.error else job.after for job in jobs])

    def _persist(self, jobs: list[Job], records: list[tuple[Record, ...]]) -> None:
        batch = [record for group in records for record in group]
        if not batch:
            return
        try:
            self._journal.append(batch)
        except StateError as error:
            log.error("%s", error, extra={"facts": error.evidence})
            for job, group in zip(jobs, records, strict=True):
                if group and job.error is None:
                    job.error = error


def _nothing() -> None:
    """A job that only writes."""


def _resolve(jobs: list[Job]) -> None:
    for job in jobs:
        future = job.future
        if future is None or future.done():
            continue
        if job.error is not None:
            future.set_exception(job.error)
        else:
            future.set_result(job.outcome)
