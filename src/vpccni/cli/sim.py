# SPDX-License-Identifier: Apache-2.0
"""`vpccni sim`: fleets in virtual time.

Knows options, defaults and how results are shown. Must never simulate; `sim.run` does. Everything that cannot be
simulated is refused before it starts, with exit code 2.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vpccni.cli.output import Format, OutputOption, assignments, emit, say, table
from vpccni.errors import InputError

if TYPE_CHECKING:
    from vpccni.sim.fleet import Job
    from vpccni.sim.run import Source

DAY_S, COLD_START_S, CHURN_S = 86_400.0, 3_600.0, 3_600.0
UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": DAY_S}
MAX_NODES, PROCESSES = 20_000, 2

More = Annotated[list[str] | None, typer.Argument(metavar="[SETTINGS]...", help="more settings to compare")]
Compare = Annotated[
    list[str] | None,
    typer.Option(help="settings over the same pods, 'NAME=VALUE ... policy=ours|upstream'; repeatable"),
]
Confirm = Annotated[str, typer.Option(help="each node asks EC2 what it has so often; 0s: only on a difference")]


def sim(
    settings: More = None,
    nodes: Annotated[int, typer.Option(help="nodes of the fleet")] = 100,
    instance_type: Annotated[str, typer.Option(help="EC2 instance type of all nodes")] = "m5.xlarge",
    profile: Annotated[str, typer.Option(help="generated load: batch, web, cron (default web)")] = "",
    trace: Annotated[Path | None, typer.Option(help="pods from a file, JSON lines: t, op, pod, node")] = None,
    scenario: Annotated[str, typer.Option(help="cold-start or churn")] = "",
    env: Annotated[list[str] | None, typer.Option(help="a setting of the daemon, NAME=VALUE; repeatable")] = None,
    compare: Compare = None,
    policy: Annotated[str, typer.Option(help="ours, or upstream: the Amazon VPC CNI's rules")] = "ours",
    seed: Annotated[int, typer.Option(help="the same seed gives the same output")] = 1,
    duration: Annotated[str, typer.Option(help="simulated time: 90s, 30m, 6h, 1d")] = "",
    subnet: Annotated[list[str] | None, typer.Option(help="size of a subnet such as /20; repeatable")] = None,
    cloud: Annotated[str, typer.Option(help="profile of EC2's delays")] = "busy",
    no_throttling: Annotated[bool, typer.Option("--no-throttling", help="EC2 without token buckets")] = False,
    no_census: Annotated[bool, typer.Option("--no-census", help="nodes may not ask EC2 who starts with them")] = False,
    boot_over: Annotated[str, typer.Option(help="nodes start within this time")] = "",
    reconcile: Confirm = "0s",
    report: Annotated[Path | None, typer.Option(help="write an HTML report with plots to this file")] = None,
    processes: Annotated[int, typer.Option(help="processes for --compare")] = PROCESSES,
    output: OutputOption = Format.TABLE,
) -> None:
    """Simulate a fleet of nodes over a trace of pods: addresses, EC2 calls, throttles and time to address.

    The decisions are the daemon's own, EC2 is the lab's model with the published token buckets.
    """
    if settings and not compare:
        raise InputError("simulate", f"unexpected argument {settings[0]!r}", hint="settings go with --env or --compare")
    kind = _kind(profile, trace, scenario)
    length_s = _seconds("--duration", duration) if duration else _usual_length_s(kind, scenario)
    base = _Base(env or [], policy, seed, nodes, instance_type, subnet or [], cloud)
    # The fleet starts before the clock does, so slowly that EC2 never throttles; unless the start is what is asked for.
    warm_up_s = 0.0 if scenario == "cold-start" else max(1800.0, nodes * 1.0)
    job = replace(
        base.job(length_s),
        throttling=not no_throttling,
        census=not no_census,
        boot_over_s=_seconds("--boot-over", boot_over, zero=True) if boot_over else warm_up_s / 2,
        warm_up_s=warm_up_s,
        confirm_s=_seconds("--reconcile", reconcile, zero=True),
        until_ready=scenario == "cold-start",
    )
    jobs = _jobs(job, base, [*(compare or []), *(settings or [])])
    source = _source(job, kind, trace, length_given=bool(duration))
    if report is not None:
        _check_writable(report)
    results = _simulated([replace(each, duration_s=source.length_s) for each in jobs], source.pods, processes)
    if report is not None:
        from vpccni.sim.report import render

        report.write_text(render(results, kind or str(trace)), encoding="utf-8")
        say(f"report: {report}")
    if output is Format.JSON:
        emit(results[0] if len(results) == 1 else {"runs": results})
    else:
        _print(results)


def _simulated(jobs: list[Job], source: Source, processes: int) -> list[dict[str, Any]]:
    """The results, after a word on how long they took: that is not part of them."""
    from vpccni.sim import run

    started = time.monotonic()
    with _progress([each.label for each in jobs]) as watch:
        results = run.compare(jobs, source, max(1, processes), watch)
    took_s = time.monotonic() - started
    hours = sum(each["simulated_s"] for each in results) / 3600
    say(f"simulated {hours:.1f} h of {jobs[0].nodes} nodes in {took_s:.1f} s")
    return results


@dataclass(frozen=True, slots=True)
class _Base:
    """What the command line says about every run."""

    env: list[str]
    policy: str
    seed: int
    nodes: int
    instance_type: str
    subnets: list[str]
    cloud: str

    def job(self, duration_s: float, more: Sequence[str] = (), label: str = "") -> Job:
        """A job with more settings than the common ones. Raises InputError."""
        from vpccni.lab.cloud.profile import names
        from vpccni.settings import parse
        from vpccni.sim import fleet

        if not 1 <= self.nodes <= MAX_NODES:
            raise InputError("simulate", f"--nodes {self.nodes} is not between 1 and {MAX_NODES}")
        if self.cloud not in names():
            raise InputError(
                "simulate", f"there is no cloud profile {self.cloud!r}", hint=f"known: {', '.join(names())}"
            )
        given = assignments([*self.env, *more])
        policy = given.pop("policy", self.policy)
        if policy not in fleet.POLICIES:
            raise InputError("simulate", f"there is no policy {policy!r}", hint=f"known: {', '.join(fleet.POLICIES)}")
        fleet.instance_limits(self.instance_type)
        parsed = parse(given)
        for warning in parsed.warnings:
            say(f"warning: {warning}")
        if parsed.enable_ipv6:
            raise InputError("simulate", "ENABLE_IPv6 is not simulated", hint="one /80 never runs out")
        made = fleet.Job(
            settings=parsed,
            policy=policy,
            nodes=self.nodes,
            instance_type=self.instance_type,
            seed=self.seed,
            duration_s=duration_s,
            subnets=tuple(_prefix_length(each) for each in self.subnets),
            cloud=self.cloud,
            label=label or " ".join(more) or policy,
        )
        fleet.subnets_of(made)
        return made


def _jobs(job: Job, base: _Base, specs: list[str]) -> list[Job]:
    """One job, or one per settings to compare; a single one is compared with the common settings."""
    if not specs:
        return [job]
    made = []
    for spec in specs:
        label, colon, rest = spec.partition(":")
        pairs = (rest if colon and "=" not in label else spec).replace(",", " ").split()
        if not pairs:
            raise InputError("simulate", f"--compare {spec!r} says nothing", hint="'NAME=VALUE ... policy=upstream'")
        other = base.job(job.duration_s, pairs, label if colon and "=" not in label else " ".join(pairs))
        made.append(replace(job, settings=other.settings, policy=other.policy, label=other.label))
    return [job, *made] if len(made) == 1 else made


@dataclass(frozen=True, slots=True)
class _Pods:
    pods: Source
    length_s: float


def _kind(profile: str, trace: Path | None, scenario: str) -> str:
    """The generated load that is asked for; "" for a file."""
    from vpccni.sim.profiles import PROFILES, SCENARIOS

    given = [name for name, value in (("--profile", profile), ("--trace", trace), ("--scenario", scenario)) if value]
    if len(given) > 1:
        raise InputError("simulate", f"{' and '.join(given)} exclude each other", hint="give one of them")
    for option, value, known in (("profile", profile, PROFILES), ("scenario", scenario, SCENARIOS)):
        if value and value not in known:
            raise InputError("simulate", f"there is no {option} {value!r}", hint=f"known: {', '.join(sorted(known))}")
    return "" if trace is not None else profile or scenario or "web"


def _usual_length_s(kind: str, scenario: str) -> float:
    lengths = {"cold-start": COLD_START_S, "churn": CHURN_S}
    return lengths.get(scenario, DAY_S) if kind else 0.0


def _source(job: Job, kind: str, trace: Path | None, *, length_given: bool) -> _Pods:
    from vpccni.sim.fleet import capacity, instance_limits
    from vpccni.sim.run import Source
    from vpccni.sim.trace import parse

    if trace is None:
        return _Pods(Source(kind), job.duration_s)
    room = capacity(instance_limits(job.instance_type))
    try:
        with trace.open(encoding="utf-8") as lines:
            events, unschedulable = parse(lines, job.nodes, room, str(trace))
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise InputError(f"read {trace}", str(why)) from None
    length_s = job.duration_s if length_given else events[-1].t + 60.0
    kept = tuple(event for event in events if event.t < length_s)
    return _Pods(Source("", kept, unschedulable), length_s)


def _seconds(option: str, text: str, *, zero: bool = False) -> float:
    unit = UNITS.get(text[-1:], 0.0)
    try:
        value = float(text[:-1]) * unit if unit else float(text)
    except ValueError:
        value = -1.0
    if not (0.0 < value <= 366 * DAY_S or (zero and value == 0.0)):
        raise InputError("simulate", f"{option} {text!r} is no time", hint="such as 90s, 30m, 6h or 1d")
    return value


def _prefix_length(text: str) -> int:
    digits = text.removeprefix("/")
    if not digits.isdecimal() or not 16 <= int(digits) <= 28:
        raise InputError("simulate", f"--subnet {text!r} is no size of a subnet", hint="from /16 to /28")
    return int(digits)


def _check_writable(path: Path) -> None:
    """Before an hour is simulated for nothing."""
    try:
        path.touch()
    except OSError as error:
        raise InputError(f"write {path}", str(error.strerror)) from None


@contextmanager
def _progress(labels: Sequence[str]) -> Iterator[Callable[[int, float], None]]:
    """A bar per run on a terminal, nothing elsewhere."""
    if not sys.stderr.isatty():
        yield lambda job, share: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bars:
        tasks = [bars.add_task(label or "simulating", total=1.0) for label in labels]
        yield lambda job, share: bars.update(tasks[job], completed=share)


def _print(results: Sequence[dict[str, Any]]) -> None:
    from vpccni.sim.figures import rows

    table(["", *(each["label"] for each in results)], rows(results))
