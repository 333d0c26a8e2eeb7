# SPDX-License-Identifier: Apache-2.0
"""EC2 calls of a node that paces itself, and the sequences of calls that attaching and deleting an ENI need.

Knows the pacer's rules and the order of calls, as generators. Must never know the pool or the plan; `sim.ours` does.
The twin of `ipamd.cloudcalls` and `ipamd.saga`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from vpccni.aws.values import Interface, Subnet
from vpccni.core import subnets
from vpccni.core.census import YOUNG_S, place
from vpccni.core.pacing import Pacer
from vpccni.core.view import blocks_of
from vpccni.errors import CloudError
from vpccni.sim.account import THROTTLED
from vpccni.sim.node import Node
from vpccni.sim.timeline import Process

T = TypeVar("T")
SUBNETS_KEPT_S = 60.0  # how long an answer about subnets is believed
AGAIN_S = 2.0


class PacedNode(Node):
    """A node with a pacer. `subnets` is the last answer about them, `slots` the (card, device) pairs in use."""

    def prepare(self) -> None:
        """Before the first call."""
        self.pacer = Pacer()
        self.subnets: dict[str, Subnet] = {}
        self._subnets_at = float("-inf")
        self._claimed: set[tuple[int, int]] = set()  # (card, device) of ENIs that are being attached
        self.slots: set[tuple[int, int]] | None = None  # None: not known
        self.groups: tuple[str, ...] = ()

    def call(self, action: str, effect: Callable[[], T], *, first: bool = False) -> Process[T]:
        """One EC2 call, when the pacer admits it, and again for as long as EC2 is throttling.

        The `first` call of a step is not repeated: the step is planned anew.
        """
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
                if first:
                    raise
                continue
            self.pacer.admitted(action, self.timeline.now)
            return answer

    def take_census(self) -> Process[None]:
        """Ask who starts with this node, and so learn when its turn is."""
        ec2, now, own = self.account.ec2, self.timeline.now, self.instance.instance_id
        try:
            found = yield from self.call("DescribeInstances", lambda: ec2.launched(now - YOUNG_S, now + YOUNG_S))
        except CloudError:
            return
        mine = place(found, own)
        if mine is not None:
            self.pacer.told(mine, self.timeline.now)
            self.slots = {slot for each in found if each.instance_id == own for slot in each.slots}

    def know_subnets(self, *, anew: bool = False) -> Process[list[Subnet]]:
        """The subnets that new ENIs may be made in, best first; asked for when the last answer is old."""
        if anew or self.timeline.now - self._subnets_at > SUBNETS_KEPT_S:
            ec2, account = self.account.ec2, self.account
            found = yield from self.call("DescribeSubnets", lambda: ec2.subnets(account.vpc_id, account.zone))
            self.subnets, self._subnets_at = {each.subnet_id: each for each in found}, self.timeline.now
        settings = self.setup.settings
        return subnets.eligible(
            self.subnets.values(),
            self.instance.subnet_id,
            discovery=settings.enable_subnet_discovery,
            cluster=settings.cluster_name,
        )

    def hang(self, created: Interface, card: int) -> Process[Interface]:
        """Attach what was created; undone when that cannot be. The link tells the end, EC2 is asked once after it."""
        ec2, eni_id, instance_id = self.account.ec2, created.eni_id, self.instance.instance_id
        held = 1 + sum(block.size for block in blocks_of(created))
        self.record.held.add(held, self.timeline.now)
        self.record.enis.add(1, self.timeline.now)
        self.record.created += 1
        try:
            if self.slots is None:
                slots = yield from self.call("DescribeInstances", lambda: ec2.occupied_slots(instance_id))
                self.slots = set(slots)
            taken = self.slots | self._claimed
            device = next(each for each in range(100) if (card, each) not in taken)
            self._claimed.add((card, device))
            try:
                attachment = yield from self.call(
                    "AttachNetworkInterface", lambda: ec2.attach(eni_id, instance_id, device, card)
                )
                self.slots.add((card, device))
            finally:
                self._claimed.discard((card, device))
        except CloudError:
            yield from self.delete(eni_id, held)
            raise
        yield from self.call("ModifyNetworkInterfaceAttribute", lambda: ec2.delete_on_termination(eni_id, attachment))
        yield self.account.link(eni_id)
        while True:
            (interface,) = yield from self.call("DescribeNetworkInterfaces", lambda: ec2.interfaces([eni_id]))
            if interface.attachment is not None and interface.attachment.status == "attached":
                break
            yield AGAIN_S
        return interface

    def delete(self, eni_id: str, held: int) -> Process[None]:
        """Delete an ENI that is attached nowhere; it holds so many addresses."""
        ec2 = self.account.ec2
        while True:
            try:
                yield from self.call("DeleteNetworkInterface", lambda: ec2.delete(eni_id))
                break
            except CloudError as error:
                if error.aws_code != "InvalidParameterValue":  # "in use" is usual right after a detach
                    raise
                yield AGAIN_S
        self.account.forget_link(eni_id)
        self.record.held.add(-held, self.timeline.now)
        self.record.enis.add(-1, self.timeline.now)
        self.record.freed += 1
