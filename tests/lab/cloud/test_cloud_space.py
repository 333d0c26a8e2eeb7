# SPDX-License-Identifier: Apache-2.0
"""The addresses of a subnet: placement, reservation, exhaustion."""

from __future__ import annotations

import random
from ipaddress import IPv4Address, IPv4Network, IPv6Network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vpccni.lab.cloud.errors import ApiError
from vpccni.lab.cloud.space import AddressSpace, Reservation


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32), prefixlen=st.integers(24, 28))
def test_every_address_can_be_had_once_and_then_none(seed: int, prefixlen: int) -> None:
    space, rng = AddressSpace(IPv4Network(f"10.0.0.0/{prefixlen}")), random.Random(seed)
    size, got = 1 << (32 - prefixlen), []
    while space.free_count:
        for value in space.pick_singles(min(3, space.free_count), rng):
            space.claim(value, "eni")
            got.append(value)
    assert len(set(got)) == len(got) == size - 5
    with pytest.raises(ApiError, match="InsufficientFreeAddressesInSubnet"):
        space.pick_singles(1, rng)
    space.release(got[0])
    assert space.pick_singles(1, rng) == [got[0]]


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32), singles=st.integers(0, 12))
def test_prefixes_use_every_block_that_holds_no_single_address(seed: int, singles: int) -> None:
    space, rng = AddressSpace(IPv4Network("10.0.0.0/24")), random.Random(seed)
    for value in space.pick_singles(singles, rng):
        space.claim(value, "eni")
    touched = {space.base(value) for value in space.owners} | {space.first, space.last - 15}
    whole = 16 - len(touched)
    bases = space.pick_blocks(whole, rng)
    assert len(set(bases)) == whole and not set(bases) & touched
    assert all(base % 16 == 0 for base in bases)
    with pytest.raises(ApiError) as caught:
        space.pick_blocks(whole + 1, rng)
    enough = space.free_count >= 16 * (whole + 1)
    assert caught.value.code == ("InsufficientCidrBlocks" if enough else "InvalidParameterValue")


def test_placement_is_random_but_repeatable() -> None:
    space = AddressSpace(IPv4Network("10.0.0.0/16"))
    first, again, other = (space.pick_singles(20, random.Random(seed)) for seed in (1, 1, 2))
    assert first == again != other
    assert first != sorted(first)


def test_prefixes_leave_reservations_of_explicit_kind_alone_and_use_the_others_first() -> None:
    space = AddressSpace(IPv4Network("10.0.0.0/24"))
    space.reservations.append(Reservation("scr-1", "subnet-1", IPv4Network("10.0.0.32/27"), "explicit"))
    space.reservations.append(Reservation("scr-2", "subnet-1", IPv4Network("10.0.0.128/27"), "prefix"))
    assert space.free_count == 251 - 64
    prefixes = [space.prefix(base) for base in space.pick_blocks(12 - 2, random.Random(1))]
    assert prefixes[:2] == [IPv4Network("10.0.0.128/28"), IPv4Network("10.0.0.144/28")]
    assert not any(prefix.overlaps(IPv4Network("10.0.0.32/27")) for prefix in prefixes)
    assert space.check_single(IPv4Address("10.0.0.40")), "by name, an explicit reservation is what it is for"


def test_an_80_in_a_64_is_never_enumerated_and_never_the_first_or_last() -> None:
    space = AddressSpace(IPv6Network("2001:db8::/64"))
    bases = space.pick_blocks(500, random.Random(1))
    assert len(set(bases)) == 500
    assert all(base % (1 << 48) == 0 and not space.is_own(base) for base in bases)
