# SPDX-License-Identifier: Apache-2.0
"""One run: a fleet of nodes, one account, one trace, one policy, from time 0 to the end.

Knows how the parts are put together and in which order things happen. Must never decide for a node. `sim.run` makes
jobs and plays several side by side; everything random comes from the job's seed.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Network
from math import inf

from vpccni.aws.values import InstanceLimits
from vpccni.core.limits import find
from vpccni.core.maxpods import max_pods
from vpccni.core.pool import Mode
from vpccni.core.targets import NodeLimits, Targets
from vpccni.errors import InputError
from vpccni.lab.cloud import profile as cloud_profiles
from vpccni.lab.cloud.faults import NO_FAULTS
from vpccni.settings import Settings
from vpccni.sim.account import Account
from vpccni.sim.node import Node, Setup
from vpccni.sim.ours import OurNode
from vpccni.sim.record import POINTS, Record
from vpccni.sim.timeline import Timeline
from vpccni.sim.trace import PodEvent
from vpccni.sim.upstream import UpstreamNode

POLICIES: dict[str, type[Node]] = {"ours": OurNode, "upstream": UpstreamNode}
SUBNETS = IPv4Network("10.0.0.0/8")
Progress = Callable[[float], None]


@dataclass(frozen=True, slots=True)
class Job:
    """What to simulate. `subnets` are prefix lengths, () for as many /18 as the nodes can fill.

    `census`: whether a node may ask EC2 who starts with it.
    `boot_over_s`: nodes start within so many seconds. `warm_up_s`: what is simulated before counting and time 0 begin;
    events of the trace may have negative times. `until_ready`: end as soon as every node is ready.
    """

    settings: Settings
    policy: str
    nodes: int
    instance_type: str
    seed: int
    duration_s: float
    subnets: tuple[int, ...] = ()
    cloud: str = "busy"
    throttling: bool = True
    census: bool = True
    boot_over_s: float = 0.0
    warm_up_s: float = 0.0
    confirm_s: float = 3600.0
    until_ready: bool = False
    label: str = field(default="")


def instance_limits(instance_type: str) -> InstanceLimits:
    """The type's limits. Raises InputError with the next step for an unknown one."""
    found = find(instance_type)
    if found is None:
        raise InputError("simulate", f"there is no instance type {instance_type!r}", hint="vpccni instance-types '*'")
    return found


def capacity(limits: InstanceLimits) -> int:
    """Pods with an address of their own that a scheduler puts on a node, whatever its settings."""
    return max(1, min(110, max_pods(limits).uncapped) - 2)


def setup_of(job: Job) -> Setup:
    """What the nodes have alike, from the settings, as the daemon's own start computes it."""
    settings, limits = job.settings, instance_limits(job.instance_type)
    prefixes = settings.enable_prefix_delegation and limits.supports_prefixes
    pods = settings.max_pods or max_pods(limits, prefix_delegation=prefixes, max_eni=settings.max_eni).uncapped
    targets = Targets(
        warm_eni=settings.warm_eni_target,
        warm_ip=settings.warm_ip_target or None,
        minimum_ip=settings.minimum_ip_target or None,
        warm_prefix=settings.warm_prefix_target,
        max_eni=settings.max_eni or None,
        max_pods=pods,
    )
    return Setup(
        settings=settings,
        instance=limits,
        targets=targets,
        limits=NodeLimits(limits.max_enis, limits.ipv4_per_eni),
        mode=Mode.PREFIX if prefixes else Mode.SECONDARY,
        census=job.census,
        confirm_s=job.confirm_s,
    )


def subnets_of(job: Job) -> list[IPv4Network]:
    """The subnets, one after the other, each aligned. Raises InputError when they do not fit into 10.0.0.0/8."""
    lengths = job.subnets
    if not lengths:
        limits = instance_limits(job.instance_type)
        per_node = limits.max_enis + min(limits.max_enis * limits.ipv4_per_eni, 400)
        lengths = (18,) * max(1, -(-job.nodes * per_node // 14_000))
    made, at = [], int(SUBNETS.network_address)
    for length in lengths:
        size = 1 << (32 - length)
        at = -(-at // size) * size
        if at + size - 1 > int(SUBNETS.broadcast_address):
            raise InputError("lay out the subnets", f"{len(lengths)} subnets do not fit into {SUBNETS}")
        made.append(IPv4Network((at, length)))
        at += size
    return made


class Fleet:
    """The nodes of one job and what they share."""

    def __init__(self, job: Job) -> None:
        self.job = job
        rng = random.Random(f"{job.seed}/{job.policy}")
        profile = replace(cloud_profiles.load(job.cloud), faults=NO_FAULTS)
        self.timeline, self.record = Timeline(), Record(job.duration_s, job.warm_up_s)
        self.setup = setup_of(job)
        self.account = Account(self.timeline, self.record, rng, profile, throttling=job.throttling, limits=find)
        self.account.lay_out(subnets_of(job))
        self.nodes = [self._node(number, rng) for number in range(job.nodes)]
        starts = random.Random(f"{job.seed}/boot")
        for node in self.nodes:
            # All machines take the same time from launch to daemon; it is left out.
            node.instance.launched_at = starts.uniform(0.0, job.boot_over_s)
            self.timeline.at(node.instance.launched_at, node.boot)

    def _node(self, number: int, rng: random.Random) -> Node:
        instance = self.account.launch(number, self.job.instance_type)
        kind = POLICIES[self.job.policy]
        own = random.Random(rng.getrandbits(64))
        return kind(number, self.setup, instance, self.account, self.timeline, self.record, own)

    def play(self, trace: Sequence[PodEvent], progress: Progress = lambda share: None) -> Record:
        """Let it all happen; the record."""
        timeline, account, start = self.timeline, self.account, self.job.warm_up_s
        end, step_s = start + self.job.duration_s, self.job.duration_s / POINTS
        position, sampled = 0, 0
        while True:
            in_ec2, on_nodes = account.next_at(), timeline.next_at()
            comes = trace[position].t + start if position < len(trace) else inf
            due = min(comes, in_ec2, on_nodes)
            while sampled <= POINTS and start + sampled * step_s <= min(due, end):
                self._sample(start + sampled * step_s, sampled)
                progress(sampled / POINTS)
                sampled += 1
            if due > end or self._done():
                break
            if in_ec2 <= due:
                account.step()
            elif comes <= due:
                event = trace[position]
                position += 1
                timeline.now = max(timeline.now, comes)
                node = self.nodes[event.node]
                (node.add if event.add else node.remove)(event.pod)
            else:
                timeline.step()
        if not self._done():
            timeline.now = end
        for node in self.nodes:
            node.unserved()
        return self.record

    def _sample(self, now: float, number: int) -> None:
        self.timeline.now = max(self.timeline.now, now)
        if number == 0 and self.job.warm_up_s:
            self.record.begin(now, sum(node.waiting for node in self.nodes))
        self.record.sample(now)

    def _done(self) -> bool:
        return self.job.until_ready and len(self.record.ready_at) == len(self.nodes)
