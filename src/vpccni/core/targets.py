# SPDX-License-Identifier: Apache-2.0
"""Warm and minimum targets: how many addresses a network card's pool is short of, or holds too many.

Knows the arithmetic of WARM_ENI_TARGET, WARM_IP_TARGET, MINIMUM_IP_TARGET, WARM_PREFIX_TARGET and max pods, in
addresses only. Must never know which ENI grows or shrinks; that is `plan`, which calls this with a tally of the pool.

One quantity decides both ways: available addresses, without cooling ones. What growing wants, shrinking leaves alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from vpccni.core.block import Mode
from vpccni.core.stats import Tally

# Amazon VPC CNI 1.23: further network cards always keep one spare address, whatever the settings say.
_OTHER_CARDS_SPARE = 1
# Of larger blocks there is always more than anybody wants: they are over as a whole or not at all.
_ALWAYS_OVER = 65536


@dataclass(frozen=True, slots=True)
class Targets:
    """The settings of the same names; None or 0 means not set (WARM_ENI_TARGET=0 means no spare ENI).

    Precedence, as documented: WARM_IP_TARGET or MINIMUM_IP_TARGET win over WARM_ENI_TARGET and WARM_PREFIX_TARGET.
    `max_pods` bounds the addresses that are held; `max_eni` (MAX_ENI) the ENIs of every card.
    """

    warm_eni: int = 1
    warm_ip: int | None = None
    minimum_ip: int | None = None
    warm_prefix: int | None = None
    max_eni: int | None = None
    max_pods: int | None = None


@dataclass(frozen=True, slots=True)
class NodeLimits:
    """What the instance type allows: ENIs per card, and addresses per ENI including the primary address.

    `cards` are the network cards that are managed; `card_enis` overrides `max_enis` for single cards. `reserve_trunk`
    keeps one slot of card 0 free until a trunk is attached (security groups for pods).
    """

    max_enis: int
    ips_per_eni: int
    cards: tuple[int, ...] = (0,)
    card_enis: Mapping[int, int] = field(default_factory=dict)
    reserve_trunk: bool = False

    def slots_per_eni(self, version: int = 4) -> int:
        """Blocks that an ENI can hold next to its primary address. IPv6: one /80 is more than any node can use."""
        return max(0, self.ips_per_eni - 1) if version == 4 else 1

    def enis_on(self, card: int, max_eni: int | None = None) -> int:
        """How many ENIs a card may carry, bounded by MAX_ENI."""
        limit = self.card_enis.get(card, self.max_enis)
        return min(limit, max_eni) if max_eni else limit


@dataclass(frozen=True, slots=True)
class Demand:
    """What one card's pool has to hold, in addresses.

    `spare` addresses available beyond those for pods that wait, `minimum` held in total, `ceiling` never exceeded (max
    pods; None: no bound).
    `whole_enis`: grow by filling ENIs and shrink by freeing them, never by single blocks (WARM_ENI_TARGET, IPv6).
    `block_size` is the unit in which EC2 gives and takes; `setting` names the settings for explanations.
    """

    spare: int
    minimum: int
    ceiling: int | None
    whole_enis: bool
    block_size: int
    setting: str

    def short(self, tally: Tally) -> int:
        """Addresses missing; at most as many as the ceiling leaves. Cooling addresses serve nobody, so they do not
        count against the ceiling: a node full of pods can still replace one."""
        missing = max(0, self.spare + tally.waiting + tally.coming - tally.available, self.minimum - tally.total)
        return self.headroom(tally, missing)

    def headroom(self, tally: Tally, addresses: int) -> int:
        """As many of so many more addresses as the ceiling allows."""
        return addresses if self.ceiling is None else max(0, min(addresses, self.ceiling - _serving(tally)))

    def over(self, tally: Tally) -> int:
        """Addresses that could go without the pool becoming short."""
        surplus = min(tally.available - self.spare - tally.waiting - tally.coming, tally.total - self.minimum)
        if self.ceiling is not None:
            surplus = max(surplus, min(tally.available, _serving(tally) - self.ceiling))
        if self.block_size > _ALWAYS_OVER:
            surplus -= surplus % self.block_size
        return max(0, surplus)

    def blocks(self, addresses: int) -> int:
        """Blocks that cover a number of addresses."""
        return -(-addresses // self.block_size)

    def explain(self, tally: Tally) -> str:
        """The numbers of the decision in half a sentence."""
        cooling = f", {tally.cooling} cooling" if tally.cooling else ""
        waiting = f", {tally.waiting} pods waiting" if tally.waiting else ""
        waiting += f", {tally.coming} more expected" if tally.coming else ""
        ceiling = "" if self.ceiling is None else f", at most {self.ceiling} for max pods"
        return (
            f"{tally.available} of {tally.total} addresses available{cooling}{waiting}; "
            f"{self.setting} wants {_wanted(self)}{ceiling}"
        )


def demand(targets: Targets, limits: NodeLimits, mode: Mode, version: int = 4, card: int = 0) -> Demand:
    """The demand on one card.

    MINIMUM_IP_TARGET alone still keeps one address available: with none, the first pod above the minimum could never
    start. A target of 0 keeps one available too, for the same reason. Amazon VPC CNI 1.23 starves in the first case
    and attaches and frees ENIs in a loop in the second.
    """
    size = block_size(mode, version)
    ceiling = targets.max_pods or None
    whole = version == 6  # a /80 goes with its ENI: a second one on it was not ours to take back
    if card != 0:
        return Demand(_OTHER_CARDS_SPARE, 1, ceiling, whole, size, f"network card {card}")
    warm_ip, minimum = targets.warm_ip or 0, targets.minimum_ip or 0
    if warm_ip or minimum:
        named = {"WARM_IP_TARGET": warm_ip, "MINIMUM_IP_TARGET": minimum}
        setting = " ".join(f"{name}={value}" for name, value in named.items() if value)
        return Demand(max(1, warm_ip), minimum, ceiling, whole, size, setting)
    if mode is Mode.PREFIX:
        warm_prefix = targets.warm_prefix or 0
        # In IPv6 one /80 holds all that could be wanted; a prefix counted in addresses would ask for a second one.
        spare = warm_prefix * size if version == 4 else 1
        return Demand(max(1, spare), 0, ceiling, whole, size, f"WARM_PREFIX_TARGET={warm_prefix}")
    spare = max(0, targets.warm_eni) * limits.slots_per_eni(version)
    return Demand(max(1, spare), 0, ceiling, True, size, f"WARM_ENI_TARGET={max(0, targets.warm_eni)}")


def block_size(mode: Mode, version: int = 4) -> int:
    """Addresses per block: 1, 16 for a /28, 2^48 for a /80."""
    if mode is Mode.SECONDARY:
        return 1
    return 16 if version == 4 else 2**48


def _serving(tally: Tally) -> int:
    """Addresses that pods use or could use now."""
    return tally.total - tally.cooling + tally.lingering


def _wanted(demand: Demand) -> str:
    minimum = f" and {demand.minimum} in total" if demand.minimum else ""
    return f"{demand.spare} available{minimum}"
