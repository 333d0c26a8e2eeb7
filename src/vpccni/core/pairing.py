# SPDX-License-Identifier: Apache-2.0
"""The /80 beside the IPv4 addresses of an ENI, without which a dual-stack node hands none of them out.

Knows which ENIs of a network card lack one and what stands in the way. Must never ask for IPv4 addresses (`grow` does).
Only `plan` calls it.
"""

from __future__ import annotations

from collections.abc import Sequence

from vpccni.core.block import BlockKind
from vpccni.core.holds import Holds
from vpccni.core.ledger import Ledger
from vpccni.core.steps import AssignBlocks, Step, Wait

COMPANION_VERSION = 6


def pair(ledger: Ledger, holds: Holds, now: float, pending: Sequence[Step] = ()) -> list[Step]:
    """One request for each ENI that could serve pods but for its missing /80."""
    asked = {step.eni_id for step in pending if isinstance(step, AssignBlocks) and step.version == COMPANION_VERSION}
    steps: list[Step] = []
    for held in ledger.enis:
        if not held.unpaired or not held.eni.growable or held.eni.id in asked:
            continue
        until = holds.enis.get(held.eni.id, 0.0)
        if holds.cordoned:
            steps.append(Wait("cordoned", None, f"{holds.cordoned}; {held.eni.id} has no IPv6 prefix"))
        elif until > now:
            reason = f"EC2 gave {held.eni.id} no IPv6 prefix; asking again in {until - now:.0f} s"
            steps.append(Wait("ipv6-prefix-refused", until, reason))
        else:
            reason = "each pod gets an IPv6 address beside its IPv4 address"
            steps.append(AssignBlocks(held.eni.id, 1, BlockKind.PREFIX, reason, COMPANION_VERSION))
    return steps


def pairing(ledger: Ledger, steps: Sequence[Step], pending: Sequence[Step]) -> bool:
    """Whether a /80 is on its way to one of the card's ENIs, which then may end the shortage by itself."""
    here = {held.eni.id for held in ledger.enis if held.unpaired}
    return any(isinstance(step, AssignBlocks) and step.eni_id in here for step in (*steps, *pending))
