# SPDX-License-Identifier: Apache-2.0
"""Instances, events, metadata and profiles of the cloud."""

from __future__ import annotations

import random
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Network

import pytest

from vpccni.lab.cloud import events
from vpccni.lab.cloud.addresses import Wanted
from vpccni.lab.cloud.cloud import Cloud
from vpccni.lab.cloud.errors import ApiError
from vpccni.lab.cloud.faults import NO_FAULTS
from vpccni.lab.cloud.interfaces import InterfaceChange, NewInterface
from vpccni.lab.cloud.profile import Delay, load, names, parse
from vpccni.lab.cloud.resources import MetadataOptions, Subnet
from vpccni.lab.cloud.topology import NewInstance
from vpccni.lab.cloud.view import private_name, zone_id


class World:
    """A cloud, its clock, one subnet."""

    def __init__(self, profile: str = "calm") -> None:
        self.time = 1000.0
        delays_only = replace(load(profile), faults=NO_FAULTS)
        self.cloud = Cloud(lambda: self.time, random.Random(3), delays_only)
        vpc = self.cloud.create_vpc(
            [IPv4Network("10.20.0.0/16"), IPv4Network("100.64.0.0/16")], ipv6_cidrs=[IPv6Network("2001:db8::/56")]
        )
        self.subnet: Subnet = self.cloud.create_subnet(
            vpc.vpc_id, IPv4Network("10.20.0.0/20"), "us-west-2b", ipv6_cidr=IPv6Network("2001:db8::/64")
        )
        self.cloud.advance(self.time)

    def live(self) -> list[events.Event]:
        """Jump from event to event until nothing is left to happen."""
        found = []
        while (at := self.cloud.next_event_at()) is not None:
            self.time = max(at, self.time)
            found += self.cloud.advance(self.time)
        return found


def test_an_instance_brings_its_primary_interface_at_once() -> None:
    world = World()
    request = NewInstance(
        "m5.large", world.subnet.subnet_id, private_ip=IPv4Address("10.20.3.4"), public_ip=True, tags={"Name": "node-1"}
    )
    instance = world.cloud.run_instance(request)
    happened = world.cloud.advance(world.time)
    assert [type(event) for event in happened] == [
        events.AddressesChanged, events.SecurityGroupsChanged, events.InstanceStarted, events.PublicAddressChanged,
        events.LinkAppears,
    ]  # fmt: skip
    link = happened[-1]
    assert isinstance(link, events.LinkAppears)
    assert (link.device_index, link.card, link.addresses) == (0, 0, (IPv4Network("10.20.3.4/32"),))
    public = happened[-2]
    assert isinstance(public, events.PublicAddressChanged)
    assert public.private == IPv4Address("10.20.3.4") and public.public in world.cloud.public_pool
    view = world.cloud.instance_metadata(instance.instance_id)
    assert view is not None and view.mac == link.mac and view.public_ipv4 == public.public
    assert view.local_hostname == "ip-10-20-3-4.us-west-2.compute.internal"
    assert (view.availability_zone, view.availability_zone_id) == ("us-west-2b", "usw2-az2")
    (primary,) = view.interfaces
    assert primary.vpc_ipv4_cidr_blocks == (IPv4Network("10.20.0.0/16"), IPv4Network("100.64.0.0/16"))
    assert primary.security_group_names == ("default",) and primary.subnet_ipv4_cidr_block == IPv4Network(
        "10.20.0.0/20"
    )


def test_metadata_options_and_ipv6_of_an_instance_are_shown() -> None:
    world = World()
    options = MetadataOptions("optional", 2, instance_metadata_tags="enabled")
    request = NewInstance("m5.large", world.subnet.subnet_id, options=options, ipv6_count=1, tags={"a": "b"})
    view = world.cloud.instance_metadata(world.cloud.run_instance(request).instance_id)
    assert view is not None and view.ipv6 in IPv6Network("2001:db8::/64")
    assert (view.http_tokens_required, view.http_put_response_hop_limit) == (False, 2)
    assert view.instance_metadata_tags and view.tags == {"a": "b"}
    assert world.cloud.instance_metadata("i-0123456789abcdef0") is None


def test_an_instance_that_cannot_run_leaves_nothing_behind() -> None:
    world = World()
    free = world.subnet.v4.free_count
    for request, code in (
        (NewInstance("m5.huge", world.subnet.subnet_id), "InvalidInstanceType"),
        (NewInstance("m5.large", "subnet-0123456789abcdef0"), "InvalidSubnetID.NotFound"),
        (NewInstance("m5.large", world.subnet.subnet_id, IPv4Address("10.20.0.1")), "InvalidParameterValue"),
        (NewInstance("m5.large", world.subnet.subnet_id, ipv6_count=11), "PrivateIpAddressLimitExceeded"),
        (NewInstance("m5.large", world.subnet.subnet_id, tags={"aws:x": ""}), "InvalidParameterValue"),
    ):
        with pytest.raises(ApiError) as caught:
            world.cloud.run_instance(request)
        assert caught.value.code == code
    assert world.cloud.instances == {} and world.cloud.enis == {} and world.subnet.v4.free_count == free
    assert world.cloud.advance(world.time) == []


def test_metadata_lags_behind_assignments_and_detach() -> None:
    world = World()
    instance = world.cloud.run_instance(NewInstance("m5.large", world.subnet.subnet_id))
    eni = world.cloud.create_network_interface(NewInterface(world.subnet.subnet_id))
    attachment = world.cloud.attach_network_interface(eni.eni_id, instance.instance_id, 1)
    world.live()

    def listed() -> dict[int, int]:
        view = world.cloud.instance_metadata(instance.instance_id)
        assert view is not None
        return {found.device_number: len(found.local_ipv4s) for found in view.interfaces}

    assert listed() == {0: 1, 1: 1}
    world.cloud.assign_private_ip_addresses(eni.eni_id, count=4)
    assert listed() == {0: 1, 1: 1}, "the API knows it, the metadata service not yet"
    world.live()
    assert listed() == {0: 1, 1: 5}
    world.cloud.detach_network_interface(attachment.attachment_id)
    assert listed() == {0: 1, 1: 5}
    assert [type(event) for event in world.live()] == [events.LinkVanishes]
    assert listed() == {0: 1}


def test_transitions_happen_at_their_own_time_however_late_they_are_noticed() -> None:
    def run(steps: list[float]) -> list[events.Event]:
        world = World("busy")
        instance = world.cloud.run_instance(NewInstance("m5.large", world.subnet.subnet_id))
        eni = world.cloud.create_network_interface(NewInterface(world.subnet.subnet_id))
        world.cloud.attach_network_interface(eni.eni_id, instance.instance_id, 1)
        found = world.cloud.advance(world.time)
        for step in steps:
            world.time += step
            found += world.cloud.advance(world.time)
        assert world.cloud.next_event_at() is None
        return found

    assert run([60.0]) == run([0.1] * 600)


def test_a_detach_while_attaching_never_shows_a_link() -> None:
    world = World()
    instance = world.cloud.run_instance(NewInstance("m5.large", world.subnet.subnet_id))
    eni = world.cloud.create_network_interface(NewInterface(world.subnet.subnet_id))
    attachment = world.cloud.attach_network_interface(eni.eni_id, instance.instance_id, 1)
    world.cloud.advance(world.time)
    world.cloud.detach_network_interface(attachment.attachment_id)
    assert not [event for event in world.live() if isinstance(event, events.LinkAppears | events.LinkVanishes)]
    assert eni.attachment is None and eni.status == "available"


def test_public_addresses_source_check_and_groups_are_announced() -> None:
    world = World()
    eni = world.cloud.create_network_interface(NewInterface(world.subnet.subnet_id, ipv4=Wanted(prefix_count=1)))
    group = world.cloud.create_security_group(world.subnet.vpc_id, "web")
    world.live()
    for change in (
        InterfaceChange(associate_public_ip=True),
        InterfaceChange(source_dest_check=False),
        InterfaceChange(group_ids=(group.group_id,)),
        InterfaceChange(associate_public_ip=False),
    ):
        world.cloud.modify_network_interface(eni.eni_id, change)
    first, check, groups, last = world.live()
    assert isinstance(first, events.PublicAddressChanged) and first.public is not None
    assert check == events.SourceDestCheckChanged(eni.eni_id, False)
    assert groups == events.SecurityGroupsChanged(eni.eni_id, (group.group_id,))
    assert last == events.PublicAddressChanged(eni.eni_id, eni.vpc_id, eni.primary, None)
    world.cloud.delete_network_interface(eni.eni_id)
    assert world.live() == [events.AddressesChanged(eni.eni_id, eni.vpc_id, ())]


def test_the_same_seed_gives_the_same_cloud() -> None:
    one, other = World(), World()
    for world in (one, other):
        world.cloud.run_instance(NewInstance("c5.4xlarge", world.subnet.subnet_id))
    assert one.live() == other.live()


def test_all_shipped_profiles_load_and_bad_ones_say_why() -> None:
    assert {"busy", "calm"} <= set(names())
    assert load("calm").attach.mean_s == 0.15 and load("busy").latency_of("AttachNetworkInterface").mean_s == 0.438
    with pytest.raises(ValueError, match="bad-day, busy, calm"):
        load("stormy")
    with pytest.raises(ValueError, match="atach"):
        parse("typo", "[delays]\natach = 1\n")


def test_delays_have_the_mean_that_they_say() -> None:
    rng, delay = random.Random(1), Delay(2.0, 0.5)
    drawn = [delay.draw(rng) for _ in range(20_000)]
    assert min(drawn) > 0 and abs(sum(drawn) / len(drawn) - 2.0) < 0.05
    assert Delay(2.0).draw(rng) == 2.0


@pytest.mark.parametrize(
    ("zone", "expected"),
    [("us-west-2a", "usw2-az1"), ("eu-central-1b", "euc1-az2"), ("ap-northeast-2c", "apne2-az3")],
)
def test_zone_ids_are_spelt_as_ec2_does(zone: str, expected: str) -> None:
    assert zone_id(zone) == expected


def test_private_names_differ_in_the_oldest_region() -> None:
    assert private_name(IPv4Address("10.0.0.9"), "us-east-1") == "ip-10-0-0-9.ec2.internal"
