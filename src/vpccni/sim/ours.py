# SPDX-License-Identifier: Apache-2.0
"""A node that runs our daemon: the pool, the plan, the holds and the pacing of the product, over simulated calls.

Knows the daemon's walk (wake, plan, run steps, look again) and the order of EC2 calls in each step, as generators.
Must never decide anything that `core` decides. The twin of `ipamd.engine`, `ipamd.steprunner` and `ipamd.saga`, which
do the same with threads, a journal and a kernel.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf

from vpccni.aws.values import Interface
from vpccni.core import targets as targeting
from vpccni.core import view
from vpccni.core.block import Block, BlockKind
from vpccni.core.gather import Gathering
from vpccni.core.lately import CALM, Lately, Wave
from vpccni.core.plan import next_wake, plan
from vpccni.core.pool import PodIdentity, PodKey, Pool
from vpccni.core.stats import Tally
from vpccni.core.steps import AssignBlocks, AttachEni, Decrease, FreeEni, Growth, Step, UnassignBlocks
from vpccni.core.view import NodePolicy, View
from vpccni.errors import CloudError, NoAddress, Refused
from vpccni.ipamd.holds import HoldBook
from vpccni.sim.account import THROTTLED
from vpccni.sim.paced import PacedNode
from vpccni.sim.timeline import Process

SUBNET_FULL = frozenset({"InsufficientFreeAddressesInSubnet", "InsufficientCidrBlocks"})
DETACH_FIRST_LOOK_S = 3.0


class OurNode(PacedNode):
    """One node with our rules."""

    def boot(self) -> None:
        """Read what EC2 says about this node, then keep the pool at its targets."""
        settings = self.setup.settings
        self.pool = Pool(float(settings.ip_cooldown_s), self.setup.mode)
        self.holds = HoldBook(self.rng)
        self.prepare()
        self._wanted = targeting.demand(self.setup.targets, self.setup.limits, self.setup.mode)
        self._pending: list[Step] = []
        self._last_decrease: float | None = None
        self._wake_at = float("inf")
        self._gathering, self._lately = Gathering(), Lately(float(settings.ip_cooldown_s))
        self.timeline.spawn(self._start_up())

    # -- pods

    def give(self, pod: str) -> str:
        """Assign; a refusal wakes the engine."""
        try:
            self.pool.assign(PodKey("aws-cni", pod, "eth0"), PodIdentity("sim", pod), self.timeline.now)
        except NoAddress as refusal:
            now = self.timeline.now
            if not self._gathering.patient(self.pool.tally(now, 0), self._wanted.spare, now):
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
        now = self.timeline.now
        tally = self.pool.tally(now, 0)
        wave = self._lately.note(tally, now)
        if self._pending:
            return  # the end of a step is a turn anyway
        if self._wanted.short(tally):
            if not self._gathering.patient(tally, self._wanted.spare, now):
                self._turn()
        elif self._has_surplus(tally, wave):
            self._turn()
        else:
            self._sleep([])
            if self._has_surplus(tally, CALM):
                self._wake(min(wave.enis_until, wave.blocks_until))

    def _has_surplus(self, tally: Tally, wave: Wave) -> bool:
        """Whether a plan might give something back: a block, or an ENI whose addresses, if any, are all over."""
        idle = tally.available - tally.waiting - self._wanted.spare
        if idle > wave.for_blocks and not self._wanted.whole_enis:
            return True
        over = idle - wave.for_enis
        return over >= 0 and any(
            not held.owned and held.total <= over and held.eni.freeable for held in self.pool.held()
        )

    def _turn(self) -> None:
        now = self.timeline.now
        tally = self.pool.tally(now, 0)
        steps = plan(
            self.pool,
            self.setup.targets,
            self.setup.limits,
            now,
            holds=self.holds.now_holding(),
            last_decrease=self._last_decrease,
            pending=self._pending,
            wave=self._lately.note(tally, now, crowded=self.pacer.crowded(now)),
        )
        ready, again = self._gathering.due(steps, tally, self._wanted.spare, now, self.pacer.free_at)
        for step in ready:
            self._start(step)
        if again < inf:
            self._wake(again)
        self._sleep(steps)
        self._ready_if_so()

    def _sleep(self, steps: list[Step]) -> None:
        at = next_wake(steps, self.pool, self.timeline.now)
        if at is not None:
            self._wake(at)

    def _wake(self, at: float) -> None:
        if at < self._wake_at:
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
        if isinstance(step, Decrease):
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
            if error.aws_code != THROTTLED:  # that is the pacer's business; nothing has begun
                self.holds.failed(error, self.timeline.now, attaching=isinstance(step, AttachEni))
        self._pending.remove(step)
        self.timeline.at(self.timeline.now, self._turn)

    def _ready_if_so(self) -> None:
        if self.number in self.record.ready_at or self._pending or not self.open or self.waiting:
            return
        if not self._wanted.short(self.pool.tally(self.timeline.now, 0)):
            self.record.ready(self.number, self.timeline.now)

    # -- start and confirmation

    def _start_up(self) -> Process[None]:
        ec2, instance_id = self.account.ec2, self.instance.instance_id
        if self.setup.census:
            yield from self.take_census()
        found = yield from self.call("DescribeNetworkInterfaces", lambda: ec2.attached(instance_id))
        yield from self.know_subnets()
        self.groups = found[0].security_groups
        for interface in found:
            self._into_pool(interface)
        self._turn()
        if self.setup.confirm_s:
            self.timeline.at(self.timeline.now + self.setup.confirm_s * self.rng.random(), self._confirm)

    def _confirm(self) -> None:
        """Now and then EC2 is asked, although the metadata service shows no difference."""
        ec2, instance_id = self.account.ec2, self.instance.instance_id
        self.timeline.spawn(self.call("DescribeNetworkInterfaces", lambda: ec2.attached(instance_id)))
        self.timeline.at(self.timeline.now + self.setup.confirm_s, self._confirm)

    # -- steps

    def _into_pool(self, interface: Interface) -> None:
        now = self.timeline.now
        policy = NodePolicy(self.instance.instance_id)
        eni = view.eni_of(interface, policy, View((interface,), now, self.subnets), now)
        assert eni is not None, f"{interface.eni_id} is not attached here"
        self.pool.add_eni(eni)
        self._grown()

    def _grown(self) -> None:
        if self.pool.tally(self.timeline.now).total:
            self.network_ready()

    def _assign(self, step: AssignBlocks) -> Process[None]:
        eni = self.pool.eni(step.eni_id)
        assert eni is not None
        singles, prefixes = _counts(step)
        try:
            networks = yield from self.call(
                "AssignPrivateIpAddresses",
                lambda: self.account.ec2.assign(step.eni_id, address_count=singles, prefix_count=prefixes),
                first=True,
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
        yield from self.know_subnets(anew=True)
        self.holds.subnet_has(subnet_id, self.subnets[subnet_id].free_addresses, self.timeline.now, error)

    def _attach(self, step: AttachEni) -> Process[None]:
        candidates = yield from self.know_subnets()
        refusal: CloudError | None = None
        for subnet in candidates:
            try:
                interface = yield from self.call(
                    "CreateNetworkInterface",
                    self._creation(subnet.subnet_id, step),
                    first=True,
                )
            except CloudError as error:
                if error.aws_code not in SUBNET_FULL:
                    raise
                refusal = error
                continue
            self._into_pool((yield from self.hang(interface, step.card)))
            prefixes = step.kind is BlockKind.PREFIX
            self.holds.succeeded(subnet.subnet_id, self.timeline.now, step.count, prefixes=prefixes)
            self.holds.attached()
            return
        assert refusal is not None, "no subnet was eligible"
        if step.kind is BlockKind.PREFIX:
            self.holds.no_prefix_anywhere(self.timeline.now, refusal)
            return
        raise refusal

    def _creation(self, subnet_id: str, step: AttachEni) -> Callable[[], Interface]:
        singles, prefixes = _counts(step)
        return lambda: self.account.ec2.create(
            subnet_id, self.groups, description="", tags={}, address_count=singles, prefix_count=prefixes
        )

    def _unassign(self, step: UnassignBlocks) -> Process[None]:
        ec2 = self.account.ec2
        addresses = [each.network.network_address for each in step.blocks if each.kind is BlockKind.ADDRESS]
        prefixes = [each.network for each in step.blocks if each.kind is BlockKind.PREFIX]
        try:
            yield from self.call(
                "UnassignPrivateIpAddresses", lambda: ec2.unassign(step.eni_id, addresses, prefixes), first=True
            )
        except CloudError:
            self.pool.confirm(step.eni_id, step.blocks)
            raise
        self.pool.remove_blocks(step.eni_id, step.blocks)
        self.record.held.add(-sum(block.size for block in step.blocks), self.timeline.now)

    def _free(self, step: FreeEni) -> Process[None]:
        ec2, eni_id = self.account.ec2, step.eni_id
        eni = self.pool.eni(eni_id)
        (interface,) = yield from self.call("DescribeNetworkInterfaces", lambda: ec2.interfaces([eni_id]))
        attachment = interface.attachment
        if attachment is not None:
            yield from self.call("DetachNetworkInterface", lambda: ec2.detach(attachment.attachment_id))
            pause_s = DETACH_FIRST_LOOK_S
            while interface.status != "available":
                yield pause_s
                pause_s *= 1.5
                (interface,) = yield from self.call("DescribeNetworkInterfaces", lambda: ec2.interfaces([eni_id]))
            if self.slots is not None:
                self.slots.discard((attachment.card, attachment.device))
        self.pool.remove_eni(eni_id)
        assert eni is not None
        yield from self.delete(eni_id, 1 + sum(block.size for block in eni.blocks))


def _counts(step: Growth) -> tuple[int, int]:
    """Single addresses and prefixes."""
    return (step.count, 0) if step.kind is BlockKind.ADDRESS else (0, step.count)
