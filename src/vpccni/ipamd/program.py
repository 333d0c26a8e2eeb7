# SPDX-License-Identifier: Apache-2.0
"""The composition root of the node daemon: builds the parts, runs them under one task group, takes them down in order.

Knows what exists and in which order it starts and stops. Must never do their work. `vpccni ipamd` calls `main`.

Threads: the event loop owns all state; one wiring thread enters namespaces and writes the journal; EC2 calls, IMDS
reads, `ipam.json` and iptables run in worker threads that never enter a namespace.
"""

from __future__ import annotations

import asyncio
import logging
import random
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from aiohttp import web

from vpccni import log as logs
from vpccni import paths
from vpccni.aws.imds import Imds
from vpccni.aws.imds_inventory import ImdsInventory
from vpccni.aws.values import NodeIdentity
from vpccni.clock import Clock, SystemClock
from vpccni.core.block import Mode
from vpccni.core.egress import LocalAddresses
from vpccni.core.pacing import Pacer
from vpccni.core.pool import Pool
from vpccni.core.settings_lint import contradictions
from vpccni.errors import SettingsError, VpcCniError
from vpccni.host.kernel import NodeKernel
from vpccni.ipamd import checkpoint, introspection, metrics, recovery, store
from vpccni.ipamd.api import Api
from vpccni.ipamd.attachments import Attachments, Cards, LinkChoice
from vpccni.ipamd.bringup import BringUp, Parts
from vpccni.ipamd.cloudcalls import CloudCalls, Pace
from vpccni.ipamd.decisions import Decisions
from vpccni.ipamd.drain import drain
from vpccni.ipamd.flows import FlowFlusher
from vpccni.ipamd.inspection import Inspection
from vpccni.ipamd.podwires import PodWires
from vpccni.ipamd.readiness import Readiness
from vpccni.ipamd.records import Intent
from vpccni.ipamd.repair import Repairs
from vpccni.ipamd.server import RelayServer
from vpccni.ipamd.strays import StrayLinks, delete_left
from vpccni.ipamd.worker import Worker
from vpccni.netlink.conntrack import flush_address
from vpccni.settings import Settings, parse
from vpccni.settings_syntax import Listen

log = logging.getLogger(__name__)

FIRST_INDEX = 1_000_000  # link indexes of our choosing: far above what the kernel hands out by itself
LAST_INDEX = 2_000_000_000


def main(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    """Run the daemon until SIGTERM or SIGINT. Exit code 2 for bad settings or arguments, 1 for a failure."""
    unknown = [word for word in arguments if word not in ("-v", "--verbose")]
    try:
        if unknown:
            raise SettingsError("start ipamd", f"unknown argument {unknown[0]}", hint="the only option is -v")
        settings = parse(environ)
        if settings.not_built:
            names = ", ".join(settings.not_built)
            raise SettingsError("start ipamd", f"{names}: not in this version", hint="unset these variables")
        logs.configure(settings.log_file, settings.log_level, verbose=bool(arguments))
        for finding in contradictions(settings, environ):
            log.warning("settings: %s", finding)
        asyncio.run(Daemon(settings, SystemClock(), random.Random()).run())
    except VpcCniError as error:
        if log.hasHandlers():  # before that it would be on stderr twice
            log.error("%s", error, extra={"facts": error.evidence})
        print(f"{error.message}\n  {error.details}", file=sys.stderr)
        return 2 if isinstance(error, SettingsError) else 1
    return 0


class Daemon:
    """One life of the daemon."""

    def __init__(self, settings: Settings, clock: Clock, rng: random.Random) -> None:
        self._settings, self._clock, self._rng = settings, clock, rng
        self._readiness = Readiness(settings)
        self._metrics = metrics.Metrics()
        self._decisions = Decisions(clock.now)
        self._repairs = Repairs(clock.now, self._metrics.repaired)
        self._pool = Pool(settings.ip_cooldown_s, Mode.SECONDARY, settings.versions[0], dual=settings.dual_stack)
        self._index = rng.randrange(FIRST_INDEX, LAST_INDEX)
        self._checkpoint = Path(settings.backing_store)
        self._bring_up: BringUp | None = None
        self._listeners: list[Callable[[], None]] = []  # who hears of a change of the pool

    async def run(self) -> None:
        """Recover, serve, bring up; return after a signal and an orderly stop. Raises what kills a part of it."""
        stopping = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stopping.set)
        died: asyncio.Future[None] = loop.create_future()
        with NodeKernel() as kernel:
            found, intents = self._recover(kernel)
            journal = store.open_journal(paths.JOURNAL, found, intents)
            worker = Worker(loop, journal, died.set_exception)
            worker.start()
            try:
                await self._serve(kernel, worker, lambda: journal.lines, intents, stopping, died)
            finally:
                worker.stop()
                journal.close()
        log.info("stopped")

    def _recover(self, kernel: NodeKernel) -> tuple[recovery.Recovered, dict[str, Intent]]:
        now = self._clock.now()
        remembered = store.read_journal(paths.JOURNAL, now)
        allocations = store.read_checkpoint(self._checkpoint, now)
        found = recovery.recover(remembered, allocations, kernel.pods(self._settings.veth_prefix), now)
        for note in found.notes:
            log.warning("recovery: %s", note)
        if self._settings.egress_version:
            self._pool.local = LocalAddresses(self._settings.egress_version)
            self._pool.local.hold(kernel.local_addresses(self._settings.egress_version))
        store.fill(self._pool, found)
        log.info("recovered", extra={"facts": {"pods": len(found.grants), "open_sagas": len(remembered.intents)}})
        return found, remembered.intents

    async def _serve(
        self,
        kernel: NodeKernel,
        worker: Worker,
        log_lines: Callable[[], int],
        intents: dict[str, Intent],
        stopping: asyncio.Event,
        died: asyncio.Future[None],
    ) -> None:
        attachments, flusher, strays = self._attachments(kernel, worker)
        bring_up = BringUp(self._parts(kernel, worker, attachments, intents))
        self._bring_up = bring_up
        behind = store.WriteBehind(
            self._checkpoint,
            self._pool,
            worker,
            log_lines,
            lambda: bring_up.sagas.open.values() if bring_up.sagas else intents.values(),
            self._clock,
        )
        self._listeners = [behind.changed, bring_up.changed]
        self._metrics.bind_pool(self._pool, lambda: _attachable(bring_up))
        api = Api(attachments, self._readiness, self._metrics, bring_up, self._decisions)
        server = RelayServer(paths.RELAY_SOCKET, api.handle)
        server.start()
        behind.changed()
        try:
            async with asyncio.TaskGroup() as tasks:
                running = [
                    tasks.create_task(drain(api, self._pool, paths.DEL_QUEUE), name="queued DELs"),
                    tasks.create_task(behind.run(), name="write behind"),
                    tasks.create_task(flusher.run(), name="flows"),
                    tasks.create_task(strays.run(), name="stray links"),
                    tasks.create_task(self._http(Inspection(lambda: bring_up.side)), name="http"),
                    tasks.create_task(bring_up.run(), name="bring up"),
                    tasks.create_task(_raise_when(died), name="wiring thread"),
                ]
                await stopping.wait()
                log.info("stopping")
                self._readiness.withdraw("a signal asked it to")
                await server.close()
                for task in running:
                    task.cancel()
        finally:
            self._readiness.withdraw("it stops")
            await server.close()
            checkpoint.write(self._checkpoint, behind.allocations())

    def _attachments(self, kernel: NodeKernel, worker: Worker) -> tuple[Attachments, FlowFlusher, StrayLinks]:
        settings = self._settings
        flusher = FlowFlusher(flush_address, settings.ip_cooldown_s)
        links = LinkChoice(
            settings.pod_mtu, settings.veth_prefix, self._next_index, self._next_mac, settings.rule_layout
        )
        wires = PodWires(kernel)
        strays = StrayLinks(delete_left)
        attachments = Attachments(
            self._pool,
            worker,
            wires,
            flusher,
            links,
            self._clock,
            self._changed,
            left=strays.left,
            from_cards=Cards(self._managed_cards, settings.enable_multi_nic),
        )
        return attachments, flusher, strays

    def _parts(self, kernel: NodeKernel, worker: Worker, attachments: Attachments, intents: dict[str, Intent]) -> Parts:
        settings = self._settings
        return Parts(
            settings=settings,
            pool=self._pool,
            worker=worker,
            kernel=kernel,
            imds=Imds(settings.imds_endpoint, disabled=settings.imds_disabled),
            connect=self._connect,
            tenants=attachments,
            repairs=self._repairs,
            clock=self._clock,
            metrics=self._metrics,
            readiness=self._readiness,
            rng=self._rng,
            intents=intents,
            decisions=self._decisions,
        )

    def _changed(self) -> None:
        for listener in self._listeners:
            listener()

    def _connect(self, node: NodeIdentity) -> CloudCalls:
        if self._settings.imds_only:
            listed = ImdsInventory(Imds(self._settings.imds_endpoint), node.instance_id)
            return CloudCalls(listed, listed, listed)
        from vpccni.aws.boto import Ec2

        ec2 = Ec2(
            node.region,
            endpoint=self._settings.ec2_endpoint,
            timeout_s=self._settings.http_timeout_s,
            attempts=1,  # the pacer decides when a call is made again
            observe=self._metrics.ec2_call,
        )
        return CloudCalls(ec2, ec2, ec2, Pace(Pacer(), self._clock, self._rng), self._decisions.ec2_failed)

    async def _http(self, inspection: Inspection) -> None:
        """Introspection and metrics. An address in use is reported and tried again; pods do not depend on it."""
        settings = self._settings
        apps = []
        if not settings.disable_introspection:
            app = introspection.make_app(self._pool, settings, self._clock.now, self._decisions, inspection)
            apps.append((app, settings.introspection_bind))
        if not settings.disable_metrics:
            apps.append((introspection.metrics_app(self._metrics.render), settings.metrics_bind))
        async with asyncio.TaskGroup() as tasks:
            for app, listen in apps:
                tasks.create_task(_serve_http(app, listen, self._clock))

    def _managed_cards(self) -> tuple[int, ...]:
        return self._bring_up.limits.cards if self._bring_up is not None else (0,)

    def _next_index(self) -> int:
        self._index += 1
        if self._index >= LAST_INDEX:
            self._index = FIRST_INDEX
        return self._index

    def _next_mac(self) -> str:
        octets = bytearray(self._rng.randbytes(6))
        octets[0] = octets[0] & 0xFC | 0x02  # unicast, locally administered
        return octets.hex(":")


async def _serve_http(app: web.Application, listen: Listen, clock: Clock) -> None:
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        pause_s = 1.0
        while True:
            site: web.BaseSite
            if listen.unix_path:
                Path(listen.unix_path).unlink(missing_ok=True)
                site = web.UnixSite(runner, listen.unix_path)
            else:
                site = web.TCPSite(runner, listen.host or None, listen.port)
            try:
                await site.start()
                break
            except OSError as error:
                log.warning("cannot listen on %s: %s", listen, error.strerror)
                await clock.sleep(pause_s)
                pause_s = min(60.0, pause_s * 2)
        await asyncio.Event().wait()
    finally:
        await runner.cleanup()


async def _raise_when(died: asyncio.Future[None]) -> None:
    await died


def _attachable(bring_up: BringUp) -> tuple[int, int]:
    enis = bring_up.limits.max_enis
    return enis, enis * bring_up.limits.slots_per_eni()
