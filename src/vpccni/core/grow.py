# SPDX-License-Identifier: Apache-2.0
"""Where the addresses come from that a network card's pool is short of: attached ENIs first, then new ones.

Knows which holds stand in the way of which request, and that single addresses stand in for prefixes where no /28 is
free. Must never give anything back (`shrink` does), except to make room for a prefix. Only `plan` calls it.
"""

from __future__ import annotations

from collections.abc import Mapping

from vpccni.core.block import BlockKind
from vpccni.core.eni import HeldEni
from vpccni.core.holds import Holds
from vpccni.core.lately import again
from vpccni.core.ledger import Ledger
from vpccni.core.steps import AssignBlocks, AttachEni, Step, UnassignBlocks, Wait
from vpccni.core.targets import Demand


def grow(ledger: Ledger, wanted: Demand, holds: Holds, now: float, rising: int = 0) -> list[Step]:
    """Steps that end the shortage, as far as holds and limits allow; Wait steps say what stands in the way. Once there
    is a shortage, attached ENIs get as many addresses more as the need is `rising` by."""
    if not wanted.short(ledger.tally):
        return []
    if holds.cordoned:
        reason = f"{holds.cordoned}; {wanted.short(ledger.tally)} short; {wanted.explain(ledger.tally)}"
        return [Wait("cordoned", None, reason)]
    blocked: dict[str, tuple[str, float]] = {}
    ledger.tally = again(ledger.tally, rising)
    steps = _on_attached(ledger, wanted, holds, now, blocked)
    ledger.tally = again(ledger.tally, 0)  # no ENI is attached for what is only expected
    if ledger.kind is BlockKind.ADDRESS or holds.attach_prefixes_until <= now:
        steps += _on_new(ledger, wanted, holds, now)
    if wanted.short(ledger.tally) and ledger.kind is BlockKind.PREFIX and holds.singles:
        steps += _singles(ledger, wanted, holds, now)
    if wanted.short(ledger.tally):
        steps += _obstacles(ledger, wanted, holds, blocked, now)
    return steps


def make_room(ledger: Ledger, wanted: Demand, holds: Holds, now: float) -> list[Step]:
    """A /28 may be free again, but single addresses that stood in for it fill the ENIs: idle ones make room."""
    missing = wanted.blocks(wanted.short(ledger.tally))
    if missing <= 0 or holds.cordoned or any(ledger.rooms[held.eni.id] > 0 for held in ledger.growable()):
        return []
    for held in ledger.growable():
        idle = held.idle_singles()[:missing]
        if idle and holds.fragmented.get(held.eni.subnet_id, 0.0) <= now:
            ledger.rooms[held.eni.id] += len(idle)
            reason = f"a /28 may be free again and takes its place; {wanted.explain(ledger.tally)}"
            return [UnassignBlocks(held.eni.id, idle, reason)]
    return []


def _on_attached(
    ledger: Ledger, wanted: Demand, holds: Holds, now: float, blocked: dict[str, tuple[str, float]]
) -> list[Step]:
    """One request for each ENI that has room; `blocked` collects subnets and ENIs that get none, and until when."""
    steps: list[Step] = []
    for held in ledger.growable():
        count = _count(ledger, wanted, ledger.rooms[held.eni.id])
        subnet = held.eni.subnet_id
        if count <= 0:
            continue
        obstacle = _obstacle(held, ledger.kind, holds, now)
        if obstacle:
            blocked[obstacle[0]] = obstacle[1:]
            continue
        count = min(count, holds.subnet_free.get(subnet, count * wanted.block_size) // wanted.block_size)
        if count > 0:
            reason = wanted.explain(ledger.tally)
            steps.append(AssignBlocks(held.eni.id, count, ledger.kind, reason, ledger.version))
            ledger.assigned(held.eni.id, count, wanted.block_size)
    return steps


def _on_new(ledger: Ledger, wanted: Demand, holds: Holds, now: float) -> list[Step]:
    steps: list[Step] = []
    while ledger.eni_slots > 0 and holds.attach_until <= now:
        count = _count(ledger, wanted, ledger.slots_per_eni)
        if count <= 0:
            break
        reason = f"attached ENIs have no more room; {wanted.explain(ledger.tally)}"
        steps.append(AttachEni(ledger.card, count, ledger.kind, reason, ledger.version, ledger.dual))
        ledger.attached(count, wanted.block_size)
    return steps


def _singles(ledger: Ledger, wanted: Demand, holds: Holds, now: float) -> list[Step]:
    """Single addresses where no /28 is free, first on ENIs that are there."""
    steps: list[Step] = []
    for held in ledger.growable():
        count = min(ledger.rooms[held.eni.id], wanted.short(ledger.tally))
        subnet = held.eni.subnet_id
        no_prefix = holds.fragmented.get(subnet, 0.0) > now
        if count > 0 and no_prefix and _obstacle(held, BlockKind.ADDRESS, holds, now) is None:
            count = min(count, holds.subnet_free.get(subnet, count))
            reason = f"{subnet} has no free /28, single addresses stand in; {wanted.explain(ledger.tally)}"
            steps += [AssignBlocks(held.eni.id, count, BlockKind.ADDRESS, reason)] if count > 0 else []
            ledger.assigned(held.eni.id, count, 1)
    while ledger.eni_slots > 0 and holds.attach_until <= now < holds.attach_prefixes_until:
        count = min(ledger.slots_per_eni, wanted.short(ledger.tally))
        if count <= 0:
            break
        reason = f"no subnet has a free /28, single addresses stand in; {wanted.explain(ledger.tally)}"
        steps.append(AttachEni(ledger.card, count, BlockKind.ADDRESS, reason, ledger.version, ledger.dual))
        ledger.attached(count, 1)
    return steps


def _count(ledger: Ledger, wanted: Demand, room: int) -> int:
    """Blocks to ask for on one ENI: what is missing, or all that fits when ENIs are filled whole."""
    short = wanted.short(ledger.tally)
    if not short or room <= 0:
        return 0
    if not wanted.whole_enis:
        return min(room, wanted.blocks(short))
    return min(room, wanted.blocks(wanted.headroom(ledger.tally, room * wanted.block_size)))


def _obstacle(held: HeldEni, kind: BlockKind, holds: Holds, now: float) -> tuple[str, str, float] | None:
    """What forbids a request for one ENI: name, code and until when."""
    subnet = held.eni.subnet_id
    if holds.enis.get(held.eni.id, 0.0) > now:
        return held.eni.id, "eni-full", holds.enis[held.eni.id]
    if holds.subnets.get(subnet, 0.0) > now:
        return subnet, "subnet-hold", holds.subnets[subnet]
    if kind is BlockKind.PREFIX and holds.fragmented.get(subnet, 0.0) > now:
        return subnet, "subnet-fragmented", holds.fragmented[subnet]
    return None


_SAYS = {
    "eni-full": "takes no more addresses, EC2 says",
    "subnet-hold": "had no room",
    "subnet-fragmented": "had no free prefix",
}


def _obstacles(
    ledger: Ledger, wanted: Demand, holds: Holds, blocked: Mapping[str, tuple[str, float]], now: float
) -> list[Step]:
    """Why the pool stays short."""
    missing = f"{wanted.short(ledger.tally)} short; {wanted.explain(ledger.tally)}"
    steps: list[Step] = []
    for name, (code, until) in blocked.items():
        reason = f"{name} {_SAYS[code]}; asking again in {until - now:.0f} s; {missing}"
        steps.append(Wait(code, until, reason))
    attach_until = holds.attach_until
    if ledger.kind is BlockKind.PREFIX and not holds.singles:
        attach_until = max(attach_until, holds.attach_prefixes_until)
    if ledger.eni_slots > 0 and attach_until > now:
        reason = f"no ENI can be created; trying again in {attach_until - now:.0f} s; {missing}"
        steps.append(Wait("attach-blocked", attach_until, reason))
    elif ledger.eni_slots <= 0:
        code, limit = ("max-eni", "MAX_ENI") if ledger.capped else ("eni-limit", "the instance type")
        full = f"all {ledger.eni_limit} ENIs that {limit} allows on card {ledger.card} are attached"
        steps.append(Wait(code, None, f"{full}, {ledger.slots_per_eni} blocks each; {missing}"))
    return steps
