# SPDX-License-Identifier: Apache-2.0
"""The data store of the Amazon VPC CNI 1.23 as a simulation needs it: assignment, counters and candidates by its rules.

Knows its random order, its purge of rested records and that cooling addresses count as available. Must never know EC2
or ticks; `sim.upstream` does. For comparison only: no part of the product decides like this.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from vpccni.aws.values import IPNetwork

MIN_ENI_AGE_S = 60.0


@dataclass(slots=True, eq=False)
class Cidr:
    """A /32 or a /28. `used` holds offsets of pods, `cooling` offsets of released ones with the time of release."""

    network: IPNetwork
    size: int
    used: set[int] = field(default_factory=set)
    cooling: dict[int, float] = field(default_factory=dict)

    def take(self, now: float, cooldown_s: float) -> int | None:
        """The offset that it hands out: one that has rested, else the lowest without a record; None: neither."""
        rested = [offset for offset, at in self.cooling.items() if now - at > cooldown_s]
        for offset in rested:
            del self.cooling[offset]
        if rested:
            offset = rested[0]
        else:
            fresh = (each for each in range(self.size) if each not in self.used and each not in self.cooling)
            found = next(fresh, None)
            if found is None:
                return None
            offset = found
        self.used.add(offset)
        return offset


@dataclass(slots=True, eq=False)
class StoredEni:
    """An ENI with its CIDRs of either kind."""

    eni_id: str
    primary: bool
    created_at: float
    subnet_id: str
    cidrs: list[Cidr] = field(default_factory=list)

    @property
    def used(self) -> int:
        """Addresses that pods have."""
        return sum(len(cidr.used) for cidr in self.cidrs)

    @property
    def total(self) -> int:
        """Addresses that it holds for pods."""
        return sum(cidr.size for cidr in self.cidrs)

    def last_release(self) -> float:
        """When an address of it was released last; minus infinity: none is remembered."""
        return max((at for cidr in self.cidrs for at in cidr.cooling.values()), default=float("-inf"))


class Store:
    """One node's store. `total` and `assigned` are its T and A; available is T - A, whether cooling or not."""

    def __init__(self, cooldown_s: float, rng: random.Random) -> None:
        self._cooldown_s, self._rng = cooldown_s, rng
        self.enis: list[StoredEni] = []
        self.total = self.assigned = 0
        self._pods: dict[str, tuple[Cidr, int]] = {}

    @property
    def available(self) -> int:
        """T - A."""
        return self.total - self.assigned

    @property
    def prefixes(self) -> int:
        """P: how many CIDRs there are."""
        return sum(len(eni.cidrs) for eni in self.enis)

    def free_prefixes(self) -> int:
        """F: CIDRs without a pod."""
        return sum(1 for eni in self.enis for cidr in eni.cidrs if not cidr.used)

    def cooling(self, now: float) -> int:
        """Addresses that may not be reused yet; the store itself never asks."""
        cidrs = (cidr for eni in self.enis for cidr in eni.cidrs)
        return sum(1 for cidr in cidrs for at in cidr.cooling.values() if now - at <= self._cooldown_s)

    def assign(self, pod: str, now: float) -> bool:
        """An address for a pod, in the random order of a Go map; False: none to be had."""
        if self.available <= 0:
            return False
        for eni in self._rng.sample(self.enis, len(self.enis)):
            for cidr in self._rng.sample(eni.cidrs, len(eni.cidrs)):
                if len(cidr.used) == cidr.size:
                    continue
                offset = cidr.take(now, self._cooldown_s)
                if offset is not None:
                    self._pods[pod] = (cidr, offset)
                    self.assigned += 1
                    return True
        return False

    def release(self, pod: str, now: float) -> None:
        """The pod is gone; its address rests."""
        cidr, offset = self._pods.pop(pod)
        cidr.used.remove(offset)
        cidr.cooling[offset] = now
        self.assigned -= 1

    def add_eni(self, eni: StoredEni) -> None:
        """An ENI with what it holds."""
        self.enis.append(eni)
        self.total += eni.total

    def add_cidr(self, eni: StoredEni, network: IPNetwork) -> int:
        """A CIDR for an ENI; its size."""
        cidr = Cidr(network, int(network.num_addresses))
        eni.cidrs.append(cidr)
        self.total += cidr.size
        return cidr.size

    def drop_cidrs(self, eni: StoredEni, cidrs: list[Cidr]) -> None:
        """CIDRs without pods go, cooling or not."""
        for cidr in cidrs:
            eni.cidrs.remove(cidr)
            self.total -= cidr.size

    def remove_eni(self, eni: StoredEni) -> None:
        """An ENI goes."""
        self.enis.remove(eni)
        self.total -= eni.total

    def deletable(self, now: float, warm: int, minimum: int, warm_prefix: int) -> tuple[StoredEni | None, float]:
        """The ENI that "free one ENI" picks; else when age or cooldown alone could change the answer (infinity: never).

        `warm`, `minimum`: in PD already rounded up to whole prefixes; `warm_prefix`: 0 outside of PD.
        """
        later = float("inf")
        for eni in self._rng.sample(self.enis, len(self.enis)):
            if eni.primary or eni.used:
                continue
            others = [other for other in self.enis if other is not eni]
            if warm and sum(other.total - other.used for other in others) < warm:
                continue
            if minimum and sum(other.total for other in others) < minimum:
                continue
            if warm_prefix and sum(not cidr.used for other in others for cidr in other.cidrs) < warm_prefix:
                continue
            due = max(eni.created_at + MIN_ENI_AGE_S, eni.last_release() + self._cooldown_s + 1e-6)
            if due <= now:
                return eni, now
            later = min(later, due)
        return None, later
