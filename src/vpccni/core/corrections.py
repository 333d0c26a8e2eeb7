# SPDX-License-Identifier: Apache-2.0
"""Corrections of the pool as values that print as one line each, and the function that applies them.

Knows what may be wrong with a pool. Must never find it out (`reconcile` does) nor touch EC2 or the kernel.
The engine logs and applies them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from vpccni.aws.values import IPAddress
from vpccni.core.block import Block
from vpccni.core.eni import Eni
from vpccni.core.grant import Grant, PodKey
from vpccni.core.pool import Pool
from vpccni.errors import Refused


@dataclass(frozen=True, slots=True)
class AddEni:
    """EC2 says that an ENI is attached which the pool does not know; set it up, then add it."""

    eni: Eni
    reason: str

    def __str__(self) -> str:
        return f"add {self.eni.id} (card {self.eni.card} device {self.eni.device}): {self.reason}"


@dataclass(frozen=True, slots=True)
class UpdateEni:
    """Place, flags or subnet of an ENI differ."""

    eni: Eni
    reason: str

    def __str__(self) -> str:
        return f"update {self.eni.id}: {self.reason}"


@dataclass(frozen=True, slots=True)
class RemoveEni:
    """EC2 says that the ENI is not attached to this node any more."""

    eni_id: str
    reason: str

    def __str__(self) -> str:
        return f"remove {self.eni_id}: {self.reason}"


@dataclass(frozen=True, slots=True)
class AddBlocks:
    """EC2 confirms blocks that the pool does not know."""

    eni_id: str
    blocks: tuple[Block, ...]
    reason: str

    def __str__(self) -> str:
        return f"add {_shown(self.blocks)} to {self.eni_id}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Confirm:
    """Blocks were withdrawn to be given back, or the whole ENI (`blocks` None), but EC2 still lists them here."""

    eni_id: str
    blocks: tuple[Block, ...] | None
    reason: str

    def __str__(self) -> str:
        what = self.eni_id if self.blocks is None else f"{_shown(self.blocks)} on {self.eni_id}"
        return f"confirm {what}: {self.reason}"


@dataclass(frozen=True, slots=True)
class RemoveBlocks:
    """EC2 says that the ENI does not hold these any more."""

    eni_id: str
    blocks: tuple[Block, ...]
    reason: str

    def __str__(self) -> str:
        return f"remove {_shown(self.blocks)} from {self.eni_id}: {self.reason}"


@dataclass(frozen=True, slots=True)
class OrphanGrant:
    """A pod uses an address that EC2 does not list on this node. The grant stays and the address stays reserved.

    It follows the removal that causes it and changes nothing itself: it is the loud half of that removal.
    """

    key: PodKey
    address: IPAddress
    reason: str

    def __str__(self) -> str:
        return f"orphan {self.address} of {self.key}: {self.reason}"


@dataclass(frozen=True, slots=True)
class RestoreGrant:
    """The kernel shows a pod whose address the pool does not know as owned."""

    grant: Grant
    reason: str

    def __str__(self) -> str:
        return f"restore {self.grant}: {self.reason}"


@dataclass(frozen=True, slots=True)
class ReleaseGrant:
    """No pod of the kernel uses any address of the grant."""

    key: PodKey
    reason: str

    def __str__(self) -> str:
        return f"release {self.key}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Suspect:
    """Something contradicts itself, and changing either side could hurt a live pod: said loudly, left alone."""

    subject: str
    reason: str

    def __str__(self) -> str:
        return f"suspect {self.subject}: {self.reason}"


Correction = (
    AddEni
    | UpdateEni
    | RemoveEni
    | AddBlocks
    | Confirm
    | RemoveBlocks
    | OrphanGrant
    | RestoreGrant
    | ReleaseGrant
    | Suspect
)


def apply(pool: Pool, corrections: Iterable[Correction], now: float) -> list[tuple[Correction, Refused]]:
    """Correct the pool, in order. Returns those that the pool refused, which the next reconcile sees again."""
    refused = []
    for correction in corrections:
        try:
            _apply_one(pool, correction, now)
        except Refused as refusal:
            refused.append((correction, refusal))
    return refused


def _apply_one(pool: Pool, correction: Correction, now: float) -> None:
    match correction:
        case AddEni(eni=eni):
            pool.add_eni(eni)
        case UpdateEni(eni=eni):
            pool.update_eni(eni)
        case RemoveEni(eni_id=eni_id):
            pool.remove_eni(eni_id, lost=True)
        case AddBlocks(eni_id=eni_id, blocks=blocks):
            pool.add_blocks(eni_id, blocks)
        case Confirm(eni_id=eni_id, blocks=blocks):
            pool.confirm(eni_id, blocks)
        case RemoveBlocks(eni_id=eni_id, blocks=blocks):
            pool.remove_blocks(eni_id, blocks, lost=True)
        case RestoreGrant(grant=grant):
            pool.restore(grant)
        case ReleaseGrant(key=key):
            pool.release(key, now)
        case OrphanGrant() | Suspect():
            pass


def _shown(blocks: tuple[Block, ...]) -> str:
    return " ".join(str(block) for block in blocks[:4]) + (f" and {len(blocks) - 4} more" if len(blocks) > 4 else "")
