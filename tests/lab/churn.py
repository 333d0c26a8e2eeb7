# SPDX-License-Identifier: Apache-2.0
"""Pods that come and go from several threads at once, as a busy kubelet makes them, with a book of who has what.

Knows addresses, owners and the codes of refusals. Must never retry an ADD by itself: every refusal is evidence. The
bad-day scenario uses it.
"""

from __future__ import annotations

import random
import re
import threading
import time
from collections import Counter

from vpccni.errors import VpcCniError
from vpccni.lab.pods import Pods
from vpccni.lab.runtime import PluginFailed
from vpccni.lab.state import PodRecord

WORKERS = 6
REST_S = 0.3  # after a refusal, as whoever retries waits
_CODE = re.compile(r"\[([a-z0-9-]+)\]")


class Churn:
    """One run. `most` is how many pods are wanted; `doubled` are addresses that a second pod got while the first had
    them, `stuck` are DELs that failed."""

    def __init__(self, pods: Pods, nodes: list[str], most: int, seed: int) -> None:
        self._pods, self._nodes, self._seed = pods, nodes, seed
        self.most = most
        self._lock = threading.Lock()
        self._left = self._serial = 0
        self.living: dict[str, PodRecord] = {}
        self.owners: dict[str, str] = {}
        self.doubled: list[str] = []
        self.stuck: list[str] = []
        self.refusals: Counter[str] = Counter()
        self.unnamed: list[str] = []
        self.added = self.deleted = 0

    def run(self, operations: int) -> float:
        """So many ADDs and DELs, refused ones included; seconds."""
        self._left, started = operations, time.monotonic()
        workers = [threading.Thread(target=self._work, args=(n,)) for n in range(WORKERS)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        return time.monotonic() - started

    def _work(self, number: int) -> None:
        rng = random.Random(self._seed * 1000 + number)
        while True:
            with self._lock:
                if self._left <= 0:
                    return
                self._left -= 1
                victim = self._victim(rng)
                self._serial += 1
                name = f"p{self._serial}"
            if victim is not None:
                self._delete(victim)
            else:
                self._add(name, rng.choice(self._nodes))

    def _victim(self, rng: random.Random) -> PodRecord | None:
        """A pod to end, already struck from the book: from the moment of its DEL its address is anybody's."""
        # The fuller, the likelier: refused ADDs do not drain the nodes, and full nodes are not spared either.
        if rng.random() >= 0.1 + 0.6 * len(self.living) / self.most or not self.living:
            return None
        pod = self.living.pop(rng.choice(sorted(self.living)))
        self.owners.pop(pod.addresses[0], None)  # a doubled address is struck once
        return pod

    def _add(self, name: str, node: str) -> None:
        try:
            pod = self._pods.add(name, node=node)
        except VpcCniError as error:
            self._refused(error)
            time.sleep(REST_S)
            return
        with self._lock:
            self.added += 1
            address = pod.addresses[0]
            if address in self.owners:
                self.doubled.append(f"{address}: {self.owners[address]} and {pod.name}")
            self.owners[address] = pod.name
            self.living[pod.name] = pod

    def _refused(self, error: VpcCniError) -> None:
        found = _CODE.search(error.plugin_details) if isinstance(error, PluginFailed) else None
        with self._lock:
            code = found[1] if found else error.error_code
            self.refusals[code] += 1
            if code in NAMELESS:
                self.unnamed.append(f"{error} {error.details}")

    def _delete(self, pod: PodRecord) -> None:
        try:
            self._pods.remove(pod)
        except VpcCniError as error:
            self.stuck.append(f"{pod.name}: {error} {error.details}")
        with self._lock:
            self.deleted += 1


NAMELESS = frozenset({"internal-error", "failed", "host-failed", "cloud-failed", "state-failed", "cni-plugin-failed"})
