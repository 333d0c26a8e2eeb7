# SPDX-License-Identifier: Apache-2.0
"""A run's record as one JSON value: what `vpccni sim -o json` prints and the report draws.

Knows names, units and rounding of the figures. Must never hold anything that differs between two runs with the same
seed, such as how long the machine needed. `sim.run` makes it, the command and the report read it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vpccni.core.pacing import serving_s
from vpccni.sim.fleet import Job
from vpccni.sim.record import POINTS, Record

Result = dict[str, Any]
LONG_WAITS_S = (1.0, 5.0, 15.0, 30.0, 60.0)


def result(job: Job, record: Record, ended_at: float) -> Result:
    """All figures; times in seconds, areas in address-hours."""
    throttled, calls = sum(record.throttles.values()), sum(record.calls.values())
    found = {
        "label": job.label,
        "policy": job.policy,
        "nodes": job.nodes,
        "instance_type": job.instance_type,
        "seed": job.seed,
        "simulated_s": round(ended_at - record.start, 3),
        "pods": {
            "arrived": record.arrived,
            "got_an_address": record.given,
            "failed": sum(record.failed.values()),
            "waiting_at_the_end": record.undecided,
            "unschedulable": record.unschedulable,
        },
        "failed_by_code": _sorted(record.failed),
        "refusals_by_code": _sorted(record.refusals),
        "time_to_address_s": waits(record.waits),
        "ec2_calls": calls,
        "throttled_calls": throttled,
        "throttled_per_node": round(throttled / job.nodes, 3),
        "calls_by_action": _sorted(record.calls),
        "throttled_by_action": _sorted(record.throttles),
        "ec2_refusals": _sorted(record.ec2_refusals),
        "enis": {
            "peak": record.enis.peak,
            "end": record.enis.value,
            "created": record.created,
            "freed": record.freed,
        },
        "addresses": _addresses(record, ended_at),
    }
    if not job.warm_up_s:
        found |= _readiness(job, record)
    found["series"] = _series(record, job.duration_s)
    return found


def _readiness(job: Job, record: Record) -> Result:
    """When nodes had all that their pods and targets want, the first time. `attach_floor_s` is what the bucket of
    AttachNetworkInterface permits when every node needs one."""
    times = sorted(record.ready_at.values())
    complete = len(times) == job.nodes
    floor_s = serving_s(job.nodes)
    return {
        "ready_nodes": len(times),
        "first_ready_s": round(times[0], 2) if times else None,
        "median_ready_s": round(_quantile(times, 0.5), 2) if times else None,
        "last_ready_s": round(times[-1], 2) if complete else None,
        "attach_floor_s": round(floor_s, 2),
        "last_ready_over_floor": round(times[-1] / floor_s, 3) if complete and floor_s else None,
    }


def _addresses(record: Record, ended_at: float) -> Result:
    held, used = record.held.until(ended_at) / 3600, record.used.until(ended_at) / 3600
    return {
        "held_peak": record.held.peak,
        "used_peak": record.used.peak,
        "held_hours": round(held, 2),
        "used_hours": round(used, 2),
        "wasted_hours": round(held - used, 2),
        "wasted_share": round(1 - used / held, 4) if held else 0.0,
    }


def waits(times: Sequence[float]) -> Result:
    """Quantiles of the time from a pod's arrival to its address, and how many took longer than some bounds."""
    ordered = sorted(times)
    if not ordered:
        return {"p50": None, "p99": None, "worst": None, "mean": None, "longer_than": {}}
    return {
        "p50": round(_quantile(ordered, 0.5), 3),
        "p99": round(_quantile(ordered, 0.99), 3),
        "worst": round(ordered[-1], 3),
        "mean": round(sum(ordered) / len(ordered), 4),
        "longer_than": {f"{bound:g}": sum(each > bound for each in ordered) for bound in LONG_WAITS_S},
    }


def _quantile(ordered: Sequence[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def _series(record: Record, duration_s: float) -> Result:
    """Curves. `calls` counts per point, which lasts `step_s`; waits are the p99 and the worst of each point."""
    points = range(POINTS)
    return {
        "step_s": round(duration_s / POINTS, 3),
        "t": [round(at, 1) for at, *_ in record.samples],
        "held": [held for _, held, _, _ in record.samples],
        "used": [used for _, _, used, _ in record.samples],
        "enis": [enis for *_, enis in record.samples],
        "calls": {
            action: [counts.get(point, 0) for point in points]
            for action, counts in sorted(record.calls_over_time.items())
        },
        "throttled": [record.throttles_over_time.get(point, 0) for point in points],
        "wait_p99": [_at_point(record, point, 0.99) for point in points],
        "wait_worst": [_at_point(record, point, 1.0) for point in points],
    }


def _at_point(record: Record, point: int, share: float) -> float | None:
    times = record.waits_over_time.get(point)
    return round(_quantile(sorted(times), share), 3) if times else None


def _sorted(counts: dict[str, int]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
