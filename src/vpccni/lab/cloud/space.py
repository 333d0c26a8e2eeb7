# SPDX-License-Identifier: Apache-2.0
"""The addresses of one subnet CIDR: who has which, what is free, and which comes next.

Knows single addresses and delegated prefixes of either family as integers in one network. Must never know interfaces
beyond an owner's id. `lab.cloud`'s operations pick first, then claim, so that a refused call has claimed nothing.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Container, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from vpccni.aws.values import IPAddress, IPNetwork
from vpccni.lab.cloud.errors import ApiError, invalid

# EC2 keeps the first four addresses and the last one of every subnet CIDR, of both families.
RESERVED_HEAD, RESERVED_TAIL = 4, 1
PREFIX_LENGTH = {4: 28, 6: 80}
_TRIES = 64  # random picks before the free ones are enumerated


@dataclass(frozen=True, slots=True)
class Reservation:
    """A subnet CIDR reservation: `prefix` is where automatic prefixes come from, `explicit` is by hand only."""

    reservation_id: str
    subnet_id: str
    network: IPv4Network
    kind: str
    description: str = ""


class AddressSpace:
    """One subnet CIDR. Addresses and prefixes map to the id of the interface that owns them."""

    def __init__(self, network: IPNetwork) -> None:
        self.network = network
        self.first, self.last = int(network.network_address), int(network.broadcast_address)
        self.prefix_length = max(PREFIX_LENGTH[network.version], network.prefixlen)
        self.block_size = 1 << (network.max_prefixlen - self.prefix_length)
        self.owners: dict[int, str] = {}
        self.block_owners: dict[int, str] = {}  # first address of the prefix
        self.reservations: list[Reservation] = []
        self._singles_in: dict[int, int] = {}  # prefix base -> how many single addresses lie in it

    def address(self, value: int) -> IPAddress:
        """The integer as an address of this family."""
        return IPv4Address(value) if self.network.version == 4 else IPv6Address(value)

    def prefix(self, base: int) -> IPNetwork:
        """The prefix that starts at this integer."""
        kind = IPv4Network if self.network.version == 4 else IPv6Network
        return kind((base, self.prefix_length))

    def base(self, value: int) -> int:
        """The start of the prefix around an address. CIDRs are aligned, so the size alone decides."""
        return value - value % self.block_size

    @property
    def free_count(self) -> int:
        """AvailableIpAddressCount: what is neither EC2's, nor owned, nor kept by a reservation."""
        used = len(self.owners) + self.block_size * len(self.block_owners)
        kept = sum(self._unused_in(item) for item in self.reservations)
        return self.last - self.first + 1 - RESERVED_HEAD - RESERVED_TAIL - used - kept

    def _unused_in(self, reservation: Reservation) -> int:
        first, last = int(reservation.network.network_address), int(reservation.network.broadcast_address)
        singles = sum(1 for value in self.owners if first <= value <= last)
        ends = ((base, base + self.block_size - 1) for base in self.block_owners)  # a /30 lies inside a prefix
        shared = sum(max(0, min(last, end) - max(first, base) + 1) for base, end in ends)
        own = sum(1 for value in range(self.first, self.first + RESERVED_HEAD) if first <= value <= last)
        own += first <= self.last <= last
        return last - first + 1 - singles - shared - own

    def is_own(self, value: int) -> bool:
        """Whether EC2 keeps this address for itself."""
        return value < self.first + RESERVED_HEAD or value > self.last - RESERVED_TAIL

    def owner(self, value: int) -> str | None:
        """Who owns an address, singly or inside a prefix."""
        return self.owners.get(value) or self.block_owners.get(self.base(value))

    def miscounted(self) -> bool:
        """Whether the number of single addresses per prefix, which is kept along, has gone wrong."""
        return self._singles_in != Counter(self.base(value) for value in self.owners)

    def _kept(self, value: int) -> bool:
        if not self.reservations:
            return False
        return any(self.address(value) in item.network for item in self.reservations)

    def _free(self, value: int) -> bool:
        return not self.is_own(value) and self.owner(value) is None and not self._kept(value)

    def check_single(self, address: IPAddress) -> int:
        """An address that a caller asks for by name, as an integer. Raises when it cannot be had."""
        value = int(address)
        if address not in self.network:
            raise invalid(f"Address {address} does not fall within the subnet's address range")
        if self.is_own(value):
            raise invalid(f"Address {address} is in subnet's reserved address range")
        if self.owner(value) is not None:
            raise ApiError("InvalidIPAddress.InUse", f"Address {address} is in use.")
        return value

    def check_block(self, network: IPNetwork) -> int:
        """A prefix that a caller asks for by name, as its first address. Raises when it cannot be had."""
        if network.prefixlen != self.prefix_length or not self.first <= int(network.network_address) <= self.last:
            raise invalid(f"The prefix {network} is not a /{self.prefix_length} of the subnet's range {self.network}")
        base = int(network.network_address)
        if not self._block_free(base):
            raise ApiError("InvalidIPAddress.InUse", f"The prefix {network} overlaps addresses that are in use.")
        return base

    def _block_free(self, base: int) -> bool:
        if base in self.block_owners or self._singles_in.get(base):
            return False
        return not self.is_own(base) and not self.is_own(base + self.block_size - 1)

    def pick_singles(self, count: int, rng: random.Random, taken: Container[int] = ()) -> list[int]:
        """`count` free addresses in random places, none of `taken`. Raises InsufficientFreeAddressesInSubnet."""
        chosen: dict[int, None] = {}
        for _ in range(_TRIES + 4 * count):
            if len(chosen) == count:
                return list(chosen)
            value = rng.randint(self.first, self.last)
            if self._free(value) and value not in taken:
                chosen[value] = None
        rest = [v for v in self._enumerable() if v not in chosen and v not in taken and self._free(v)]
        missing = count - len(chosen)
        if missing > len(rest):
            raise ApiError(
                "InsufficientFreeAddressesInSubnet",
                "The specified subnet does not have enough free addresses to satisfy the request.",
            )
        return [*chosen, *rng.sample(rest, missing)]

    def _enumerable(self) -> range:
        # A /64 is never full; a VPC's IPv4 subnet has at most 65,536 addresses.
        return range(self.first, min(self.last, self.first + 65_536) + 1)

    def pick_blocks(self, count: int, rng: random.Random, taken: Container[int] = ()) -> list[int]:
        """`count` free prefixes: out of `prefix` reservations first, then anywhere unreserved, in random places.

        Two refusals, as EC2 tells them apart: too few free addresses is InvalidParameterValue, enough of them but
        scattered is InsufficientCidrBlocks.
        """
        chosen: dict[int, None] = {}
        for base in self._reserved_bases():
            if len(chosen) < count and base not in taken and self._block_free(base):
                chosen[base] = None
        blocks = (self.last - self.first + 1) // self.block_size
        for _ in range(_TRIES + 4 * count):
            if len(chosen) >= count:
                break
            self._try_block(self.first + rng.randrange(blocks) * self.block_size, chosen, taken)
        if len(chosen) < count:
            bases = list(range(self.first, self.last + 1, self.block_size))
            rng.shuffle(bases)
            for base in bases:
                if len(chosen) >= count:
                    break
                self._try_block(base, chosen, taken)
        if len(chosen) < count:
            raise self._no_block(count)
        return list(chosen)

    def _try_block(self, base: int, chosen: dict[int, None], taken: Container[int]) -> None:
        if base in taken or not self._block_free(base):
            return
        network = self.prefix(base)
        if not any(item.network.overlaps(network) for item in self.reservations if item.network.version == 4):
            chosen[base] = None

    def _reserved_bases(self) -> Iterator[int]:
        for item in self.reservations:
            if item.kind == "prefix":
                first, last = int(item.network.network_address), int(item.network.broadcast_address)
                yield from range(first, last - self.block_size + 2, self.block_size)

    def _no_block(self, count: int) -> ApiError:
        if self.network.version == 4 and self.free_count < count * self.block_size:
            return invalid("There aren't sufficient free Ipv4 addresses or prefixes")
        return ApiError(
            "InsufficientCidrBlocks",
            "The specified subnet does not have enough free cidr blocks to satisfy the request.",
        )

    def claim(self, value: int, owner: str) -> None:
        """Give a free address to `owner`."""
        self.owners[value] = owner
        base = self.base(value)
        self._singles_in[base] = self._singles_in.get(base, 0) + 1

    def release(self, value: int) -> None:
        """Take an address back."""
        del self.owners[value]
        base = self.base(value)
        self._singles_in[base] -= 1
        if not self._singles_in[base]:
            del self._singles_in[base]

    def claim_block(self, base: int, owner: str) -> None:
        """Give a free prefix to `owner`."""
        self.block_owners[base] = owner

    def release_block(self, base: int) -> None:
        """Take a prefix back."""
        del self.block_owners[base]
