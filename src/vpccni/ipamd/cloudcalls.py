# SPDX-License-Identifier: Apache-2.0
"""EC2 calls from the event loop: the three protocols and the threads that their calls run in.

Knows how a synchronous call becomes awaitable. Must never know why a call is made; `aws.boto` counts and times them.
`ipamd.saga` and `ipamd.engine` go through it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from vpccni.aws.ec2 import Addresses, Interfaces, Inventory

T = TypeVar("T")
THREADS = 8


class CloudCalls:
    """Runs calls in worker threads; `close` lets those under way end by themselves."""

    def __init__(self, interfaces: Interfaces, addresses: Addresses, inventory: Inventory) -> None:
        self.interfaces, self.addresses, self.inventory = interfaces, addresses, inventory
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="ec2")

    async def run(self, call: Callable[[], T]) -> T:
        """Await `call` in a thread. Raises what it raises."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)

    def close(self) -> None:
        """Take no more calls."""
        self._threads.shutdown(wait=False, cancel_futures=True)
