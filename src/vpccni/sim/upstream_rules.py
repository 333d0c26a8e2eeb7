# SPDX-License-Identifier: Apache-2.0
"""The warm-pool arithmetic of the Amazon VPC CNI 1.23: short, over, too low, too high, as its daemon computes them.

Knows the formulas and nothing else. Must never be used by the product: `core.targets` has its own. `sim.upstream`
evaluates them at every tick.
"""

from __future__ import annotations

from dataclasses import dataclass

from vpccni.core.targets import Targets
from vpccni.sim.upstream_store import Store

PREFIX = 16


@dataclass(frozen=True, slots=True)
class Rules:
    """For one node: `slots` items per ENI (L), prefix delegation or not, targets, max pods."""

    slots: int
    prefixes: bool
    warm_eni: int
    warm_ip: int
    minimum_ip: int
    warm_prefix: int
    max_pods: int

    @classmethod
    def of(cls, targets: Targets, slots: int, *, prefixes: bool) -> Rules:
        """From the same targets as ours."""
        return cls(
            slots=slots,
            prefixes=prefixes,
            warm_eni=targets.warm_eni,
            warm_ip=targets.warm_ip or 0,
            minimum_ip=targets.minimum_ip or 0,
            warm_prefix=targets.warm_prefix or 0,
            max_pods=targets.max_pods or 10**9,
        )

    @property
    def defined(self) -> bool:
        """Whether address targets are set."""
        return bool(self.warm_ip or self.minimum_ip)

    def short(self, store: Store) -> int:
        """Addresses missing; prefixes with prefix delegation."""
        short = max(0, self.warm_ip - store.available, self.minimum_ip - store.total)
        return -(-short // PREFIX) if self.prefixes else short

    def over(self, store: Store) -> int:
        """Addresses too many; prefixes with prefix delegation."""
        if not self.defined:
            return max(0, store.free_prefixes() - self.warm_prefix) if self.prefixes else 0
        if self.prefixes:
            held = store.prefixes
            needed = -(-(store.assigned + self.warm_ip) // PREFIX)
            return max(0, min(store.free_prefixes(), held - needed, held - -(-self.minimum_ip // PREFIX)))
        return max(0, min(max(0, store.available - self.warm_ip), store.total - self.minimum_ip))

    def too_low(self, store: Store) -> bool:
        """Whether the pool must grow. Cooling addresses count as available."""
        if store.total >= self.max_pods:
            return False
        if self.defined:
            return self.short(store) > 0
        unit, goal = (PREFIX, self.warm_prefix) if self.prefixes else (self.slots, self.warm_eni)
        return store.available < unit * goal or (goal == 0 and store.available == 0)

    def wanted(self, store: Store) -> int:
        """Items that growing asks for."""
        if self.defined:
            return max(1, self.short(store)) if self.prefixes else self.short(store)
        if self.prefixes:
            return max(1, self.warm_prefix - store.free_prefixes())
        return self.slots

    def maybe_remove(self, store: Store) -> bool:
        """Whether freeing an ENI is tried in this tick."""
        if self.defined:
            return True
        goal = self.warm_prefix if self.prefixes else self.warm_eni
        per_eni = PREFIX * self.slots if self.prefixes else self.slots
        if store.available >= (goal + 1) * per_eni:
            return True
        return self.prefixes and any(not eni.primary and not eni.used for eni in store.enis)

    def removal_floor(self) -> tuple[int, int, int]:
        """What other ENIs must keep: addresses free, addresses in total, prefixes free."""
        if not self.prefixes:
            return self.warm_ip, self.minimum_ip, 0
        return -(-self.warm_ip // PREFIX) * PREFIX, -(-self.minimum_ip // PREFIX) * PREFIX, self.warm_prefix
