# SPDX-License-Identifier: Apache-2.0
"""Any sequence of calls and of passing time leaves the cloud's books right, and a refused call changes nothing."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Network, IPv6Network

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from vpccni.aws.values import CardLimit, InstanceLimits
from vpccni.lab.cloud.addresses import Wanted
from vpccni.lab.cloud.cloud import Cloud
from vpccni.lab.cloud.errors import ApiError
from vpccni.lab.cloud.events import AddressesChanged, LinkAppears, LinkVanishes
from vpccni.lab.cloud.faults import NO_FAULTS, change
from vpccni.lab.cloud.interfaces import InterfaceChange, NewInterface
from vpccni.lab.cloud.invariants import fingerprint, violations
from vpccni.lab.cloud.profile import parse
from vpccni.lab.cloud.topology import NewInstance

# Small, so that limits are met: a nitro type with two cards, and a xen type without prefixes.
TYPES = {
    "two.cards": InstanceLimits("two.cards", 2, 4, 3, (CardLimit(0, 2), CardLimit(1, 2)), hypervisor="nitro"),
    "old.xen": InstanceLimits("old.xen", 3, 3, 1, (CardLimit(0, 3),), hypervisor="xen"),
}
PROFILE = """
sigma = 0.5
[delays]
create = 1
attach = 2
link = 1
metadata_mac = 1
metadata_addresses = 1
metadata_change = 1
unplug = 1
detach = 3
terminate = 2
"""
KNOWN_CODES = {
    "AttachmentLimitExceeded",
    "BranchInterfaceLimitExceeded",
    "IdempotentParameterMismatch",
    "IncorrectInstanceState",
    "InsufficientCidrBlocks",
    "InsufficientFreeAddressesInSubnet",
    "InvalidAssociationID.NotFound",
    "InvalidAttachmentID.NotFound",
    "InvalidIPAddress.InUse",
    "InvalidNetworkInterfaceID.NotFound",
    "InvalidParameterCombination",
    "InvalidParameterValue",
    "OperationNotPermitted",
    "PrivateIpAddressLimitExceeded",
    "UnsupportedOperation",
}
picks = st.integers(0, 1_000)
counts = st.none() | st.integers(0, 4)
host = st.integers(0, 63).map(lambda number: IPv4Address("10.0.0.0") + number)
block = st.integers(0, 4).map(lambda number: IPv4Network((int(IPv4Address("10.0.0.0")) + 16 * number, 28)))
hosts = st.just(()) | st.tuples(host) | st.tuples(host, host)
blocks = st.just(()) | st.tuples(block)
numbers = st.integers(1, 3)
wanted = st.one_of(  # mostly one way of asking, sometimes a forbidden mixture, sometimes more than there is
    st.builds(Wanted, count=numbers),
    st.builds(Wanted, prefix_count=numbers),
    st.builds(Wanted, st.tuples(host) | st.tuples(host, host)),
    st.builds(Wanted, prefixes=st.tuples(block)),
    st.builds(Wanted, count=st.integers(30, 70)),
    st.builds(Wanted, hosts, counts, blocks, counts),
)
wanted6 = st.one_of(
    st.just(Wanted()), st.just(Wanted()), st.builds(Wanted, count=numbers), st.builds(Wanted, prefix_count=numbers)
)


DAYS = (
    {},
    {"new-id": "0.5:2"},
    {"stale": "0.7:3"},
    {"tenants": "2/s:60%"},
    {"new-id": "0.3:2", "stale": "0.3:2", "tenants": "1/s:30%"},
)


class CloudMachine(RuleBasedStateMachine):
    """Three small subnets in two zones, up to a few instances, and everything that a node or its owner may call."""

    def __init__(self) -> None:
        super().__init__()
        self.time = 0.0
        self.outcomes: Counter[str] = Counter()
        self.links: dict[str, LinkAppears] = {}
        self.owned: dict[str, tuple[object, ...]] = {}

    @initialize(seed=st.integers(0, 2**32))
    def build(self, seed: int) -> None:
        self.cloud = Cloud(
            lambda: self.time,
            random.Random(seed),
            parse("test", PROFILE),
            limits=TYPES.get,
            branches={"two.cards": 2}.get,
        )
        vpc = self.cloud.create_vpc([IPv4Network("10.0.0.0/16")], ipv6_cidrs=[IPv6Network("2001:db8::/56")])
        for number, zone in enumerate(("us-west-2a", "us-west-2a", "us-west-2b")):
            ipv6 = None if number == 1 else IPv6Network(f"2001:db8:0:{number}::/64")
            cidr = IPv4Network((int(IPv4Address("10.0.0.0")) + 64 * number, 26))
            self.cloud.create_subnet(vpc.vpc_id, cidr, zone, ipv6_cidr=ipv6)
        for number, kind in enumerate(TYPES):
            self.cloud.run_instance(NewInstance(kind, self._subnet(number)))

    def _try(self, call: Callable[[], object]) -> str:
        """The code of the refusal, "" for success."""
        self.cloud.settle()
        before = fingerprint(self.cloud)
        try:
            call()
        except ApiError as error:
            assert error.code in KNOWN_CODES, error
            assert fingerprint(self.cloud) == before, f"{error} has changed something"
            self.outcomes[error.code] += 1
            return error.code
        self.outcomes[""] += 1
        return ""

    def _subnet(self, pick: int) -> str:
        return list(self.cloud.subnets)[(0, 0, 0, 1, 2)[pick % 5]]

    def _eni(self, pick: int) -> str:
        return list(self.cloud.enis)[pick % len(self.cloud.enis)] if self.cloud.enis else "eni-00000000000000000"

    def _instance(self, pick: int) -> str:
        return list(self.cloud.instances)[pick % len(self.cloud.instances)]

    @rule(pick=picks, kind=st.sampled_from(sorted(TYPES)), public=st.booleans())
    def run(self, pick: int, kind: str, public: bool) -> None:
        if len(self.cloud.instances) < 6:
            self._try(lambda: self.cloud.run_instance(NewInstance(kind, self._subnet(pick), public_ip=public)))

    @rule(pick=picks, ipv4=wanted, ipv6=wanted6, token=st.sampled_from(["", "", "", "one"]))
    def create(self, pick: int, ipv4: Wanted, ipv6: Wanted, token: str) -> None:
        request = NewInterface(self._subnet(pick), ipv4=ipv4, ipv6=ipv6)
        self._try(lambda: self.cloud.create_network_interface(request, token))

    @rule(pick=picks, other=picks, device=st.sampled_from([1, 2, 3, 0]), card=st.sampled_from([0, 0, 0, 1, 2]))
    def attach(self, pick: int, other: int, device: int, card: int) -> None:
        instance_id = self._instance(other)
        zone = self.cloud.instances[instance_id].zone
        ready = [eni.eni_id for eni in self.cloud.enis.values() if eni.attachment is None and eni.zone == zone]
        eni_id = ready[pick % len(ready)] if ready and pick % 4 < 3 else self._eni(pick)
        self._try(lambda: self.cloud.attach_network_interface(eni_id, instance_id, device, card))

    @rule(pick=picks, card=st.sampled_from([0, 0, 1]))
    def fill_a_card(self, pick: int, card: int) -> None:
        """What a node does under load: one interface after the other, until EC2 says that this is all."""
        instance = self.cloud.instances[self._instance(pick)]
        if instance.state != "running" or instance.limits.card_limit(card) == 0:
            return
        subnet_id = next(one.subnet_id for one in self.cloud.subnets.values() if one.zone == instance.zone)
        for _ in range(instance.limits.card_limit(card) + 1):
            taken = [eni.attachment for eni in self.cloud.enis_of(instance.instance_id) if eni.attachment]
            device = max((one.device for one in taken if one.card == card), default=-1) + 1
            if self._try(lambda: self.cloud.create_network_interface(NewInterface(subnet_id))):
                return  # the subnet is full
            eni_id = list(self.cloud.enis)[-1]
            full = sum(one.card == card for one in taken) >= instance.limits.card_limit(card)
            code = self._try(
                lambda eni=eni_id, at=device: self.cloud.attach_network_interface(eni, instance.instance_id, at, card)
            )
            if code == "InvalidNetworkInterfaceID.NotFound":
                return  # its id is not known everywhere yet
            assert code == ("AttachmentLimitExceeded" if full else "")
            if full:
                self._try(lambda eni=eni_id: self.cloud.delete_network_interface(eni))
                return

    @rule(pick=picks, number=st.integers(1, 4))
    def ride_a_trunk(self, pick: int, number: int) -> None:
        """A trunk, sometimes attached, and one branch more than there may be."""
        subnet_id = self._subnet(pick)
        if self._try(lambda: self.cloud.create_network_interface(NewInterface(subnet_id, interface_type="trunk"))):
            return
        trunk = list(self.cloud.enis)[-1]
        if pick % 2:
            self._try(lambda: self.cloud.attach_network_interface(trunk, self._instance(pick), 1))
        for vlan in range(1, number + 1):
            if self._try(lambda: self.cloud.create_network_interface(NewInterface(subnet_id))):
                return
            branch = list(self.cloud.enis)[-1]
            self._try(
                lambda branch=branch, vlan=vlan: self.cloud.associate_trunk_interface(branch, trunk, vlan_id=vlan)
            )

    @rule(pick=picks)
    def leave_a_trunk(self, pick: int) -> None:
        known = [*self.cloud.trunks, "trunk-assoc-00000000000000000"]
        self._try(lambda: self.cloud.disassociate_trunk_interface(known[pick % len(known)]))

    @rule(pick=picks, where=block, kind=st.sampled_from(["prefix", "explicit"]))
    def reserve(self, pick: int, where: IPv4Network, kind: str) -> None:
        subnet_id = self._subnet(pick)
        kept = self.cloud.subnets[subnet_id].v4.reservations
        if kept and pick % 2:
            self._try(lambda: self.cloud.delete_subnet_cidr_reservation(kept[0].reservation_id))
        else:
            self._try(lambda: self.cloud.create_subnet_cidr_reservation(subnet_id, where, kind))

    @rule(day=st.sampled_from(DAYS))
    def change_the_day(self, day: dict[str, str]) -> None:
        self.cloud.set_faults(change(NO_FAULTS, day))

    @invariant()
    def describes_never_invent_an_interface_or_lose_an_old_one(self) -> None:
        if not hasattr(self, "cloud"):
            return
        listed, now = self.cloud.listed_enis(), self.cloud.now
        assert set(listed) == {eni.eni_id for eni in self.cloud.enis.values() if eni.visible_at <= now}
        if self.cloud.faults == NO_FAULTS and not any(eni.stale_until > now for eni in self.cloud.enis.values()):
            assert all(listed[eni_id].networks == self.cloud.enis[eni_id].networks for eni_id in listed)

    @rule(pick=picks, force=st.booleans())
    def detach(self, pick: int, force: bool) -> None:
        primaries = {instance.primary_eni_id for instance in self.cloud.instances.values()}
        chosen = [key for key, eni_id in self.cloud.attachments.items() if pick % 8 == 0 or eni_id not in primaries]
        if chosen:
            attachment_id = chosen[pick % len(chosen)]
            self._try(lambda: self.cloud.detach_network_interface(attachment_id, force=force))

    @rule(pick=picks)
    def delete(self, pick: int) -> None:
        self._try(lambda: self.cloud.delete_network_interface(self._eni(pick)))

    @rule(pick=picks, ipv4=wanted, reassign=st.booleans())
    def assign(self, pick: int, ipv4: Wanted, reassign: bool) -> None:
        parameters = {"count": ipv4.count, "prefix_count": ipv4.prefix_count, "allow_reassignment": reassign}
        self._try(
            lambda: self.cloud.assign_private_ip_addresses(
                self._eni(pick), addresses=ipv4.addresses, prefixes=ipv4.prefixes, **parameters
            )
        )

    @rule(pick=picks, ipv6=wanted6)
    def assign6(self, pick: int, ipv6: Wanted) -> None:
        self._try(
            lambda: self.cloud.assign_ipv6_addresses(self._eni(pick), count=ipv6.count, prefix_count=ipv6.prefix_count)
        )

    @rule(pick=picks, keep=st.integers(0, 2), stray=hosts)
    def unassign(self, pick: int, keep: int, stray: tuple[IPv4Address, ...]) -> None:
        eni = self.cloud.enis.get(self._eni(pick))
        if eni is not None:
            chosen = [*eni.addresses[keep:], *stray]
            self._try(lambda: self.cloud.unassign_private_ip_addresses(eni.eni_id, chosen, eni.prefixes[keep:]))
            self._try(lambda: self.cloud.unassign_ipv6_addresses(eni.eni_id, eni.ipv6[keep:], eni.ipv6_prefixes[keep:]))

    @rule(pick=picks)
    def keep_with_instance(self, pick: int) -> None:
        eni = self.cloud.enis.get(self._eni(pick))
        if eni is not None and eni.attachment is not None:
            change = InterfaceChange(attachment_id=eni.attachment.attachment_id, delete_on_termination=True)
            self._try(lambda: self.cloud.modify_network_interface(eni.eni_id, change))

    @rule(pick=picks)
    def terminate(self, pick: int) -> None:
        if pick % 8 == 0:
            self._try(lambda: self.cloud.terminate_instance(self._instance(pick)))

    @rule(duration_s=st.sampled_from([0.1, 1.0, 3.0, 30.0]))
    def wait(self, duration_s: float) -> None:
        self.time += duration_s
        for event in self.cloud.advance(self.time):
            if isinstance(event, LinkAppears):
                assert event.eni_id not in self.links, "a link appears twice"
                self.links[event.eni_id] = event
            elif isinstance(event, LinkVanishes):
                assert self.links.pop(event.eni_id).instance_id == event.instance_id
            elif isinstance(event, AddressesChanged):
                self.owned[event.eni_id] = event.addresses
        # A fabric that has seen all events has exactly the model's links and addresses.
        linked = {eni.eni_id for eni in self.cloud.enis.values() if eni.attachment and eni.attachment.has_link}
        assert set(self.links) == linked
        held = {eni_id: addresses for eni_id, addresses in self.owned.items() if addresses}
        assert held == {eni.eni_id: eni.networks for eni in self.cloud.enis.values()}
        if duration_s == 30.0:  # all delays are over: the metadata service has caught up with the API
            self._metadata_is_the_truth()

    def _metadata_is_the_truth(self) -> None:
        for instance in self.cloud.instances.values():
            view = self.cloud.instance_metadata(instance.instance_id)
            if view is None:
                assert instance.state != "running"
                continue
            shown = {
                found.interface_id: (set(found.local_ipv4s), set(found.ipv4_prefixes)) for found in view.interfaces
            }
            truth = {
                eni.eni_id: ({eni.primary, *eni.addresses}, set(eni.prefixes))
                for eni in self.cloud.enis_of(instance.instance_id)
            }
            assert shown == truth

    @invariant()
    def books_are_right(self) -> None:
        if hasattr(self, "cloud"):
            assert violations(self.cloud) == []


TestCloudMachine = CloudMachine.TestCase
TestCloudMachine.settings = settings(max_examples=30, stateful_step_count=50, deadline=None)


def test_the_machine_gets_to_every_limit_and_mostly_succeeds() -> None:
    found: Counter[str] = Counter()

    class Counting(CloudMachine):
        def teardown(self) -> None:
            found.update(self.outcomes)

    run_state_machine_as_test(
        Counting, settings=settings(max_examples=25, stateful_step_count=50, deadline=None, derandomize=True)
    )
    assert set(found) >= {
        "", "AttachmentLimitExceeded", "InvalidNetworkInterfaceID.NotFound", "PrivateIpAddressLimitExceeded",
        "InvalidParameterValue",
    }, found  # fmt: skip
    assert found["AttachmentLimitExceeded"] >= 5 and found[""] > sum(found.values()) / 4, found


def test_the_invariants_notice_broken_books() -> None:
    cloud = Cloud(lambda: 0.0, random.Random(1), limits=TYPES.get)
    vpc = cloud.create_vpc([IPv4Network("10.0.0.0/16")])
    subnet = cloud.create_subnet(vpc.vpc_id, IPv4Network("10.0.0.0/26"))
    one = cloud.create_network_interface(NewInterface(subnet.subnet_id))
    other = cloud.create_network_interface(NewInterface(subnet.subnet_id))
    assert violations(cloud) == []
    other.addresses.append(one.primary)
    assert any("overlap" in line for line in violations(cloud))
    other.addresses.clear()
    subnet.v4.release(int(one.primary))
    assert any("books" in line for line in violations(cloud))
