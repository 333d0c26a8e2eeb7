# SPDX-License-Identifier: Apache-2.0
"""Which ENIs and blocks the node holds, and which block an address belongs to.

Knows what EC2 confirmed. Must never know who owns an address or when it was released. Only the pool calls it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Network

from vpccni.aws.values import IPAddress, IPNetwork, alone
from vpccni.core import refusal
from vpccni.core.block import Block, BlockKind, HeldBlock, Mode
from vpccni.core.eni import Eni, HeldEni

# Lengths of the prefixes that EC2 delegates, per IP version.
_PREFIX_LENGTH = {4: 28, 6: 80}


class Inventory:
    """ENIs by id, and in `order` by card and device. `mode`, `singles`, `version` and `dual` decide which blocks are
    active."""

    def __init__(self, mode: Mode, version: int, *, dual: bool = False) -> None:
        self.mode, self.version, self.dual, self.singles = mode, version, dual, False
        self.enis: dict[str, HeldEni] = {}
        self.order: list[HeldEni] = []
        self._blocks: dict[IPNetwork, HeldBlock] = {}

    @property
    def kinds(self) -> tuple[BlockKind, ...]:
        """The kinds of blocks that grants come from."""
        return (self.mode.kind, BlockKind.ADDRESS) if self.singles else (self.mode.kind,)

    def need(self, eni_id: str, action: str) -> HeldEni:
        """The ENI, or Refused with code `unknown-eni`."""
        held = self.enis.get(eni_id)
        if held is None:
            raise refusal.conflict(f"{action} {eni_id}", "the pool does not know this ENI", "unknown-eni")
        return held

    def add(self, eni: Eni) -> HeldEni:
        """A new ENI, yet without blocks; Refused with code `duplicate-eni`, or `duplicate-address` for its blocks."""
        if eni.id in self.enis:
            raise refusal.conflict(f"add {eni.id}", "the pool has it already", "duplicate-eni")
        self.check(eni.blocks, eni.id)
        held = HeldEni(replace(eni, blocks=()))
        self.enis[eni.id] = held
        self._sort()
        return held

    def update(self, eni: Eni) -> None:
        """Place, flags or subnet changed."""
        held = self.need(eni.id, "update")
        held.eni = replace(eni, blocks=())
        self._sort()
        self.recount(held)

    def remove(self, held: HeldEni) -> None:
        """Forget an ENI without blocks."""
        del self.enis[held.eni.id]
        self.order.remove(held)

    def place(self, block: Block, eni: HeldEni) -> HeldBlock | None:
        """Put a block on an ENI; None when it is there already (then it is confirmed again)."""
        known = self._blocks.get(block.network)
        if known is not None:
            known.confirmed = True
            return None
        held = HeldBlock(block, eni.eni.id)
        self._blocks[block.network] = eni.blocks[block.network] = held
        return held

    def take_off(self, held: HeldBlock) -> None:
        """Forget a block."""
        del self._blocks[held.block.network], self.enis[held.eni_id].blocks[held.block.network]

    def recount(self, held: HeldEni) -> None:
        """Recompute the counters of an ENI after its blocks or flags changed."""
        held.recount(self.kinds, self.version, dual=self.dual)

    def find(self, address: IPAddress) -> HeldBlock | None:
        """The block that holds an address."""
        return self._blocks.get(alone(address)) or self._blocks.get(_prefix_around(address))

    def check(self, blocks: Iterable[Block], eni_id: str) -> None:
        """EC2 never gives an address twice; if it seems so, our own view is behind and must be corrected first.

        Raises Refused with code `duplicate-address`.
        """
        for block in blocks:
            held = self._blocks.get(block.network)
            if held is None:
                held = next(self._overlapping(block), None)
            elif held.eni_id == eni_id:
                continue
            if held is not None:
                why = f"{held.block} is on {held.eni_id}"
                raise refusal.conflict(f"add {block} to {eni_id}", why, "duplicate-address")

    def _overlapping(self, block: Block) -> Iterator[HeldBlock]:
        network = block.network
        if block.size == 1:
            wider = self._blocks.get(_prefix_around(network.network_address))
            if wider is not None:
                yield wider
            return
        for held in self._blocks.values():
            if held.size == 1 and held.block.network.network_address in network:
                yield held

    def _sort(self) -> None:
        self.order = sorted(self.enis.values(), key=lambda each: (each.eni.place, each.eni.id))


def _prefix_around(address: IPAddress) -> IPNetwork:
    """The prefix that an address lies in, if EC2 delegated it. `supernet` would do, ten times as slowly."""
    length = _PREFIX_LENGTH[address.version]
    size = 1 << (address.max_prefixlen - length)
    base = int(address) // size * size
    return IPv4Network((base, length)) if isinstance(address, IPv4Address) else IPv6Network((base, length))
