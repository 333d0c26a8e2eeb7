# SPDX-License-Identifier: Apache-2.0
"""Forgetting the flows of released addresses, gathered and off the path that a runtime waits on.

Knows when a flush must have happened: before the address is handed out again. Must never know why an address goes.
One walk over the kernel's table costs milliseconds whatever the number of addresses, so releases are collected.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from vpccni.aws.values import IPAddress
from vpccni.errors import VpcCniError

log = logging.getLogger(__name__)

GATHER_S = 0.25
# A cooldown shorter than this leaves no room for gathering: then the DEL waits for the flush.
SHORTEST_COOLDOWN_S = 5.0


class FlowFlusher:
    """Collects addresses; `run` flushes them until cancelled."""

    def __init__(self, flush: Callable[[set[IPAddress]], int], cooldown_s: float) -> None:
        """`flush` deletes the connection tracking entries of addresses; it is called in a thread."""
        self._flush, self._at_once = flush, cooldown_s < SHORTEST_COOLDOWN_S
        self._waiting: set[IPAddress] = set()
        self._some = asyncio.Event()

    async def forget(self, addresses: Sequence[IPAddress]) -> None:
        """Flush soon, or before returning when addresses are reused at once."""
        if self._at_once:
            await self._flushed(set(addresses))
            return
        self._waiting.update(addresses)
        self._some.set()

    async def run(self) -> None:
        """The loop."""
        while True:
            await self._some.wait()
            await asyncio.sleep(GATHER_S)
            self._some.clear()
            batch, self._waiting = self._waiting, set()
            await self._flushed(batch)

    async def _flushed(self, batch: set[IPAddress]) -> None:
        try:
            await asyncio.to_thread(self._flush, batch)
        except VpcCniError as error:  # the pod is gone all the same; stale entries expire by themselves
            log.warning("%s", error, extra={"facts": error.evidence})
