# SPDX-License-Identifier: Apache-2.0
"""From a socket that answers "not yet" to a node that takes pods: identity, ENIs, routing, then the engine.

Knows the order of the start and that each part of it may fail for a while. Must never serve requests nor decide about
the pool. `ipamd.program` runs it as one task; every failure is logged, shown to callers as the reason, and retried.
"""

from __future__ import annotations

import asyncio
import logging
import random
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import TypeVar

from vpccni.aws import tags as eni_tags
from vpccni.aws.imds import Imds
from vpccni.aws.values import InstanceLimits, NodeIdentity
from vpccni.clock import Clock
from vpccni.core import limits as type_limits
from vpccni.core.census import YOUNG_S, place
from vpccni.core.lately import Lately
from vpccni.core.pool import Pool
from vpccni.core.targets import NodeLimits
from vpccni.errors import NoAddress, VpcCniError
from vpccni.host.firewall import Firewall
from vpccni.host.kernel import NodeKernel
from vpccni.ipamd.cloudcalls import CloudCalls
from vpccni.ipamd.decisions import Decisions
from vpccni.ipamd.engine import Engine
from vpccni.ipamd.eniconfigs import EniConfigs
from vpccni.ipamd.explain import explained
from vpccni.ipamd.holds import HoldBook
from vpccni.ipamd.metrics import Metrics
from vpccni.ipamd.nodefirewall import NodeFirewall
from vpccni.ipamd.nodeside import NodeSide, Tenants
from vpccni.ipamd.placement import Placement
from vpccni.ipamd.readiness import Readiness
from vpccni.ipamd.records import Intent
from vpccni.ipamd.repair import Repairs
from vpccni.ipamd.saga import Sagas
from vpccni.ipamd.sizing import Sizing, cordoned, sizing
from vpccni.ipamd.steprunner import StepRunner
from vpccni.ipamd.upkeep import Upkeep
from vpccni.ipamd.view import NodeView
from vpccni.ipamd.watch import Watch
from vpccni.ipamd.worker import Job, Worker
from vpccni.settings import Settings

log = logging.getLogger(__name__)
T = TypeVar("T")

RETRY_FIRST_S, RETRY_LAST_S = 0.2, 10.0
READY_RETRY_S = 5.0
VPC_CIDR_REFRESH_S = 30.0
UPKEEP_S = 30.0
SWEEP_S = 3600.0
YOUNGEST_LEAK_S = 300.0  # Amazon VPC CNI 1.23: a younger detached ENI may be about to be attached


@dataclass(slots=True)
class Parts:
    """What the program has made before the node's identity is known."""

    settings: Settings
    pool: Pool
    worker: Worker
    kernel: NodeKernel
    imds: Imds
    connect: Callable[[NodeIdentity], CloudCalls]
    tenants: Tenants
    repairs: Repairs
    clock: Clock
    metrics: Metrics
    readiness: Readiness
    rng: random.Random
    intents: dict[str, Intent]
    decisions: Decisions


class BringUp:
    """One start. `engine`, `side` and `sagas` are None until they exist."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self.engine: Engine | None = None
        self.side: NodeSide | None = None
        self.sagas: Sagas | None = None
        self.limits = NodeLimits(0, 1)
        self.started_at = parts.clock.now()

    async def run(self) -> None:
        """Bring the node up, then keep its pool at the targets until cancelled."""
        parts = self._parts
        node = await self._insist("the metadata service", lambda: asyncio.to_thread(parts.imds.identity))
        log.info("this node", extra={"facts": {"node": str(node)}})
        calls = parts.connect(node)
        try:
            slots = await self._take_census(node, calls)
            size = await self._insist("the instance type's limits", lambda: self._size(node, calls))
            self.limits = size.limits
            parts.pool.set_mode(size.mode)
            runner, side, view = self._assemble(node, calls, slots)
            await self._insist("the node's address for egress", lambda: self._let_out(node, side))
            await self._insist("EC2's list of interfaces", view.observe)
            assert self.sagas is not None
            await self.sagas.adopt(parts.intents, view.interfaces)
            upkeep = self._upkeep(node, calls, view)
            await self._insist("the node's connection marks", side.marks.see)
            await self._insist("the node's routes", runner.reconcile)
            await self._insist("the node's SNAT rules", lambda: self._begin_to_translate(node, side))
            self.engine, self.side = self._engine(runner, size), side
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self.engine.run(), name="engine")
                watch = Watch(side, parts.settings.repair_interval_s, parts.clock, parts.rng)
                tasks.create_task(watch.run(), name="watch")
                tasks.create_task(self._follow_vpc(node, side), name="vpc cidrs")
                if parts.settings.provisioning:
                    tasks.create_task(self._sweep(), name="leak sweep")
                    tasks.create_task(self._keep_up(upkeep), name="tags and groups")
        finally:
            calls.close()

    def wake(self) -> None:
        """An ADD found nothing."""
        if self.engine is not None:
            self.engine.wake()

    def explain(self, refusal: NoAddress) -> NoAddress:
        """The refusal of an ADD, with what keeps the pool from growing as code, reason and next step."""
        if self.engine is None:
            return refusal
        return explained(refusal, self.engine.obstacles, self._holds.last_error)

    def changed(self) -> None:
        """The pool changed."""
        if self.engine is not None:
            self.engine.wake_if_low()

    async def _take_census(self, node: NodeIdentity, calls: CloudCalls) -> frozenset[tuple[int, int]] | None:
        """Ask EC2, before anything else, who starts together with this node, so that the pacer knows its turn.

        Returns the (card, device) slots in use on this instance when the answer says so. A daemon that may not ask
        paces itself by what it meets.
        """
        if not self._parts.settings.provisioning:
            return None
        now = self._parts.clock.now()
        try:
            found = await calls.run("DescribeInstances", lambda: calls.inventory.launched(now - YOUNG_S, now + YOUNG_S))
        except VpcCniError as error:
            log.info("cannot see who starts together with this node: %s", error, extra={"facts": error.evidence})
            return None
        mine = place(found, node.instance_id)
        if mine is None:
            return None
        calls.told(mine)
        log.info("starting together with others", extra={"facts": {"nodes": mine.fleet, "place": mine.rank}})
        return next(each.slots for each in found if each.instance_id == node.instance_id)

    def _assemble(
        self, node: NodeIdentity, calls: CloudCalls, slots: frozenset[tuple[int, int]] | None
    ) -> tuple[StepRunner, NodeSide, NodeView]:
        parts, settings = self._parts, self._parts.settings

        async def pods_seen() -> tuple[object, ...]:
            return await parts.worker.submit(Job(lambda: parts.kernel.pods(settings.veth_prefix)))  # type: ignore[return-value]

        self._holds = HoldBook(
            parts.rng,
            paused="" if settings.provisioning else "provisioning is switched off",
            singles=settings.prefix_fallback and parts.pool.version == 4,
            cordoned=lambda: cordoned(settings),
        )
        self.sagas = Sagas(
            node,
            calls,
            parts.worker.record,
            parts.clock,
            token=lambda: f"vpccni-{uuid.UUID(int=parts.rng.getrandbits(128), version=4)}",
            own_tags=lambda now: eni_tags.creation(
                node.instance_id, now, settings.cluster_name, settings.additional_eni_tags
            ),
            slots=slots,
        )
        view = NodeView(
            node,
            settings,
            calls,
            pods_seen,  # type: ignore[arg-type]
            parts.worker.record,
            parts.clock,
            self.limits.cards,
            None if settings.imds_only else lambda: asyncio.to_thread(parts.imds.interfaces),
        )
        side = NodeSide(
            settings,
            node.mac,
            parts.worker,
            parts.kernel,
            NodeFirewall(settings, Firewall(), parts.repairs),
            parts.clock,
            parts.tenants,
            parts.repairs,
        )
        configs = None
        if settings.custom_networking:
            configs = EniConfigs(Path(settings.eni_config_dir), settings.eni_config_name)
        placement = Placement(node, settings, calls, view, configs, parts.clock)
        runner = StepRunner(parts.pool, calls, self.sagas, side, view, placement, self._holds, parts.clock)
        return runner, side, view

    def _engine(self, runner: StepRunner, size: Sizing) -> Engine:
        parts = self._parts
        return Engine(
            parts.pool,
            size.targets,
            size.limits,
            runner,
            self._holds,
            parts.clock,
            parts.metrics,
            self._become_ready,
            parts.decisions,
            Lately(parts.settings.ip_cooldown_s),
        )

    def _upkeep(self, node: NodeIdentity, calls: CloudCalls, view: NodeView) -> Upkeep:
        parts, settings = self._parts, self._parts.settings

        async def groups() -> tuple[str, ...]:
            return await asyncio.to_thread(parts.imds.security_groups, node.mac)

        def ours() -> frozenset[str]:
            assert self.sagas is not None
            held = {each.eni.id for each in parts.pool.held() if each.eni.managed and not each.withdrawn}
            return frozenset(held - self.sagas.busy())

        own_tags = eni_tags.ownership(node.instance_id, settings.cluster_name, settings.additional_eni_tags)
        return Upkeep(calls, view, own_tags, None if settings.custom_networking else groups, ours)

    def _become_ready(self) -> None:
        parts = self._parts
        if parts.readiness.ready or parts.pool.tally(parts.clock.now()).total == 0:
            error = self._holds.last_error
            why = "EC2 has given this node no address for pods yet"
            parts.readiness.waiting_for(f"{why}: {error}" if error else why, error.hint if error else "")
            return
        try:
            parts.readiness.become_ready()
        except VpcCniError as error:
            log.error("%s", error, extra={"facts": {**error.evidence, "next": error.hint}})
            parts.readiness.waiting_for(str(error))
            asyncio.get_running_loop().call_later(READY_RETRY_S, self.wake)  # nothing else may wake the engine for long
            return
        parts.metrics.start_up.observe(parts.clock.now() - self.started_at)

    async def _size(self, node: NodeIdentity, calls: CloudCalls) -> Sizing:
        known: InstanceLimits | None = type_limits.find(node.instance_type)
        if known is None:
            known = await calls.run(
                "DescribeInstanceTypes", lambda: calls.inventory.instance_limits(node.instance_type)
            )
        size = sizing(self._parts.settings, known)
        for note in size.notes:
            log.warning("settings: %s", note)
        return size

    async def _let_out(self, node: NodeIdentity, side: NodeSide) -> None:
        """Whether and by which address of the node pods leave in the family that is not theirs."""
        version, imds = self._parts.settings.egress_version, self._parts.imds
        if version == 4:
            side.firewall.egress_from = node.local_ipv4
        elif version == 6:
            found = await asyncio.to_thread(imds.ipv6_addresses, node.mac)
            side.firewall.egress_from = found[0] if found else None
        if version and side.firewall.egress_from is None:
            self._parts.pool.local = None
            next_step = "assign an IPv6 address to the primary ENI and restart the daemon, or unset ENABLE_V6_EGRESS"
            log.warning("settings: ENABLE_V6_EGRESS has no effect: the node has no IPv6 address; %s", next_step)

    async def _translate(self, node: NodeIdentity, side: NodeSide) -> None:
        if 4 in self._parts.settings.versions:  # nothing of IPv6 pods is ever translated, but for egress
            cidrs = await asyncio.to_thread(self._parts.imds.vpc_cidrs, node.mac)
            await side.firewall.translate(await side.primary_name(), cidrs, node.local_ipv4)
        await side.firewall.let_out()

    async def _begin_to_translate(self, node: NodeIdentity, side: NodeSide) -> None:
        """The first time. Where the connection mark is another than before, flows take it along."""
        await side.marks.carry(over=False)
        await self._translate(node, side)
        if await side.marks.carry(over=True):
            await side.converge()

    async def _follow_vpc(self, node: NodeIdentity, side: NodeSide) -> None:
        while True:
            await self._parts.clock.sleep(VPC_CIDR_REFRESH_S)
            try:
                await self._translate(node, side)
            except VpcCniError as error:  # the old rules stay in force, and the next round tries again
                log.warning("%s", error, extra={"facts": error.evidence})

    async def _keep_up(self, upkeep: Upkeep) -> None:
        while True:
            await upkeep.round()
            await self._parts.clock.sleep(UPKEEP_S)

    async def _sweep(self) -> None:
        """Every hour, and five minutes after a saga that ended badly: its ENI may have been invisible then."""
        assert self.sagas is not None
        parts = self._parts
        youngest_s = 0.0  # nothing of ours is under way at the start but what the journal names
        while True:
            due_at = parts.clock.now() + SWEEP_S
            try:
                await self.sagas.retry_open()
                if parts.settings.sweeps_leaked_enis:
                    await self.sagas.sweep(youngest_s)
            except VpcCniError as error:
                log.warning("%s", error, extra={"facts": error.evidence})
            youngest_s = YOUNGEST_LEAK_S
            while parts.clock.now() < min(due_at, self.sagas.undone_at + YOUNGEST_LEAK_S):
                await parts.clock.sleep(UPKEEP_S)
            self.sagas.undone_at = inf

    async def _insist(self, what: str, attempt: Callable[[], Awaitable[T]]) -> T:
        """Try until it works: a daemon that gives up would take its node's pods down with it."""
        pause_s = RETRY_FIRST_S
        self._parts.readiness.waiting_for(f"waiting for {what}")
        while True:
            try:
                return await attempt()
            except VpcCniError as error:
                self._parts.readiness.waiting_for(f"waiting for {what}: {error}", error.hint)
                self._parts.decisions.held_up(what, error)
                facts = {**error.evidence, "code": error.error_code, "next": error.hint, "again_in_s": pause_s}
                log.warning("%s", error, extra={"facts": facts})
            await self._parts.clock.sleep(pause_s * self._parts.rng.uniform(0.8, 1.2))
            pause_s = min(RETRY_LAST_S, pause_s * 2)
