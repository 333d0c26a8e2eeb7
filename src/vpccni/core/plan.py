# SPDX-License-Identifier: Apache-2.0
"""From the pool as it is to the pool as the targets want it: all steps at once, each with its reason.

Knows which ENI grows, drains or goes. Must never run a step, nor read a clock: `now` and every hold are arguments.
The engine calls `plan` when it is woken, runs the steps, and sleeps until `next_wake`.

A plan whose steps all succeed is followed by a plan without steps: growing and shrinking use one `Demand`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from vpccni.core import shrink
from vpccni.core.ledger import Ledger
from vpccni.core.pool import Pool
from vpccni.core.steps import AssignBlocks, AttachEni, FreeEni, Step, UnassignBlocks, Wait
from vpccni.core.targets import Demand, NodeLimits, Targets, demand

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


@dataclass(frozen=True, slots=True)
class Holds:
    """What EC2's last answers and the node's state forbid for now; times in Unix seconds, 0 for none.

    `subnets`: subnet id -> until when it gets no request, because it had no free address or no free /28.
    `subnet_free`: subnet id -> free addresses, where known; a request asks for no more than that.
    `attach_until`: no ENI can be created until then (every allowed subnet is full, or EC2 refused it).
    `throttled_until`: no EC2 call at all. `paused`: why pool changes are switched off ("" = they are not), such as
    a cordoned node or a daemon that is stopping.
    """

    subnets: Mapping[str, float] = field(default_factory=dict)
    subnet_free: Mapping[str, int] = field(default_factory=dict)
    attach_until: float = 0.0
    throttled_until: float = 0.0
    paused: str = ""


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
) -> list[Step]:
    """The steps that take the pool to its targets, in order; Wait steps say what cannot be done and until when.

    `last_decrease`: when the pool last shrank. `pending`: steps that are being run; what they bring is counted, and
    nothing shrinks meanwhile. An ENI or block on its way out must have been withdrawn from the pool before.
    """
    steps: list[Step] = []
    for card in limits.cards:
        wanted = demand(targets, limits, pool.mode, pool.version, card)
        ledger = Ledger(pool, limits, targets.max_eni, card, now, pending)
        outdated = shrink.outdated(ledger, pool)
        growth = _grow(ledger, wanted, holds, now)
        less: list[Step] = []
        if not growth and not pending:
            less = _paced(shrink.surplus(ledger, wanted, now), last_decrease, now)
        freed = {step.eni_id for step in less if isinstance(step, FreeEni)}
        steps += [step for step in outdated if step.eni_id not in freed] + growth + less
    return _stopped(steps, holds, now) if steps else steps


def low_watermark(pool: Pool, targets: Targets, limits: NodeLimits, now: float) -> bool:
    """Whether the pool is short of addresses, room or not. O(ENIs); called after every ADD."""
    for card in limits.cards:
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


def _grow(ledger: Ledger, wanted: Demand, holds: Holds, now: float) -> list[Step]:
    if not wanted.short(ledger.tally):
        return []
    steps: list[Step] = []
    held_subnets: dict[str, float] = {}
    for held in ledger.growable():
        count = _count(ledger, wanted, ledger.rooms[held.eni.id])
        subnet = held.eni.subnet_id
        if count > 0 and holds.subnets.get(subnet, 0.0) > now:
            held_subnets[subnet] = holds.subnets[subnet]
            continue
        count = min(count, holds.subnet_free.get(subnet, count * wanted.block_size) // wanted.block_size)
        if count > 0:
            reason = wanted.explain(ledger.tally)
            steps.append(AssignBlocks(held.eni.id, count, ledger.kind, reason))
            ledger.assigned(held.eni.id, count, wanted.block_size)
    while ledger.eni_slots > 0 and holds.attach_until <= now:
        count = _count(ledger, wanted, ledger.slots_per_eni)
        if count <= 0:
            break
        reason = f"attached ENIs have no more room; {wanted.explain(ledger.tally)}"
        steps.append(AttachEni(ledger.card, count, ledger.kind, reason))
        ledger.attached(count, wanted.block_size)
    if wanted.short(ledger.tally):
        steps += _obstacles(ledger, wanted, holds, held_subnets, now)
    return steps


def _count(ledger: Ledger, wanted: Demand, room: int) -> int:
    """Blocks to ask for on one ENI: what is missing, or all that fits when ENIs are filled whole."""
    short = wanted.short(ledger.tally)
    if not short or room <= 0:
        return 0
    if not wanted.whole_enis:
        return min(room, wanted.blocks(short))
    return min(room, wanted.blocks(wanted.headroom(ledger.tally, room * wanted.block_size)))


def _obstacles(
    ledger: Ledger, wanted: Demand, holds: Holds, held_subnets: Mapping[str, float], now: float
) -> list[Step]:
    """Why the pool stays short."""
    missing = f"{wanted.short(ledger.tally)} short; {wanted.explain(ledger.tally)}"
    steps: list[Step] = []
    for subnet, until in held_subnets.items():
        reason = f"{subnet} had no room; asking again in {until - now:.0f} s; {missing}"
        steps.append(Wait("subnet-hold", until, reason))
    if ledger.eni_slots > 0 and holds.attach_until > now:
        reason = f"no ENI can be created; trying again in {holds.attach_until - now:.0f} s; {missing}"
        steps.append(Wait("attach-blocked", holds.attach_until, reason))
    elif ledger.eni_slots <= 0:
        code, limit = ("max-eni", "MAX_ENI") if ledger.capped else ("eni-limit", "the instance type")
        full = f"all {ledger.eni_limit} ENIs that {limit} allows on card {ledger.card} are attached"
        steps.append(Wait(code, None, f"{full}, {ledger.slots_per_eni} blocks each; {missing}"))
    return steps


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
