# SPDX-License-Identifier: Apache-2.0
"""What one network card's pool will hold once the steps written down so far have run.

Knows counters, rooms and ENI slots of one card. Must never choose a step. Only `plan` and `shrink` write in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from vpccni.core.block import BlockKind
from vpccni.core.eni import HeldEni
from vpccni.core.pool import Pool
from vpccni.core.stats import Tally
from vpccni.core.steps import AssignBlocks, AttachEni, Growth, Step
from vpccni.core.targets import NodeLimits, block_size


class Ledger:
    """`rooms`: free slots per attached ENI; `eni_slots`: ENIs that may still be attached; `tally`: the sums."""

    def __init__(
        self,
        pool: Pool,
        limits: NodeLimits,
        max_eni: int | None,
        card: int,
        now: float,
        pending: Sequence[Step],
        *,
        prefixes_only: bool = False,
    ) -> None:
        self.card = card
        self.kind: BlockKind = pool.mode.kind
        self.version, self.dual = pool.version, pool.dual
        self.size = block_size(pool.mode, pool.version)
        self.tally: Tally = pool.tally(now, card, prefixes_only=prefixes_only)
        self.enis: list[HeldEni] = [held for held in pool.held() if held.eni.card == card]
        self.slots_per_eni = limits.slots_per_eni(pool.version)
        self.rooms = {held.eni.id: self.slots_per_eni - _slots(held, pool.version) for held in self.enis}
        trunk_slot = limits.reserve_trunk and card == 0 and not any(held.eni.trunk for held in self.enis)
        self.eni_limit = limits.enis_on(card, max_eni) - trunk_slot
        self.capped = self.eni_limit < limits.enis_on(card) - trunk_slot  # by MAX_ENI, not by the instance type
        self.eni_slots = self.eni_limit - len(self.enis)
        for step in pending:
            size = 1 if isinstance(step, Growth) and step.kind is BlockKind.ADDRESS else self.size
            if isinstance(step, AssignBlocks) and step.eni_id in self.rooms and step.version == pool.version:
                self.assigned(step.eni_id, step.count, size)
            elif isinstance(step, AttachEni) and step.card == card:
                self.attached(step.count, size)

    def growable(self) -> list[HeldEni]:
        """ENIs that may get more blocks, lowest device first."""
        return [held for held in self.enis if held.eni.growable and not held.withdrawn and not held.unpaired]

    def assigned(self, eni_id: str, count: int, size: int) -> None:
        """An ENI gets `count` blocks of `size` addresses."""
        self.rooms[eni_id] -= count
        self._add(count, size)

    def attached(self, count: int, size: int) -> None:
        """A new ENI comes with `count` blocks."""
        self.eni_slots -= 1
        self._add(count, size)

    def unassigned(self, eni_id: str, count: int, size: int) -> None:
        """An ENI loses `count` blocks that were idle; size 0 for blocks that the tally does not count."""
        self.rooms[eni_id] += count
        if size:
            self._add(-count, size)

    def without(self, held: HeldEni) -> Tally:
        """The sums without an ENI that no pod uses."""
        tally = self.tally
        return replace(
            tally,
            total=tally.total - held.total,
            blocks=tally.blocks - held.active,
            idle_blocks=tally.idle_blocks - held.idle,
        )

    def _add(self, count: int, size: int) -> None:
        tally = self.tally
        self.tally = replace(
            tally,
            total=tally.total + count * size,
            blocks=tally.blocks + count,
            idle_blocks=tally.idle_blocks + count,
        )


def _slots(held: HeldEni, version: int) -> int:
    """Blocks that occupy slots: each family has its own limit."""
    return sum(1 for network in held.blocks if network.version == version)
