# SPDX-License-Identifier: Apache-2.0
"""What the simulation tests share: a job from a few words, and its fleet after it was played."""

from __future__ import annotations

from typing import Any

from vpccni.settings import parse
from vpccni.sim.fleet import Fleet, Job
from vpccni.sim.result import Result
from vpccni.sim.run import Source, run


def job(policy: str = "ours", env: dict[str, str] | None = None, **changes: Any) -> Job:
    """A small fleet over a short time, unless the caller says otherwise."""
    values: dict[str, Any] = {
        "nodes": 5,
        "instance_type": "m5.large",
        "seed": 1,
        "duration_s": 1800.0,
        "warm_up_s": 0.0,
        "confirm_s": 0.0,
    }
    return Job(settings=parse(env or {}), policy=policy, **(values | changes))


def played(kind: str, **changes: Any) -> Result:
    """The result of a generated load."""
    return run(job(**changes), Source(kind))


def fleet_after(kind: str, **changes: Any) -> Fleet:
    """The fleet itself, at the end."""
    wanted = job(**changes)
    fleet = Fleet(wanted)
    fleet.play(Source(kind).trace(wanted))
    return fleet
