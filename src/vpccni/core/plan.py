# SPDX-License-Identifier: Apache-2.0
"""From the pool as it is to the pool as the targets want it: all steps at once, each with its reason.

Knows which ENI grows, drains or goes. Must never run a step, nor read a clock: `now` and every hold are arguments.
The engine calls `plan` when it is woken, runs the steps, and sleeps until `next_wake`.

A plan whose steps all succeed is followed by a plan without steps: growing and shrinking use one `Demand`.
"""

from __future__ import annotations

from collections.abc import Sequence

from vpccni.core import shrink
from vpccni.core.block import Mode
from vpccni.core.cards import carrying
from vpccni.core.grow import grow, make_room
from vpccni.core.holds import Holds
from vpccni.core.lately import CALM, Wave
from vpccni.core.ledger import Ledger
from vpccni.core.pairing import pair, pairing
from vpccni.core.pool import Pool
from vpccni.core.steps import AssignBlocks, AttachEni, FreeEni, Step, UnassignBlocks, Wait
from vpccni.core.targets import NodeLimits, Targets, demand

__all__ = [
    "AssignBlocks",
    "AttachEni",
    "FreeEni",
    "Holds",
    "Step",
    "UnassignBlocks",
    "Wait",
    "low_watermark",
    "next_wake",
    "plan",
]

# Amazon VPC CNI 1.23: at least this long between two decreases of the pool.
SHRINK_INTERVAL_S = 30.0
# Obstacles to growing beside which something else may well be over.
_LETS_SHRINK = ("subnet-fragmented", "ipv6-prefix-refused")

_NO_HOLDS = Holds()


def plan(
    pool: Pool,
    targets: Targets,
    limits: NodeLimits,
    now: float,
    *,
    holds: Holds = _NO_HOLDS,
    last_decrease: float | None = None,
    pending: Sequence[Step] = (),
    wave: Wave = CALM,
) -> list[Step]:
    """The steps that take the pool to its targets, in order; Wait steps say what cannot be done and until when.

    `last_decrease`: when the pool last shrank. `pending`: steps that are being run; what they bring is counted, and
    nothing shrinks meanwhile. An ENI or block on its way out must have been withdrawn from the pool before.
    `wave`: what the first card's pods needed lately, which is not given back yet, and what they will need soon.
    """
    steps: list[Step] = []
    for card in carrying(pool, limits.cards):
        wanted = demand(targets, limits, pool.mode, pool.version, card)
        ledger = Ledger(pool, limits, targets.max_eni, card, now, pending)
        lately = CALM if card else wave
        outdated = shrink.outdated(ledger, pool)
        pairs = pair(ledger, holds, now, pending)
        growth = pairs if pairing(ledger, pairs, pending) else pairs + grow(ledger, wanted, holds, now, lately.rising)
        less: list[Step] = []
        if not growth and not pending:
            growth = _resume(pool, targets, limits, card, holds, now)
        if not pending and all(isinstance(step, Wait) and step.code in _LETS_SHRINK for step in growth):
            less = _paced(_allowed(shrink.surplus(ledger, wanted, now, lately), holds), last_decrease, now)
        freed = {step.eni_id for step in less if isinstance(step, FreeEni)}
        steps += [step for step in outdated if step.eni_id not in freed] + growth + less
    return _stopped(steps, holds, now) if steps else steps


def prefixes_suffice(pool: Pool, targets: Targets, limits: NodeLimits, holds: Holds, now: float) -> bool:
    """Whether single addresses that stood in for prefixes are needed no more: a /28 can be had again, and the prefixes
    alone meet the targets."""
    if holds.no_prefix_until(now):
        return False
    for card in carrying(pool, limits.cards):
        wanted = demand(targets, limits, pool.mode, pool.version, card)
        if wanted.short(pool.tally(now, card, prefixes_only=True)) > 0:
            return False
    return True


def low_watermark(pool: Pool, targets: Targets, limits: NodeLimits, now: float) -> bool:
    """Whether the pool is short of addresses, room or not. O(ENIs); called after every ADD."""
    for card in carrying(pool, limits.cards):
        if demand(targets, limits, pool.mode, pool.version, card).short(pool.tally(now, card)) > 0:
            return True
    return False


def next_wake(steps: Sequence[Step], pool: Pool, now: float) -> float | None:
    """When time alone changes the answer of `plan`: the end of a wait or of a cooldown. None: never."""
    times = [step.until for step in steps if isinstance(step, Wait) and step.until is not None]
    rest = pool.next_rest(now)
    if rest is not None:
        times.append(rest)
    return min((time for time in times if time > now), default=None)


def _resume(pool: Pool, targets: Targets, limits: NodeLimits, card: int, holds: Holds, now: float) -> list[Step]:
    """Single addresses stand in for prefixes: when a /28 may be free again it is asked for, though nothing is short."""
    if not pool.singles or pool.mode is not Mode.PREFIX:
        return []
    until = holds.no_prefix_until(now)
    if until:
        return [Wait("subnet-fragmented", until, "single addresses stand in until a /28 is free")]
    trial = Ledger(pool, limits, targets.max_eni, card, now, (), prefixes_only=True)
    wanted = demand(targets, limits, pool.mode, pool.version, card)
    return make_room(trial, wanted, holds, now) or grow(trial, wanted, holds, now)


def _allowed(steps: list[Step], holds: Holds) -> list[Step]:
    """A cordoned node keeps its ENIs."""
    return [step for step in steps if not (holds.cordoned and isinstance(step, FreeEni))]


def _paced(steps: list[Step], last_decrease: float | None, now: float) -> list[Step]:
    """Decreases keep their distance. A clock that was set back does not stretch it."""
    acts = [step for step in steps if not isinstance(step, Wait)]
    if not acts or last_decrease is None or not 0 <= now - last_decrease < SHRINK_INTERVAL_S:
        return steps
    until = last_decrease + SHRINK_INTERVAL_S
    reason = f"the pool shrank {now - last_decrease:.0f} s ago, the next decrease is {SHRINK_INTERVAL_S:.0f} s after it"
    return [Wait("shrink-interval", until, f"{reason}; {len(acts)} steps are due")]


def _stopped(steps: list[Step], holds: Holds, now: float) -> list[Step]:
    """Holds that forbid every call."""
    if holds.paused:
        return [Wait("paused", None, f"{holds.paused}; {len(steps)} steps are due")]
    if holds.throttled_until > now:
        reason = f"EC2 throttles us; calling again in {holds.throttled_until - now:.1f} s; {len(steps)} steps are due"
        return [Wait("throttled", holds.throttled_until, reason)]
    return steps
