# SPDX-License-Identifier: Apache-2.0
"""Throttling, reservations and late truths as EC2 behaves, over real HTTP. One test per row of the table."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network
from typing import Any

import aiohttp
import pytest
from botocore.exceptions import ClientError
from botocore.exceptions import ConnectionClosedError as Closed
from tests.lab.ec2.ec2_box import Box, Server, new_client

from vpccni.lab.cloud.cloud import Cloud
from vpccni.lab.cloud.faults import NO_FAULTS, Faults, change
from vpccni.lab.cloud.invariants import violations
from vpccni.lab.cloud.profile import INSTANT
from vpccni.lab.cloud.topology import NewInstance
from vpccni.lab.ec2.app import make_app
from vpccni.lab.ec2.calls import CallLog, summed

evidence = pytest.mark.evidence


class Hurt:
    """A cloud of the test's own behind HTTP, whose faults the test sets and whose clock it drives."""

    def __init__(self) -> None:
        self.time, self.calls = 1000.0, CallLog()
        self.cloud = Cloud(lambda: self.time, random.Random(2), INSTANT)
        vpc = self.cloud.create_vpc([IPv4Network("10.0.0.0/16")])
        self.subnet_id = self.cloud.create_subnet(vpc.vpc_id, IPv4Network("10.0.0.0/24")).subnet_id
        self.server = Server(make_app(self.cloud, calls=self.calls))
        self.ec2 = new_client(self.server.url)

    def set(self, **settings: str) -> None:
        words = {name.replace("_", "-"): text for name, text in settings.items()}
        self.cloud.set_faults(change(NO_FAULTS, words))

    def create(self, **parameters: Any) -> str:
        answer = self.ec2.create_network_interface(SubnetId=self.subnet_id, **parameters)
        return str(answer["NetworkInterface"]["NetworkInterfaceId"])

    def code(self, operation: str, **parameters: Any) -> str:
        try:
            getattr(self.ec2, operation)(**parameters)
        except ClientError as error:
            return str(error.response["Error"]["Code"])
        except Closed:
            return "lost"
        return ""

    def parallel(self, count: int, **parameters: str) -> Counter[int]:
        """That many requests at the same time; answers by HTTP status."""

        async def all_of_them() -> Counter[int]:
            connector = aiohttp.TCPConnector(limit=200)
            async with aiohttp.ClientSession(connector=connector) as session:

                async def one() -> int:
                    async with session.post(self.server.url, data={"Version": "2016-11-15", **parameters}) as answer:
                        assert ("RequestLimitExceeded" in await answer.text()) == (answer.status == 503)
                        return answer.status

                return Counter(await asyncio.gather(*(one() for _ in range(count))))

        return asyncio.run(all_of_them())


@pytest.fixture
def hurt() -> Iterator[Hurt]:
    made = Hurt()
    yield made
    assert violations(made.cloud) == []
    made.server.stop()


# -- throttling


@evidence(row=48, source="D")
def test_a_thousand_parallel_describes_get_the_burst_of_100_and_then_20_a_second(hurt: Hurt) -> None:
    hurt.set(throttle="on")
    assert hurt.parallel(1000, Action="DescribeSubnets") == {200: 100, 503: 900}
    hurt.time += 1
    assert hurt.parallel(50, Action="DescribeSubnets") == {200: 20, 503: 30}
    hurt.time += 60
    assert hurt.parallel(150, Action="DescribeSubnets") == {200: 100, 503: 50}


@evidence(row=48, source="D")
def test_describing_everything_without_filter_or_page_has_half_of_it(hurt: Hurt) -> None:
    hurt.set(throttle="on")
    assert hurt.parallel(120, Action="DescribeNetworkInterfaces") == {200: 50, 503: 70}
    assert hurt.parallel(120, Action="DescribeNetworkInterfaces", MaxResults="100") == {200: 100, 503: 20}
    hurt.time += 1
    assert hurt.parallel(40, Action="DescribeNetworkInterfaces") == {200: 10, 503: 30}


@evidence(row=48, source="D")
def test_each_action_is_throttled_by_itself_and_a_throttled_call_has_no_effect(hurt: Hurt) -> None:
    hurt.set(throttle="on")
    create = {"Action": "CreateNetworkInterface", "SubnetId": hurt.subnet_id}
    assert hurt.parallel(110, **create) == {200: 100, 503: 10}
    assert len(hurt.cloud.enis) == 100
    hurt.time += 2
    assert hurt.parallel(20, **create) == {200: 10, 503: 10}
    assert hurt.parallel(1, Action="DescribeSubnets") == {200: 1}


def test_without_the_fault_nothing_is_throttled(hurt: Hurt) -> None:
    assert hurt.parallel(300, Action="DescribeSubnets") == {200: 300}


# -- refusals and losses


@evidence(row=17, source="D")
def test_a_denied_action_says_so_even_to_a_dry_run(hurt: Hurt) -> None:
    hurt.set(deny="CreateNetworkInterface")
    for dry in (False, True):
        assert hurt.code("create_network_interface", SubnetId=hurt.subnet_id, DryRun=dry) == "UnauthorizedOperation"
    assert hurt.code("describe_subnets", DryRun=True) == "DryRunOperation"
    assert hurt.cloud.enis == {}


def test_a_lost_request_has_no_effect_and_a_lost_reply_has_one(hurt: Hurt) -> None:
    hurt.set(lost_request="CreateNetworkInterface:1")
    assert hurt.code("create_network_interface", SubnetId=hurt.subnet_id) == "lost"
    assert hurt.cloud.enis == {}
    hurt.set(lost_reply="CreateNetworkInterface:1")
    assert hurt.code("create_network_interface", SubnetId=hurt.subnet_id) == "lost"
    assert len(hurt.cloud.enis) == 1
    ended = [entry.code for entry in hurt.calls.entries() if entry.action == "CreateNetworkInterface"]
    assert ended == ["lost-request", "lost-reply"]


def test_a_script_fails_exactly_the_calls_that_it_names(hurt: Hurt) -> None:
    hurt.set(error="DescribeSubnets:InternalError:#2,DescribeVpcs:Unavailable:1x")
    assert [hurt.code("describe_subnets") for _ in range(3)] == ["", "InternalError", ""]
    assert [hurt.code("describe_vpcs") for _ in range(2)] == ["Unavailable", ""]


def test_a_new_interface_is_not_found_by_any_call_for_a_while(hurt: Hurt) -> None:
    instance = hurt.cloud.run_instance(NewInstance("t3.medium", hurt.subnet_id))
    hurt.set(new_id="1:5")
    eni_id = hurt.create()
    attach = {"NetworkInterfaceId": eni_id, "InstanceId": instance.instance_id, "DeviceIndex": 1}
    missing = "InvalidNetworkInterfaceID.NotFound"
    assert hurt.code("attach_network_interface", **attach) == missing
    assert hurt.code("describe_network_interfaces", NetworkInterfaceIds=[eni_id]) == missing
    assert hurt.code("create_tags", Resources=[eni_id], Tags=[{"Key": "a", "Value": "b"}]) == missing
    listed = hurt.ec2.describe_network_interfaces()["NetworkInterfaces"]
    assert eni_id not in [row["NetworkInterfaceId"] for row in listed]
    hurt.time += 120
    assert hurt.code("attach_network_interface", **attach) == ""


def test_a_stale_describe_shows_the_addresses_of_before_everywhere_but_in_the_answer_of_assign(hurt: Hurt) -> None:
    instance = hurt.cloud.run_instance(NewInstance("t3.medium", hurt.subnet_id))
    eni_id = instance.primary_eni_id
    hurt.set(stale="1:5")
    new = hurt.ec2.assign_private_ip_addresses(NetworkInterfaceId=eni_id, SecondaryPrivateIpAddressCount=1)
    address = new["AssignedPrivateIpAddresses"][0]["PrivateIpAddress"]
    by_address = [{"Name": "addresses.private-ip-address", "Values": [address]}]

    def seen() -> list[int]:
        reservations = hurt.ec2.describe_instances(InstanceIds=[instance.instance_id])["Reservations"]
        return [
            len(hurt.ec2.describe_network_interfaces()["NetworkInterfaces"][0]["PrivateIpAddresses"]),
            len(hurt.ec2.describe_network_interfaces(Filters=by_address)["NetworkInterfaces"]),
            len(reservations[0]["Instances"][0]["NetworkInterfaces"][0]["PrivateIpAddresses"]),
        ]

    assert seen() == [1, 0, 1]
    hurt.time += 120
    assert seen() == [2, 1, 2]


# -- reservations


@evidence(row=42, source="D")
def test_nothing_is_placed_in_an_explicit_reservation_but_what_is_asked_for_by_name(box: Box) -> None:
    subnet = box.subnet()
    made = box.ec2.create_subnet_cidr_reservation(
        SubnetId=subnet.subnet_id, Cidr="10.0.0.128/25", ReservationType="explicit", Description="databases"
    )["SubnetCidrReservation"]
    kept, eni_id = IPv4Network("10.0.0.128/25"), box.eni(subnet)
    assert box.free(subnet) == 251 - 127 - 1  # EC2 keeps the last address of the subnet anyway
    for _ in range(6):  # of the lower half's eight blocks EC2 keeps part of the first, the interface sits in another
        granted = box.ec2.assign_private_ip_addresses(NetworkInterfaceId=eni_id, Ipv4PrefixCount=1)
        assert not IPv4Network(granted["AssignedIpv4Prefixes"][0]["Ipv4Prefix"]).overlaps(kept)
        box.ec2.unassign_private_ip_addresses(
            NetworkInterfaceId=eni_id, Ipv4Prefixes=[granted["AssignedIpv4Prefixes"][0]["Ipv4Prefix"]]
        )
    row = box.describe(box.eni(subnet, SecondaryPrivateIpAddressCount=30))
    assert not any(IPv4Address(entry["PrivateIpAddress"]) in kept for entry in row["PrivateIpAddresses"])
    box.eni(subnet, PrivateIpAddress="10.0.0.200")
    box.ec2.assign_private_ip_addresses(NetworkInterfaceId=eni_id, Ipv4Prefixes=["10.0.0.144/28"])
    listed = box.ec2.get_subnet_cidr_reservations(SubnetId=subnet.subnet_id)["SubnetIpv4CidrReservations"]
    assert listed == [made] and made["ReservationType"] == "explicit" and made["Description"] == "databases"
    gone = box.ec2.delete_subnet_cidr_reservation(SubnetCidrReservationId=made["SubnetCidrReservationId"])
    assert gone["DeletedSubnetCidrReservation"] == made
    box.refused(
        "InvalidSubnetCidrReservationID.NotFound", "delete_subnet_cidr_reservation",
        SubnetCidrReservationId=made["SubnetCidrReservationId"],
    )  # fmt: skip


@evidence(row=42, source="D")
def test_prefixes_are_whole_in_a_reservation_even_when_the_rest_is_fragmented(box: Box) -> None:
    subnet = box.subnet()
    box.ec2.create_subnet_cidr_reservation(SubnetId=subnet.subnet_id, Cidr="10.0.0.192/27", ReservationType="prefix")
    for block in range(16):
        if block not in (12, 13):
            box.eni(subnet, PrivateIpAddress=f"10.0.0.{16 * block + 7}")
    eni_id = box.eni(subnet)
    got = box.ec2.assign_private_ip_addresses(NetworkInterfaceId=eni_id, Ipv4PrefixCount=2)["AssignedIpv4Prefixes"]
    assert {row["Ipv4Prefix"] for row in got} == {"10.0.0.192/28", "10.0.0.208/28"}
    box.refused("InsufficientCidrBlocks", "assign_private_ip_addresses", NetworkInterfaceId=eni_id, Ipv4PrefixCount=1)


@evidence(row=42, source="D")
def test_a_reservation_outside_the_subnet_or_over_another_is_refused(box: Box) -> None:
    subnet = box.subnet()
    reserve: dict[str, Any] = {"operation": "create_subnet_cidr_reservation", "SubnetId": subnet.subnet_id}
    box.ec2.create_subnet_cidr_reservation(SubnetId=subnet.subnet_id, Cidr="10.0.0.64/26", ReservationType="prefix")
    box.refused("InvalidParameterValue", Cidr="10.0.0.64/27", ReservationType="explicit", **reserve)
    box.refused("InvalidParameterValue", Cidr="10.0.1.0/26", ReservationType="prefix", **reserve)
    box.refused("InvalidParameterValue", Cidr="10.0.0.128/26", ReservationType="mine", **reserve)


# -- the record


def test_every_call_is_recorded_with_action_caller_code_and_time(hurt: Hurt) -> None:
    hurt.create(ClientToken="x")
    hurt.code("describe_network_interfaces", NetworkInterfaceIds=["eni-0123456789abcdef0"])
    hurt.parallel(2, Action="FlyAway")
    first, second, *rest = hurt.calls.entries()
    assert (first.action, first.code, first.status, first.client) == ("CreateNetworkInterface", "", 200, "127.0.0.1")
    assert first.at == 1000.0 and 0 < first.took_s < 5 and first.subject == hurt.subnet_id
    assert (second.code, second.status) == ("InvalidNetworkInterfaceID.NotFound", 400)
    assert second.subject == "eni-0123456789abcdef0"
    assert [(entry.action, entry.code) for entry in rest] == [("(unknown)", "InvalidAction")] * 2
    totals = hurt.calls.totals()
    assert totals["CreateNetworkInterface"].codes == {"": 1} and totals["(unknown)"].codes == {"InvalidAction": 2}
    assert summed(hurt.calls.entries()) == totals and hurt.calls.forgotten == 0


def test_the_ring_forgets_but_the_totals_do_not() -> None:
    log = CallLog(capacity=3)
    for n in range(10):
        log.record(at=float(n), action="A", client="c", code="", status=200, took_s=0.1, request_id="r")
    assert [entry.number for entry in log.entries()] == [8, 9, 10]
    assert log.forgotten == 7 and log.totals()["A"].calls == 10
    assert log.entries(lambda entry: entry.at > 8.0)[0].number == 10


def test_faults_of_the_cloud_hold_for_http_without_a_restart(hurt: Hurt) -> None:
    assert hurt.code("describe_subnets") == ""
    hurt.cloud.set_faults(Faults(deny=("DescribeSubnets",)))
    assert hurt.code("describe_subnets") == "UnauthorizedOperation"
    hurt.cloud.set_faults(NO_FAULTS)
    assert hurt.code("describe_subnets") == ""
