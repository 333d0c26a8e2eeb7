# SPDX-License-Identifier: Apache-2.0
"""The account that all nodes of a simulation share: EC2's model behind its token buckets and latencies.

Knows how long a call takes, which bucket it draws from and what it answers, and counts. Must never know why a node
calls. `lab.cloud` is the model: the same limits, address spaces, refusals and stages of attaching as in the box.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from ipaddress import IPv4Network
from math import inf
from typing import TypeVar

from vpccni.aws.failure import classify
from vpccni.aws.values import InstanceLimits
from vpccni.errors import CloudError, InputError
from vpccni.lab.cloud.buckets import Buckets
from vpccni.lab.cloud.cloud import Cloud
from vpccni.lab.cloud.direct import DirectEc2
from vpccni.lab.cloud.errors import ApiError
from vpccni.lab.cloud.events import LinkAppears
from vpccni.lab.cloud.profile import Profile
from vpccni.lab.cloud.resources import Instance
from vpccni.lab.cloud.topology import NewInstance
from vpccni.sim.record import Record
from vpccni.sim.timeline import Flag, Process, Timeline

T = TypeVar("T")
THROTTLED = "RequestLimitExceeded"
NODE_TAGS = {"kubernetes.io/cluster/sim": "owned"}


class Account:
    """One account in one Region. `ec2` has the operations; `request` puts time and tokens around one of them."""

    def __init__(
        self,
        timeline: Timeline,
        record: Record,
        rng: random.Random,
        profile: Profile,
        *,
        throttling: bool = True,
        limits: Callable[[str], InstanceLimits | None],
    ) -> None:
        self._timeline, self._record, self._rng, self._profile = timeline, record, rng, profile
        self._buckets = Buckets() if throttling else None
        self.cloud = Cloud(timeline.clock, random.Random(rng.getrandbits(64)), profile, limits=limits)
        self.ec2 = DirectEc2(self.cloud)
        self.subnet_ids: list[str] = []
        self.vpc_id = self.zone = ""
        self._links: dict[str, Flag] = {}

    def lay_out(self, subnets: Sequence[IPv4Network]) -> None:
        """Make the VPC with these subnets, all in one zone."""
        blocks = dict.fromkeys(subnet.supernet(new_prefix=16) for subnet in subnets)
        vpc = self.cloud.create_vpc(list(blocks))
        self.vpc_id = vpc.vpc_id
        for cidr in subnets:
            subnet = self.cloud.create_subnet(vpc.vpc_id, cidr)
            self.subnet_ids.append(subnet.subnet_id)
            self.zone = subnet.zone

    def launch(self, number: int, instance_type: str) -> Instance:
        """Start a node; its number decides the subnet, in turn."""
        subnet_id = self.subnet_ids[number % len(self.subnet_ids)]
        try:
            return self.cloud.run_instance(NewInstance(instance_type, subnet_id, public_ip=False, tags=NODE_TAGS))
        except ApiError as error:
            raise InputError(
                "place the nodes",
                f"node {number + 1} finds no address in its subnet ({error.code})",
                hint="give --subnet more or larger ones, or fewer --nodes",
            ) from None

    def request(self, action: str, effect: Callable[[], T]) -> Process[T]:
        """One API call: there, token, effect, back. Raises CloudError; `aws_code` is THROTTLED when refused."""
        latency_s = self._profile.latency_of(action).draw(self._rng)
        yield latency_s / 2
        now = self._timeline.now
        throttled = self._buckets is not None and not self._buckets.take(action, now)
        self._record.called(action, now, throttled=throttled)
        refusal: CloudError | None = None
        try:
            if throttled:
                raise classify(action, THROTTLED, "Request limit exceeded.", status=503)
            result = effect()
        except CloudError as error:
            refusal = error
            self._record.refused(action, error.aws_code)
        yield latency_s / 2  # a refusal takes its time too
        if refusal is not None:
            raise refusal
        return result

    def link(self, eni_id: str) -> Flag:
        """Raised when the interface's device shows up on its instance."""
        return self._links.setdefault(eni_id, Flag())

    def next_at(self) -> float:
        """When the next thing happens in EC2; infinity: nothing will."""
        due = self.cloud.next_event_at()
        return inf if due is None else due

    def step(self) -> None:
        """Let it happen."""
        timeline = self._timeline
        timeline.now = max(timeline.now, self.next_at())
        for event in self.cloud.advance(timeline.now):
            if isinstance(event, LinkAppears):
                timeline.raise_flag(self._links.setdefault(event.eni_id, Flag()))

    def forget_link(self, eni_id: str) -> None:
        """The interface is gone."""
        self._links.pop(eni_id, None)
