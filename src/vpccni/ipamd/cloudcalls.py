# SPDX-License-Identifier: Apache-2.0
"""EC2 calls from the event loop: the three protocols and the threads that their calls run in.

Knows how a synchronous call becomes awaitable, and waits while EC2 throttles. Must never know why a call is made;
`aws.boto` counts and times them. `ipamd.saga` and `ipamd.engine` go through it.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from vpccni.aws.ec2 import Addresses, Interfaces, Inventory
from vpccni.aws.failure import THROTTLES
from vpccni.clock import Clock
from vpccni.core.census import Place
from vpccni.core.pacing import Pacer
from vpccni.errors import CloudError

log = logging.getLogger(__name__)

T = TypeVar("T")
THREADS = 8
PATIENCE_S = 600.0
DROPPED_S = 1.0  # an answer that breaks off sooner is a broken connection, not a silent endpoint
LONGEST_TURN_S = 300.0  # whatever the pacer makes of a long outage: a node does not sleep for hours after it


class Postponed(CloudError):
    """EC2 throttled the first call of a step: nothing has begun, and the step is planned anew when its turn comes."""

    def __init__(self, refusal: CloudError) -> None:
        super().__init__(refusal.action, refusal.why)
        self.__dict__.update(refusal.__dict__)


@dataclass(slots=True)
class Pace:
    """When calls are made: the pacer's rules, a clock to wait on, and draws for its jitter."""

    pacer: Pacer
    clock: Clock
    rng: random.Random


class CloudCalls:
    """Runs calls in worker threads; `close` lets those under way end by themselves."""

    def __init__(
        self,
        interfaces: Interfaces,
        addresses: Addresses,
        inventory: Inventory,
        pace: Pace | None = None,
        failed: Callable[[CloudError], None] = lambda error: None,
    ) -> None:
        """Without `pace` a throttled call fails at once. `failed` hears of every refusal, repeated or not."""
        self.interfaces, self.addresses, self.inventory = interfaces, addresses, inventory
        self._pace, self._failed = pace, failed
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="ec2")

    async def run(self, action: str, call: Callable[[], T], *, first: bool = False) -> T:
        """Make a call of an EC2 action as soon as the pace allows. Raises what it raises.

        The `first` call of a step raises Postponed when it is throttled. Any other is made again, for up to
        `PATIENCE_S`: undoing what was begun would cost more calls than waiting does. (Amazon VPC CNI 1.23 repeats it
        every 5 s, and ends the daemon if it happens at its start.)
        """
        pace = self._pace
        if pace is None:
            return await self.execute(call)
        deadline = pace.clock.now() + PATIENCE_S
        dropped = False
        while True:
            await self._await_turn(pace, action)
            asked_at = pace.clock.now()
            try:
                answer = await self.execute(call)
            except CloudError as error:
                now = pace.clock.now()
                if not error.aws_code and action.startswith("Describe") and not dropped and now - asked_at < DROPPED_S:
                    dropped = True  # a kept connection that the other side had just closed: asking again is harmless
                    continue
                if error.aws_code not in THROTTLES:
                    if error.aws_code:
                        pace.pacer.admitted(action, now)
                    raise
                again_at = pace.pacer.refused(action, now, pace.rng.random())
                facts = {"action": action, "again_in_s": round(again_at - now, 1)}
                log.info("EC2 throttles us", extra={"facts": facts})
                if first:
                    raise Postponed(error) from error
                if again_at > deadline:
                    raise
            else:
                pace.pacer.admitted(action, pace.clock.now())
                return answer

    def free_at(self, action: str, now: float) -> float:
        """When a call of the action could be made, `now` at the earliest; nothing is reserved."""
        return now if self._pace is None else self._pace.pacer.free_at(action, now)

    def crowded(self, now: float) -> bool:
        """Whether EC2 refused a call for their number a moment ago."""
        return self._pace is not None and self._pace.pacer.crowded(now)

    def told(self, place: Place) -> None:
        """The node's place among those that start with it: its turn, should EC2 refuse calls."""
        if self._pace is not None:
            self._pace.pacer.told(place, self._pace.clock.now())

    async def _await_turn(self, pace: Pace, action: str) -> None:
        now = pace.clock.now()
        at = min(pace.pacer.reserve(action, now), now + LONGEST_TURN_S)
        while (delay_s := at - pace.clock.now()) > 0:
            await pace.clock.sleep(delay_s)

    async def execute(self, call: Callable[[], T]) -> T:
        """Await `call` in a thread."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, call)
        except CloudError as error:
            self._failed(error)
            raise

    def close(self) -> None:
        """Take no more calls."""
        self._threads.shutdown(wait=False, cancel_futures=True)
