# SPDX-License-Identifier: Apache-2.0
"""The wiring thread: durable before wired, durable before answered, and loud when it dies."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import pytest

from vpccni.errors import HostError, StateError
from vpccni.ipamd.journal import Record
from vpccni.ipamd.worker import Job, Worker


class Log:
    """A journal in memory that can be full."""

    def __init__(self) -> None:
        self.batches: list[list[Record]] = []
        self.full = False

    def append(self, records: Sequence[Record]) -> None:
        if self.full:
            raise StateError("append to the journal", "no space left")
        self.batches.append(list(records))

    def rewrite(self, records: Sequence[Record]) -> None:
        self.batches = [list(records)]


def run(story: object) -> None:
    asyncio.run(story)  # type: ignore[arg-type]


def start(log: Log, died: object = None) -> Worker:
    worker = Worker(asyncio.get_running_loop(), log, died or (lambda error: None))  # type: ignore[arg-type]
    worker.start()
    return worker


def test_records_are_durable_around_the_work_in_order() -> None:
    async def story() -> None:
        log, seen = Log(), []
        worker = start(log)
        job = Job(lambda: seen.append([list(batch) for batch in log.batches]), before=({"n": 1},), after=({"n": 2},))
        await worker.submit(job)
        assert seen == [[[{"n": 1}]]]
        assert log.batches == [[{"n": 1}], [{"n": 2}]]
        worker.stop()

    run(story())


def test_a_full_disk_stops_the_work_before_it_begins() -> None:
    async def story() -> None:
        log, done = Log(), []
        log.full = True
        worker = start(log)
        with pytest.raises(StateError):
            await worker.submit(Job(lambda: done.append(1), before=({"n": 1},)))
        assert done == []
        await worker.submit(Job(lambda: done.append(2)))  # work without records goes on
        assert done == [2]
        worker.stop()

    run(story())


def test_failed_work_leaves_its_failure_record_and_raises() -> None:
    async def story() -> None:
        log = Log()
        worker = start(log)

        def fail() -> None:
            raise HostError("wire", "no")

        with pytest.raises(HostError):
            await worker.submit(Job(fail, before=({"n": 1},), after=({"n": 2},), failed=({"n": 3},)))
        assert log.batches == [[{"n": 1}], [{"n": 3}]]
        worker.stop()

    run(story())


def test_a_batch_shares_one_write_and_keeps_the_order() -> None:
    async def story() -> None:
        log, order, gate = Log(), [], threading.Event()
        worker = start(log)
        first = asyncio.create_task(worker.submit(Job(gate.wait)))
        await asyncio.sleep(0.05)
        rest = [
            asyncio.create_task(worker.submit(Job(lambda n=n: order.append(n), before=({"n": n},)))) for n in range(10)
        ]
        await asyncio.sleep(0.05)
        gate.set()
        await asyncio.gather(first, *rest)
        assert order == list(range(10))
        assert log.batches == [[{"n": n} for n in range(10)]]
        worker.stop()

    run(story())


def test_a_caller_that_goes_away_does_not_stop_the_transition() -> None:
    async def story() -> None:
        log, gate = Log(), threading.Event()
        worker = start(log)
        task = asyncio.create_task(worker.submit(Job(gate.wait, after=({"n": 1},))))
        await asyncio.sleep(0.02)
        task.cancel()
        gate.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        await worker.record({"n": 2})
        assert log.batches == [[{"n": 1}], [{"n": 2}]]
        worker.stop()

    run(story())


def test_a_dead_thread_is_reported() -> None:
    async def story() -> None:
        died: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()
        worker = start(Log(), died.set_result)

        def die() -> None:
            raise SystemExit(3)

        pending = asyncio.create_task(worker.submit(Job(die)))
        assert isinstance(await asyncio.wait_for(died, 5), SystemExit)
        pending.cancel()

    run(story())


def test_stop_finishes_what_is_queued() -> None:
    async def story() -> None:
        done: list[int] = []
        worker = start(Log())
        tasks = [asyncio.create_task(worker.submit(Job(lambda n=n: done.append(n)))) for n in range(40)]
        await asyncio.sleep(0)
        worker.stop()
        await asyncio.gather(*tasks)
        assert done == list(range(40))

    run(story())
