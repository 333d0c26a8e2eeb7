# SPDX-License-Identifier: Apache-2.0
"""One ADD, one DEL: decode was done, make one transition, hand the kernel work to the wiring thread.

Knows the order that keeps promises: an address is durable before it is wired, the kernel is clean before an address is
released. Must never format results nor decide which address a pod gets (`core.pool` does). `ipamd.api` calls it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Protocol

from vpccni.aws.values import IPAddress, IPNetwork
from vpccni.clock import Clock
from vpccni.core import cards, conventions, podnet
from vpccni.core.grant import Grant, GrantedAddress, PodIdentity, PodKey
from vpccni.core.podnet import PodAddress, PodAttachment, PodLinkPlan, PodWiring
from vpccni.core.pool import Pool
from vpccni.core.stats import Tally
from vpccni.host.node import Pods
from vpccni.ipamd import records, recovery
from vpccni.ipamd.podwires import PodWires
from vpccni.ipamd.worker import Job, Worker


class Flows(Protocol):
    """Connection tracking."""

    async def forget(self, addresses: Sequence[IPAddress]) -> None:
        """See that no flow of these addresses is remembered when they are handed out again."""


@dataclass(frozen=True, slots=True)
class LinkChoice:
    """How pods are connected: MTU and name prefix of host links, who picks their indexes and MACs, the rule layout."""

    mtu: int
    veth_prefix: str
    next_index: Callable[[], int]
    next_mac: Callable[[], str]
    layout: podnet.Layout = "per-pod"


@dataclass(frozen=True, slots=True)
class Wired:
    """A pod that is connected: what the CNI result reports."""

    grant: Grant
    wirings: tuple[PodWiring, ...]


@dataclass(frozen=True, slots=True)
class Cards:
    """Where addresses come from: the managed network cards, and whether a pod may have one of each."""

    managed: Callable[[], Sequence[int]] = lambda: (0,)
    several: bool = False


class Attachments:
    """The transitions of grants. One at a time per key, any number of keys at once."""

    def __init__(
        self,
        pool: Pool,
        worker: Worker,
        wires: PodWires,
        flows: Flows,
        links: LinkChoice,
        clock: Clock,
        changed: Callable[[], None],
        left: Callable[[int, str], None],
        from_cards: Cards,
    ) -> None:
        """`changed` is called after every change of the pool: it wakes the engine and the checkpoint writer. `left`
        hears of the host veth (index, name) of a pod that was unwired."""
        self.pool, self._worker, self._wires = pool, worker, wires
        self._flows, self._links, self._clock, self._changed, self._left = flows, links, clock, changed, left
        self._cards = from_cards
        self._busy: dict[PodKey, tuple[asyncio.Lock, int]] = {}

    async def add(self, key: PodKey, pod: PodIdentity, netns_fd: int, *, every_card: bool = False) -> Wired:
        """Grant addresses and wire them; a repeated ADD of the key gets the same ones. Raises Refused or HostError."""
        if every_card:
            cards.check_allowed(pod, enabled=self._cards.several)
        async with self._alone(key):
            known = self.pool.grant(key) is not None
            now = self._clock.now()
            grant = cards.assign(self.pool, key, pod, now, self._cards.managed(), every=every_card)
            self._changed()
            wirings = self._wirings(grant)
            job = Job(lambda: self._wires.wire(wirings, netns_fd, repeated=known))
            if not known:
                job.before = (records.granted(grant),)
                job.failed = (records.released(grant, now),)
            try:
                in_force = await self._worker.submit(job)
            except Exception:
                if not known:  # the rollback has removed everything: no packet ever carried the address
                    self.pool.undo_assign(key)
                    self._changed()
                raise
            assert isinstance(in_force, tuple)
            return Wired(grant, in_force)

    async def delete(self, key: PodKey, pod: PodIdentity | None = None) -> Grant | None:
        """Unwire, then release into the cooldown. None when the key has no grant, which is success.

        With `pod`, a grant that an older release or the kernel alone remembers is found as well.
        """
        async with self._alone(key):
            grant = self._find(key, pod)
            if grant is None:
                return None
            now = self._clock.now()
            links = attachment(grant).links(self._links.veth_prefix)
            left = await self._worker.submit(
                Job(
                    lambda: self._wires.unwire(links, grant.key.container_id),
                    after=(records.released(grant, now),),
                )
            )
            assert isinstance(left, dict)
            for index, name in left.items():
                self._left(index, name)
            await self._flows.forget([granted.address for granted in grant.addresses])
            self.pool.release(grant.key, now)
            self._changed()
            return grant

    async def sweep(self, key: PodKey, pod: PodIdentity, addresses: Sequence[IPAddress]) -> None:
        """Clean up after a pod that the pool does not know: what its prevResult names and nobody else owns."""
        free = [address for address in addresses if self.pool.owner(address) is None]
        if not free:
            return
        link = self._link(pod)
        links = {link: [PodAddress(address, table=0) for address in free]}
        await self._worker.submit(Job(lambda: self._wires.unwire(links, key.container_id)))

    async def check(self, key: PodKey, netns_fd: int | None) -> list[str] | None:
        """What differs between grant and kernel; None when there is no grant."""
        grant = self.pool.grant(key)
        if grant is None:
            return None
        wirings = self._wirings(grant)
        found = await self._worker.submit(Job(lambda: self._wires.check(wirings, netns_fd)))
        assert isinstance(found, list)
        return found

    def pods(self) -> Pods:
        """What the kernel should hold for pods at this moment.

        Attachments with a transition under way, and grants that EC2 has not placed yet, are spared.
        """
        settled, spared = [], set()
        for grant in self.pool.grants():
            if grant.key not in self._busy and all(at.eni_id for at in grant.addresses):
                settled.append(attachment(grant))
            else:
                spared |= {at.address for at in attachment(grant).addresses}
        return Pods(settled, frozenset(spared), self._links.veth_prefix, self._wires.mtus)

    def sources(self) -> dict[IPNetwork, int]:
        """Every block that pods have or may get addresses of, with its ENI's route table.

        An address that no ENI is known to hold any more keeps the table that its pod was wired with.
        """
        blocks = {block.network: eni.table for eni in self.pool.enis() for block in eni.blocks}
        for address in self.pool.orphans():
            key = self.pool.owner(address)
            grant = self.pool.grant(key) if key is not None else None
            for at in grant.addresses if grant is not None else ():
                if at.address == address:
                    blocks[conventions.host_network(address)] = at.table
        return blocks

    def held(self, address: IPAddress) -> bool:
        """Whether a pod at rest has the address."""
        key = self.pool.owner(address)
        return key is not None and key not in self._busy

    def wired(self, alias: conventions.PodAlias) -> bool:
        """Whether the attachment that a link's alias names is wired and at rest."""
        key = PodKey(alias.network, alias.container_id, alias.ifname)
        return key not in self._busy and self.pool.grant(key) is not None

    def tally(self) -> Tally:
        """The pool's counters of this moment."""
        return self.pool.tally(self._clock.now())

    def strays(self, network: str, valid: frozenset[tuple[str, str]]) -> list[PodKey]:
        """Grants of a network whose (container, interface) is not in `valid`: what GC removes."""
        return [
            grant.key
            for grant in self.pool.grants()
            if grant.key.network == network and (grant.key.container_id, grant.key.ifname) not in valid
        ]

    def _find(self, key: PodKey, pod: PodIdentity | None) -> Grant | None:
        grant = self.pool.grant(key)
        if grant is not None or pod is None:
            return grant
        link = self._link(pod)
        found = (self.pool.grant(other) for other in recovery.fallback_keys(key, link))
        return next((grant for grant in found if grant is not None), None)

    def _wirings(self, grant: Grant) -> tuple[PodWiring, ...]:
        links, pod = self._links, attachment(grant)
        plans = [
            PodLinkPlan(
                links.next_index(),
                links.next_mac(),
                links.mtu,
                links.veth_prefix,
                links.next_mac(),
                2 + position,
                nic,
                links.layout,
            )
            for position, nic in enumerate(pod.nics)
        ]
        return tuple(podnet.wiring(pod, plan) for plan in plans)

    def _link(self, pod: PodIdentity) -> str:
        return conventions.host_link_name(self._links.veth_prefix, pod.namespace, pod.name)

    @asynccontextmanager
    async def _alone(self, key: PodKey) -> AsyncIterator[None]:
        lock, users = self._busy.get(key, (asyncio.Lock(), 0))
        self._busy[key] = (lock, users + 1)
        try:
            async with lock:
                yield
        finally:
            lock, users = self._busy[key]
            if users == 1:
                del self._busy[key]
            else:
                self._busy[key] = (lock, users - 1)


def attachment(grant: Grant) -> PodAttachment:
    """A grant as the wiring code sees it: an interface for each network card, and one for egress."""
    key, pod, places = grant.key, grant.pod, _places(grant.addresses)
    if grant.egress is not None:
        places = (*places, PodAddress(grant.egress, nic=conventions.EGRESS_NIC))
    return PodAttachment(key.network, key.container_id, key.ifname, pod.namespace, pod.name, places)


def _places(addresses: Sequence[GrantedAddress]) -> tuple[PodAddress, ...]:
    order = list(dict.fromkeys(granted.card for granted in addresses))
    return tuple(
        replace(PodAddress(at.address, at.table, at.device, at.card), nic=order.index(at.card)) for at in addresses
    )
