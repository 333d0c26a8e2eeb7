# SPDX-License-Identifier: Apache-2.0
"""Assigning and unassigning addresses and prefixes of interfaces, and choosing those of a new one.

Knows EC2's rules for them: one way of asking per call, limits per interface and type, /28 and /80. Must never know
attachments beyond the limits that they bring. Part of `Cloud`; a refused call has claimed nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from vpccni.aws.values import InstanceLimits, IPAddress, IPNetwork
from vpccni.lab.cloud.errors import ApiError, combination, invalid
from vpccni.lab.cloud.resources import Eni, Subnet
from vpccni.lab.cloud.space import AddressSpace
from vpccni.lab.cloud.world import World

UNATTACHED_LIMIT = 64  # the largest that any instance type has


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a call asks for in one family: at most one of the four may be given."""

    addresses: tuple[IPAddress, ...] = ()
    count: int | None = None
    prefixes: tuple[IPNetwork, ...] = ()
    prefix_count: int | None = None

    @property
    def slots(self) -> int:
        """How many places of the per-interface limit it takes."""
        return len(self.addresses) + (self.count or 0) + len(self.prefixes) + (self.prefix_count or 0)

    @property
    def wants_prefixes(self) -> bool:
        """Whether prefixes are asked for."""
        return bool(self.prefixes or self.prefix_count)

    def check(self, family: str, *, required: bool) -> None:
        """Refuse more than one way of asking, negative numbers, and nothing at all when something is required."""
        ways = [bool(self.addresses), self.count is not None, bool(self.prefixes), self.prefix_count is not None]
        if sum(ways) > 1:
            raise combination(f"You may specify only one of {family} addresses, address count, prefixes, prefix count")
        if required and not any(ways):
            raise combination(f"You must specify {family} addresses, prefixes, or a count of them")
        for number in (self.count, self.prefix_count):
            if number is not None and number < (1 if required else 0):
                raise invalid(f"Value ({number}) for a count of {family} addresses or prefixes is invalid")
        if len(set(self.addresses)) < len(self.addresses) or len(set(self.prefixes)) < len(self.prefixes):
            raise invalid(f"The same {family} address or prefix is specified more than once")


NOTHING = Wanted()


@dataclass(frozen=True, slots=True)
class Granted:
    """Addresses and prefixes of one family."""

    addresses: tuple[IPAddress, ...] = ()
    prefixes: tuple[IPNetwork, ...] = ()


class AddressOperations(World):
    """Assign and unassign."""

    def assign_private_ip_addresses(
        self,
        eni_id: str,
        *,
        addresses: Sequence[IPv4Address] = (),
        count: int | None = None,
        prefixes: Sequence[IPv4Network] = (),
        prefix_count: int | None = None,
        allow_reassignment: bool = False,
    ) -> Granted:
        """AssignPrivateIpAddresses: the new ones only."""
        self.settle()
        wanted = Wanted(tuple(addresses), count, tuple(prefixes), prefix_count)
        eni = self.eni(eni_id)
        wanted.check("IPv4", required=True)
        space = self.subnet(eni.subnet_id).v4
        mine = [address for address in addresses if address in eni.addresses]  # asked for again: no error, no change
        wanted = Wanted(tuple(a for a in addresses if a not in mine), count, tuple(prefixes), prefix_count)
        self._check_limits(eni, wanted, 4)
        moved = self._reassigned(eni, wanted, space) if allow_reassignment else {}
        granted = self._choose(space, Wanted(tuple(a for a in wanted.addresses if a not in moved), *_rest(wanted)))
        for address, other in moved.items():
            self.drop(other, Granted((address,)))
            self.addresses_changed(other)
        granted = Granted((*moved, *granted.addresses), granted.prefixes)
        self.hold(eni, granted)
        if granted.addresses or granted.prefixes:
            self.addresses_changed(eni)
        return Granted((*mine, *granted.addresses), granted.prefixes)

    def assign_ipv6_addresses(
        self,
        eni_id: str,
        *,
        addresses: Sequence[IPv6Address] = (),
        count: int | None = None,
        prefixes: Sequence[IPv6Network] = (),
        prefix_count: int | None = None,
    ) -> Granted:
        """AssignIpv6Addresses: the new ones only."""
        self.settle()
        eni = self.eni(eni_id)
        wanted = Wanted(tuple(addresses), count, tuple(prefixes), prefix_count)
        wanted.check("IPv6", required=True)
        space = self.ipv6_space(self.subnet(eni.subnet_id))
        self._check_limits(eni, wanted, 6)
        granted = self._choose(space, wanted)
        self.hold(eni, granted)
        self.addresses_changed(eni)
        return granted

    def unassign_private_ip_addresses(
        self, eni_id: str, addresses: Sequence[IPv4Address] = (), prefixes: Sequence[IPv4Network] = ()
    ) -> None:
        """UnassignPrivateIpAddresses: all of them or none."""
        self.settle()
        eni = self.eni(eni_id)
        if eni.primary in addresses:
            raise invalid(f"The primary address {eni.primary} of {eni_id} cannot be unassigned")
        self._unassign(eni, addresses, prefixes)

    def unassign_ipv6_addresses(
        self, eni_id: str, addresses: Sequence[IPv6Address] = (), prefixes: Sequence[IPv6Network] = ()
    ) -> None:
        """UnassignIpv6Addresses: all of them or none."""
        self.settle()
        self._unassign(self.eni(eni_id), addresses, prefixes)

    def _unassign(self, eni: Eni, addresses: Sequence[IPAddress], prefixes: Sequence[IPNetwork]) -> None:
        if not addresses and not prefixes:
            raise combination("You must specify addresses or prefixes to unassign")
        if not set(addresses) <= {*eni.addresses, *eni.ipv6}:
            raise invalid(f"Some of the specified addresses are not assigned to interface {eni.eni_id}")
        if not set(prefixes) <= {*eni.prefixes, *eni.ipv6_prefixes}:
            raise invalid(f"Some of the specified prefixes are not assigned to interface {eni.eni_id}")
        self.drop(eni, Granted(tuple(dict.fromkeys(addresses)), tuple(dict.fromkeys(prefixes))))
        self.addresses_changed(eni)

    # -- rules

    def ipv6_space(self, subnet: Subnet) -> AddressSpace:
        """The IPv6 space of a subnet, or a refusal when it has none."""
        if subnet.v6 is None:
            raise invalid(f"The subnet '{subnet.subnet_id}' does not have an IPv6 CIDR block")
        return subnet.v6

    def _check_limits(self, eni: Eni, wanted: Wanted, version: int) -> None:
        limits = self.limits_for(eni)
        used = eni.ipv4_slots if version == 4 else eni.ipv6_slots
        self.check_slots(eni.eni_id, used + wanted.slots, version, limits)
        if wanted.wants_prefixes and limits is not None and not limits.supports_prefixes:
            raise ApiError("UnsupportedOperation", f"{limits.instance_type} does not support prefix delegation")

    @staticmethod
    def check_slots(eni_id: str, slots: int, version: int, limits: InstanceLimits | None) -> None:
        """Refuse more addresses and prefixes than the type allows for one interface."""
        if version == 4:
            most, noun = limits.ipv4_per_eni if limits else UNATTACHED_LIMIT, "private"
        else:
            most, noun = limits.ipv6_per_eni if limits else UNATTACHED_LIMIT, "IPv6"
        if slots > most:
            raise ApiError("PrivateIpAddressLimitExceeded", f"{eni_id}: Number of {noun} addresses will exceed limit.")

    def _reassigned(self, eni: Eni, wanted: Wanted, space: AddressSpace) -> dict[IPv4Address, Eni]:
        """Wanted addresses that are secondary ones of other interfaces: those may be moved. Primaries may not."""
        moved: dict[IPv4Address, Eni] = {}
        for address in wanted.addresses:
            other = self.enis.get(space.owners.get(int(address), "")) if address in space.network else None
            if other is not None and other is not eni and address in other.addresses:
                moved[IPv4Address(address)] = other
        return moved

    def _choose(self, space: AddressSpace, wanted: Wanted, taken: Sequence[int] = ()) -> Granted:
        """Addresses and prefixes for a request, not claimed yet. `taken` are chosen for the same request before."""
        singles = [space.check_single(address) for address in wanted.addresses]
        if clash := set(singles) & set(taken):
            raise invalid(f"Address {space.address(min(clash))} is specified more than once")
        singles += space.pick_singles(wanted.count or 0, self.rng, {*taken})
        bases = [space.check_block(prefix) for prefix in wanted.prefixes]
        if any(space.base(value) in bases for value in taken):
            raise ApiError("InvalidIPAddress.InUse", "A prefix overlaps an address of the same request.")
        bases += space.pick_blocks(wanted.prefix_count or 0, self.rng, {space.base(value) for value in taken})
        return Granted(tuple(space.address(v) for v in singles), tuple(space.prefix(base) for base in bases))

    # -- effects

    def hold(self, eni: Eni, granted: Granted) -> None:
        """Claim for an interface what was chosen."""
        if granted.addresses or granted.prefixes:
            self.keep_old_view(eni)
        subnet = self.subnets[eni.subnet_id]
        for address in granted.addresses:
            _space(subnet, address.version).claim(int(address), eni.eni_id)
        for prefix in granted.prefixes:
            _space(subnet, prefix.version).claim_block(int(prefix.network_address), eni.eni_id)
        eni.addresses += [address for address in granted.addresses if isinstance(address, IPv4Address)]
        eni.ipv6 += [address for address in granted.addresses if isinstance(address, IPv6Address)]
        eni.prefixes += [prefix for prefix in granted.prefixes if isinstance(prefix, IPv4Network)]
        eni.ipv6_prefixes += [prefix for prefix in granted.prefixes if isinstance(prefix, IPv6Network)]

    def drop(self, eni: Eni, given_back: Granted) -> None:
        """Release what an interface holds."""
        self.keep_old_view(eni)
        subnet = self.subnets[eni.subnet_id]
        for address in given_back.addresses:
            _space(subnet, address.version).release(int(address))
        for prefix in given_back.prefixes:
            _space(subnet, prefix.version).release_block(int(prefix.network_address))
        gone, gone_prefixes = set(given_back.addresses), set(given_back.prefixes)
        eni.addresses = [address for address in eni.addresses if address not in gone]
        eni.ipv6 = [address for address in eni.ipv6 if address not in gone]
        eni.prefixes = [prefix for prefix in eni.prefixes if prefix not in gone_prefixes]
        eni.ipv6_prefixes = [prefix for prefix in eni.ipv6_prefixes if prefix not in gone_prefixes]


def _rest(wanted: Wanted) -> tuple[int | None, tuple[IPNetwork, ...], int | None]:
    return wanted.count, wanted.prefixes, wanted.prefix_count


def _space(subnet: Subnet, version: int) -> AddressSpace:
    space = subnet.space(version)
    assert space is not None, f"{subnet.subnet_id} has no IPv{version}"  # checked before anything was chosen
    return space
