# SPDX-License-Identifier: Apache-2.0
"""An ENI of this node as the pool sees it, and the state of the blocks that it holds.

Knows one ENI: its place (card, device, table), what it may be used for, and the counters over its blocks.
Must never know other ENIs, pods or time. `pool` mutates it, `reconcile` makes the values, `plan` reads them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace
from operator import attrgetter

from vpccni.aws.values import IPAddress, IPNetwork
from vpccni.core.block import Block, BlockKind, HeldBlock
from vpccni.core.stats import Tally

_RANK = attrgetter("rank")


@dataclass(frozen=True, slots=True)
class Eni:
    """One attached ENI. `created_at` (Unix seconds) is when it was made, or first seen; it guards early release.

    `usable_for_pods` is False for the primary ENI under custom networking, for ENIs in excluded subnets and for
    trunks: addresses in use there linger, new ones are never handed out. `managed` False (tag `no_manage`, efa-only)
    means that it only occupies a slot. `blocks` are its secondary addresses and prefixes, without the primary address.
    """

    id: str
    mac: str = ""
    card: int = 0
    device: int = 0
    subnet_id: str = ""
    subnet: IPNetwork | None = None
    primary: bool = False
    primary_address: IPAddress | None = None
    table: int = 254
    usable_for_pods: bool = True
    trunk: bool = False
    efa: bool = False
    efa_only: bool = False
    managed: bool = True
    created_at: float = 0.0
    blocks: tuple[Block, ...] = field(default=())

    @property
    def freeable(self) -> bool:
        """Whether this daemon may ever detach and delete it."""
        return self.managed and not (self.primary or self.trunk or self.efa)

    @property
    def growable(self) -> bool:
        """Whether this daemon may ask EC2 for more blocks on it."""
        return self.managed and self.usable_for_pods and not self.trunk

    @property
    def place(self) -> tuple[int, int]:
        """Card and device index, the order in which ENIs are filled."""
        return (self.card, self.device)


class HeldEni:
    """The mutable state of one ENI in the pool. The counters cover active blocks only (see `HeldBlock.active`).

    In a dual-stack pool the blocks of the counted family are active only beside a `companion`: the /80 that gives each
    pod its address of the other family. An ENI that could serve pods but for the missing /80 is `unpaired`.
    """

    __slots__ = (
        "_best",
        "_stale",
        "_version",
        "active",
        "assigned",
        "beside",
        "blocks",
        "companion",
        "cooling",
        "eni",
        "idle",
        "open",
        "owned",
        "total",
        "unpaired",
        "withdrawn",
    )

    def __init__(self, eni: Eni) -> None:
        self.eni = eni
        self.blocks: dict[IPNetwork, HeldBlock] = {}
        self.open: dict[HeldBlock, None] = {}  # active blocks with something available, in order of insertion
        self.withdrawn = False
        self.total = self.assigned = self.cooling = self.idle = self.active = 0
        self.owned = 0  # owned and cooling addresses over all blocks, active or not: what pins the ENI
        self.beside = 0  # those of them that are not of the counted family
        self.companion: HeldBlock | None = None
        self.unpaired = False
        self._best: HeldBlock | None = None
        self._stale = False
        self._version = 4

    @property
    def available(self) -> int:
        """Addresses that could be handed out now."""
        return self.total - self.assigned - self.cooling

    def best(self) -> HeldBlock | None:
        """The block that the next address comes from, or None; scans the open blocks only after a change."""
        if self._stale:
            self._best, self._stale = min(self.open, key=_RANK, default=None), False
        return self._best

    def serving(self, block: HeldBlock) -> tuple[HeldBlock, ...]:
        """The blocks that a grant from `block` takes one address of each from."""
        return (block,) if self.companion is None else (block, self.companion)

    def value(self) -> Eni:
        """The ENI with its current blocks."""
        return replace(self.eni, blocks=tuple(each.block for each in self.blocks.values()))

    def chosen(self, blocks: Iterable[Block] | None) -> list[HeldBlock]:
        """The state of those of `blocks` that it has; of all its blocks with None."""
        if blocks is None:
            return list(self.blocks.values())
        return [self.blocks[block.network] for block in blocks if block.network in self.blocks]

    def tally(self) -> Tally:
        """The counters as a value."""
        return Tally(
            total=self.total,
            assigned=self.assigned,
            cooling=self.cooling,
            blocks=self.active,
            idle_blocks=self.idle,
            lingering=self.owned - self.beside - self.assigned - self.cooling,
        )

    def recount(self, kinds: Collection[BlockKind], version: int, *, dual: bool = False) -> None:
        """Recompute everything from the blocks: after a change of blocks, flags or kinds, never per pod."""
        self._version = version
        usable = self.eni.usable_for_pods and self.eni.managed and not self.withdrawn
        self.companion = self._pair() if usable and dual else None
        self.unpaired = usable and dual and self.companion is None
        self.total = self.assigned = self.cooling = self.idle = self.owned = self.active = self.beside = 0
        self.open, self._stale = {}, True
        for held in self.blocks.values():
            counted = held.block.network.version == version
            held.active = usable and not self.unpaired and held.confirmed and counted and held.block.kind in kinds
            self.owned += len(held.owned) + len(held.cooling)
            if not counted:
                self.beside += len(held.owned) + len(held.cooling)
                held.settle()
            if held.active:
                self.active += 1
                self.total += held.size
                self.assigned += len(held.owned)
                self.cooling += len(held.cooling)
                self.idle += held.idle
                held.settle()
                if held.available:
                    self.open[held] = None

    def moved(self, held: HeldBlock, *, assigned: int = 0, cooling: int = 0) -> None:
        """One address of a block changed state; the arguments are the change of its counters (-1, 0, +1)."""
        self.owned += assigned + cooling
        if held.block.network.version != self._version:
            self.beside += assigned + cooling
            held.settle()
        if not held.active:
            return
        self.assigned += assigned
        self.cooling += cooling
        before = len(held.owned) - assigned + len(held.cooling) - cooling
        self.idle += held.idle - (before == 0)
        held.settle()
        if held.available:
            self.open[held] = None
        else:
            self.open.pop(held, None)
        self._stale = True

    def _pair(self) -> HeldBlock | None:
        """The prefix of the other family with the lowest address, of those that EC2 confirmed."""
        others = (each for each in self.blocks.values() if each.block.network.version != self._version)
        return min(
            (each for each in others if each.confirmed and each.size > 1), key=lambda each: each.base, default=None
        )

    def active_prefixes(self) -> list[HeldBlock]:
        """The prefixes that new grants come from."""
        return [held for held in self.blocks.values() if held.active and held.size > 1]

    def idle_singles(self) -> tuple[Block, ...]:
        """Single addresses that grants come from and that nobody uses, the highest first."""
        return self.releasable(held for held in self.blocks.values() if held.active and held.size == 1)

    def releasable(self, blocks: Iterable[HeldBlock] | None = None) -> tuple[Block, ...]:
        """Blocks without owned or cooling addresses, least useful first: highest address first."""
        chosen = [held for held in (self.blocks.values() if blocks is None else blocks) if held.idle]
        return tuple(held.block for held in sorted(chosen, key=lambda held: -held.base))


def sums_of_prefixes(enis: Iterable[HeldEni]) -> Tally:
    """The tally as it were if only prefixes were handed out: what pods use of single addresses is lingering."""
    enis = tuple(enis)
    prefixes = [block for held in enis for block in held.active_prefixes()]
    assigned, cooling = sum(len(block.owned) for block in prefixes), sum(len(block.cooling) for block in prefixes)
    return Tally(
        total=sum(block.size for block in prefixes),
        assigned=assigned,
        cooling=cooling,
        blocks=len(prefixes),
        idle_blocks=sum(block.idle for block in prefixes),
        lingering=sum(held.owned - held.beside for held in enis) - assigned - cooling,
    )
