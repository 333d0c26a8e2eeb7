# SPDX-License-Identifier: Apache-2.0
"""The state of one cloud and the rules of its time: ids, look-ups, due transitions, events.

Knows all resources and the queue of transitions that are still to come. Must never know an operation: those are built
on it, file by file, and `Cloud` is all of them together. A transition that is due happens before anything else does.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

from vpccni.aws.values import InstanceLimits
from vpccni.lab.cloud.errors import ApiError, not_found
from vpccni.lab.cloud.events import AddressesChanged, Event
from vpccni.lab.cloud.faults import Lag
from vpccni.lab.cloud.gate import Gate
from vpccni.lab.cloud.profile import Delay, Profile
from vpccni.lab.cloud.resources import (
    Attachment,
    Eni,
    Instance,
    Permission,
    SecurityGroup,
    Subnet,
    TrunkAssociation,
    Vpc,
)

LimitsOf = Callable[[str], InstanceLimits | None]
PUBLIC_POOL = IPv4Network("198.18.0.0/24")  # RFC 2544 benchmarking: never routed on the internet


def _split(rng: random.Random) -> random.Random:
    """A source of its own for faults, so that switching one on changes no id and no address. `rng` stays as it is."""
    copy = random.Random()
    copy.setstate(rng.getstate())
    return random.Random(copy.getrandbits(64))


class World:
    """State, ids, time. `limits` answers None for a type that does not exist."""

    def __init__(
        self,
        now: Callable[[], float],
        rng: random.Random,
        profile: Profile,
        *,
        limits: LimitsOf,
        region: str = "us-west-2",
        account_id: str = "123456789012",
        public_pool: IPv4Network = PUBLIC_POOL,
        branches: Callable[[str], int | None] = lambda instance_type: None,
    ) -> None:
        self._clock, self.rng, self.profile = now, rng, profile
        self.branches_of = branches  # most branch interfaces of a trunk, by instance type; None: not known
        self.limits_of, self.region, self.account_id, self.public_pool = limits, region, account_id, public_pool
        self.vpcs: dict[str, Vpc] = {}
        self.subnets: dict[str, Subnet] = {}
        self.groups: dict[str, SecurityGroup] = {}
        self.instances: dict[str, Instance] = {}
        self.enis: dict[str, Eni] = {}
        self.attachments: dict[str, str] = {}  # attachment id -> interface id
        self.by_instance: dict[str, dict[str, Eni]] = {}  # instance id -> its interfaces, in order of attachment
        self.tokens: dict[tuple[str, str], tuple[object, str]] = {}
        self.trunks: dict[str, TrunkAssociation] = {}  # by association id
        self.permissions: dict[str, Permission] = {}
        self.fault_rng = _split(rng)
        self.gate = Gate(self.fault_rng, profile.faults)
        self._macs: set[str] = set()
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._events: list[Event] = []
        self._serial = 0
        self._at: float | None = None

    # -- time

    @property
    def now(self) -> float:
        """The moment that is being lived: a due transition happens at its own time, however late it is noticed."""
        return self._clock() if self._at is None else self._at

    def after(self, delay: Delay, transition: Callable[[], None]) -> None:
        """Let a transition happen after a delay of this kind."""
        self.later(delay.draw(self.rng), transition)

    def later(self, delay_s: float, transition: Callable[[], None]) -> None:
        """Let a transition happen after so many seconds."""
        heapq.heappush(self._queue, (self.now + delay_s, self.next_serial(), transition))

    def settle(self, now: float | None = None) -> None:
        """Let everything happen that is due."""
        now = self._clock() if now is None else now
        while self._queue and self._queue[0][0] <= now:
            self._at, _, transition = heapq.heappop(self._queue)
            try:
                transition()
            finally:
                self._at = None

    def advance(self, now: float) -> list[Event]:
        """Let everything happen that is due at `now`; the events since the last call, in their order."""
        self.settle(now)
        events, self._events = self._events, []
        return events

    def next_event_at(self) -> float | None:
        """When the next transition is due (Unix seconds); now, when events wait to be fetched; None: nothing will."""
        if self._events:
            return self._clock()
        return self._queue[0][0] if self._queue else None

    @property
    def has_events(self) -> bool:
        """Whether `advance` has something to tell."""
        return bool(self._events)

    def emit(self, event: Event) -> None:
        """Something happened."""
        self._events.append(event)

    # -- ids

    def next_serial(self) -> int:
        """A number that grows: creation order of resources, and tie-break of transitions."""
        self._serial += 1
        return self._serial

    def new_id(self, prefix: str) -> str:
        """An id in EC2's long form, 17 hexadecimal digits."""
        return f"{prefix}-0{self.rng.getrandbits(64):016x}"

    def new_mac(self) -> str:
        """A locally administered unicast MAC that no interface has."""
        while True:
            octets = (0x02, *self.rng.randbytes(5))
            mac = ":".join(f"{octet:02x}" for octet in octets)
            if mac not in self._macs:
                self._macs.add(mac)
                return mac

    # -- look-ups

    def vpc(self, vpc_id: str) -> Vpc:
        """A VPC or InvalidVpcID.NotFound."""
        if vpc_id not in self.vpcs:
            raise not_found("vpc", vpc_id)
        return self.vpcs[vpc_id]

    def subnet(self, subnet_id: str) -> Subnet:
        """A subnet or InvalidSubnetID.NotFound."""
        if subnet_id not in self.subnets:
            raise not_found("subnet", subnet_id)
        return self.subnets[subnet_id]

    def eni(self, eni_id: str) -> Eni:
        """An interface or InvalidNetworkInterfaceID.NotFound, which a new one may get for a while."""
        eni = self.enis.get(eni_id)
        if eni is None or eni.visible_at > self.now:
            raise not_found("eni", eni_id)
        return eni

    def instance(self, instance_id: str) -> Instance:
        """An instance or InvalidInstanceID.NotFound."""
        if instance_id not in self.instances:
            raise not_found("i", instance_id)
        return self.instances[instance_id]

    def attached_eni(self, attachment_id: str) -> tuple[Eni, Attachment]:
        """An interface by its attachment, or InvalidAttachmentID.NotFound."""
        eni = self.enis.get(self.attachments.get(attachment_id, ""))
        if eni is None or eni.attachment is None:
            raise not_found("eni-attach", attachment_id)
        return eni, eni.attachment

    def enis_of(self, instance_id: str) -> Sequence[Eni]:
        """The interfaces of an instance by card and device index, also those attaching and detaching."""
        enis = self.by_instance.get(instance_id, {}).values()
        return sorted(enis, key=lambda eni: (eni.attachment.card, eni.attachment.device) if eni.attachment else (0, 0))

    def instance_type(self, instance_type: str) -> InstanceLimits:
        """The limits of a type or InvalidInstanceType."""
        limits = self.limits_of(instance_type)
        if limits is None:
            message = f"The following supplied instance types do not exist: [{instance_type}]"
            raise ApiError("InvalidInstanceType", message)
        return limits

    def limits_for(self, eni: Eni) -> InstanceLimits | None:
        """The limits that bind an interface: those of the instance that it is attached to."""
        return self.instances[eni.attachment.instance_id].limits if eni.attachment else None

    # -- what describes see, which may be older than the truth

    def described(self, eni: Eni) -> Eni:
        """The interface as a describe shows it now: perhaps with the addresses that it had before its last changes."""
        old = eni.stale
        if old is None or eni.stale_until <= self.now:
            return eni
        return replace(
            eni,
            addresses=list(old.addresses),
            ipv6=list(old.ipv6),
            prefixes=list(old.prefixes),
            ipv6_prefixes=list(old.ipv6_prefixes),
        )

    def listed_enis(self) -> dict[str, Eni]:
        """All interfaces that a describe without ids finds, as it shows them, by id."""
        now = self.now
        return {eni_id: self.described(eni) for eni_id, eni in self.enis.items() if eni.visible_at <= now}

    def hide_for_a_while(self, eni: Eni) -> None:
        """A new interface: with some probability its id is not known everywhere at once."""
        eni.visible_at = self._until(self.gate.faults.new_id)

    def keep_old_view(self, eni: Eni) -> None:
        """To be called before its addresses change: with some probability describes go on showing the old ones."""
        until = self._until(self.gate.faults.stale)
        if until and not (eni.stale is not None and eni.stale_until > self.now):
            eni.stale, eni.stale_until = eni.owned(), until

    def _until(self, lag: Lag) -> float:
        if not lag.probability or self.fault_rng.random() >= lag.probability:
            return 0.0
        return self.now + Delay(lag.mean_s, 0.5).draw(self.fault_rng)

    # -- what several operations share

    def forget_relations(self, eni_id: str) -> None:
        """An interface is gone, and with it what hung on it: its place on a trunk or its branches, its permissions."""
        for gone in [one for one in self.trunks.values() if eni_id in (one.branch_id, one.trunk_id)]:
            del self.trunks[gone.association_id]
            if gone.branch_id in self.enis:
                self.enis[gone.branch_id].interface_type = "interface"
        for permission_id in [one.permission_id for one in self.permissions.values() if one.eni_id == eni_id]:
            del self.permissions[permission_id]

    def addresses_changed(self, eni: Eni) -> None:
        """Tell the fabric at once, and the metadata service after its lag."""
        eni.version += 1
        self.emit(AddressesChanged(eni.eni_id, eni.vpc_id, eni.networks))
        self.metadata_changed(eni)

    def metadata_changed(self, eni: Eni) -> None:
        """Something changed that the metadata service shows, but only after its lag."""
        attachment, owned = eni.attachment, eni.owned()
        if attachment is None:
            return

        def show() -> None:
            # Not listed yet: the listing will show the newest. Delays are random: never go back to an older state.
            if attachment.shown is not None and attachment.shown.version < owned.version:
                attachment.shown = owned

        self.after(self.profile.metadata_change, show)

    def free_public_address(self) -> IPv4Address:
        """A public address that nobody has. The first of the pool is left to the internet gateway."""
        taken = {eni.public for eni in self.enis.values()}
        hosts = [address for address in self.public_pool.hosts() if address not in taken][1:]
        if not hosts:
            raise ApiError("AddressLimitExceeded", "The maximum number of addresses has been reached.")
        return self.rng.choice(hosts)
