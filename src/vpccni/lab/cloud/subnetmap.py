# SPDX-License-Identifier: Apache-2.0
"""A subnet as a map of /28s: which could become a prefix, which is one, and what keeps the others from it.

Knows the books of an address space and who owns what. Must never change them. `vpccni lab subnet` draws it; tests ask
it whether a subnet is fragmented.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from vpccni.lab.cloud.resources import Eni, Subnet
from vpccni.lab.cloud.space import AddressSpace, Reservation
from vpccni.lab.cloud.world import World

# In the order in which they are asked: the first that holds is the block's state.
STATES = {
    "prefix": "a prefix, delegated to an interface",
    "full": "every address is taken singly",
    "blocked": "single addresses keep it from becoming a prefix",
    "edge": "EC2 keeps the subnet's first four addresses and the last one: never a prefix",
    "reserved": "free, kept by a reservation",
    "free": "free, may become a prefix",
}


@dataclass(frozen=True, slots=True)
class Occupant:
    """Who has an address or a prefix. `role` is primary, secondary or prefix, `holder` who that is to people."""

    network: IPv4Network
    eni_id: str
    role: str
    holder: str


@dataclass(frozen=True, slots=True)
class MapBlock:
    """One /28. `free` counts addresses that EC2 would still give out one by one, reserved ones included."""

    network: IPv4Network
    state: str
    free: int
    occupants: tuple[Occupant, ...]
    reservation: str = ""  # "prefix scr-..." or "explicit scr-..."


@dataclass(frozen=True, slots=True)
class SubnetMap:
    """All of a subnet. `free` is EC2's own count, which leaves reservations out."""

    subnet_id: str
    name: str
    network: IPv4Network
    free: int
    blocks: tuple[MapBlock, ...]

    def count(self) -> dict[str, int]:
        """Blocks by state."""
        found = Counter(block.state for block in self.blocks)
        return {state: found[state] for state in STATES}


def subnet_map(world: World, subnet: Subnet, holder: Callable[[Eni], str]) -> SubnetMap:
    """The map of now. `holder(eni)` says who that is: a node, another tenant."""
    space = subnet.v4
    assert isinstance(space.network, IPv4Network)  # `v4` is
    singles: dict[int, list[int]] = {}
    for value in space.owners:
        singles.setdefault(space.base(value), []).append(value)
    blocks = []
    for base in range(space.first, space.last + 1, space.block_size):
        inside = sorted(singles.get(base, ()))
        blocks.append(_block(world, space, base, inside, holder))
    name = subnet.tags.get("Name", "")
    return SubnetMap(subnet.subnet_id, name, space.network, space.free_count, tuple(blocks))


def _block(world: World, space: AddressSpace, base: int, singles: list[int], holder: Callable[[Eni], str]) -> MapBlock:
    network = IPv4Network((base, space.prefix_length))
    kept = next((item for item in space.reservations if item.network.overlaps(network)), None)
    owner = space.block_owners.get(base)
    if owner is not None:
        occupants = [Occupant(network, owner, "prefix", holder(world.enis[owner]))]
    else:
        occupants = [_single(world, space, value, holder) for value in singles]
    own = sum(space.is_own(value) for value in range(base, base + space.block_size))
    free = 0 if owner is not None else space.block_size - len(singles) - own
    state = _state(owner is not None, free, bool(singles), own > 0, kept)
    text = f"{kept.kind} {kept.reservation_id}" if kept is not None else ""
    return MapBlock(network, state, free, tuple(occupants), text)


def _single(world: World, space: AddressSpace, value: int, holder: Callable[[Eni], str]) -> Occupant:
    eni = world.enis[space.owners[value]]
    role = "primary" if int(eni.primary) == value else "secondary"
    return Occupant(IPv4Network(IPv4Address(value)), eni.eni_id, role, holder(eni))


def _state(prefix: bool, free: int, singles: bool, edge: bool, kept: Reservation | None) -> str:
    if prefix:
        return "prefix"
    if singles:
        return "blocked" if free else "full"
    if edge:
        return "edge"
    return "reserved" if kept is not None else "free"
