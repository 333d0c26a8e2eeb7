# SPDX-License-Identifier: Apache-2.0
"""The metadata client against the lab's metadata service and against services that misbehave, over loopback."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

import pytest
from aiohttp import web
from loopback import answering, closed_port, serving

from vpccni.aws.imds import Imds
from vpccni.aws.imds_http import MetadataSession, Timing
from vpccni.aws.values import NodeIdentity
from vpccni.errors import CloudError
from vpccni.lab.cloud.metadata import InstanceMetadata, InterfaceMetadata
from vpccni.lab.imds import ImdsService

FIRST = InterfaceMetadata(
    mac="0a:11:22:33:44:55",
    interface_id="eni-0aaa",
    device_number=0,
    network_card=0,
    subnet_id="subnet-1",
    vpc_id="vpc-1",
    owner_id="123456789012",
    security_group_ids=("sg-2", "sg-1"),
    local_ipv4s=(IPv4Address("10.20.0.10"), IPv4Address("10.20.0.11")),
    ipv6s=(IPv6Address("2001:db8::5"),),
    subnet_ipv4_cidr_block=IPv4Network("10.20.0.0/24"),
    subnet_ipv6_cidr_blocks=(IPv6Network("2001:db8::/64"),),
    vpc_ipv4_cidr_blocks=(IPv4Network("10.20.0.0/16"), IPv4Network("100.64.0.0/16")),
)
SECOND = InterfaceMetadata(
    mac="0a:11:22:33:44:66",
    interface_id="eni-0bbb",
    device_number=1,
    network_card=0,
    subnet_id="subnet-2",
    vpc_id="vpc-1",
    owner_id="123456789012",
    local_ipv4s=(IPv4Address("10.20.1.20"),),
    ipv4_prefixes=(IPv4Network("10.20.1.32/28"),),
    subnet_ipv4_cidr_block=IPv4Network("10.20.1.0/24"),
)
METADATA = InstanceMetadata(
    instance_id="i-0abc",
    instance_type="m5.large",
    ami_id="ami-1",
    account_id="123456789012",
    region="us-west-2",
    availability_zone="us-west-2a",
    availability_zone_id="usw2-az1",
    mac=FIRST.mac,
    local_ipv4=IPv4Address("10.20.0.10"),
    local_hostname="ip-10-20-0-10.us-west-2.compute.internal",
    hostname="ip-10-20-0-10.us-west-2.compute.internal",
    interfaces=(SECOND, FIRST),
)


class Instance:
    """An instance as its service shows it; `waits` are the pauses that the client made."""

    def __init__(self) -> None:
        self.metadata: InstanceMetadata | None = METADATA
        self.now = 1000.0
        self.waits: list[float] = []
        self.service = ImdsService(lambda: self.metadata, lambda: self.now, rng=random.Random(1))

    def sleep(self, duration_s: float) -> None:
        self.waits.append(duration_s)
        self.now += duration_s

    def client(self, url: str, **timing: float) -> Imds:
        limits = Timing(**{"socket_s": 5.0, **timing})  # type: ignore[arg-type]
        return Imds(session=MetadataSession(url, timing=limits, now=lambda: self.now, sleep=self.sleep))


@pytest.fixture
def instance() -> Instance:
    return Instance()


@pytest.fixture
def imds(instance: Instance) -> Iterator[Imds]:
    with serving(instance.service.app()) as url:
        client = instance.client(url)
        yield client
        client.close()


@contextmanager
def misbehaving(instance: Instance, handler) -> Iterator[Imds]:
    """A client of a service that is only this handler."""
    with serving(answering(handler)) as url:
        client = instance.client(url)
        yield client
        client.close()


def test_an_instance_learns_who_it_is(imds):
    assert imds.identity() == NodeIdentity(
        region="us-west-2",
        availability_zone="us-west-2a",
        instance_id="i-0abc",
        instance_type="m5.large",
        mac="0a:11:22:33:44:55",
        eni_id="eni-0aaa",
        subnet_id="subnet-1",
        vpc_id="vpc-1",
        local_ipv4=IPv4Address("10.20.0.10"),
    )


def test_interfaces_come_in_the_order_of_their_devices_with_their_primary_address_first(imds):
    first, second = imds.interfaces()
    assert (first.eni_id, first.device, first.card) == ("eni-0aaa", 0, 0)
    assert first.addresses == (IPv4Address("10.20.0.10"), IPv4Address("10.20.0.11"), IPv6Address("2001:db8::5"))
    assert first.subnet_cidr == IPv4Network("10.20.0.0/24")
    assert first.subnet_ipv6_cidr == IPv6Network("2001:db8::/64")
    assert first.security_groups == ("sg-2", "sg-1")
    assert (second.eni_id, second.prefixes) == ("eni-0bbb", (IPv4Network("10.20.1.32/28"),))
    assert imds.vpc_cidrs(first.mac) == (IPv4Network("10.20.0.0/16"), IPv4Network("100.64.0.0/16"))
    assert imds.vpc_ipv6_cidrs(first.mac) == ()
    assert imds.security_groups(first.mac) == ("sg-2", "sg-1")


def test_an_interface_that_the_service_lists_without_addresses_has_none(instance, imds):
    instance.metadata = replace(METADATA, interfaces=(FIRST, replace(SECOND, local_ipv4s=(), ipv4_prefixes=())))
    assert imds.interfaces()[1].addresses == ()


def test_the_primary_interface_is_device_0_whatever_the_service_says(instance, imds):
    instance.metadata = replace(METADATA, interfaces=(replace(FIRST, device_number=3), SECOND))
    assert [one.device for one in imds.interfaces()] == [0, 1]


def test_network_cards_are_read_where_they_are_shown(instance, imds):
    instance.metadata = replace(METADATA, interfaces=(FIRST, replace(SECOND, network_card=2)))
    assert [one.card for one in imds.interfaces()] == [0, 2]


def test_one_token_serves_many_reads_and_is_renewed_before_it_ends(instance):
    tokens = 0

    async def counting(request: web.Request, handler) -> web.StreamResponse:
        nonlocal tokens
        tokens += request.method == "PUT"
        return await handler(request)

    app = instance.service.app()
    app.middlewares.append(web.middleware(counting))
    with serving(app) as url:
        imds = instance.client(url)
        imds.interfaces()
        assert tokens == 1
        instance.now += 269
        imds.identity()
        assert tokens == 1
        instance.now += 2
        imds.identity()
        assert tokens == 2, "a tenth of its 300 s is left"
        imds.close()
    assert instance.waits == []


def test_a_restarted_service_that_knows_no_tokens_costs_one_repetition_and_no_wait(instance):
    current = {"service": instance.service}

    async def forward(request: web.Request) -> web.StreamResponse:
        return await current["service"]._handle(request)

    with misbehaving(instance, forward) as imds:
        imds.identity()
        current["service"] = ImdsService(lambda: instance.metadata, lambda: instance.now)
        assert imds.identity().instance_id == "i-0abc"
    assert instance.waits == []


def test_a_service_that_accepts_no_token_at_all_is_a_refusal_not_an_endless_loop(instance):
    requests = []

    async def unauthorized(request: web.Request) -> web.StreamResponse:
        requests.append(request.method)
        return web.Response(status=200 if request.method == "PUT" else 401, text="token")

    with misbehaving(instance, unauthorized) as imds, pytest.raises(CloudError) as refused:
        imds.identity()
    assert (refused.value.error_code, refused.value.aws_code, refused.value.can_retry) == ("imds-denied", "401", False)
    assert "hop limit" in refused.value.hint
    assert requests == ["PUT", "GET", "PUT", "GET"]


@pytest.mark.parametrize("status", [403, 404, 405])
def test_a_service_without_tokens_is_read_as_version_1(instance, status):
    async def version_1(request: web.Request) -> web.StreamResponse:
        if request.method == "PUT":
            return web.Response(status=status)
        assert "X-aws-ec2-metadata-token" not in request.headers
        return web.Response(text="sg-1 sg-2")

    with misbehaving(instance, version_1) as imds:
        assert imds.security_groups("m") == ("sg-1", "sg-2")


def test_failures_that_pass_are_tried_again_with_growing_pauses(instance):
    failures = [500, 502, 503, 504, 429]

    async def recovering(request: web.Request) -> web.StreamResponse:
        return web.Response(status=failures.pop(0)) if failures else web.Response(text="10.0.0.0/16")  # a token too

    with misbehaving(instance, recovering) as imds:
        assert imds.vpc_cidrs("m") == (IPv4Network("10.0.0.0/16"),)
    assert instance.waits == [0.05, 0.1, 0.2, 0.4, 0.8]


def test_a_service_that_keeps_failing_is_given_up_within_five_seconds(instance):
    async def failing(request: web.Request) -> web.StreamResponse:
        return web.Response(status=503)

    with misbehaving(instance, failing) as imds, pytest.raises(CloudError, match="HTTP 503") as refused:
        imds.identity()
    assert (refused.value.error_code, refused.value.can_retry) == ("imds-unreachable", True)
    assert 1 < sum(instance.waits) <= 5


def test_an_address_where_nobody_listens_is_named_with_a_next_step(instance):
    url = f"http://127.0.0.1:{closed_port()}"
    with pytest.raises(CloudError, match="ConnectionRefusedError") as refused:
        instance.client(url, attempts=3).identity()
    assert refused.value.error_code == "imds-unreachable"
    assert refused.value.evidence["endpoint"] == url
    assert "route" in refused.value.hint
    assert len(instance.waits) == 2


def test_a_token_answer_that_never_arrives_ends_in_a_hint_at_the_hop_limit(instance):
    release = threading.Event()

    async def beyond_the_hop_limit(request: web.Request) -> web.StreamResponse:
        if request.method == "PUT":
            while not release.is_set():
                await asyncio.sleep(0.01)
        return web.Response(status=401)

    with serving(answering(beyond_the_hop_limit)) as url:
        client = instance.client(url, socket_s=0.1)
        with pytest.raises(CloudError) as refused:
            client.identity()
        release.set()
    assert refused.value.error_code == "imds-denied"
    assert "hop limit" in refused.value.hint


def test_a_switched_off_endpoint_is_a_refusal_with_the_command_that_switches_it_on(instance, imds):
    instance.metadata = replace(METADATA, http_endpoint_enabled=False)
    with pytest.raises(CloudError) as refused:
        imds.identity()
    assert (refused.value.error_code, refused.value.can_retry) == ("imds-denied", False)
    assert "modify-instance-metadata-options" in refused.value.hint


def test_metadata_that_every_instance_has_but_this_one_not_is_named(instance, imds):
    instance.metadata = replace(METADATA, instance_type="")
    with pytest.raises(CloudError, match="/latest/meta-data/instance-type is missing") as refused:
        imds.identity()
    assert refused.value.error_code == "imds-missing"


def test_an_interface_that_vanishes_while_it_is_read_is_left_out(instance):
    async def forward(request: web.Request) -> web.StreamResponse:
        answer = await instance.service._handle(request)
        if request.path.endswith("/macs"):
            instance.metadata = replace(METADATA, interfaces=(FIRST,))
        return answer

    with misbehaving(instance, forward) as imds:
        assert [one.eni_id for one in imds.interfaces()] == ["eni-0aaa"]


@pytest.mark.parametrize("separator", ["\n", " ", "\t", "\r\n", " \n "])
def test_lists_may_be_separated_by_any_white_space_and_cidrs_may_have_host_bits(instance, separator):
    async def spaced(request: web.Request) -> web.StreamResponse:
        return web.Response(text="token" if request.method == "PUT" else f"10.0.5.7/16{separator}100.64.0.0/16\n")

    with misbehaving(instance, spaced) as imds:
        assert imds.vpc_cidrs("m") == (IPv4Network("10.0.0.0/16"), IPv4Network("100.64.0.0/16"))


@pytest.mark.parametrize("text", ["<html>login</html>", "10.0.0.0/99"])
def test_an_answer_that_is_no_metadata_is_shown(instance, text):
    async def portal(request: web.Request) -> web.StreamResponse:
        return web.Response(text="token" if request.method == "PUT" else text)

    with misbehaving(instance, portal) as imds, pytest.raises(CloudError) as refused:
        imds.vpc_cidrs("m")
    assert refused.value.error_code == "imds-malformed"
    assert text in str(refused.value)


def test_a_portal_that_answers_everything_with_a_page_gets_none_of_it_back_as_a_token(instance):
    async def portal(request: web.Request) -> web.StreamResponse:
        return web.Response(text="<html>\nplease log in\n</html>")

    with misbehaving(instance, portal) as imds, pytest.raises(CloudError, match="/latest/api/token") as refused:
        imds.identity()
    assert refused.value.error_code == "imds-failed"


def test_disabled_metadata_is_never_asked(instance):
    with pytest.raises(CloudError, match="AWS_EC2_METADATA_DISABLED") as refused:
        Imds("http://127.0.0.1:1", disabled=True).identity()
    assert refused.value.error_code == "imds-disabled"


def test_several_threads_may_read_at_once(imds):
    found: list[object] = []
    threads = [threading.Thread(target=lambda: found.append(imds.identity())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(found) == 8
    assert len(set(map(str, found))) == 1
