# SPDX-License-Identifier: Apache-2.0
"""Which ENIs and blocks go back to EC2 when the pool holds more than its targets want.

Knows the order of draining. Must never take what a pod uses or used a moment ago, the primary ENI, trunks, EFA or
unmanaged ENIs, nor leave the pool short. Only `plan` calls it.

Upstream picks victims at random and releases cooling addresses (Amazon VPC CNI 1.23), which scatters pods over ENIs
that never drain and hands addresses to other nodes too early. Here the ENI closest to empty drains first.
"""

from __future__ import annotations

from vpccni.core.block import Block
from vpccni.core.eni import HeldEni
from vpccni.core.lately import CALM, Wave, again
from vpccni.core.ledger import Ledger
from vpccni.core.pool import Pool
from vpccni.core.steps import FreeEni, Step, UnassignBlocks, Wait
from vpccni.core.targets import Demand

# Amazon VPC CNI 1.23: an ENI is not freed before it has been with us for so long.
MIN_ENI_AGE_S = 60.0


def outdated(ledger: Ledger, pool: Pool) -> list[UnassignBlocks]:
    """Idle blocks that no new pod can get: of the other mode, or on an ENI that is not used for pods any more."""
    steps = []
    for held in ledger.enis:
        if not held.eni.managed or held.eni.trunk or held.withdrawn or held.unpaired:
            continue
        blocks = [
            each
            for each in held.blocks.values()
            if each.idle and each.confirmed and not each.active and each.block.network.version == pool.version
        ]
        for kind in sorted({each.block.kind for each in blocks}):
            chosen = held.releasable(each for each in blocks if each.block.kind is kind)
            why = (
                f"the pool hands out from {ledger.kind} blocks only" if kind is not ledger.kind else "not used for pods"
            )
            steps.append(UnassignBlocks(held.eni.id, chosen, why))
            ledger.unassigned(held.eni.id, len(chosen), 0)
    return steps


def surplus(ledger: Ledger, wanted: Demand, now: float, wave: Wave = CALM) -> list[Step]:
    """ENIs to free, then blocks to release; whatever is left, the pool is not short, nor would it be if pods came back
    as they were lately. Wait for that, and for ENIs that are young."""
    steps: list[Step] = []
    leaving = set()
    for held in sorted(ledger.enis, key=_drain_order):
        without = ledger.without(held)
        if not _empty(held) or wanted.short(without):
            continue
        if held.eni.usable_for_pods and wanted.short(again(without, wave.for_enis)):
            steps.append(_kept(held.eni.id, wave.for_enis, wave.enis_until, now))
            continue  # its blocks may go before it does
        steps.append(_free(held, wanted, ledger, now))
        leaving.add(held.eni.id)
        ledger.tally = without
    if wanted.whole_enis:
        return steps
    steps += _stand_ins(ledger, wanted, leaving)
    count = wanted.over(again(ledger.tally, wave.for_blocks)) // wanted.block_size
    if count <= 0 and wanted.over(ledger.tally) >= wanted.block_size:
        steps.append(_kept("what is idle", wave.for_blocks, wave.blocks_until, now))
    for held in sorted(ledger.enis, key=_drain_order):
        if count <= 0:
            break
        if held.eni.id in leaving or not held.eni.managed:
            continue
        blocks = [block for block in _idle_blocks(held) if block.size == wanted.block_size][:count]
        if blocks:
            reason = f"{wanted.over(ledger.tally)} over; {wanted.explain(ledger.tally)}"
            steps.append(UnassignBlocks(held.eni.id, tuple(blocks), reason))
            ledger.unassigned(held.eni.id, len(blocks), wanted.block_size)
            count -= len(blocks)
    return steps


def _kept(what: str, addresses: int, until: float, now: float) -> Wait:
    reason = f"{what} is kept for {until - now:.0f} s: pods needed {addresses} addresses more than now lately"
    return Wait("needed-lately", until, reason)


def _stand_ins(ledger: Ledger, wanted: Demand, leaving: set[str]) -> list[Step]:
    """Single addresses that stood in for prefixes go before any prefix does."""
    steps: list[Step] = []
    if wanted.block_size == 1:
        return steps
    for held in sorted(ledger.enis, key=_drain_order):
        over = wanted.over(ledger.tally)
        idle = held.idle_singles()[:over]
        if idle and held.eni.id not in leaving and held.eni.managed:
            steps.append(UnassignBlocks(held.eni.id, idle, f"{over} over; {wanted.explain(ledger.tally)}"))
            ledger.unassigned(held.eni.id, len(idle), 1)
    return steps


def _free(held: HeldEni, wanted: Demand, ledger: Ledger, now: float) -> Step:
    age_s = now - held.eni.created_at
    if 0 <= age_s < MIN_ENI_AGE_S:
        reason = f"{held.eni.id} is not needed, but only {age_s:.0f} s old; it is freed after {MIN_ENI_AGE_S:.0f} s"
        return Wait("eni-young", held.eni.created_at + MIN_ENI_AGE_S, reason)
    rest = wanted.explain(ledger.without(held))
    return FreeEni(held.eni.id, f"no pod uses it, and without its {held.total} addresses {rest}")


def _empty(held: HeldEni) -> bool:
    return held.eni.freeable and not held.withdrawn and not held.owned


def _idle_blocks(held: HeldEni) -> list[Block]:
    return list(held.releasable(each for each in held.blocks.values() if each.active))


def _drain_order(held: HeldEni) -> tuple[bool, bool, int, int, int]:
    """Not for pods first, then secondary ENIs, the closest to empty first, then the highest device index."""
    eni = held.eni
    return (eni.usable_for_pods, eni.primary, held.owned, -eni.card, -eni.device)
