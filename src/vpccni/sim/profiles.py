# SPDX-License-Identifier: Apache-2.0
"""Kinds of load: when pods come to a node and how long they stay, drawn from a seed.

Knows what web services, batch jobs and cron jobs look like, and the two scenarios. Must never know addresses or
policies. The same seed gives the same pods for every setting that is compared.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from vpccni.sim.trace import PodEvent, merged

DAY_S = 86_400.0
BEFORE = -math.inf  # pods that are there when it begins: they come in the second half of the warm-up
Life = tuple[float, float]  # from, to


@dataclass(frozen=True, slots=True)
class Load:
    """What a node is to be loaded with: at most `capacity` pods, `slots` addresses per ENI, for `duration_s`."""

    capacity: int
    slots: int
    duration_s: float
    rng: random.Random


def web(load: Load) -> Iterator[Life]:
    """Services: about a third of the node, following the hours of the day, lives of hours, one roll-out a day."""
    rng = load.rng
    base = max(2.0, load.capacity * rng.uniform(0.25, 0.45))
    mean_life_s = 5 * 3600.0
    roll_out = rng.uniform(0.0, DAY_S)
    for _ in range(round(base)):
        yield BEFORE, _until(0.0, rng.expovariate(1 / mean_life_s), roll_out, rng)
    t = 0.0
    peak_rate = base * 1.5 / mean_life_s
    while (t := t + rng.expovariate(peak_rate)) < load.duration_s:
        hours = 1.0 + 0.4 * math.sin(2 * math.pi * (t / DAY_S - 0.3))
        if rng.random() < hours / 1.5:
            yield t, _until(t, t + rng.expovariate(1 / mean_life_s), roll_out, rng)
    replaced = round(base * 0.5)
    for number in range(replaced):
        at = roll_out + 120.0 * number / replaced
        yield at, at + rng.expovariate(1 / mean_life_s)


def _until(start: float, ends_at: float, roll_out: float, rng: random.Random) -> float:
    """Half of what lives at the roll-out ends in it."""
    in_it = start < roll_out < ends_at and rng.random() < 0.5
    return roll_out + rng.uniform(0.0, 120.0) if in_it else ends_at


def batch(load: Load) -> Iterator[Life]:
    """Jobs: a few daemons, and every two hours or so a wave that fills up to two thirds of the node for minutes."""
    rng = load.rng
    for _ in range(min(3, load.capacity)):
        yield BEFORE, math.inf
    t = rng.uniform(0.0, 7200.0)
    while t < load.duration_s:
        for _ in range(round(load.capacity * rng.uniform(0.2, 0.65))):
            start = t + rng.uniform(0.0, 30.0)
            yield start, start + max(20.0, rng.lognormvariate(math.log(420.0), 0.6))
        t += rng.expovariate(1 / 5400.0) + 1800.0


def cron(load: Load) -> Iterator[Life]:
    """Schedules: some of the node lives on, a few pods every ten minutes and more on the hour, for a minute."""
    rng = load.rng
    for _ in range(max(1, round(load.capacity * rng.uniform(0.1, 0.4)))):
        yield BEFORE, math.inf
    t = 0.0
    while t < load.duration_s:
        often = max(1, load.capacity // 20)
        for _ in range(often * 4 if t % 3600.0 == 0 else often):
            start = t + rng.expovariate(1 / 4.0)
            yield start, start + rng.uniform(30.0, 90.0)
        t += 600.0


def cold_start(load: Load) -> Iterator[Life]:
    """As many pods as the primary ENI has addresses, at once: with the default targets each node needs one more ENI."""
    for _ in range(min(load.slots, load.capacity)):
        yield 0.0, math.inf


def churn(load: Load) -> Iterator[Life]:
    """Continuous integration: half of the node, each place taken by one short pod after the other."""
    rng = load.rng
    for _ in range(max(1, load.capacity // 2)):
        t = rng.uniform(0.0, 60.0)
        while t < load.duration_s:
            ends_at = t + rng.uniform(20.0, 60.0)
            yield t, ends_at
            t = ends_at + rng.uniform(0.5, 2.0)


PROFILES: dict[str, Callable[[Load], Iterator[Life]]] = {"batch": batch, "web": web, "cron": cron}
SCENARIOS: dict[str, Callable[[Load], Iterator[Life]]] = {"cold-start": cold_start, "churn": churn}


def events(
    kind: str, seed: int, nodes: int, capacity: int, slots: int, duration_s: float, warm_up_s: float = 0.0
) -> list[PodEvent]:
    """The trace of a profile or scenario for a fleet. A node never has more pods than its capacity."""
    lives = (PROFILES | SCENARIOS)[kind]
    parts = []
    for node in range(nodes):
        load = Load(capacity, slots, duration_s, random.Random(f"{seed}/{kind}/{node}"))
        before = random.Random(f"{seed}/{kind}/{node}/before")
        spread = [
            (before.uniform(-warm_up_s / 2, -warm_up_s / 8) if start == BEFORE else start, end)
            for start, end in lives(load)
        ]
        parts.append(_within_capacity(sorted(spread), node, capacity))
    return merged(parts, duration_s)


def _within_capacity(lives: list[Life], node: int, capacity: int) -> list[PodEvent]:
    """Pods that find the node full are not scheduled to it."""
    made: list[PodEvent] = []
    ends: list[float] = []
    for number, (start, end) in enumerate(lives):
        ends = [each for each in ends if each > start] if len(ends) >= capacity else ends
        if len(ends) >= capacity:
            continue
        pod = f"n{node}-p{number}"
        ends.append(end)
        made.append(PodEvent(start, True, pod, node))
        if end < math.inf:
            made.append(PodEvent(end, False, pod, node))
    return made
