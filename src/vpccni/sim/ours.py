# SPDX-License-Identifier: Apache-2.0
"""A node that runs our daemon: the pool, the plan, the holds and the pacing of the product, over simulated calls.

Knows the daemon's walk (wake, plan, run steps, look again) and the order of EC2 calls in each step, as generators.
Must never decide anything that `core` decides. The twin of `ipamd.engine`, `ipamd.steprunner` and `ipamd.saga`, which
do the same with threads, a journal and a kernel.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from vpccni.aws.values import Interface, Subnet
from vpccni.core import subnets, view
from vpccni.core import targets as targeting
from vpccni.core.block import Block, BlockKind
from vpccni.core.pacing import Pacer
from vpccni.core.plan import next_wake, plan
from vpccni.core.pool import PodIdentity, PodKey, Pool
from vpccni.core.steps import AssignBlocks, AttachEni, FreeEni, Step, UnassignBlocks, Wait
from vpccni.core.view import NodePolicy, View
from vpccni.errors import CloudError, NoAddress, Refused
from vpccni.ipamd.holds import HoldBook
from vpccni.sim.account import THROTTLED
from vpccni.sim.node import Node
from vpccni.sim.timeline import Process

T = TypeVar("T")
SUBNET_FULL = frozenset({"InsufficientFreeAddressesInSubnet", "InsufficientCidrBlocks"})
SUBNETS_KEPT_S = 60.0  # how long an answer about subnets is believed
DETACH_FIRST_LOOK_S = 3.0
AGAIN_S = 2.0


class OurNode(Node):
    """One node with our rules."""

    def boot(self) -> None:
        """Read what EC2 says about this node, then keep the pool at its targets."""
        settings = self.setup.settings
        self.pool = Pool(float(settings.ip_cooldown_s), self.setup.mode)
        self.pacer = Pacer(fleet=self.setup.fleet_hint)
        self.holds = HoldBook(self.rng)
        self._wanted = targeting.demand(self.setup.targets, self.setup.limits, self.setup.mode)
        self._pending: list[Step] = []
        self._last_decrease: float | None = None
        self._wake_at = float("inf")
        self._subnets: dict[str, Subnet] = {}
        self._subnets_at = float("-inf")
        self._groups: tuple[str, ...] = ()
        self.timeline.spawn(self._start_up())

    # -- pods

    def give(self, pod: str) -> str:
        """Assign; a refusal wakes the engine."""
        try:
            self.pool.assign(PodKey("aws-cni", pod, "eth0"), PodIdentity("sim", pod), self.timeline.now)
        except NoAddress as refusal:
            self._turn()
            return refusal.error_code
        self._turn_if_due()
        return ""

    def take(self, pod: str) -> None:
        """Release; the address cools."""
        self.pool.release(PodKey("aws-cni", pod, "eth0"), self.timeline.now)
        self._turn_if_due()

    def served(self) -> None:
        """Maybe that was the last thing this node was waiting for."""
        self._ready_if_so()

    # -- the engine

    def _turn_if_due(self) -> None:
        """After a change: the engine looks only when the pool is short, or something may be given back."""
        if self._pending:
            return  # the end of a step is a turn anyway
        tally = self.pool.tally(self.timeline.now, 0)
        if self._wanted.short(tally) or self._has_surplus(tally.available):
            self._turn()
        else:
            self._sleep([])

    def _has_surplus(self, available: int) -> bool:
        if available <= self._wanted.spare:
            return False
        if self._wanted.whole_enis:
            return any(not held.owned and held.eni.freeable for held in self.pool.held())
        return True

    def _turn(self) -> None:
        now = self.timeline.now
        steps = plan(
            self.pool,
            self.setup.targets,
            self.setup.limits,
            now,
            holds=self.holds.now_holding(),
            last_decrease=self._last_decrease,
            pending=self._pending,
        )
        for step in steps:
            if not isinstance(step, Wait):
                self._start(step)
        self._sleep(steps)
        self._ready_if_so()

    def _sleep(self, steps: list[Step]) -> None:
        at = next_wake(steps, self.pool, self.timeline.now)
        if at is not None and at < self._wake_at:
            self._wake_at = at
            self.timeline.at(at, self._woken, at)

    def _woken(self, at: float) -> None:
        if at == self._wake_at:
            self._wake_at = float("inf")
            self._turn_if_due()

    def _start(self, step: Step) -> None:
        try:
            if isinstance(step, UnassignBlocks):
                self.pool.withdraw(step.eni_id, step.blocks)
            elif isinstance(step, FreeEni):
                self.pool.withdraw(step.eni_id)
        except Refused:
            return
        if isinstance(step, UnassignBlocks | FreeEni):
            self._last_decrease = self.timeline.now
        self._pending.append(step)
        self.timeline.spawn(self._run(step))

    def _run(self, step: Step) -> Process[None]:
        try:
            match step:
                case AssignBlocks():
                    yield from self._assign(step)
                case AttachEni():
                    yield from self._attach(step)
                case UnassignBlocks():
                    yield from self._unassign(step)
                case FreeEni():
                    yield from self._free(step)
        except CloudError as error:
            self.holds.failed(error, self.timeline.now, attaching=isinstance(step, AttachEni))
        self._pending.remove(step)
        self.timeline.at(self.timeline.now, self._turn)

    def _ready_if_so(self) -> None:
        if self.number in self.record.ready_at or self._pending or not self.open or self.waiting:
            return
        if not self._wanted.short(self.pool.tally(self.timeline.now, 0)):
            self.record.ready(self.number, self.timeline.now)

    # -- calls

    def _call(self, action: str, effect: Callable[[], T]) -> Process[T]:
        """One EC2 call, when the pacer admits it, and again for as long as EC2 is throttling."""
        while True:
            at = self.pacer.reserve(action, self.timeline.now)
            if at > self.timeline.now:
                yield at - self.timeline.now
            try:
                answer = yield from self.account.request(action, effect)
            except CloudError as error:
                if error.aws_code != THROTTLED:
                    self.pacer.admitted(action, self.timeline.now)
                    raise
                self.pacer.refused(action, self.timeline.now, self.rng.random())
                continue
            self.pacer.admitted(action, self.timeline.now)
            return answer

    def _start_up(self) -> Process[None]:
        ec2, instance_id = self.account.ec2, self.instance.instance_id
        found = yield from self._call("DescribeNetworkInterfaces", lambda: ec2.attached(instance_id))
        yield from self._know_subnets()
        self._groups = found[0].security_groups
        for interface in found:
            self._into_pool(interface)
        self._turn()
        if self.setup.confirm_s:
            self.timeline.at(self.timeline.now + self.setup.confirm_s * self.rng.random(), self._confirm)

    def _confirm(self) -> None:
        """Now and then EC2 is asked, although the metadata service shows no difference."""
        ec2, instance_id = self.account.ec2, self.instance.instance_id
        self.timeline.spawn(self._call("DescribeNetworkInterfaces", lambda: ec2.attached(instance_id)))
        self.timeline.at(self.timeline.now + self.setup.confirm_s, self._confirm)

    def _know_subnets(self, *, anew: bool = False) -> Process[list[Subnet]]:
        if anew or self.timeline.now - self._subnets_at > SUBNETS_KEPT_S:
            ec2, account = self.account.ec2, self.account
            found = yield from self._call("DescribeSubnets", lambda: ec2.subnets(account.vpc_id, account.zone))
            self._subnets, self._subnets_at = {each.subnet_id: each for each in found}, self.timeline.now
        settings = self.setup.settings
        return subnets.eligible(
            self._subnets.values(),
            self.instance.subnet_id,
            discovery=settings.enable_subnet_discovery,
            cluster=settings.cluster_name,
        )

    # -- steps

    def _into_pool(self, interface: Interface) -> None:
        now = self.timeline.now
        policy = NodePolicy(self.instance.instance_id)
        eni = view.eni_of(interface, policy, View((interface,), now, self._subnets), now)
        assert eni is not None, f"{interface.eni_id} is not attached here"
        self.pool.add_eni(eni)
        self._grown()

    def _grown(self) -> None:
        if self.pool.tally(self.timeline.now).total:
            self.network_ready()

    def _assign(self, step: AssignBlocks) -> Process[None]:
        eni = self.pool.eni(step.eni_id)
        assert eni is not None
        try:
            networks = yield from self._call(
                "AssignPrivateIpAddresses", lambda: self.account.ec2.assign(step.eni_id, **_counts(step))
            )
        except CloudError as error:
            if error.aws_code not in SUBNET_FULL:
                raise
            yield from self._subnet_full(eni.subnet_id, step, error)
            return
        new = self.pool.add_blocks(step.eni_id, map(Block, networks))
        held, now = sum(block.size for block in new), self.timeline.now
        self.record.held.add(held, now)
        self.holds.succeeded(eni.subnet_id, now, held, prefixes=step.kind is BlockKind.PREFIX)
        self._grown()

    def _subnet_full(self, subnet_id: str, step: AssignBlocks, error: CloudError) -> Process[None]:
        if step.kind is BlockKind.PREFIX:
            self.holds.no_prefix_in(subnet_id, step.count, self.timeline.now, error)
            return
        yield from self._know_subnets(anew=True)
        self.holds.subnet_has(subnet_id, self._subnets[subnet_id].free_addresses, self.timeline.now, error)

    def _attach(self, step: AttachEni) -> Process[None]:
        candidates = yield from self._know_subnets()
        ec2 = self.account.ec2
        refusal: CloudError | None = None
        for subnet in candidates:
            try:
                interface = yield from self._call(
                    "CreateNetworkInterface",
                    lambda: ec2.create(subnet.subnet_id, self._groups, description="", tags={}, **_counts(step)),  # noqa: B023
                )
            except CloudError as error:
                if error.aws_code not in SUBNET_FULL:
                    raise
                refusal = error
                continue
            yield from self._hang(interface, step.card)
            prefixes = step.kind is BlockKind.PREFIX
            self.holds.succeeded(subnet.subnet_id, self.timeline.now, step.count, prefixes=prefixes)
            self.holds.attached()
            return
        assert refusal is not None, "no subnet was eligible"
        if step.kind is BlockKind.PREFIX:
            self.holds.no_prefix_anywhere(self.timeline.now, refusal)
            return
        raise refusal

    def _hang(self, created: Interface, card: int) -> Process[None]:
        """Attach what was created; undone when that cannot be. The link tells the end, EC2 is asked once after it."""
        ec2, eni_id, instance_id = self.account.ec2, created.eni_id, self.instance.instance_id
        held = 1 + sum(1 for _ in created.addresses) + 16 * len(created.prefixes)
        self.record.held.add(held, self.timeline.now)
        self.record.enis.add(1, self.timeline.now)
        self.record.created += 1
        try:
            slots = yield from self._call("DescribeInstances", lambda: ec2.occupied_slots(instance_id))
            device = next(each for each in range(100) if (card, each) not in slots)
            attachment = yield from self._call(
                "AttachNetworkInterface", lambda: ec2.attach(eni_id, instance_id, device, card)
            )
        except CloudError:
            yield from self._delete(eni_id, held)
            raise
        yield from self._call(
            "ModifyNetworkInterfaceAttribute", lambda: ec2.delete_on_termination(eni_id, attachment)
        )
        yield self.account.link(eni_id)
        while True:
            (interface,) = yield from self._call("DescribeNetworkInterfaces", lambda: ec2.interfaces([eni_id]))
            if interface.attachment is not None and interface.attachment.status == "attached":
                break
            yield AGAIN_S
        self._into_pool(interface)

    def _unassign(self, step: UnassignBlocks) -> Process[None]:
        ec2 = self.account.ec2
        addresses = [each.network.network_address for each in step.blocks if each.kind is BlockKind.ADDRESS]
        prefixes = [each.network for each in step.blocks if each.kind is BlockKind.PREFIX]
        try:
            yield from self._call(
                "UnassignPrivateIpAddresses", lambda: ec2.unassign(step.eni_id, addresses, prefixes)
            )
        except CloudError:
            self.pool.confirm(step.eni_id, step.blocks)
            raise
        self.pool.remove_blocks(step.eni_id, step.blocks)
        self.record.held.add(-sum(block.size for block in step.blocks), self.timeline.now)

    def _free(self, step: FreeEni) -> Process[None]:
        ec2, eni_id = self.account.ec2, step.eni_id
        eni = self.pool.eni(eni_id)
        (interface,) = yield from self._call("DescribeNetworkInterfaces", lambda: ec2.interfaces([eni_id]))
        attachment = interface.attachment
        if attachment is not None:
            yield from self._call("DetachNetworkInterface", lambda: ec2.detach(attachment.attachment_id))
            pause_s = DETACH_FIRST_LOOK_S
            while interface.status != "available":
                yield pause_s
                pause_s *= 1.5
                (interface,) = yield from self._call("DescribeNetworkInterfaces", lambda: ec2.interfaces([eni_id]))
        self.pool.remove_eni(eni_id)
        assert eni is not None
        yield from self._delete(eni_id, 1 + sum(block.size for block in eni.blocks))

    def _delete(self, eni_id: str, held: int) -> Process[None]:
        ec2 = self.account.ec2
        while True:
            try:
                yield from self._call("DeleteNetworkInterface", lambda: ec2.delete(eni_id))
                break
            except CloudError as error:
                if error.aws_code != "InvalidParameterValue":  # "in use" is usual right after a detach
                    raise
                yield AGAIN_S
        self.account.forget_link(eni_id)
        self.record.held.add(-held, self.timeline.now)
        self.record.enis.add(-1, self.timeline.now)
        self.record.freed += 1


def _counts(step: AssignBlocks | AttachEni) -> dict[str, int]:
    singles = step.kind is BlockKind.ADDRESS
    return {"address_count": step.count if singles else 0, "prefix_count": 0 if singles else step.count}
