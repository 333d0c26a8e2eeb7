# SPDX-License-Identifier: Apache-2.0
"""EC2 calls from the event loop: one thread pool, one place where calls are counted and timed.

Knows how a synchronous call becomes awaitable and what metrics it leaves. Must never know why a call is made.
`ipamd.saga` and `ipamd.observe` go through it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, TypeVar

from vpccni.aws.ec2 import Addresses, Interfaces, Inventory
from vpccni.errors import CloudError

T = TypeVar("T")
THREADS = 8


class CallMeter(Protocol):
    """Where calls are counted."""

    def ec2_call(self, api: str, duration_s: float, code: str) -> None:
        """One call of an EC2 operation ended; `code` is empty on success."""


class CloudCalls:
    """Runs calls in worker threads; `close` waits for those under way."""

    def __init__(self, interfaces: Interfaces, addresses: Addresses, inventory: Inventory, meter: CallMeter) -> None:
        self.interfaces, self.addresses, self.inventory = interfaces, addresses, inventory
        self._meter = meter
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="ec2")

    async def run(self, api: str, call: Callable[[], T]) -> T:
        """Await `call` in a thread; `api` names the EC2 operation for the metrics. Raises what it raises."""
        started = time.monotonic()
        code = ""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, call)
        except CloudError as error:
            code = error.aws_code or error.error_code
            raise
        finally:
            self._meter.ec2_call(api, time.monotonic() - started, code)

    def close(self) -> None:
        """Stop taking calls; those under way end by themselves."""
        self._threads.shutdown(wait=False, cancel_futures=True)
