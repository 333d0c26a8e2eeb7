# SPDX-License-Identifier: Apache-2.0
"""What the pool counts, as values.

Knows numbers per ENI and their sums. Must never compute a decision: that is `targets` and `plan`.
`pool` makes these, introspection, metrics and the explanations print them.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Tally:
    """total = assigned + cooling + available, in addresses that the active mode hands out. `waiting` pods were refused
    one a moment ago and will ask again; `coming` ones are expected (`lately`).

    `lingering` counts owned and cooling addresses outside of that: the other kind of block, ENIs not used for pods,
    blocks on their way out. `idle_blocks` may go back to EC2: nothing on them is owned or cooling.
    """

    total: int = 0
    assigned: int = 0
    cooling: int = 0
    blocks: int = 0
    idle_blocks: int = 0
    lingering: int = 0
    waiting: int = 0
    coming: int = 0

    @property
    def available(self) -> int:
        """Addresses that the next ADD can have."""
        return self.total - self.assigned - self.cooling


@dataclass(frozen=True, slots=True)
class EniStats:
    """The tally of one ENI; `slots` is how many blocks of any kind occupy it, without its primary address."""

    eni_id: str
    card: int
    device: int
    primary: bool
    usable_for_pods: bool
    slots: int
    tally: Tally


@dataclass(frozen=True, slots=True)
class PoolStats:
    """The whole pool. `orphans` are granted addresses that no ENI holds as far as EC2 told us."""

    total: int
    assigned: int
    cooling: int
    available: int
    prefixes: int
    free_prefixes: int
    lingering: int
    orphans: int
    grants: int
    enis: tuple[EniStats, ...]
