# SPDX-License-Identifier: Apache-2.0
"""A node that follows the rules of the Amazon VPC CNI 1.23, so that the comparison with ours can be repeated.

Knows its ticks of 5 s, its one call per tick, "n, then 1", its order of EC2 calls, and that its process ends when its
first calls or its first growth are refused. Must never be part of the product. Charitable where in doubt: no work for
reconcile, no ENI undone because one of the later calls was throttled.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import suppress

from vpccni.aws.values import Interface, IPAddress, IPNetwork
from vpccni.core.block import Mode
from vpccni.core.view import blocks_of
from vpccni.errors import CloudError
from vpccni.sim.timeline import Process
from vpccni.sim.upstream_rules import Rules
from vpccni.sim.upstream_sdk import TRIES_LAST_S, SdkNode
from vpccni.sim.upstream_store import Cidr, Store, StoredEni

TICK_S = 5.0
HOLD_OFF_S = 120.0  # after a subnet was full
SHRINK_INTERVAL_S = 30.0
TAG_TRIES = 5
# kubelet: a container that ended is started again, then with a back-off that doubles.
RESTARTED_S, RESTART_S, RESTART_LAST_S = 1.0, 10.0, 300.0
INSUFFICIENT = frozenset({"InsufficientFreeAddressesInSubnet", "InsufficientCidrBlocks"})


class UpstreamNode(SdkNode):
    """One node with upstream's rules."""

    def boot(self) -> None:
        """Start-up calls, one growth, then ticks."""
        self.store = Store(float(self.setup.settings.ip_cooldown_s), self.rng)  # empty until it serves
        slots = self.setup.limits.slots_per_eni()
        self.rules = Rules.of(self.setup.targets, slots, prefixes=self.setup.mode is Mode.PREFIX)
        self._max_enis = self.setup.limits.enis_on(0, self.setup.targets.max_eni)
        self._hold_until = self._last_decrease = float("-inf")
        self._tick_at: float | None = None  # the next tick that matters; others would find what the last one found
        self._busy = True
        self._phase_s = 0.0
        self._tagged = False
        self.timeline.spawn(self._process())

    # -- pods

    def give(self, pod: str) -> str:
        """Any address of any ENI."""
        now = self.timeline.now
        if not self.store.assign(pod, now):
            if not self.store.total:
                return "pool-empty"
            return "all-cooling" if self.store.available else "all-assigned"
        self._tick_soon()
        return ""

    def take(self, pod: str) -> None:
        """Release; it counts as available from now on."""
        self.store.release(pod, self.timeline.now)
        self._tick_soon()

    def served(self) -> None:
        """Maybe that was the last thing this node was waiting for."""
        self._ready_if_so()

    # -- ticks

    def _tick_soon(self) -> None:
        if not self._busy:
            self._tick_by(self.timeline.now)

    def _tick_by(self, when: float) -> None:
        """Let a tick happen, at the first of this node's beats from a moment on."""
        beats = -((self._phase_s - when) // TICK_S)  # rounded up
        at = self._phase_s + beats * TICK_S
        if at <= self.timeline.now:
            at += TICK_S
        if self._tick_at is None or at < self._tick_at:
            self._tick_at = at
            self.timeline.at(at, self._tick, at)

    def _tick(self, at: float) -> None:
        if at == self._tick_at and not self._busy:
            self._tick_at, self._busy = None, True
            self.timeline.spawn(self._loop_once())

    def _loop_once(self) -> Process[None]:
        again = yield from self._work()
        # The loop sleeps between the work of two ticks, so its beat moves with the work.
        self._phase_s = self.timeline.now % TICK_S
        self._busy = False
        self._ready_if_so()
        if again < float("inf"):
            self._tick_by(max(again, self.timeline.now + TICK_S))

    def _work(self) -> Process[float]:
        """One tick; when the next one could find something else, pods apart."""
        now, rules, store = self.timeline.now, self.rules, self.store
        again = float("inf")
        removing = rules.maybe_remove(store)
        if rules.too_low(store):
            if now <= self._hold_until:
                again = self._hold_until
            elif self._has_room():
                with suppress(CloudError):  # the next tick tries again
                    yield from self._grow()
                again = self.timeline.now
        elif rules.over(store) > 0:
            if now - self._last_decrease > SHRINK_INTERVAL_S:
                yield from self._shrink()
                self._last_decrease = self.timeline.now
            again = self._last_decrease + SHRINK_INTERVAL_S
        if removing:
            victim, later = store.deletable(self.timeline.now, *rules.removal_floor())
            if victim is not None:
                yield from self._free(victim)
                later = self.timeline.now
            again = min(again, later)
        return again

    def _has_room(self) -> bool:
        slots = self.rules.slots
        return len(self.store.enis) < self._max_enis or any(len(eni.cidrs) < slots for eni in self.store.enis)

    def _ready_if_so(self) -> None:
        if self.number in self.record.ready_at or self._busy or not self.open or self.waiting:
            return
        if not self.rules.too_low(self.store):
            self.record.ready(self.number, self.timeline.now)

    # -- calls

    def _process(self) -> Process[None]:
        """The container, until it serves: what fails before ends it, and kubelet starts it again."""
        for crashes in itertools.count():
            self.start_sdk()
            try:
                yield from self._start_up()
                break
            except CloudError:
                self._hold_until = float("-inf")
                yield RESTARTED_S if crashes == 0 else min(RESTART_LAST_S, RESTART_S * 2.0 ** (crashes - 1))
        self._phase_s = self.timeline.now % TICK_S
        self._busy = False
        self._ready_if_so()
        self._tick_by(self.timeline.now + TICK_S)

    def _start_up(self) -> Process[None]:
        """Raises what is fatal: no description of the ENIs, no tags, a first growth that is refused."""
        ec2, account, instance = self.account.ec2, self.account, self.instance
        self.store = Store(float(self.setup.settings.ip_cooldown_s), self.rng)
        yield from self.insist("DescribeNetworkInterfaces", lambda: ec2.attached(instance.instance_id), 0.01)
        if not self._tagged:
            yield from self.insist("CreateTags", lambda: None, 0.5, TAG_TRIES)
            self._tagged = True
        with suppress(CloudError):  # the ENI would be missing until a later reconcile
            yield from self.call("DescribeSubnets", lambda: ec2.subnets(account.vpc_id, account.zone))
        with suppress(CloudError):  # the security groups of the primary ENI; logged only
            yield from self.call("ModifyNetworkInterfaceAttribute", lambda: None)
        primary = ec2.interfaces([instance.primary_eni_id])[0]
        self._groups = primary.security_groups
        stored = StoredEni(primary.eni_id, True, self.timeline.now, primary.subnet_id)
        self.store.add_eni(stored)
        for block in blocks_of(primary):
            self.store.add_cidr(stored, block.network)
        if self.rules.too_low(self.store):
            yield from self._grow()

    # -- growth

    def _grow(self) -> Process[None]:
        wanted, slots = self.rules.wanted(self.store), self.rules.slots
        for eni in self.rng.sample(self.store.enis, len(self.store.enis)):
            room = min(slots - len(eni.cidrs), wanted)
            if room <= 0:
                continue
            for count in (room, 1):  # n, then 1
                try:
                    networks = yield from self.call("AssignPrivateIpAddresses", self._assignment(eni, count))
                except CloudError as error:
                    refusal = error
                    continue
                self._filled(eni, networks)
                return
            if refusal.aws_code in INSUFFICIENT:
                if self.setup.settings.enable_subnet_discovery:
                    continue
                self._hold_until = self.timeline.now + HOLD_OFF_S
                return
            raise refusal
        if len(self.store.enis) < self._max_enis:
            try:
                yield from self._new_eni(min(wanted, slots))
            except CloudError as error:
                if error.aws_code in INSUFFICIENT:
                    self._hold_until = self.timeline.now + HOLD_OFF_S

    def _assignment(self, eni: StoredEni, count: int) -> Callable[[], tuple[IPNetwork, ...]]:
        singles, prefixes = self._counts(count)
        return lambda: self.account.ec2.assign(eni.eni_id, address_count=singles, prefix_count=prefixes)

    def _counts(self, count: int) -> tuple[int, int]:
        return (0, count) if self.rules.prefixes else (count, 0)

    def _filled(self, eni: StoredEni, networks: tuple[IPNetwork, ...]) -> None:
        added = sum(self.store.add_cidr(eni, network) for network in networks)
        self.record.held.add(added, self.timeline.now)
        self.network_ready()

    def _new_eni(self, count: int) -> Process[None]:
        ec2, account, instance_id = self.account.ec2, self.account, self.instance.instance_id
        subnet_id = self.instance.subnet_id
        singles, prefixes = self._counts(count)
        with suppress(CloudError):  # then the primary subnet is used
            yield from self.call("DescribeSubnets", lambda: ec2.subnets(account.vpc_id, account.zone))
        created = yield from self.call(
            "CreateNetworkInterface",
            lambda: ec2.create(
                subnet_id, self._groups, description="", tags={}, address_count=singles, prefix_count=prefixes
            ),
        )
        eni_id = created.eni_id
        held = 1 + sum(block.size for block in blocks_of(created))
        self.record.held.add(held, self.timeline.now)
        self.record.enis.add(1, self.timeline.now)
        self.record.created += 1
        try:
            slots = yield from self.call("DescribeInstances", lambda: ec2.occupied_slots(instance_id))
            device = next(each for each in range(100) if (0, each) not in slots)
            attachment = yield from self.call("AttachNetworkInterface", lambda: ec2.attach(eni_id, instance_id, device))
        except CloudError:
            yield from self._delete(eni_id, held)
            raise
        with suppress(CloudError):  # it would detach and delete the ENI again
            yield from self.call(
                "ModifyNetworkInterfaceAttribute", lambda: ec2.delete_on_termination(eni_id, attachment)
            )
        yield from self._seen_in_metadata(created)
        with suppress(CloudError):
            yield from self.call("DescribeSubnets", lambda: ec2.subnets(account.vpc_id, account.zone))
        stored = StoredEni(eni_id, False, self.timeline.now, subnet_id)
        self.store.add_eni(stored)
        for block in blocks_of(created):
            self.store.add_cidr(stored, block.network)
        self.network_ready()

    def _seen_in_metadata(self, created: Interface) -> Process[None]:
        """Polls of the metadata service; they cost no token."""
        eni, pause_s = self.account.cloud.enis[created.eni_id], 0.1
        while eni.attachment is None or eni.attachment.shown is None or eni.attachment.shown.version < 0:
            yield pause_s
            pause_s = min(TRIES_LAST_S, pause_s * 2)

    # -- decrease

    def _shrink(self) -> Process[None]:
        over = self.rules.over(self.store)
        for eni in self.rng.sample(self.store.enis, len(self.store.enis)):
            freeable = [cidr for cidr in eni.cidrs if not cidr.used]  # cooling or not
            victims: list[Cidr] = self.rng.sample(freeable, min(over, len(freeable)))
            if not victims:
                continue
            self.store.drop_cidrs(eni, victims)
            over -= len(victims)
            addresses: list[IPAddress] = [each.network.network_address for each in victims if each.size == 1]
            prefixes = [each.network for each in victims if each.size > 1]
            try:
                yield from self.call("UnassignPrivateIpAddresses", self._unassignment(eni, addresses, prefixes))
            except CloudError:  # logged only; reconcile brings the items back
                for cidr in victims:
                    self.store.add_cidr(eni, cidr.network)
                continue
            self.record.held.add(-sum(each.size for each in victims), self.timeline.now)

    def _unassignment(
        self, eni: StoredEni, addresses: list[IPAddress], prefixes: list[IPNetwork]
    ) -> Callable[[], None]:
        return lambda: self.account.ec2.unassign(eni.eni_id, addresses, prefixes)

    def _free(self, eni: StoredEni) -> Process[None]:
        ec2, eni_id = self.account.ec2, eni.eni_id
        self.store.remove_eni(eni)
        try:
            (interface,) = yield from self.call("DescribeNetworkInterfaces", lambda: ec2.interfaces([eni_id]))
        except CloudError:
            return
        assert interface.attachment is not None
        yield from self._detach_and_delete(eni_id, interface.attachment.attachment_id, 1 + eni.total)

    def _detach_and_delete(self, eni_id: str, attachment_id: str, held: int) -> Process[None]:
        ec2 = self.account.ec2
        try:
            yield from self.insist("DetachNetworkInterface", lambda: ec2.detach(attachment_id), 0.2)
            yield 2.0
        finally:
            yield from self._delete(eni_id, held)

    def _delete(self, eni_id: str, held: int) -> Process[None]:
        ec2 = self.account.ec2
        try:
            yield from self.insist("DeleteNetworkInterface", lambda: ec2.delete(eni_id), 0.5)
        except CloudError:
            return  # leaked; it still holds its addresses
        self.account.forget_link(eni_id)
        self.record.held.add(-held, self.timeline.now)
        self.record.enis.add(-1, self.timeline.now)
        self.record.freed += 1
