# SPDX-License-Identifier: Apache-2.0
"""A node of a simulated fleet as Kubernetes sees it: pods come and go, and wait while there is no address.

Knows the kubelet's side: network not ready until the CNI has an address, retries of pods that were refused. Must never
know how addresses come about; `sim.ours` and `sim.upstream` do, each with its own pool and rules.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from dataclasses import dataclass

from vpccni.aws.values import InstanceLimits
from vpccni.core.pool import Mode
from vpccni.core.targets import NodeLimits, Targets
from vpccni.lab.cloud.resources import Instance
from vpccni.settings import Settings
from vpccni.sim.account import Account
from vpccni.sim.record import Record
from vpccni.sim.timeline import Timeline

# kubelet: a pod whose sandbox failed is tried again after 10 s with 50 % jitter; the runtime's network status is looked
# at every 5 s.
RETRY_S, RETRY_JITTER = 10.0, 0.5
STATUS_S = 5.0


@dataclass(frozen=True, slots=True)
class Setup:
    """What all nodes of a fleet have alike."""

    settings: Settings
    instance: InstanceLimits
    targets: Targets
    limits: NodeLimits
    mode: Mode
    census: bool = True  # nodes may ask EC2 who starts with them
    confirm_s: float = 0.0  # EC2 is asked what a node has so often, whatever metadata says; 0: never


class Node(ABC):
    """One node. Subclasses say how an address is given and taken, and what the daemon does besides."""

    def __init__(
        self,
        number: int,
        setup: Setup,
        instance: Instance,
        account: Account,
        timeline: Timeline,
        record: Record,
        rng: random.Random,
    ) -> None:
        self.number, self.setup, self.instance = number, setup, instance
        self.account, self.timeline, self.record, self.rng = account, timeline, record, rng
        self.open = False  # the network is ready: the conflist is there
        self._waiting: dict[str, float] = {}  # pod -> arrival
        self._refused: dict[str, str] = {}  # pod -> code of its last refusal
        self._running: set[str] = set()
        record.held.add(1, timeline.now)  # the primary address
        record.enis.add(1, timeline.now)

    @abstractmethod
    def boot(self) -> None:
        """The daemon starts."""

    @abstractmethod
    def give(self, pod: str) -> str:
        """Give a pod an address: "" or the code of the refusal."""

    @abstractmethod
    def take(self, pod: str) -> None:
        """A pod that had an address is gone."""

    @property
    def waiting(self) -> int:
        """Pods without an address."""
        return len(self._waiting)

    def add(self, pod: str) -> None:
        """A pod arrives on the node."""
        self.record.arrived += 1
        self._waiting[pod] = self.timeline.now
        if self.open:
            self._try(pod)

    def remove(self, pod: str) -> None:
        """A pod goes, whether it ever had an address or not."""
        if pod in self._running:
            self._running.remove(pod)
            self.record.stopped(self.timeline.now)
            self.take(pod)
        elif self._waiting.pop(pod, None) is not None:
            self.record.failed[self._refused.pop(pod, "network-not-ready")] += 1

    def network_ready(self) -> None:
        """The daemon has an address to give for the first time; kubelet sees it at its next look."""
        if not self.open:
            self.open = True
            self.timeline.at(self.timeline.now + self.rng.uniform(0.0, STATUS_S), self._try_all)

    def unserved(self) -> None:
        """The simulation ends: pods that still wait have failed, but for those that were never tried a second time."""
        for pod, arrived in self._waiting.items():
            if self.timeline.now - arrived <= RETRY_S * (1.0 + RETRY_JITTER):
                self.record.undecided += 1
            else:
                self.record.failed[self._refused.get(pod, "network-not-ready")] += 1

    def _try_all(self) -> None:
        for pod in list(self._waiting):
            self._try(pod)

    def _try(self, pod: str) -> None:
        arrived = self._waiting.get(pod)
        if arrived is None:
            return
        code = self.give(pod)
        now = self.timeline.now
        if code:
            self.record.refusals[code] += 1
            self._refused[pod] = code
            pause_s = RETRY_S * (1.0 + self.rng.random() * RETRY_JITTER)
            self.timeline.at(now + pause_s, self._try, pod)
            return
        del self._waiting[pod]
        self._refused.pop(pod, None)
        self._running.add(pod)
        self.record.started(now - arrived, now)
        self.served()

    @abstractmethod
    def served(self) -> None:
        """A pod got its address."""
