# SPDX-License-Identifier: Apache-2.0
"""What the boto3 client makes of an EC2 that throttles, denies, breaks off or is not there; paging and call counts."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Network

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from loopback import answering, closed_port, serving

from vpccni.aws import boto, failure, tags
from vpccni.aws.boto import Ec2
from vpccni.errors import CNI_TRY_AGAIN_LATER, CloudError
from vpccni.lab.cloud.cloud import Cloud
from vpccni.lab.cloud.errors import ApiError, throttled
from vpccni.lab.cloud.topology import NewInstance
from vpccni.lab.ec2.admission import Call
from vpccni.lab.ec2.app import make_app


class Gate:
    """Refuses calls by script and loses answers on request; notes every call that came."""

    def __init__(self) -> None:
        self.refusals: list[ApiError] = []
        self.calls: list[str] = []
        self.lose_next = False

    async def before(self, call: Call) -> None:
        self.calls.append(call.action)
        if self.refusals:
            raise self.refusals.pop(0)

    async def after(self, call: Call) -> bool:
        lost, self.lose_next = self.lose_next, False
        return not lost


class World:
    """A cloud behind HTTP with a gate, and the calls that a client reported."""

    def __init__(self) -> None:
        self.gate = Gate()
        self.cloud = Cloud(lambda: 1_700_000_000.0, random.Random(3))
        vpc = self.cloud.create_vpc([IPv4Network("10.20.0.0/16")])
        self.subnet_id = self.cloud.create_subnet(vpc.vpc_id, IPv4Network("10.20.0.0/24"), "us-west-2a").subnet_id
        self.instance_id = self.cloud.run_instance(NewInstance("m5.large", self.subnet_id)).instance_id
        self.vpc_id = vpc.vpc_id
        self.url = ""
        self.seen: list[tuple[str, str]] = []

    def client(self, attempts: int = 1, **arguments: float) -> Ec2:
        def observe(operation: str, duration_s: float, aws_code: str) -> None:
            assert duration_s >= 0
            self.seen.append((operation, aws_code))

        return Ec2("us-west-2", endpoint=self.url, attempts=attempts, observe=observe, **arguments)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "lab")


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    with serving(make_app(made.cloud, admission=made.gate)) as url:
        made.url = url
        yield made


@contextmanager
def refusal() -> Iterator[list[CloudError]]:
    """Within, exactly one CloudError is raised; it is in the list afterwards."""
    caught: list[CloudError] = []
    with pytest.raises(CloudError) as raised:
        yield caught
    caught.append(raised.value)


def test_throttling_that_lasts_is_a_refusal_that_may_be_repeated(world):
    world.gate.refusals = [throttled()] * 9
    with refusal() as caught:
        world.client().attached(world.instance_id)
    (error,) = caught
    assert (error.aws_code, error.error_code, error.can_retry) == ("RequestLimitExceeded", "ec2-throttled", True)
    assert error.cni_error_code == CNI_TRY_AGAIN_LATER
    assert world.seen == [("DescribeNetworkInterfaces", "RequestLimitExceeded")]


def test_throttling_that_passes_is_never_seen(world):
    world.gate.refusals = [throttled(), throttled()]
    assert len(world.client(attempts=3).attached(world.instance_id)) == 1
    assert len(world.gate.calls) == 3
    assert world.seen == [("DescribeNetworkInterfaces", "")]


def test_a_missing_permission_names_the_action_to_allow_and_is_not_repeated(world):
    cipher = "Encoded authorization failure message: " + "x" * 3000
    world.gate.refusals = [ApiError("UnauthorizedOperation", f"You are not authorized. {cipher}", 403)]
    with refusal() as caught:
        world.client(attempts=3).assign("eni-1", address_count=1)
    (error,) = caught
    assert (error.aws_code, error.error_code, error.can_retry) == ("UnauthorizedOperation", "ec2-denied", False)
    assert "ec2:AssignPrivateIpAddresses" in error.hint
    assert len(str(error)) < 200, "the cipher text is left out"
    assert len(world.gate.calls) == 1


def test_an_endpoint_where_nobody_listens_is_named_with_a_next_step():
    endpoint = f"http://127.0.0.1:{closed_port()}"
    with refusal() as caught:
        Ec2("us-west-2", endpoint=endpoint, attempts=1).subnets("vpc-1", "us-west-2a")
    (error,) = caught
    assert (error.error_code, error.aws_code, error.can_retry) == ("ec2-unreachable", "", True)
    assert endpoint in str(error)
    assert "VPC endpoint" in error.hint


def test_an_endpoint_that_never_answers_is_given_up_after_the_timeout():
    release = threading.Event()

    async def silent(request: web.Request) -> web.StreamResponse:
        while not release.is_set():
            await asyncio.sleep(0.01)
        return web.Response()

    with serving(answering(silent)) as url, refusal() as caught:
        try:
            Ec2("us-west-2", endpoint=url, attempts=1, timeout_s=0.2).attached("i-1")
        finally:
            release.set()
    assert caught[0].error_code == "ec2-unreachable"
    assert "ReadTimeoutError" in str(caught[0])


@pytest.mark.parametrize(("status", "code"), [(200, "ec2-unreachable"), (502, "ec2-failed")])
def test_a_proxy_that_answers_with_a_page_of_its_own_is_no_crash(status, code):
    async def proxy(request: web.Request) -> web.StreamResponse:
        return web.Response(status=status, text="<html><body>proxy<br></html>", content_type="text/html")

    with serving(answering(proxy)) as url, refusal() as caught:
        Ec2("us-west-2", endpoint=url, attempts=1).attached("i-1")
    assert caught[0].error_code == code
    assert caught[0].can_retry


def test_missing_credentials_are_told_apart_from_a_missing_network(monkeypatch, world):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, "/nonexistent")
    with refusal() as caught:
        world.client().attached(world.instance_id)
    assert caught[0].error_code == "ec2-credentials"
    assert "instance profile" in caught[0].hint
    assert world.gate.calls == []


def test_a_lost_answer_to_create_is_repeated_with_the_token_and_makes_one_interface(world):
    world.gate.lose_next = True
    client = world.client(attempts=1)

    def create() -> str:
        return client.create(
            world.subnet_id, (), description="d", tags=tags.ownership("i-1"), client_token="saga-17"
        ).eni_id

    with refusal() as caught:
        create()
    assert caught[0].error_code == "ec2-unreachable"
    assert len(client.owned("i-1")) == 1, "it was executed all the same"
    assert create() == client.owned("i-1")[0].eni_id
    assert len(client.owned("i-1")) == 1


def test_long_answers_are_read_page_by_page(world, monkeypatch):
    monkeypatch.setattr(boto, "PAGE_SIZE", 5)
    client = world.client()
    made = {client.create(world.subnet_id, (), description="d", tags=tags.ownership("i-1")).eni_id for _ in range(12)}
    world.gate.calls.clear()
    assert {one.eni_id for one in client.owned("i-1")} == made
    assert world.gate.calls == ["DescribeNetworkInterfaces"] * 3


def test_many_ids_are_asked_for_in_portions(world, monkeypatch):
    monkeypatch.setattr(boto, "MAX_FILTER_VALUES", 2)
    client = world.client()
    made = [client.create(world.subnet_id, (), description="d", tags={}).eni_id for _ in range(5)]
    world.gate.calls.clear()
    assert [one.eni_id for one in client.interfaces(made)] == made
    assert len(world.gate.calls) == 3
    world.gate.calls.clear()
    client.unassign(made[0])
    client.tag(made[0], {})
    assert client.assign(made[0]) == ()
    assert client.interfaces([]) == ()
    assert world.gate.calls == [], "nothing to do makes no call"


def test_a_client_serves_several_threads(world):
    client, found = world.client(), []
    threads = [threading.Thread(target=lambda: found.append(client.attached(world.instance_id))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(found) == 8
    assert len({one[0].eni_id for one in found}) == 1


@pytest.mark.parametrize("aws_code", sorted(failure.THROTTLES))
def test_every_code_that_sdks_take_for_throttling_is_throttling(aws_code):
    error = failure.classify("AttachNetworkInterface", aws_code, "slow down")
    assert (error.error_code, error.can_retry) == ("ec2-throttled", True)


@given(
    st.sampled_from(["", "Strange", "Odd.NotFound", "InvalidParameterValue"]),
    st.text(max_size=30),
    st.integers(400, 599),
)
def test_every_refusal_has_a_code_a_hint_and_the_operation(aws_code, reason, status):
    error = failure.classify("CreateTags", aws_code, reason, status=status)
    assert error.error_code and error.hint and error.evidence["operation"] == "CreateTags"
    assert error.aws_code == aws_code
    assert error.can_retry or status < 500 or aws_code


def test_only_what_is_gone_is_fine_to_be_missing():
    with failure.missing_is_fine():
        raise failure.classify("DeleteNetworkInterface", "InvalidNetworkInterfaceID.NotFound", "gone")
    with pytest.raises(CloudError), failure.missing_is_fine():
        raise failure.classify("DeleteNetworkInterface", "InvalidParameterValue", "currently in use")


def test_a_creation_tag_is_read_back_as_the_moment_and_anything_else_as_unknown():
    made = tags.creation("i-1", 1_700_000_000.4, "blue", {"team": "net"})
    assert list(made) == sorted(made)
    assert tags.created_at(made) == 1_700_000_000
    assert tags.created_at({}) is None
    assert tags.created_at({tags.CREATED_TAG: "yesterday"}) is None
    assert tags.created_at({tags.CREATED_TAG: "2023-11-14T22:13:20+01:00"}) == 1_700_000_000 - 3600
    assert tags.CLUSTER_TAG not in tags.ownership("i-1")
