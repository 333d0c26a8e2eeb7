# SPDX-License-Identifier: Apache-2.0
"""The pool: every ENI, block, grant and cooldown of one node, and the one place where an address gets its owner.

Knows what EC2 confirmed (`add_blocks`) and what was granted since. Must never talk to EC2, the kernel or a clock.
The daemon's engine grows and shrinks it, its ADD and DEL handlers assign and release; everything else reads it.

A change that is not allowed raises `Refused` with a code and leaves the pool as it was. All times are Unix seconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

from vpccni.aws.values import IPAddress
from vpccni.core import refusal
from vpccni.core.block import Block, HeldBlock, Mode
from vpccni.core.cooldown import Cooldown
from vpccni.core.egress import LocalAddresses
from vpccni.core.eni import Eni, HeldEni, sums_of_prefixes
from vpccni.core.grant import Grant, GrantedAddress, PodIdentity, PodKey
from vpccni.core.inventory import Inventory
from vpccni.core.stats import EniStats, PoolStats, Tally
from vpccni.core.waiting import Waiting

__all__ = ["Block", "Eni", "Grant", "GrantedAddress", "Mode", "PodIdentity", "PodKey", "Pool"]


class _Owned(NamedTuple):
    """An owned address: by whom, and where; `held` is None for an orphan. `recency` is what undoing needs."""

    key: PodKey
    held: HeldBlock | None
    offset: int = 0
    recency: int = -1


class Pool:
    """State of one node. An address has at most one owner; one in use is never removed, only orphaned.

    `cooldown_s`: how long a released address is neither available nor releasable (inclusive, as in Amazon VPC CNI).
    `mode` and `version` (4 or 6) choose the blocks that new grants come from. `dual`: a grant takes an address of the
    other family too, from a prefix of the same ENI; the counters speak of `version` alone, which runs out first. While
    `local` is set, a new grant gets a node-local address for egress as well.
    """

    def __init__(
        self, cooldown_s: float = 30.0, mode: Mode = Mode.SECONDARY, version: int = 4, *, dual: bool = False
    ) -> None:
        self._inventory = Inventory(mode, version, dual=dual)
        self._grants: dict[PodKey, Grant] = {}
        self._owned: dict[IPAddress, _Owned] = {}
        self._orphans: dict[IPAddress, None] = {}
        self._cooldown = Cooldown(cooldown_s)
        self._cooling: dict[IPAddress, tuple[HeldBlock, int]] = {}  # where; without those that no ENI holds
        self._recency = 0
        self.local: LocalAddresses | None = None
        self._waiting = Waiting()

    # -- reading ---------------------------------------------------------------------------------------------------

    @property
    def cooldown_s(self) -> float:
        """Seconds between the release of an address and its next use."""
        return self._cooldown.period_s

    @property
    def mode(self) -> Mode:
        """The kind of block that new grants come from."""
        return self._inventory.mode

    @property
    def singles(self) -> bool:
        """Whether, in prefix mode, single addresses are handed out too, because no /28 was to be had."""
        return self._inventory.singles

    @property
    def version(self) -> int:
        """The IP version of new grants, 4 or 6; of a dual-stack pool the one that is counted."""
        return self._inventory.version

    @property
    def dual(self) -> bool:
        """Whether a grant has an address of each family."""
        return self._inventory.dual

    def enis(self) -> tuple[Eni, ...]:
        """All ENIs by card and device, each with its current blocks."""
        return tuple(held.value() for held in self._inventory.order)

    def eni(self, eni_id: str) -> Eni | None:
        """One ENI with its current blocks."""
        held = self._inventory.enis.get(eni_id)
        return None if held is None else held.value()

    def held(self) -> Sequence[HeldEni]:
        """The ENIs with their counters and block states, by card and device; to read, not to change."""
        return self._inventory.order

    def grants(self) -> Iterator[Grant]:
        """All grants, oldest assignment first."""
        return iter(self._grants.values())

    def grant(self, key: PodKey) -> Grant | None:
        """The grant of one attachment."""
        return self._grants.get(key)

    def owner(self, address: IPAddress) -> PodKey | None:
        """Who owns an address."""
        owned = self._owned.get(address)
        return None if owned is None else owned.key

    def orphans(self) -> tuple[IPAddress, ...]:
        """Granted addresses that no known ENI holds."""
        return tuple(self._orphans)

    def cooling(self, now: float) -> dict[IPAddress, float]:
        """Addresses in cooldown and when each was released, oldest first; also such that no ENI holds any more."""
        self._rest(now)
        return self._cooldown.released()

    def next_rest(self, now: float) -> float | None:
        """When time alone changes the counters: an address leaves its cooldown, or a pod that waits is given up on."""
        self._rest(now)
        return min(filter(None, (self._cooldown.next_rest(), self._waiting.next_end())), default=None)

    def tally(self, now: float, card: int | None = None, *, prefixes_only: bool = False) -> Tally:
        """Sums over all ENIs, or over those of one network card. O(ENIs); O(blocks) when `prefixes_only`."""
        self._rest(now)
        if prefixes_only:
            return sums_of_prefixes(held for held in self._inventory.order if card in (None, held.eni.card))
        total = assigned = cooling = blocks = idle = lingering = 0
        for held in self._inventory.order:
            if card is None or held.eni.card == card:
                total += held.total
                assigned += held.assigned
                cooling += held.cooling
                blocks += held.active
                idle += held.idle
                lingering += held.owned - held.beside - held.assigned - held.cooling
        waiting = 0 if card else self._waiting.count(now)
        return Tally(total, assigned, cooling, blocks, idle, lingering, waiting)

    def stats(self, now: float) -> PoolStats:
        """All counters. O(ENIs)."""
        tally = self.tally(now)
        prefixes = [block for held in self._inventory.order for block in held.active_prefixes()]
        return PoolStats(
            total=tally.total,
            assigned=tally.assigned,
            cooling=tally.cooling,
            available=tally.available,
            prefixes=len(prefixes),
            free_prefixes=sum(block.idle for block in prefixes),
            lingering=tally.lingering,
            orphans=len(self._orphans),
            grants=len(self._grants),
            enis=tuple(_eni_stats(held) for held in self._inventory.order),
        )

    # -- ENIs and blocks -------------------------------------------------------------------------------------------

    def set_mode(self, mode: Mode, *, singles: bool = False) -> None:
        """Which kind of block grants come from; what is owned stays. `singles`: see the property."""
        self._inventory.mode, self._inventory.singles = mode, singles and mode is Mode.PREFIX
        for held in self._inventory.order:
            self._inventory.recount(held)

    def add_eni(self, eni: Eni) -> None:
        """An ENI is attached and set up; its blocks are confirmed by EC2."""
        self._inventory.add(eni)
        self.add_blocks(eni.id, eni.blocks)

    def update_eni(self, eni: Eni) -> None:
        """Place, flags or subnet of a known ENI changed; its blocks are left alone."""
        self._inventory.update(eni)

    def remove_eni(self, eni_id: str, *, lost: bool = False) -> None:
        """Forget an ENI. Refused when a pod uses it, unless it is `lost` (EC2 says so): then its grants are orphans."""
        held = self._inventory.need(eni_id, "remove")
        self.remove_blocks(eni_id, tuple(each.block for each in held.blocks.values()), lost=lost)
        self._inventory.remove(held)

    def add_blocks(self, eni_id: str, blocks: Iterable[Block]) -> tuple[Block, ...]:
        """EC2 confirmed that the ENI holds these; from now on their addresses may be handed out.

        Returns the ones that are new. Orphans and cooldowns of their addresses find their place.
        """
        eni = self._inventory.need(eni_id, "add addresses to")
        blocks = tuple(blocks)
        self._inventory.check(blocks, eni_id)
        new = []
        for block in blocks:
            held = self._inventory.place(block, eni)
            if held is not None:
                self._adopt(held, eni.eni)
                new.append(block)
        self._inventory.recount(eni)
        return tuple(new)

    def remove_blocks(self, eni_id: str, blocks: Iterable[Block], *, lost: bool = False) -> None:
        """EC2 took these back. Refused when a pod uses one, unless `lost`: then its grant stays as an orphan."""
        eni = self._inventory.need(eni_id, "remove addresses from")
        gone = [eni.blocks[block.network] for block in blocks if block.network in eni.blocks]
        used = [str(held.address(offset)) for held in gone for offset in sorted(held.owned)]
        if used and not lost:
            raise refusal.in_use(eni_id, used)
        for held in gone:
            self._inventory.take_off(held)
            for offset in held.cooling:
                del self._cooling[held.address(offset)]
            for offset in sorted(held.owned):
                address = held.address(offset)
                self._owned[address] = _Owned(self._owned[address].key, None)
                self._orphans[address] = None
        self._inventory.recount(eni)

    def withdraw(self, eni_id: str, blocks: Iterable[Block] | None = None) -> None:
        """Hand nothing out from these blocks (None: the whole ENI) while EC2 is asked to take them back.

        Refused when an address of them is owned or cooling.
        """
        eni = self._inventory.need(eni_id, "withdraw")
        chosen = eni.chosen(blocks)
        used = [str(held.address(offset)) for held in chosen for offset in sorted(held.owned | held.cooling)]
        if used:
            raise refusal.in_use(eni_id, used)
        eni.withdrawn = eni.withdrawn or blocks is None
        for held in chosen:
            held.confirmed = False
        self._inventory.recount(eni)

    def confirm(self, eni_id: str, blocks: Iterable[Block] | None = None) -> None:
        """Take `withdraw` back: EC2 still has them on this ENI."""
        eni = self._inventory.need(eni_id, "confirm")
        eni.withdrawn = eni.withdrawn and blocks is not None
        for held in eni.chosen(blocks):
            held.confirmed = True
        self._inventory.recount(eni)

    # -- grants ----------------------------------------------------------------------------------------------------

    def assign(self, key: PodKey, pod: PodIdentity, now: float, cards: Sequence[int] = (0,)) -> Grant:
        """Give an attachment one address per network card and family, or the grant that it already has. O(ENIs).

        Packed and deterministic: fullest prefix, then lowest card and device, then least recently used.
        Raises NoAddress (codes: see `refusal.no_address`); then nothing was taken.
        """
        known = self._grants.get(key)
        if known is not None:
            if any(granted.address in self._orphans for granted in known.addresses):
                raise refusal.orphaned(pod, known)
            return known
        self._rest(now)
        chosen = []
        for card in cards:
            best = self._best(card)
            if best is None:
                unpaired = sum(held.unpaired for held in self._inventory.order if held.eni.card == card)
                tally, rests_in_s = self.tally(now, card), self._cooldown.rests_in(now)
                if card == 0:
                    self._waiting.refused(pod, now)
                raise refusal.no_address(pod, card, tally, rests_in_s, len(self._inventory.enis), unpaired)
            chosen.append(best)
        egress = self.local.take() if self.local is not None else None
        taken = tuple(self._take(eni, block, key) for eni, held in chosen for block in eni.serving(held))
        grant = Grant(key, pod, taken, now, egress)
        self._grants[key] = grant
        self._waiting.served(pod)
        return grant

    def restore(self, grant: Grant) -> None:
        """Put a grant back that a journal or the kernel remembers. Without an ENI for it, it is kept as an orphan.

        Raises Refused with code `duplicate-grant` or `address-in-use` when somebody else owns it.
        """
        if self._grants.get(grant.key, grant).addresses != grant.addresses:
            raise refusal.conflict(f"restore {grant}", f"{grant.key} has another grant", "duplicate-grant")
        for granted in grant.addresses:
            owner = self.owner(granted.address)
            if owner is not None and owner != grant.key:
                raise refusal.conflict(f"restore {grant}", f"{granted.address} belongs to {owner}", "address-in-use")
        self._grants[grant.key] = grant
        if self.local is not None and grant.egress is not None:
            self.local.hold([grant.egress])
        for granted in grant.addresses:
            if granted.address not in self._owned:
                self._own_again(grant.key, granted.address)

    def release(self, key: PodKey, now: float) -> Grant | None:
        """The attachment is gone; its addresses cool down. None when the key has no grant."""
        self._rest(now)
        grant = self._grants.pop(key, None)
        if grant is None:
            return None
        self._give_back(grant)
        for granted in grant.addresses:
            owned = self._owned.pop(granted.address)
            self._orphans.pop(granted.address, None)
            self._cooldown.start(granted.address, now)
            if owned.held is not None:
                owned.held.cool(owned.offset)
                self._cooling[granted.address] = (owned.held, owned.offset)
                self._inventory.enis[owned.held.eni_id].moved(owned.held, assigned=-1, cooling=1)
        return grant

    def undo_assign(self, key: PodKey) -> Grant | None:
        """Take an assignment back whose addresses no pod ever used: no cooldown, the pool is as before."""
        grant = self._grants.pop(key, None)
        if grant is None:
            return None
        self._give_back(grant)
        for granted in reversed(grant.addresses):
            owned = self._owned.pop(granted.address)
            self._orphans.pop(granted.address, None)
            if owned.held is not None:
                owned.held.put_back(owned.offset, owned.recency)
                self._inventory.enis[owned.held.eni_id].moved(owned.held, assigned=-1)
        return grant

    def restore_cooling(self, address: IPAddress, released_at: float) -> None:
        """Put a cooldown back that a journal remembers. Ignored for an address that has an owner."""
        if address in self._owned or address in self._cooldown:
            return
        self._cooldown.start(address, released_at)
        held = self._inventory.find(address)
        if held is not None:
            held.cool(held.offset(address))
            self._cooling[address] = (held, held.offset(address))
            self._inventory.enis[held.eni_id].moved(held, cooling=1)

    # -- mechanics -------------------------------------------------------------------------------------------------

    def _adopt(self, held: HeldBlock, eni: Eni) -> None:
        """A block appeared: orphans and cooling addresses inside it have a place again."""
        network = held.block.network
        for address in [each for each in self._orphans if each in network]:
            del self._orphans[address]
            self._settle_owner(self._owned[address].key, address, held, eni)
        for address in self._cooldown.within(network):
            held.cool(held.offset(address))
            self._cooling[address] = (held, held.offset(address))

    def _own_again(self, key: PodKey, address: IPAddress) -> None:
        self._cooldown.stop(address)
        cooling = self._cooling.pop(address, None)
        held = self._inventory.find(address)
        if held is None:
            self._owned[address] = _Owned(key, None)
            self._orphans[address] = None
            return
        eni = self._inventory.enis[held.eni_id]
        held.cooling.discard(held.offset(address))
        self._settle_owner(key, address, held, eni.eni)
        eni.moved(held, assigned=1, cooling=-1 if cooling else 0)

    def _settle_owner(self, key: PodKey, address: IPAddress, held: HeldBlock, eni: Eni) -> None:
        offset, grant, placed = held.offset(address), self._grants[key], _granted(address, eni)
        held.claim(offset)
        self._owned[address] = _Owned(key, held, offset)
        addresses = tuple(placed if each.address == address else each for each in grant.addresses)
        self._grants[key] = replace(grant, addresses=addresses)

    def _best(self, card: int) -> tuple[HeldEni, HeldBlock] | None:
        chosen: tuple[HeldEni, HeldBlock] | None = None
        fullest = 1
        for eni in self._inventory.order:
            if eni.eni.card == card and (best := eni.best()) is not None and best.rank[0] < fullest:
                chosen, fullest = (eni, best), best.rank[0]
        return chosen

    def _take(self, eni: HeldEni, held: HeldBlock, key: PodKey) -> GrantedAddress:
        offset, recency = held.take()
        address = held.address(offset)
        self._owned[address] = _Owned(key, held, offset, recency)
        eni.moved(held, assigned=1)
        return _granted(address, eni.eni)

    def _give_back(self, grant: Grant) -> None:
        if self.local is not None and grant.egress is not None:
            self.local.give_back(grant.egress)

    def _rest(self, now: float) -> None:
        for address in self._cooldown.ended(now):
            place = self._cooling.pop(address, None)
            if place is not None:
                held, offset = place
                self._recency += 1
                held.rest(offset, self._recency)
                self._inventory.enis[held.eni_id].moved(held, cooling=-1)


def _granted(address: IPAddress, eni: Eni) -> GrantedAddress:
    return GrantedAddress(address, eni.id, eni.card, eni.device, eni.table)


def _eni_stats(held: HeldEni) -> EniStats:
    eni, tally = held.eni, held.tally()
    return EniStats(eni.id, eni.card, eni.device, eni.primary, eni.usable_for_pods, len(held.blocks), tally)
