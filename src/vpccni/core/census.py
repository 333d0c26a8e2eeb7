# SPDX-License-Identifier: Apache-2.0
"""Which instances start together with this one, and the place of this one among them.

Knows launch times as EC2 lists them (DescribeInstances). Must never know how they were asked for. The daemon asks
once at its start, the simulator does the same for a thousand nodes; `core.pacing` makes a slot of the answer.

Nodes of a fleet cannot see each other, but all of them can ask EC2 for the instances that were launched a moment ago,
and all get the same list. So each knows its place without a word being exchanged, and no draw is needed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from vpccni.aws.values import Launched

YOUNG_S = 600.0  # an instance that was launched longer ago has started, and competes no more


@dataclass(frozen=True, slots=True)
class Place:
    """`rank` of `fleet` instances that start now, in the order of their launch; the first one `lead_s` before us."""

    fleet: int
    rank: int
    lead_s: float


def place(found: Iterable[Launched], instance_id: str) -> Place | None:
    """This instance's place among those that EC2 lists as launched recently; None when it is not one of them.

    Instances of one moment are ordered by id, which EC2 makes at random.
    """
    order = sorted(found, key=lambda each: (each.launched_at, each.instance_id))
    for rank, each in enumerate(order):
        if each.instance_id == instance_id:
            return Place(len(order), rank, each.launched_at - order[0].launched_at)
    return None
