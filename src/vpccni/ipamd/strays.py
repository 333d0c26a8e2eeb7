# SPDX-License-Identifier: Apache-2.0
"""Host veths of pods that were unwired but whose namespace lives on: deleted together, off every path that waits.

Knows that a veth normally dies with its pod's namespace moments after the DEL, and that one which does not would leave
the pod an interface with an address that is about to be somebody else's. Must never touch a link that a newer
attachment made: links are named by index. Deleting one costs the kernel a grace period (20 ms), so they are gathered.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping

from vpccni.errors import VpcCniError
from vpccni.host.kernel import NodeKernel

log = logging.getLogger(__name__)

GATHER_S = 1.0


class StrayLinks:
    """Collects links; `run` deletes those that still exist, until cancelled."""

    def __init__(self, delete: Callable[[Mapping[int, str]], list[str]]) -> None:
        """`delete` removes links (index -> name) and returns the names of those that were there; runs in a thread."""
        self._delete = delete
        self._waiting: dict[int, str] = {}
        self._some = asyncio.Event()

    def left(self, index: int, name: str) -> None:
        """A pod was unwired; its veth should vanish by itself. Index 0: it has already."""
        if index:
            self._waiting[index] = name
            self._some.set()

    async def run(self) -> None:
        """The loop."""
        while True:
            await self._some.wait()
            await asyncio.sleep(GATHER_S)
            self._some.clear()
            batch, self._waiting = self._waiting, {}
            try:
                deleted = await asyncio.to_thread(self._delete, batch)
            except VpcCniError as error:  # the next ADD of the pod replaces the link
                log.warning("%s", error, extra={"facts": error.evidence})
            else:
                for name in deleted:
                    log.info("deleted the link of a pod whose namespace lives on: %s", name)


def delete_left(links: Mapping[int, str]) -> list[str]:
    """`NodeKernel.delete_left` with a socket of its own, for a thread that is not the wiring thread."""
    with NodeKernel() as kernel:
        return kernel.delete_left(links)
