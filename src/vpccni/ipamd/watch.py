# SPDX-License-Identifier: Apache-2.0
"""Sees that somebody changed the node's kernel state, and has it put right within a second.

Knows where changes show: rtnetlink and nftables events at once; kernel settings and legacy iptables, which send none,
by looking every second; everything else by comparing all of it now and then. Must never decide what is right nor repair
anything itself: `ipamd.nodeside` and `ipamd.nodefirewall` do both. `ipamd.bringup` runs it beside the engine.

Events are gathered: a burst of a thousand costs a few comparisons, and the daemon's own ADDs and DELs none
(`core.drift`).
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from contextlib import ExitStack, suppress

from vpccni.clock import Clock
from vpccni.core.drift import concerns, firewall_concerns
from vpccni.errors import VpcCniError
from vpccni.ipamd.nodeside import NodeSide
from vpccni.netlink.firewall_events import FirewallMonitor
from vpccni.netlink.monitor import Monitor

log = logging.getLogger(__name__)

GROUPS = ("link", "address", "route", "rule")
GATHER_S = 0.05
REST_S = 0.25  # between two comparisons, whatever happens
SYSCTLS_S = 1.0
LEGACY_S = 1.0
LEGACY_SHARE = 0.02  # of the time may go into listing legacy rules


class Watch:
    """Runs until cancelled."""

    def __init__(self, side: NodeSide, interval_s: float, clock: Clock, rng: random.Random) -> None:
        """`interval_s`: the time between two full comparisons, about."""
        self._side, self._interval_s = side, interval_s
        self._clock, self._rng = clock, rng
        self._objects, self._rules = asyncio.Event(), asyncio.Event()

    async def run(self) -> None:
        """The loops."""
        loop = asyncio.get_running_loop()
        with ExitStack() as stack:
            monitor = stack.enter_context(Monitor(GROUPS))
            loop.add_reader(monitor.fileno(), self._read, monitor)
            stack.callback(loop.remove_reader, monitor.fileno())
            legacy = not await self._firewall_sends_events()
            if not legacy:
                rules = stack.enter_context(FirewallMonitor())
                loop.add_reader(rules.fileno(), self._read_firewall, rules)
                stack.callback(loop.remove_reader, rules.fileno())
            firewall = self._poll_firewall() if legacy else self._follow(self._rules, self._side.firewall.restore)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._follow(self._objects, self._side.converge), name="watch objects")
                tasks.create_task(firewall, name="watch firewall")
                tasks.create_task(self._poll_sysctls(), name="watch sysctls")

    async def _firewall_sends_events(self) -> bool:
        try:
            return await asyncio.to_thread(self._side.firewall.sends_events)
        except VpcCniError as error:
            log.warning("%s", error, extra={"facts": error.evidence})
            return True

    def _read(self, monitor: Monitor) -> None:
        known = self._side.known()
        for event in monitor.events():
            if concerns(event.verb, event.value, known):
                self._objects.set()

    def _read_firewall(self, firewall: FirewallMonitor) -> None:
        if any(firewall_concerns(event.verb, event.table, event.chain) for event in firewall.events()):
            self._rules.set()

    async def _follow(self, changed: asyncio.Event, restore: Callable[[], Awaitable[None]]) -> None:
        """Restore when something changed, when a pause in a fight is over, and about every interval."""
        while True:
            pause_s = min(self._interval_s * self._rng.uniform(0.8, 1.2), self._side.repairs.next_pause_s())
            with suppress(TimeoutError):
                async with asyncio.timeout(max(REST_S, pause_s)):
                    await changed.wait()
            await self._clock.sleep(GATHER_S)
            changed.clear()
            await _logged(restore())
            await self._clock.sleep(REST_S)

    async def _poll_firewall(self) -> None:
        while True:
            started = self._clock.now()
            await _logged(self._side.firewall.restore())
            await self._clock.sleep(max(LEGACY_S, (self._clock.now() - started) / LEGACY_SHARE))

    async def _poll_sysctls(self) -> None:
        while True:
            await self._clock.sleep(SYSCTLS_S)
            with suppress(VpcCniError):  # the comparison names it
                if await self._side.sysctls_differ():
                    self._objects.set()


async def _logged(work: Awaitable[None]) -> None:
    try:
        await work
    except VpcCniError as error:  # the next change or the next interval tries again
        log.warning("%s", error, extra={"facts": error.evidence})
