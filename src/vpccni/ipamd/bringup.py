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
from typing import TypeVar

from vpccni.aws import tags as eni_tags
from vpccni.aws.imds import Imds
from vpccni.aws.values import InstanceLimits, NodeIdentity
from vpccni.clock import Clock
from vpccni.core import limits as type_limits
from vpccni.core.maxpods import max_pods
from vpccni.core.pool import Pool
from vpccni.core.targets import NodeLimits, Targets
from vpccni.errors import NoAddress, VpcCniError
from vpccni.host.firewall import Firewall
from vpccni.host.kernel import NodeKernel
from vpccni.ipamd.cloudcalls import CloudCalls
from vpccni.ipamd.engine import Engine
from vpccni.ipamd.explain import explained
from vpccni.ipamd.holds import HoldBook
from vpccni.ipamd.metrics import Metrics
from vpccni.ipamd.nodeside import NodeSide
from vpccni.ipamd.readiness import Readiness
from vpccni.ipamd.records import Intent
from vpccni.ipamd.saga import Sagas
from vpccni.ipamd.steprunner import StepRunner
from vpccni.ipamd.view import NodeView
from vpccni.ipamd.worker import Job, Worker
from vpccni.settings import Settings

log = logging.getLogger(__name__)
T = TypeVar("T")

RETRY_FIRST_S, RETRY_LAST_S = 0.2, 10.0
VPC_CIDR_REFRESH_S = 30.0
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
    repair: Callable[[], Awaitable[list[str]]]
    clock: Clock
    metrics: Metrics
    readiness: Readiness
    rng: random.Random
    intents: dict[str, Intent]


class BringUp:
    """One start. `engine` and `sagas` are None until they exist."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self.engine: Engine | None = None
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
            self.limits, pods = await self._insist("the instance type's limits", lambda: self._limits(node, calls))
            runner, side, view = self._assemble(node, calls)
            await self._insist("EC2's list of interfaces", view.observe)
            assert self.sagas is not None
            await self.sagas.adopt(parts.intents, view.interfaces)
            await self._insist("the node's routes", runner.reconcile)
            await self._insist("the node's SNAT rules", lambda: self._translate(node, side))
            self.engine = self._engine(runner, pods)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self.engine.run(), name="engine")
                tasks.create_task(self._follow_vpc(node, side), name="vpc cidrs")
                tasks.create_task(self._sweep(), name="leak sweep")
        finally:
            calls.close()

    def wake(self) -> None:
        """An ADD found nothing."""
        if self.engine is not None:
            self.engine.wake()

    def explain(self, refusal: NoAddress) -> NoAddress:
        """The refusal of an ADD, with what keeps the pool from growing as code, reason and next step."""
        if self.engine is None or self.engine.growing():
            return refusal
        return explained(refusal, self.engine.waits, self._holds.last_error)

    def changed(self) -> None:
        """The pool changed."""
        if self.engine is not None:
            self.engine.wake_if_low()

    def _assemble(self, node: NodeIdentity, calls: CloudCalls) -> tuple[StepRunner, NodeSide, NodeView]:
        parts, settings = self._parts, self._parts.settings

        async def pods_seen() -> tuple[object, ...]:
            return await parts.worker.submit(Job(lambda: parts.kernel.pods(settings.veth_prefix)))  # type: ignore[return-value]

        self._holds = HoldBook(parts.rng, paused="" if settings.provisioning else "provisioning is switched off")
        self.sagas = Sagas(
            node,
            calls,
            parts.worker.record,
            parts.clock,
            token=lambda: f"vpccni-{uuid.UUID(int=parts.rng.getrandbits(128), version=4)}",
            own_tags=lambda now: eni_tags.creation(
                node.instance_id, now, settings.cluster_name, settings.additional_eni_tags
            ),
        )
        view = NodeView(node, settings, calls, pods_seen, parts.worker.record, parts.clock)  # type: ignore[arg-type]
        side = NodeSide(settings, node.mac, parts.worker, parts.kernel, Firewall(), parts.clock)
        runner = StepRunner(
            node, settings, parts.pool, calls, self.sagas, side, view, self._holds, parts.repair, parts.clock
        )
        return runner, side, view

    def _engine(self, runner: StepRunner, pods: int) -> Engine:
        parts, settings = self._parts, self._parts.settings
        targets = Targets(
            warm_eni=settings.warm_eni_target,
            warm_ip=settings.warm_ip_target or None,
            minimum_ip=settings.minimum_ip_target or None,
            warm_prefix=settings.warm_prefix_target,
            max_eni=settings.max_eni or None,
            max_pods=pods,
        )
        return Engine(
            parts.pool, targets, self.limits, runner, self._holds, parts.clock, parts.metrics, self._become_ready
        )

    def _become_ready(self) -> None:
        parts = self._parts
        if parts.readiness.ready or parts.pool.tally(parts.clock.now()).total == 0:
            parts.readiness.waiting_for("EC2 has given this node no address for pods yet")
            return
        try:
            parts.readiness.become_ready()
        except VpcCniError as error:
            log.error("%s", error, extra={"facts": {**error.evidence, "next": error.hint}})
            parts.readiness.waiting_for(str(error))
            return
        parts.metrics.start_up.observe(parts.clock.now() - self.started_at)

    async def _limits(self, node: NodeIdentity, calls: CloudCalls) -> tuple[NodeLimits, int]:
        known: InstanceLimits | None = type_limits.find(node.instance_type)
        if known is None:
            known = await calls.run(lambda: calls.inventory.instance_limits(node.instance_type))
        settings = self._parts.settings
        computed = max_pods(known, custom_networking=settings.custom_networking, max_eni=settings.max_eni)
        return NodeLimits(known.max_enis, known.ipv4_per_eni), settings.max_pods or computed.uncapped

    async def _translate(self, node: NodeIdentity, side: NodeSide) -> None:
        cidrs = await asyncio.to_thread(self._parts.imds.vpc_cidrs, node.mac)
        await side.translate(cidrs, node.local_ipv4)

    async def _follow_vpc(self, node: NodeIdentity, side: NodeSide) -> None:
        while True:
            await self._parts.clock.sleep(VPC_CIDR_REFRESH_S)
            try:
                await self._translate(node, side)
            except VpcCniError as error:  # the old rules stay in force, and the next round tries again
                log.warning("%s", error, extra={"facts": error.evidence})

    async def _sweep(self) -> None:
        assert self.sagas is not None
        youngest_s = 0.0  # nothing of ours is under way at the start but what the journal names
        while True:
            try:
                await self.sagas.retry_open()
                if self._parts.settings.sweeps_leaked_enis:
                    await self.sagas.sweep(youngest_s)
            except VpcCniError as error:
                log.warning("%s", error, extra={"facts": error.evidence})
            youngest_s = YOUNGEST_LEAK_S
            await self._parts.clock.sleep(SWEEP_S)

    async def _insist(self, what: str, attempt: Callable[[], Awaitable[T]]) -> T:
        """Try until it works: a daemon that gives up would take its node's pods down with it."""
        pause_s = RETRY_FIRST_S
        self._parts.readiness.waiting_for(f"waiting for {what}")
        while True:
            try:
                return await attempt()
            except VpcCniError as error:
                self._parts.readiness.waiting_for(f"waiting for {what}: {error}")
                facts = {**error.evidence, "code": error.error_code, "next": error.hint, "again_in_s": pause_s}
                log.warning("%s", error, extra={"facts": facts})
            await self._parts.clock.sleep(pause_s * self._parts.rng.uniform(0.8, 1.2))
            pause_s = min(RETRY_LAST_S, pause_s * 2)
