# SPDX-License-Identifier: Apache-2.0
"""What packets cost with few pods and with many: rounds of measurement made into medians and ratios.

Knows arithmetic. Must never start a program: a peer does. `bench.__main__` calls it; docs/bench.md defines the figures.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from statistics import median
from typing import Protocol

FEW, MANY = 10, 700
SLICES = 5

Rate = tuple[str, str, int, float]
"""(rr or pps, to a pod or to the peer beyond the ENI, pods on the node, per second)."""


class Forwarding(Protocol):
    """A node whose pods can be made to talk. No two have one name."""

    name: str

    def forward(self, few: int, many: int, slices: int) -> list[Rate]:
        """One round."""
        ...


def run(nodes: Sequence[Forwarding], rounds: int, slices: int = SLICES, many: int = MANY) -> dict[str, list[Rate]]:
    """Node -> its rates of several rounds. A round is few pods and then many, so that both see the same minutes."""
    rates: dict[str, list[Rate]] = {node.name: [] for node in nodes}
    for number in range(rounds):
        print(f"forwarding, round {number + 1} of {rounds}", file=sys.stderr)
        for node in nodes:
            rates[node.name] += node.forward(FEW, many, slices)
    return rates


def summarise(rates: Iterable[Rate]) -> list[dict[str, object]]:
    """One row for each kind and destination: medians per second, and how much dearer a packet is with many pods."""
    by_key: dict[tuple[str, str], dict[int, list[float]]] = {}
    for kind, to, pods, rate in rates:
        by_key.setdefault((kind, to), {}).setdefault(pods, []).append(rate)
    rows: list[dict[str, object]] = []
    for (kind, to), by_pods in by_key.items():
        few, many = min(by_pods), max(by_pods)
        rows.append(
            {
                "kind": kind,
                "to": to,
                "few": few,
                "many": many,
                "few_per_s": median(by_pods[few]),
                "many_per_s": median(by_pods[many]),
                "cost_ratio": median(by_pods[few]) / median(by_pods[many]),
            }
        )
    return rows
