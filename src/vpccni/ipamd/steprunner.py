# SPDX-License-Identifier: Apache-2.0
"""How each step of a plan is done: which EC2 call, what changes in the pool and on the node, what a refusal means.

Knows one step at a time. Must never decide that a step is needed. `ipamd.engine` prepares and runs steps; several may
run at once, on different ENIs.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence

from vpccni.aws.values import NodeIdentity, Subnet
from vpccni.clock import Clock
from vpccni.core import subnets
from vpccni.core.block import Block, BlockKind
from vpccni.core.pool import Pool
from vpccni.core.steps import AssignBlocks, AttachEni, FreeEni, Step, UnassignBlocks
from vpccni.errors import CloudError, VpcCniError
from vpccni.ipamd.cloudcalls import CloudCalls
from vpccni.ipamd.holds import SUBNET_FULL, HoldBook
from vpccni.ipamd.nodeside import NodeSide
from vpccni.ipamd.saga import NewEni, Sagas
from vpccni.ipamd.view import NodeView
from vpccni.settings import Settings

log = logging.getLogger(__name__)


class StepRunner:
    """Runs steps against EC2, pool and node."""

    def __init__(
        self,
        node: NodeIdentity,
        settings: Settings,
        pool: Pool,
        calls: CloudCalls,
        sagas: Sagas,
        side: NodeSide,
        view: NodeView,
        holds: HoldBook,
        repair: Callable[[], Awaitable[list[str]]],
        clock: Clock,
    ) -> None:
        """`repair` brings the kernel's pod routes and rules in line with the pool and says what it changed."""
        self._node, self._settings, self._pool = node, settings, pool
        self._calls, self._sagas, self._side, self._view = calls, sagas, side, view
        self._holds, self._repair, self._clock = holds, repair, clock

    def prepare(self, step: Step) -> None:
        """Before a step that takes something away: nothing of it may be handed out from now on. Raises Refused."""
        match step:
            case UnassignBlocks():
                self._pool.withdraw(step.eni_id, step.blocks)
            case FreeEni():
                self._pool.withdraw(step.eni_id)
            case _:
                pass

    async def run(self, step: Step) -> None:
        """Do it. Raises VpcCniError after the step was undone and the reason noted in the holds."""
        try:
            match step:
                case AssignBlocks():
                    await self._assign(step)
                case AttachEni():
                    await self._attach(step)
                case UnassignBlocks():
                    await self._unassign(step)
                case FreeEni():
                    await self._free(step)
        except VpcCniError as error:
            self._holds.failed(error, self._clock.now(), attaching=isinstance(step, AttachEni))
            raise

    async def reconcile(self) -> list[str]:
        """End what stayed open, compare the pool with EC2 and correct it; the kinds of corrections made."""
        for eni_id in await self._sagas.retry_open():
            if self._pool.eni(eni_id) is not None:
                self._pool.remove_eni(eni_id, lost=True)
        kinds = await self._view.reconcile(self._pool, self._sagas.busy)
        self._side.subnets = self._view.subnet_cidrs
        await self._side.keep(self._view.routed(self._pool), self._sagas.busy())
        for command in await self._repair():
            log.warning("repaired: %s", command)
            kinds.append("PodRepair")
        return kinds

    async def _assign(self, step: AssignBlocks) -> None:
        eni = self._pool.eni(step.eni_id)
        subnet_id = eni.subnet_id if eni else ""
        with self._view.touching(step.eni_id):
            try:
                networks = await self._calls.run(
                    lambda: self._calls.addresses.assign(step.eni_id, **_counts(step.kind, step.count))
                )
            except CloudError as error:
                if error.aws_code in SUBNET_FULL:
                    await self._subnet_full([subnet_id], error)
                    return
                raise
            self._pool.add_blocks(step.eni_id, map(Block, networks))
        self._holds.succeeded(subnet_id)

    async def _attach(self, step: AttachEni) -> None:
        candidates = await self._subnets()
        refusal: CloudError | None = None
        for subnet in candidates:
            # One address goes to the ENI itself, so a subnet with a single free one is of no use.
            count = min(step.count, subnet.free_addresses - 1) if step.kind is BlockKind.ADDRESS else step.count
            if count <= 0:
                continue
            counts = _counts(step.kind, count)
            new = NewEni(subnet.subnet_id, self._view.security_groups, step.card, reason=step.reason, **counts)
            try:
                interface = await self._sagas.attach(new, self._side.attached)
            except CloudError as error:
                if error.aws_code not in SUBNET_FULL:
                    raise
                refusal = error
                continue
            self._view.remember(interface)
            self._pool.add_eni(self._view.eni_of(interface, self._clock.now()))
            self._holds.succeeded(subnet.subnet_id)
            self._holds.attached()
            return
        raise refusal or _no_subnet(candidates, self._node)

    async def _unassign(self, step: UnassignBlocks) -> None:
        addresses = [block.network.network_address for block in step.blocks if block.kind is BlockKind.ADDRESS]
        prefixes = [block.network for block in step.blocks if block.kind is BlockKind.PREFIX]
        with self._view.touching(step.eni_id):
            try:
                await self._calls.run(lambda: self._calls.addresses.unassign(step.eni_id, addresses, prefixes))
            except CloudError:
                self._pool.confirm(step.eni_id, step.blocks)  # until EC2 says otherwise in the reconcile that follows
                raise
            self._pool.remove_blocks(step.eni_id, step.blocks)

    async def _free(self, step: FreeEni) -> None:
        with self._view.touching(step.eni_id):
            await self._side.forget(step.eni_id)
            await self._sagas.free(step.eni_id, step.reason)
            self._pool.remove_eni(step.eni_id)

    async def _subnets(self) -> list[Subnet]:
        found = await self._calls.run(
            lambda: self._calls.inventory.subnets(self._node.vpc_id, self._node.availability_zone)
        )
        self._view.learn(found)
        self._side.subnets = self._view.subnet_cidrs
        return subnets.eligible(
            found,
            self._node.subnet_id,
            discovery=self._settings.enable_subnet_discovery,
            cluster=self._settings.cluster_name,
        )

    async def _subnet_full(self, subnet_ids: Sequence[str], error: CloudError) -> None:
        log.info("%s", error, extra={"facts": error.evidence})
        free = {subnet.subnet_id: subnet.free_addresses for subnet in await self._subnets()}
        for subnet_id in subnet_ids:
            self._holds.subnet_has(subnet_id, free.get(subnet_id, 0), self._clock.now(), error)


def _counts(kind: BlockKind, count: int) -> dict[str, int]:
    singles = kind is BlockKind.ADDRESS
    return {"address_count": count if singles else 0, "prefix_count": 0 if singles else count}


def _no_subnet(candidates: Sequence[Subnet], node: NodeIdentity) -> CloudError:
    tried = " ".join(f"{subnet.subnet_id}:{subnet.free_addresses}" for subnet in candidates)
    return CloudError(
        "create an ENI",
        f"no subnet of {node.vpc_id} in {node.availability_zone} may be used and has two free addresses",
        code="subnet-empty",
        aws_code="InsufficientFreeAddressesInSubnet",
        hint="free addresses, or tag another subnet of this zone with kubernetes.io/role/cni=1",
        evidence={"subnets": tried or "none eligible"},
    )
