# SPDX-License-Identifier: Apache-2.0
"""Runs: one job, or several side by side over the same trace on as many processes as there are cores.

Knows where traces come from and that workers return the same results in the same order as one process would. Must
never print. `cli.sim` calls it.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from queue import Empty
from typing import Any

from vpccni.sim import profiles
from vpccni.sim.fleet import Fleet, Job, Progress, capacity, instance_limits
from vpccni.sim.result import Result, result
from vpccni.sim.trace import PodEvent

Watch = Callable[[int, float], None]


@dataclass(frozen=True, slots=True)
class Source:
    """Where the pods come from: a generated `kind`, or the `events` of a file."""

    kind: str = ""
    events: tuple[PodEvent, ...] = ()
    unschedulable: int = 0

    def trace(self, job: Job) -> Sequence[PodEvent]:
        """The events. They depend on the seed and the fleet, never on settings or policy."""
        if not self.kind:
            return self.events
        limits = instance_limits(job.instance_type)
        slots = limits.ipv4_per_eni - 1
        return profiles.events(self.kind, job.seed, job.nodes, capacity(limits), slots, job.duration_s, job.warm_up_s)


def run(job: Job, source: Source, progress: Progress = lambda share: None) -> Result:
    """One job from start to end."""
    # A run makes millions of small objects and few cycles: collecting as often as usual costs a fifth of the time.
    thresholds = gc.get_threshold()
    gc.set_threshold(200_000, 50, 100)
    logged = logging.root.manager.disable
    logging.disable(logging.CRITICAL)  # what a daemon would log of each of a thousand nodes
    try:
        fleet = Fleet(job)
        record = fleet.play(source.trace(job), progress)
        record.unschedulable = source.unschedulable
        return result(job, record, fleet.timeline.now)
    finally:
        logging.disable(logged)
        gc.set_threshold(*thresholds)


def compare(
    jobs: Sequence[Job], source: Source, processes: int, watch: Watch = lambda job, share: None
) -> list[Result]:
    """Several jobs over one trace; results in the order of the jobs. `watch` hears of each job's progress."""
    if len(jobs) == 1 or processes <= 1:
        return [run(job, source, lambda share, number=number: watch(number, share)) for number, job in enumerate(jobs)]  # type: ignore[misc]
    spawning = get_context("spawn")
    with spawning.Manager() as manager, ProcessPoolExecutor(processes, mp_context=spawning) as pool:
        told: Any = manager.Queue()
        futures = [pool.submit(_work, number, job, source, told) for number, job in enumerate(jobs)]
        while not all(future.done() for future in futures):
            try:
                watch(*told.get(timeout=0.2))
            except Empty:
                continue
        return [future.result() for future in futures]


def _work(number: int, job: Job, source: Source, told: Any) -> Result:
    return run(job, source, lambda share: told.put((number, share)))
