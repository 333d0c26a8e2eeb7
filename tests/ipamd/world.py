# SPDX-License-Identifier: Apache-2.0
"""A node in a simulated VPC in virtual time, for the daemon's parts that talk to EC2.

Knows the real cloud model and a clock that jumps. Waiting costs nothing: `sleep` turns the clock.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Network

from vpccni.aws import tags
from vpccni.aws.values import Interface, NodeIdentity
from vpccni.ipamd import records
from vpccni.ipamd.cloudcalls import CloudCalls
from vpccni.ipamd.journal import Record
from vpccni.ipamd.saga import Sagas
from vpccni.lab.cloud import profile
from vpccni.lab.cloud.cloud import Cloud
from vpccni.lab.cloud.direct import DirectEc2
from vpccni.lab.cloud.errors import ApiError
from vpccni.lab.cloud.topology import NewInstance

SLOW = profile.parse("slow", "[delays]\ncreate=1\nattach=2\nlink=1\nunplug=1\ndetach=3\n")


class Killed(BaseException):
    """The process ends here, without a chance to tidy up."""


@dataclass
class JumpingClock:
    """A clock that only moves when somebody waits."""

    at: float = 1_700_000_000.0

    def now(self) -> float:
        return self.at

    async def sleep(self, duration_s: float) -> None:
        self.at += duration_s


@dataclass
class Fuse:
    """Counts moments and ends the process, or refuses a call, at one of them."""

    blow_at: int = 0
    refuse: str = ""
    moments: int = 0

    def moment(self) -> None:
        self.moments += 1
        if self.moments == self.blow_at:
            if self.refuse:
                raise ApiError(self.refuse, "as the test wants", status=400)
            raise Killed


class FusedEc2(DirectEc2):
    """Every call has a moment before its effect and, when the process is to be killed, one after it."""

    def __init__(self, cloud: Cloud, fuse: Fuse) -> None:
        super().__init__(cloud, before=lambda _action: fuse.moment())
        self._fuse = fuse

    def __getattribute__(self, name: str) -> object:
        found = super().__getattribute__(name)
        if name.startswith("_") or not callable(found) or object.__getattribute__(self, "_fuse").refuse:
            return found

        def with_moment_after(*positional: object, **named: object) -> object:
            answer = found(*positional, **named)
            object.__getattribute__(self, "_fuse").moment()
            return answer

        return with_moment_after


@dataclass
class World:
    """One instance with its primary ENI; the journal is a list that survives a killed process."""

    seed: int = 1
    subnet_cidr: str = "10.0.0.0/24"
    instance_type: str = "m5.large"
    clock: JumpingClock = field(default_factory=JumpingClock)
    journal: list[Record] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.cloud = Cloud(self.clock.now, self.rng, SLOW)
        self.vpc = self.cloud.create_vpc([IPv4Network("10.0.0.0/16")])
        self.subnet = self.cloud.create_subnet(self.vpc.vpc_id, IPv4Network(self.subnet_cidr))
        instance = self.cloud.run_instance(NewInstance(self.instance_type, self.subnet.subnet_id))
        self.clock.at += 60
        (primary,) = DirectEc2(self.cloud).attached(instance.instance_id)
        assert primary.primary_address is not None
        self.node = NodeIdentity(
            region="us-west-2",
            availability_zone=primary.availability_zone,
            instance_id=instance.instance_id,
            instance_type=self.instance_type,
            mac=primary.mac,
            eni_id=primary.eni_id,
            subnet_id=primary.subnet_id,
            vpc_id=primary.vpc_id,
            local_ipv4=primary.primary_address,  # type: ignore[arg-type]
        )

    def process(self, fuse: Fuse | None = None) -> Sagas:
        """The sagas of a new process."""
        fuse = fuse or Fuse()
        ec2 = FusedEc2(self.cloud, fuse)

        async def record(line: Record) -> None:
            if not fuse.refuse:
                fuse.moment()
            self.journal.append(line)
            if not fuse.refuse:
                fuse.moment()

        tokens = self.rng
        return Sagas(
            self.node,
            CloudCalls(ec2, ec2, ec2),
            record,
            self.clock,
            token=lambda: f"token-{tokens.getrandbits(64):x}",
            own_tags=self.own_tags,
        )

    def own_tags(self, now: float) -> Mapping[str, str]:
        """As the daemon tags its ENIs."""
        return tags.creation(self.node.instance_id, now)

    def intents(self) -> dict[str, records.Intent]:
        """What the journal says is unfinished."""
        return records.replay(self.journal).intents

    def attached(self) -> tuple[Interface, ...]:
        """What EC2 lists on the instance."""
        return DirectEc2(self.cloud).attached(self.node.instance_id)

    def leaked(self) -> list[str]:
        """ENIs of this node that hang nowhere."""
        self.clock.at += 600
        return [eni.eni_id for eni in DirectEc2(self.cloud).owned(self.node.instance_id) if eni.attachment is None]


async def link_is_there(_interface: Interface) -> None:
    """The kernel shows the link at once."""


Step = Callable[[Sagas], object]
