# SPDX-License-Identifier: Apache-2.0
"""How each step of a plan is done: which EC2 call, what changes in the pool and on the node, what a refusal means.

Knows one step at a time. Must never decide that a step is needed. `ipamd.engine` prepares and runs steps; several may
run at once, on different ENIs.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Protocol

from vpccni.aws.values import Interface, IPNetwork
from vpccni.clock import Clock
from vpccni.core.block import Block, BlockKind, Mode
from vpccni.core.pool import Pool
from vpccni.core.steps import AssignBlocks, AttachEni, FreeEni, Step, UnassignBlocks, first_call
from vpccni.errors import CloudError, VpcCniError
from vpccni.ipamd.cloudcalls import CloudCalls, Postponed
from vpccni.ipamd.holds import SUBNET_FULL, HoldBook
from vpccni.ipamd.placement import Placement
from vpccni.ipamd.saga import NewEni, Sagas
from vpccni.ipamd.view import NodeView

log = logging.getLogger(__name__)


class Side(Protocol):
    """The node's kernel state as steps need it (`ipamd.nodeside`)."""

    subnets: dict[str, tuple[IPNetwork, ...]]

    async def attached(self, interface: Interface) -> None:
        """Return when the link of a new ENI is there and the node routes for it."""

    async def keep(self, interfaces: Iterable[Interface], arriving: frozenset[str] = frozenset()) -> None:
        """These are the node's ENIs now, and those that are arriving."""

    async def arriving(self, eni_id: str, networks: Sequence[IPNetwork]) -> None:
        """Return when the node routes for blocks that EC2 has assigned, which may be handed out then."""

    async def forget(self, eni_id: str) -> None:
        """An ENI leaves."""


class StepRunner:
    """Runs steps against EC2, pool and node."""

    def __init__(
        self,
        pool: Pool,
        calls: CloudCalls,
        sagas: Sagas,
        side: Side,
        view: NodeView,
        placement: Placement,
        holds: HoldBook,
        clock: Clock,
    ) -> None:
        self._pool, self._calls, self._sagas, self._side = pool, calls, sagas, side
        self._view, self._placement = view, placement
        self._holds, self._clock = holds, clock

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
        except Postponed:
            log.info("EC2 throttles us; planned anew later: %s", step)
        except VpcCniError as error:
            self._view.doubt(str(error))
            if isinstance(step, AssignBlocks) and (error.error_code == "address-limit" or self._beside(step, error)):
                self._holds.eni_full(step.eni_id, self._clock.now(), error)
            else:
                self._holds.failed(error, self._clock.now(), attaching=isinstance(step, AttachEni))
            raise

    def free_at(self, action: str, now: float) -> float:
        """When EC2 may be asked for that, `now` at the earliest."""
        return self._calls.free_at(action, now)

    def crowded(self, now: float) -> bool:
        """Whether EC2 refused a call for their number a moment ago."""
        return self._calls.crowded(now)

    async def reconcile(self) -> list[str]:
        """End what stayed open, compare the pool with EC2 and correct it; the kinds of corrections made."""
        if not self._holds.paused:
            for eni_id in await self._sagas.retry_open():
                if self._pool.eni(eni_id) is not None:
                    self._pool.remove_eni(eni_id, lost=True)
        kinds = await self._view.reconcile(self._pool, self._sagas.busy)
        self._side.subnets = self._view.subnet_cidrs
        await self._side.keep(self._view.routed(self._pool), self._sagas.busy())
        return kinds

    async def _assign(self, step: AssignBlocks) -> None:
        eni = self._pool.eni(step.eni_id)
        subnet_id = eni.subnet_id if eni else ""
        counts = {**_counts(step.kind, step.count), "ip_version": step.version}
        try:
            networks = await self._calls.run(
                first_call(step),
                lambda: self._calls.addresses.assign(step.eni_id, **counts),
                first=True,
            )
        except CloudError as error:
            if error.error_code not in SUBNET_FULL or step.version != self._pool.version:
                raise
            log.info("%s", error, extra={"facts": error.evidence})
            await self._no_room(subnet_id, step, error)
            return
        self._view.changed(networks)
        await self._side.arriving(step.eni_id, networks)
        self._take_singles(step.kind)
        self._pool.add_blocks(step.eni_id, map(Block, networks))
        if step.version != self._pool.version:  # says nothing about how many addresses the subnet has
            self._holds.eni_took(step.eni_id)
            return
        given = sum(network.num_addresses for network in networks)
        self._holds.succeeded(subnet_id, self._clock.now(), given, prefixes=step.kind is BlockKind.PREFIX)

    async def _attach(self, step: AttachEni) -> None:
        choice = await self._placement.choose()
        refusal: CloudError | None = None
        no_prefix = False
        prefixes = step.kind is BlockKind.PREFIX
        counts = [step.count, 1] if prefixes and step.count > 1 else [step.count]
        holding, now = self._holds.now_holding(), self._clock.now()
        for wanted in counts:
            for subnet in choice.subnets:
                # One address goes to the ENI itself, so a subnet with a single free one is of no use.
                count = wanted if prefixes else min(wanted, subnet.free_addresses - 1)
                if self._pool.version == 4 and (count <= 0 or subnet.free_addresses < count + 1):
                    continue
                if holding.subnets.get(subnet.subnet_id, 0.0) > now:
                    continue
                if prefixes and holding.fragmented.get(subnet.subnet_id, 0.0) > now:
                    no_prefix = True
                    continue
                new = NewEni(
                    subnet.subnet_id,
                    choice.security_groups,
                    step.card,
                    reason=step.reason,
                    ip_version=self._pool.version,
                    beside_prefix_count=int(self._pool.dual),
                    **_counts(step.kind, count),
                )
                try:
                    interface = await self._sagas.attach(new, self._arrived)
                except CloudError as error:
                    if error.error_code not in SUBNET_FULL:
                        raise
                    refusal = error
                    continue
                self._arrive(interface, step.kind, subnet.subnet_id)
                return
        await self._placement.listed(fresh=True)
        refusal = refusal or self._placement.none_left(choice.subnets, fragmented=no_prefix)
        if prefixes and self._holds.singles:
            self._holds.no_prefix_anywhere(self._clock.now(), refusal)
            return
        raise refusal

    async def _arrived(self, interface: Interface) -> None:
        self._side.subnets = self._view.subnet_cidrs
        await self._side.attached(interface)

    def _arrive(self, interface: Interface, kind: BlockKind, subnet_id: str) -> None:
        self._view.remember(interface)
        self._take_singles(kind)
        self._pool.add_eni(self._view.eni_of(interface, self._clock.now()))
        given = len(interface.addresses) + 1
        self._holds.succeeded(subnet_id, self._clock.now(), given, prefixes=kind is BlockKind.PREFIX)
        self._holds.attached()

    def _take_singles(self, kind: BlockKind) -> None:
        """Single addresses that were asked for in prefix mode are handed out from now on."""
        if kind is BlockKind.ADDRESS and self._pool.mode is Mode.PREFIX:
            self._pool.set_mode(Mode.PREFIX, singles=True)

    async def _unassign(self, step: UnassignBlocks) -> None:
        addresses = [block.network.network_address for block in step.blocks if block.kind is BlockKind.ADDRESS]
        prefixes = [block.network for block in step.blocks if block.kind is BlockKind.PREFIX]
        with self._view.taking([block.network for block in step.blocks]):
            try:
                await self._calls.run(
                    first_call(step),
                    lambda: self._calls.addresses.unassign(step.eni_id, addresses, prefixes),
                    first=True,
                )
            except CloudError as error:
                if error.changed_nothing:
                    self._pool.confirm(step.eni_id, step.blocks)
                raise  # otherwise nobody gets these addresses before the reconcile that follows has asked EC2
            self._pool.remove_blocks(step.eni_id, step.blocks)

    async def _free(self, step: FreeEni) -> None:
        with self._view.touching(step.eni_id):
            await self._side.forget(step.eni_id)
            await self._sagas.free(step.eni_id, step.reason)
            self._pool.remove_eni(step.eni_id)

    def _beside(self, step: AssignBlocks, error: VpcCniError) -> bool:
        """Whether EC2 refused a /80 beside IPv4 addresses, which concerns that ENI alone."""
        return step.version != self._pool.version and isinstance(error, CloudError) and error.changed_nothing

    async def _no_room(self, subnet_id: str, step: AssignBlocks, error: CloudError) -> None:
        """A subnet had less than was asked for: find out what it can give, in as few calls as possible."""
        now = self._clock.now()
        if error.error_code == "subnet-fragmented" or step.version == 6:
            self._holds.no_prefix_in(subnet_id, step.count, now, error)
            return
        free = {each.subnet_id: each.free_addresses for each in await self._placement.listed(fresh=True)}
        left = free.get(subnet_id, 0)
        if step.kind is BlockKind.PREFIX and 0 < left < 16:
            self._holds.no_prefix_in(subnet_id, 1, now, error)
            return
        self._holds.subnet_has(subnet_id, left, now, error)


def _counts(kind: BlockKind, count: int) -> dict[str, int]:
    singles = kind is BlockKind.ADDRESS
    return {"address_count": count if singles else 0, "prefix_count": 0 if singles else count}
