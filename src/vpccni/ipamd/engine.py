# SPDX-License-Identifier: Apache-2.0
"""The loop that keeps the pool at its targets: woken by demand or time, observes, corrects, plans, acts.

Knows the order of the walk and which steps are under way. Must never decide what is needed (`core.plan`,
`core.reconcile`) nor how a step is done safely (`ipamd.steprunner`). Woken by the low watermark, not by a tick.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from math import inf

from vpccni.clock import Clock
from vpccni.core import plan as planning
from vpccni.core import targets as targeting
from vpccni.core.gather import Gathering
from vpccni.core.lately import Lately, Wave, again
from vpccni.core.pool import Pool
from vpccni.core.reconcile import SETTLE_S
from vpccni.core.steps import Decrease, Growth, Step, Wait
from vpccni.core.targets import NodeLimits, Targets
from vpccni.errors import Refused, VpcCniError
from vpccni.ipamd.decisions import Decisions
from vpccni.ipamd.holds import HoldBook
from vpccni.ipamd.metrics import Metrics
from vpccni.ipamd.steprunner import StepRunner

log = logging.getLogger(__name__)

RECONCILE_S = 60.0


class Engine:
    """Runs until cancelled. `wake` may be called at any time from the event loop."""

    def __init__(
        self,
        pool: Pool,
        targets: Targets,
        limits: NodeLimits,
        runner: StepRunner,
        holds: HoldBook,
        clock: Clock,
        metrics: Metrics,
        settled: Callable[[], None],
        decisions: Decisions | None = None,
        lately: Lately | None = None,
    ) -> None:
        """`settled` is called after every turn; the daemon looks there whether it has become ready. Without `lately`
        what is idle goes back at once."""
        self._pool, self._targets, self._limits = pool, targets, limits
        self._runner, self._holds, self._clock, self._metrics = runner, holds, clock, metrics
        self._settled = settled
        self._decisions = decisions or Decisions(clock.now)
        self._event = asyncio.Event()
        self._gathering, self._lately = Gathering(), lately or Lately(0.0)
        self._pending: list[Step] = []
        self._reconcile_at = clock.now() + RECONCILE_S
        self._last_decrease: float | None = None
        self.waits: tuple[Wait, ...] = ()
        self.obstacles: tuple[Wait, ...] = ()  # what keeps the pool from growing, as far as is known
        self._reconciling = False
        self._wake_at = inf
        self._tasks = asyncio.TaskGroup()

    def wake(self) -> None:
        """Something changed: look at once."""
        self._event.set()

    def wake_if_low(self) -> None:
        """After an ADD or DEL: wake only when the pool is short or something may be given back."""
        now = self._clock.now()
        wave = self._lately.note(self._pool.tally(now, 0), now)
        if self._pending:
            return  # the end of a step wakes the engine anyway
        rest_at = self._pool.next_rest(now)
        sooner = rest_at is not None and rest_at < self._wake_at  # what was released may go back after its cooldown
        if sooner or planning.low_watermark(self._pool, self._targets, self._limits, now) or self._over(now, wave):
            self._event.set()

    async def run(self) -> None:
        """The loop. Ends only by cancellation, or loudly."""
        async with self._tasks:
            while True:
                self._wake_at = await self._turn()
                self._settled()
                await self._sleep_until(self._wake_at)

    def plan(self) -> list[Step]:
        """What would be done now; also for explanations."""
        now = self._clock.now()
        return planning.plan(
            self._pool,
            self._targets,
            self._limits,
            now,
            holds=self._holds.now_holding(),
            last_decrease=self._last_decrease,
            pending=self._pending,
            wave=self._lately.note(self._pool.tally(now, 0), now, crowded=self._runner.crowded(now)),
        )

    async def _turn(self) -> float:
        now = self._clock.now()
        if now >= self._reconcile_at and not self._reconciling:
            self._reconcile_at = now + RECONCILE_S
            self._reconciling = True
            self._tasks.create_task(self._reconcile(), name="reconcile")
        self._drop_stand_ins(now)
        steps = self.plan()
        self._explain([step for step in steps if isinstance(step, Wait)])
        # A plan that grows takes success for granted in its waits. Trying again does not remove an obstacle.
        if not any(isinstance(step, Growth) for step in [*self._pending, *steps]):
            self.obstacles = self.waits
        elif self._holds.last_error is None:
            self.obstacles = ()
        ready, later = self._gathering.due(
            steps, self._pool.tally(now, 0), self._demand().spare, now, self._runner.free_at
        )
        for step in ready:
            self._start(step, now)
        by_time = planning.next_wake(steps, self._pool, now)
        # The end of a reconcile wakes the loop; one that is under way must not make it spin.
        return min(later, inf if by_time is None else by_time, inf if self._reconciling else self._reconcile_at)

    def _start(self, step: Step, now: float) -> None:
        try:
            self._runner.prepare(step)
        except Refused as error:  # an ADD took the address between plan and now: the next plan sees it
            log.info("step dropped: %s", error)
            return
        if isinstance(step, Decrease):
            self._last_decrease = now
        log.info("step: %s", step)
        self._pending.append(step)
        self._tasks.create_task(self._run(step), name=str(step))

    async def _run(self, step: Step) -> None:
        action = "decreaseDatastorePool" if isinstance(step, Decrease) else "increaseDatastorePool"
        try:
            with self._decisions.step(step), self._metrics.in_progress.labels(action).track_inprogress():
                await self._runner.run(step)
        except VpcCniError:
            self._metrics.error(action)
            # What is true now, EC2 must say, once its answers are newer than what we tried.
            self._reconcile_at = min(self._reconcile_at, self._clock.now() + SETTLE_S + 1.0)
        finally:
            self._pending.remove(step)
            self._event.set()

    async def _reconcile(self) -> None:
        with self._metrics.in_progress.labels("nodeIPPoolReconcile").track_inprogress():
            try:
                for kind in await self._runner.reconcile():
                    self._metrics.reconciled(kind)
                    self._decisions.corrected(kind)
            except VpcCniError as error:
                self._metrics.error("nodeIPPoolReconcile")
                log.warning("%s", error, extra={"facts": error.evidence})
            finally:
                self._reconciling = False
                self._event.set()

    def _drop_stand_ins(self, now: float) -> None:
        """When prefixes alone meet the targets again, single addresses that stood in for them drain."""
        pool = self._pool
        if pool.singles and planning.prefixes_suffice(
            pool, self._targets, self._limits, self._holds.now_holding(), now
        ):
            log.info("prefixes can be had again: single addresses drain")
            pool.set_mode(pool.mode)

    def _over(self, now: float, wave: Wave) -> bool:
        wanted = self._demand()
        return wanted.over(again(self._pool.tally(now), wave.kept(whole_enis=wanted.whole_enis))) > 0

    def _demand(self) -> targeting.Demand:
        """Of the first network card."""
        return targeting.demand(self._targets, self._limits, self._pool.mode, self._pool.version)

    def _explain(self, waits: list[Wait]) -> None:
        if [wait.code for wait in waits] != [wait.code for wait in self.waits]:
            for wait in waits:
                log.info("%s", wait)
        self.waits = tuple(waits)
        self._decisions.waiting(waits)

    async def _sleep_until(self, at: float) -> None:
        delay_s = None if at == inf else max(0.0, at - self._clock.now())
        with suppress(TimeoutError):
            # Not wait_for: until Python 3.12 it forgets a cancellation that arrives together with the event.
            async with asyncio.timeout(delay_s):
                await self._event.wait()
        self._event.clear()
