# SPDX-License-Identifier: Apache-2.0
"""What is measured and how figures are made of it: scenarios, alternating repetitions, medians, ratios, shares.

Knows arithmetic. Must never start a program: peers do and return samples. `bench.__main__` calls it; docs/bench.md
defines every figure.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Scenario:
    """`pods` ADDs by `callers` at a time while `present` pods are there already."""

    name: str
    callers: int
    present: int
    pods: int


# At 700 present the pool of 735 leaves room for 32 more.
SCENARIOS = (
    Scenario("250 pods, one at a time", callers=1, present=0, pods=250),
    Scenario("250 pods, 16 at once", callers=16, present=0, pods=250),
    *(
        Scenario(f"{present} present, {how}", callers=callers, present=present, pods=32)
        for callers, how in ((1, "one at a time"), (16, "16 at once"))
        for present in (10, 100, 250, 700)
    ),
)


@dataclass(frozen=True, slots=True)
class Sample:
    """One repetition: nanoseconds per pod, and of all pods together. `start_ns` is the part that starts a process;
    `cpu_ns` what all processes that take part spent on the ADDs, `del_cpu_ns` on the DELs."""

    add_ns: list[int]
    wall_ns: int
    start_ns: list[int] = field(default_factory=list)
    del_ns: list[int] = field(default_factory=list)
    cpu_ns: int = 0
    del_cpu_ns: int = 0


class Peer(Protocol):
    """Something that can run a scenario. No two have one name."""

    name: str

    def run(self, scenario: Scenario) -> Sample:
        """Run it once. Raises BenchmarkError when any pod failed."""
        ...


def percentile(values: Sequence[int], share: float) -> float:
    """The value that `share` of the values do not exceed (nearest rank), in the unit of the values."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def run_all(
    scenarios: Sequence[Scenario], peers: Sequence[Peer], repetitions: int
) -> dict[Scenario, dict[str, list[Sample]]]:
    """Scenario -> peer -> samples. Peers take turns, so that a busy minute of the machine hits all of them."""
    samples: dict[Scenario, dict[str, list[Sample]]] = {
        scenario: {peer.name: [] for peer in peers} for scenario in scenarios
    }
    for repetition in range(repetitions):
        for scenario in scenarios:
            print(f"repetition {repetition + 1} of {repetitions}: {scenario.name}", file=sys.stderr)
            for peer in peers:
                samples[scenario][peer.name].append(peer.run(scenario))
    return samples


def figures(samples: Mapping[Scenario, Mapping[str, list[Sample]]], roles: Mapping[str, str]) -> dict[str, object]:
    """All of one kind of node; `roles` says which of the peers is its floor, its relay and the node itself."""
    rows = [
        summarise(scenario, {role: runs[name] for role, name in roles.items() if name in runs})
        for scenario, runs in samples.items()
    ]
    if not all("node" in row for row in rows):
        return {"rows": rows}
    return {"rows": rows, "flatness": flatness(rows), "floor_flatness": flatness(rows, "floor")}


def summarise(scenario: Scenario, samples: Mapping[str, list[Sample]]) -> dict[str, object]:
    """Medians over the repetitions in milliseconds, throughput in pods a second, ratios to the floor, shares."""
    row: dict[str, object] = {"scenario": scenario.name, "callers": scenario.callers, "present": scenario.present}
    by_role = {role: _figures(scenario, runs) for role, runs in samples.items()}
    row.update(by_role)
    floor, relay, node = (by_role.get(role) for role in ("floor", "relay", "node"))
    if floor and relay and node:
        row["p50_to_floor"] = node["p50_ms"] / floor["p50_ms"]
        row["throughput_to_floor"] = floor["pods_per_s"] / node["pods_per_s"]
        row["cpu_to_floor"] = node["cpu_ms"] / floor["cpu_ms"] if floor["cpu_ms"] else None
        if scenario.callers == 1:
            kernel = floor["p50_ms"] - floor["start_p50_ms"]
            parts = {"relay": relay["p50_ms"], "kernel": kernel}
            parts["daemon"] = node["p50_ms"] - sum(parts.values())
            row["shares"] = {name: {"ms": ms, "of_p50": ms / node["p50_ms"]} for name, ms in parts.items()}
    return row


def _figures(scenario: Scenario, runs: Sequence[Sample]) -> dict[str, float]:
    def over_runs(share: float, of: str = "add_ns") -> float:
        return median(percentile(getattr(run, of), share) for run in runs) / 1e6

    figures = {
        "p50_ms": over_runs(0.50),
        "p99_ms": over_runs(0.99),
        "pods_per_s": median(scenario.pods * 1e9 / run.wall_ns for run in runs),
        "cpu_ms": median(run.cpu_ns for run in runs) / scenario.pods / 1e6,
    }
    if runs[0].start_ns:
        figures["start_p50_ms"] = over_runs(0.50, "start_ns")
    if runs[0].del_ns:
        figures["del_p50_ms"] = over_runs(0.50, "del_ns")
        figures["del_p99_ms"] = over_runs(0.99, "del_ns")
        figures["del_cpu_ms"] = median(run.del_cpu_ns for run in runs) / scenario.pods / 1e6
    return figures


def flatness(rows: Sequence[dict[str, object]], peer: str = "node") -> dict[str, float]:
    """How much dearer an ADD with 700 pods present is than one with 10, by the number of callers (p50 of `peer`)."""
    found: dict[str, float] = {}
    for callers in (1, 16):
        by_present = {row["present"]: row[peer]["p50_ms"] for row in rows if row["callers"] == callers}  # type: ignore[index]
        few, many = by_present.get(10), by_present.get(700)
        if few and many:
            found[f"{callers} at once" if callers > 1 else "one at a time"] = many / few
    return found
