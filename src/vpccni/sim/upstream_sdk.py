# SPDX-License-Identifier: Apache-2.0
"""EC2 calls as the Amazon VPC CNI 1.23 makes them: the attempts of its SDK, and its own retries around some of them.

Knows aws-sdk-go-v2's standard retry mode: three attempts, jitter over a window that doubles, a quota of retries. Must
never know pools or ticks; `sim.upstream` does. For comparison only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from vpccni.errors import CloudError
from vpccni.sim.account import THROTTLED
from vpccni.sim.node import Node
from vpccni.sim.timeline import Process

T = TypeVar("T")
ATTEMPTS, BACKOFF_LAST_S = 3, 20.0
QUOTA, RETRY_COST = 500, 5  # a retry that succeeds gives its cost back, a first attempt that does gives back 1
TRIES, TRIES_LAST_S = 12, 60.0  # of the daemon's own retries around detach, delete and its look at the metadata


class SdkNode(Node):
    """A node whose calls are retried like that."""

    def start_sdk(self) -> None:
        """A process starts: its quota is full."""
        self._quota = QUOTA

    def call(self, action: str, effect: Callable[[], T]) -> Process[T]:
        """One call: up to three attempts when throttled, as long as the quota allows."""
        attempt = 1
        while True:
            try:
                answer = yield from self.account.request(action, effect)
            except CloudError as error:
                if error.aws_code != THROTTLED or attempt == ATTEMPTS or self._quota < RETRY_COST:
                    raise
            else:
                self._quota = min(QUOTA, self._quota + (1 if attempt == 1 else RETRY_COST))
                return answer
            self._quota -= RETRY_COST
            yield self.rng.random() * min(BACKOFF_LAST_S, 2.0**attempt)
            attempt += 1

    def insist(self, action: str, effect: Callable[[], T], first_s: float, tries: int = TRIES) -> Process[T]:
        """A call with the daemon's own retries around the SDK's."""
        pause_s = first_s
        for _ in range(tries - 1):
            try:
                return (yield from self.call(action, effect))
            except CloudError:
                yield pause_s
                pause_s = min(TRIES_LAST_S, pause_s * 2)
        return (yield from self.call(action, effect))
