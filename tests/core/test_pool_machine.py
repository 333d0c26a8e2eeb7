# SPDX-License-Identifier: Apache-2.0
"""Any sequence of events on a pool, checked against a model that is written down as plainly as possible."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from vpccni.aws.values import IPAddress
from vpccni.core.block import Block, Mode
from vpccni.core.eni import Eni
from vpccni.core.grant import Grant, GrantedAddress, PodIdentity, PodKey
from vpccni.core.pool import Pool
from vpccni.core.stats import Tally
from vpccni.errors import NoAddress, Refused

COOLDOWN_S = 30.0
POD = PodIdentity("default", "p")
KEYS = st.integers(0, 12).map(lambda n: PodKey("aws-cni", f"c{n}", "eth0"))
ENIS = st.integers(0, 2)
SLOTS = st.integers(0, 3)
SIZES = st.sampled_from([1, 16, 2**48])
WIDE = int(IPv6Address("2001:db8::"))  # where the /80s of the ENIs begin
ADDRESSES = st.one_of(
    st.tuples(ENIS, st.integers(0, 79)).map(lambda at: IPv4Address("10.0.0.0") + 4096 * at[0] + at[1]),
    st.tuples(ENIS, SLOTS, st.integers(0, 5)).map(lambda at: IPv6Address(WIDE + ((8 * at[0] + at[1]) << 48) + at[2])),
)


def block_at(eni: int, slot: int, size: int) -> Block:
    if size > 16:
        return Block(IPv6Network((WIDE + ((8 * eni + slot) << 48), 80)))
    base = int(IPv4Address("10.0.0.0")) + 4096 * eni
    return Block(IPv4Network((base + (16 * slot if size == 16 else 64 + slot), 28 if size == 16 else 32)))


class PoolMachine(RuleBasedStateMachine):
    """The model: which ENI holds which blocks, who owns what, and when each address was released last."""

    @initialize(mode=st.sampled_from(Mode), dual=st.booleans())
    def start(self, mode: Mode, dual: bool) -> None:
        self.pool, self.twin = Pool(COOLDOWN_S, mode, dual=dual), Pool(COOLDOWN_S, mode, dual=dual)
        self.now = 1000.0
        self.mode, self.dual = mode, dual
        self.held: dict[str, dict[Block, bool]] = {}  # block -> confirmed
        self.unusable: set[str] = set()
        self.owned: dict[IPAddress, PodKey] = {}
        self.released: dict[IPAddress, float] = {}
        for size in (1, 16, 2**48):  # so that most histories get beyond an empty pool
            self.add_eni(0)
            self.add_block(0, 0, size)

    def both(self, name: str, *arguments: object, **options: object) -> object:
        """Run an operation on the pool and on its twin, which lives through the same history."""
        outcomes = []
        for pool in (self.pool, self.twin):
            try:
                outcomes.append(getattr(pool, name)(*arguments, **options))
            except Refused as refused:
                outcomes.append((refused.error_code, str(refused)))
        assert outcomes[0] == outcomes[1], "same history, same result"
        return outcomes[0]

    def cools(self, address: IPAddress) -> bool:
        return address in self.released and self.now <= self.released[address] + COOLDOWN_S

    def free(self) -> set[IPAddress]:
        kind = self.mode.kind
        return {
            address
            for eni_id, blocks in self.held.items()
            if eni_id not in self.unusable and (self.wide(eni_id) or not self.dual)
            for block, confirmed in blocks.items()
            if confirmed and block.kind is kind and block.network.version == 4
            for address in block.network
            if address not in self.owned and not self.cools(address)
        }

    def wide(self, eni_id: str) -> list[Block]:
        """The /80s of an ENI that EC2 confirmed."""
        return [block for block, confirmed in self.held[eni_id].items() if confirmed and block.network.version == 6]

    @rule(eni=ENIS)
    def add_eni(self, eni: int) -> None:
        known = f"eni-{eni}" in self.held
        outcome = self.both("add_eni", Eni(f"eni-{eni}", device=eni, primary=eni == 0, table=eni + 1))
        assert (outcome is not None) == known
        self.held.setdefault(f"eni-{eni}", {})

    @rule(eni=ENIS, slot=SLOTS, size=SIZES)
    def add_block(self, eni: int, slot: int, size: int) -> None:
        if f"eni-{eni}" not in self.held:
            return
        block = block_at(eni, slot, size)
        known = block in self.held[f"eni-{eni}"]
        assert self.both("add_blocks", f"eni-{eni}", (block,)) == (() if known else (block,))
        self.held[f"eni-{eni}"][block] = True

    @rule(eni=ENIS, slot=SLOTS, size=SIZES, lost=st.booleans())
    def remove_block(self, eni: int, slot: int, size: int, lost: bool) -> None:
        block, blocks = block_at(eni, slot, size), self.held.get(f"eni-{eni}")
        if blocks is None or block not in blocks:
            return
        outcome = self.both("remove_blocks", f"eni-{eni}", (block,), lost=lost)
        used = any(address in block.network for address in self.owned)
        assert (outcome is not None) == (used and not lost), "an address in use is never removed"
        if outcome is None:
            del blocks[block]

    @rule(eni=ENIS, slot=SLOTS, size=SIZES)
    def withdraw_block(self, eni: int, slot: int, size: int) -> None:
        block, blocks = block_at(eni, slot, size), self.held.get(f"eni-{eni}")
        if blocks is None or block not in blocks:
            return
        outcome = self.both("withdraw", f"eni-{eni}", (block,))
        taken = {*self.owned, *(address for address in self.released if self.cools(address))}
        used = any(address in block.network for address in taken)
        assert (outcome is not None) == used
        if outcome is None:
            blocks[block] = False

    @rule(eni=ENIS, usable=st.booleans())
    def update_eni(self, eni: int, usable: bool) -> None:
        eni_id = f"eni-{eni}"
        if eni_id in self.held:
            self.both("update_eni", Eni(eni_id, device=eni, primary=eni == 0, table=eni + 1, usable_for_pods=usable))
            (self.unusable.discard if usable else self.unusable.add)(eni_id)

    @rule(eni=ENIS)
    def lose_eni(self, eni: int) -> None:
        if f"eni-{eni}" in self.held:
            self.both("remove_eni", f"eni-{eni}", lost=True)
            del self.held[f"eni-{eni}"]
            self.unusable.discard(f"eni-{eni}")

    @rule(mode=st.sampled_from(Mode))
    def set_mode(self, mode: Mode) -> None:
        self.both("set_mode", mode)
        self.mode = mode

    @rule(key=KEYS, undo=st.booleans())
    def assign(self, key: PodKey, undo: bool) -> None:
        known, free = key in self.owned.values(), self.free()
        before = self.picture()
        outcome = self.both("assign", key, POD, self.now)
        if known:
            addresses = {address for address, owner in self.owned.items() if owner == key}
            if isinstance(outcome, Grant):
                assert {granted.address for granted in outcome.addresses} == addresses
            else:
                assert outcome[0] == "address-unconfirmed" and addresses & set(self.pool.orphans())
            return
        if not free:
            assert not isinstance(outcome, Grant)
            return
        assert isinstance(outcome, Grant), outcome
        first, *beside = outcome.addresses
        assert first.address in free, "confirmed, active, nobody's, and rested"
        assert len(beside) == self.dual
        for other in beside:
            assert other.eni_id == first.eni_id and any(
                other.address in block.network for block in self.wide(first.eni_id)
            )
            assert other.address not in self.owned and not self.cools(other.address)
        if undo:
            self.both("undo_assign", key)
            assert self.picture() == before
        else:
            self.owned |= {granted.address: key for granted in outcome.addresses}

    @rule(key=KEYS)
    def release(self, key: PodKey) -> None:
        outcome = self.both("release", key, self.now)
        mine = {address for address, owner in self.owned.items() if owner == key}
        assert (outcome is not None) == bool(mine)
        for address in mine:
            del self.owned[address]
            self.released[address] = self.now

    @rule(key=KEYS, address=ADDRESSES)
    def restore(self, key: PodKey, address: IPAddress) -> None:
        outcome = self.both("restore", Grant(key, POD, (GrantedAddress(address),), self.now))
        if key in self.owned.values() or address in self.owned:
            assert outcome is not None or self.owned.get(address) == key
        else:
            assert outcome is None
            self.owned[address] = key
            self.released.pop(address, None)

    @rule(duration_s=st.sampled_from([0.5, 10.0, 29.5, 30.0, 30.5]))
    def sleep(self, duration_s: float) -> None:
        self.now += duration_s

    @rule()
    @precondition(lambda self: getattr(self, "pool", None) is not None and self.pool.cooling(self.now))
    def sleep_until_just_before_the_next_address_rests(self) -> None:
        assert self.pool.next_rest(self.now) is not None
        self.now = max(self.now, min(self.released[address] for address in self.pool.cooling(self.now)) + COOLDOWN_S)

    def picture(self) -> object:
        return self.pool.stats(self.now), list(self.pool.grants()), self.pool.cooling(self.now), self.pool.enis()

    @invariant()
    def the_pool_equals_the_model(self) -> None:
        if not hasattr(self, "pool"):
            return
        granted = [each.address for grant in self.pool.grants() for each in grant.addresses]
        assert len(granted) == len(set(granted)), "an address has at most one owner"
        assert {address: self.pool.owner(address) for address in granted} == self.owned
        assert set(self.pool.cooling(self.now)) == {address for address in self.released if self.cools(address)}
        networks = [block.network for blocks in self.held.values() for block in blocks]
        homeless = {address for address in self.owned if not any(address in network for network in networks)}
        assert set(self.pool.orphans()) == homeless
        assert self.pool.tally(self.now).available == len(self.free())

    @invariant()
    def counters_kept_on_the_way_equal_counters_recomputed(self) -> None:
        if not hasattr(self, "pool"):
            return
        self.pool.stats(self.now)
        kept: list[Tally] = [held.tally() for held in self.pool.held()]
        best = [held.best() for held in self.pool.held()]
        for held in self.twin.held():
            held.recount((self.mode.kind,), 4, dual=self.dual)
        self.twin.stats(self.now)
        for held in self.twin.held():
            held.recount((self.mode.kind,), 4, dual=self.dual)
        assert kept == [held.tally() for held in self.twin.held()]
        assert [each and each.block for each in best] == [
            each and each.block for each in (held.best() for held in self.twin.held())
        ]


TestPoolMachine = PoolMachine.TestCase
TestPoolMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_the_machine_notices_a_pool_that_hands_out_cooling_addresses() -> None:
    class Broken(PoolMachine):
        @initialize(mode=st.sampled_from(Mode))
        def start(self, mode: Mode, dual: bool = False) -> None:
            super().start(mode, dual)
            self.pool, self.twin, self.held = Pool(COOLDOWN_S - 1, mode), Pool(COOLDOWN_S - 1, mode), {}

    machine = Broken()
    machine.start(Mode.SECONDARY)
    machine.add_eni(0)
    machine.add_block(0, 0, 1)
    key = PodKey("aws-cni", "c0", "eth0")
    machine.assign(key, undo=False)
    machine.release(key)
    machine.sleep(29.5)
    with pytest.raises(AssertionError):
        machine.assign(key, undo=False)


def test_no_address_is_a_refusal() -> None:
    with pytest.raises(NoAddress):
        Pool().assign(PodKey("aws-cni", "c", "eth0"), POD, 0.0)
