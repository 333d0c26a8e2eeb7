# SPDX-License-Identifier: Apache-2.0
"""Pods that were refused an address and will ask again: demand that no grant shows.

Knows pods by name, because a runtime makes a new sandbox for each attempt. Must never grow without bound: who does not
ask again is forgotten. Only the pool uses it, and counts it in its tally.
"""

from __future__ import annotations

from vpccni.core.grant import PodIdentity

# kubelet asks again after 10 to 15 s; who was not heard of for longer than two attempts is gone.
PATIENCE_S = 30.0
MOST = 1000


class Waiting:
    """The pods that wait."""

    def __init__(self) -> None:
        self._since: dict[tuple[str, str], float] = {}  # pod -> its last refusal, the oldest first

    def refused(self, pod: PodIdentity, now: float) -> None:
        """There was no address for the pod."""
        name = (pod.namespace, pod.name)
        self._since.pop(name, None)
        if len(self._since) < MOST:
            self._since[name] = now

    def served(self, pod: PodIdentity) -> None:
        """The pod waits no more."""
        self._since.pop((pod.namespace, pod.name), None)

    def count(self, now: float) -> int:
        """How many wait."""
        for name, at in list(self._since.items()):
            if now - at < PATIENCE_S:
                break
            del self._since[name]
        return len(self._since)

    def next_end(self) -> float | None:
        """When the next one is given up on."""
        return next(iter(self._since.values())) + PATIENCE_S if self._since else None
