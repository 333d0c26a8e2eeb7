# SPDX-License-Identifier: Apache-2.0
"""The steps that a plan consists of, as values that print as one line each.

Knows what can be asked of EC2 for a node's pool. Must never know how it is done nor decide it.
`plan` makes them, the daemon's actuator runs them as sagas, the log and `why` print them.
"""

from __future__ import annotations

from dataclasses import dataclass

from vpccni.core.block import Block, BlockKind


@dataclass(frozen=True, slots=True)
class AssignBlocks:
    """Ask EC2 for `count` more blocks of a kind on an attached ENI: one call."""

    eni_id: str
    count: int
    kind: BlockKind
    reason: str
    version: int = 4

    def __str__(self) -> str:
        family = " (IPv6)" if self.version == 6 else ""
        return f"assign {counted(self.count, self.kind)}{family} to {self.eni_id}: {self.reason}"


@dataclass(frozen=True, slots=True)
class AttachEni:
    """Create an ENI with `count` blocks, and a /80 beside them when `dual`, and attach it to a network card."""

    card: int
    count: int
    kind: BlockKind
    reason: str
    version: int = 4
    dual: bool = False

    def __str__(self) -> str:
        beside = " (IPv6)" if self.version == 6 else " and a /80" if self.dual else ""
        return f"attach an ENI with {counted(self.count, self.kind)}{beside} to card {self.card}: {self.reason}"


@dataclass(frozen=True, slots=True)
class UnassignBlocks:
    """Give blocks back to EC2; no pod uses them and none cools. All are of one kind: one call."""

    eni_id: str
    blocks: tuple[Block, ...]
    reason: str

    @property
    def version(self) -> int:
        """The family of the blocks, which is one: a plan gives back what it counts."""
        return self.blocks[0].network.version

    def __str__(self) -> str:
        shown = " ".join(str(block) for block in self.blocks[:4]) + (" ..." if len(self.blocks) > 4 else "")
        return f"unassign {counted(len(self.blocks), self.blocks[0].kind)} ({shown}) from {self.eni_id}: {self.reason}"


@dataclass(frozen=True, slots=True)
class FreeEni:
    """Detach and delete an ENI that no pod uses."""

    eni_id: str
    reason: str

    def __str__(self) -> str:
        return f"free {self.eni_id}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing can be done about it now. `until` in Unix seconds; None when time alone does not help.

    Codes: `eni-limit` (instance type), `max-eni` (MAX_ENI), `eni-full`, `subnet-hold`, `subnet-fragmented`,
    `attach-blocked`, `throttled`, `paused`, `cordoned`, `shrink-interval`, `eni-young`, `needed-lately`,
    `ipv6-prefix-refused`.
    """

    code: str
    until: float | None
    reason: str

    def __str__(self) -> str:
        return f"wait ({self.code}): {self.reason}"


Growth = AssignBlocks | AttachEni
Decrease = UnassignBlocks | FreeEni
Step = Growth | Decrease | Wait


def first_call(step: Growth | Decrease) -> str:
    """The action of the EC2 call that decides whether a step can begin."""
    match step:
        case AttachEni():
            return "CreateNetworkInterface"
        case FreeEni():
            return "DetachNetworkInterface"
        case AssignBlocks():
            return "AssignPrivateIpAddresses" if step.version == 4 else "AssignIpv6Addresses"
        case UnassignBlocks():
            return "UnassignPrivateIpAddresses" if step.blocks[0].network.version == 4 else "UnassignIpv6Addresses"


def counted(count: int, kind: BlockKind) -> str:
    """`1 address`, `9 addresses`, `2 prefixes`."""
    if kind is BlockKind.ADDRESS:
        return f"{count} address" + ("" if count == 1 else "es")
    return f"{count} prefix" + ("" if count == 1 else "es")
