# SPDX-License-Identifier: Apache-2.0
"""A block of addresses on an ENI: a single secondary address, a /28 or a /80, one type for all three.

Knows which addresses of one block are owned, cooling, rested or never used, and in which order they are handed out.
Must never enumerate a block (a /80 has 2^48 addresses) nor know pods, ENIs or time. Only `held` and `pool` call it.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from enum import StrEnum

from vpccni.aws.values import IPAddress, IPNetwork, alone

# Blocks above this size do not remember addresses that have rested: fresh ones never run out, memory would.
_REMEMBERED_SIZE = 65536


class BlockKind(StrEnum):
    """What EC2 calls the thing: a secondary address or a delegated prefix."""

    ADDRESS = "address"
    PREFIX = "prefix"


class Mode(StrEnum):
    """Which kind of block new grants come from; owned blocks of the other kind linger until their pods are gone."""

    SECONDARY = "secondary"
    PREFIX = "prefix"

    @property
    def kind(self) -> BlockKind:
        """The block kind that this mode hands out and asks EC2 for."""
        return BlockKind.PREFIX if self is Mode.PREFIX else BlockKind.ADDRESS


@dataclass(frozen=True, slots=True)
class Block:
    """1, 16 or 2^48 consecutive addresses that EC2 assigns and takes back as one: a /32, /128, /28 or /80."""

    network: IPNetwork

    @classmethod
    def of(cls, address: IPAddress) -> Block:
        """The block of size 1 that is this address."""
        return cls(alone(address))

    @property
    def kind(self) -> BlockKind:
        """Address for size 1, prefix for everything else."""
        return BlockKind.ADDRESS if self.size == 1 else BlockKind.PREFIX

    @property
    def size(self) -> int:
        """How many addresses; all of them are usable, the first and the last too."""
        return 1 << (self.network.max_prefixlen - self.network.prefixlen)

    def __str__(self) -> str:
        return str(self.network)


class HeldBlock:
    """The mutable state of one block that an ENI holds; offsets count from the block's first address.

    Every offset is in exactly one state: owned, cooling, rested (used before, free again), or never used.
    `rested` is ordered, least recently used first. `active`: the block counts, and new grants may come from it. The /80
    beside IPv4 addresses in a dual-stack pool gives addresses too, but does not count (`HeldEni.companion`).
    """

    __slots__ = (
        "_fresh",
        "_returned",
        "active",
        "base",
        "block",
        "confirmed",
        "cooling",
        "eni_id",
        "owned",
        "rank",
        "rested",
        "size",
    )

    def __init__(self, block: Block, eni_id: str) -> None:
        self.block, self.eni_id = block, eni_id
        self.base, self.size = int(block.network.network_address), block.size
        self.owned: set[int] = set()
        self.cooling: set[int] = set()
        self.rested: dict[int, int] = {}
        self.confirmed, self.active = True, False
        self._fresh = 0  # no offset from here on was ever handed out, except the owned and cooling ones
        self._returned: list[int] = []  # offsets below _fresh that were granted and undone unused: a heap
        self.rank: tuple[int, int, int] = (0, -1, self.base)

    @property
    def available(self) -> int:
        """How many addresses could be handed out."""
        return self.size - len(self.owned) - len(self.cooling)

    @property
    def idle(self) -> bool:
        """Nothing owned and nothing cooling: the block may go back to EC2."""
        return not self.owned and not self.cooling

    def address(self, offset: int) -> IPAddress:
        """The address at an offset."""
        return self.block.network.network_address + offset

    def offset(self, address: IPAddress) -> int:
        """The offset of an address of this block."""
        return int(address) - self.base

    def settle(self) -> None:
        """Bring `rank` up to date: fullest prefix first, singles last, then least recently used, then lowest address.

        Single addresses beside prefixes were taken for want of a /28; as long as a prefix serves, they drain.
        """
        while self._fresh < self.size and self._taken(self._fresh):
            self._fresh += 1
        unused = self._returned or self._fresh < self.size
        recency = -1 if unused else next(iter(self.rested.values()), -1)
        self.rank = (-1 - len(self.owned) if self.size > 1 else 0, recency, self.base)

    def take(self) -> tuple[int, int]:
        """Own the next address: never used ones first, ascending, then the least recently used.

        Returns offset and recency, which `put_back` needs (-1 for a never used address). Needs `available` > 0.
        """
        recency = -1
        if self._returned:
            offset = heapq.heappop(self._returned)
        elif self._fresh < self.size:
            offset = self._fresh
            self._fresh += 1
        else:
            offset, recency = next(iter(self.rested.items()))
            del self.rested[offset]
        self.owned.add(offset)
        return offset, recency

    def claim(self, offset: int) -> None:
        """Own this very address (restored from a journal); it must be neither owned nor cooling."""
        self._forget(offset)
        self.owned.add(offset)

    def put_back(self, offset: int, recency: int) -> None:
        """Undo `take`: the address is as it was before."""
        self.owned.remove(offset)
        if recency >= 0:
            self.rested = {offset: recency, **self.rested}
        else:
            heapq.heappush(self._returned, offset)

    def cool(self, offset: int) -> None:
        """The address is neither available nor releasable from now on, whether it was owned or free."""
        self.owned.discard(offset)
        self._forget(offset)
        self.cooling.add(offset)

    def rest(self, offset: int, recency: int) -> None:
        """The cooldown of the address is over; `recency` grows from call to call."""
        self.cooling.remove(offset)
        if self.size <= _REMEMBERED_SIZE:
            self.rested[offset] = recency

    def _forget(self, offset: int) -> None:
        self.rested.pop(offset, None)
        if offset in self._returned:
            self._returned.remove(offset)
            heapq.heapify(self._returned)

    def _taken(self, offset: int) -> bool:
        return offset in self.owned or offset in self.cooling or offset in self.rested
