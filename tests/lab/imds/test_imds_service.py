# SPDX-License-Identifier: Apache-2.0
"""The metadata service over HTTP: sessions, refusals, the tree and its listings."""

from __future__ import annotations

import asyncio
import json
import random
import socket
from collections.abc import Awaitable, Callable
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Network

import pytest
from aiohttp.test_utils import TestClient, TestServer

from vpccni.lab.cloud.metadata import InstanceMetadata, InterfaceMetadata
from vpccni.lab.imds import ImdsService
from vpccni.lab.imds.tokens import Tokens
from vpccni.lab.imds.tree import find

TTL = "X-aws-ec2-metadata-token-ttl-seconds"
TOKEN = "X-aws-ec2-metadata-token"
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
    subnet_ipv4_cidr_block=IPv4Network("10.20.0.0/24"),
    vpc_ipv4_cidr_block=IPv4Network("10.20.0.0/16"),
    vpc_ipv4_cidr_blocks=(IPv4Network("10.20.0.0/16"), IPv4Network("100.64.0.0/16")),
    public_ipv4s=(IPv4Address("198.51.100.7"),),
    ipv4_associations={IPv4Address("198.51.100.7"): (IPv4Address("10.20.0.10"),)},
)
SECOND = InterfaceMetadata(
    mac="0a:11:22:33:44:66",
    interface_id="eni-0bbb",
    device_number=1,
    network_card=0,
    subnet_id="subnet-1",
    vpc_id="vpc-1",
    owner_id="123456789012",
    ipv4_prefixes=(IPv4Network("10.20.0.32/28"),),
    ipv6_prefixes=(IPv6Network("2001:db8:0:0:1::/80"),),
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
    interfaces=(FIRST, SECOND),
    iam_role="node",
)


class Instance:
    """An instance whose metadata and clock the test turns."""

    def __init__(self, metadata: InstanceMetadata | None = METADATA, hop_limit: int | None = None) -> None:
        self.metadata, self.now = metadata, 1000.0
        service = ImdsService(lambda: self.metadata, lambda: self.now, hop_limit=hop_limit, rng=random.Random(1))
        self.app = service.app()


def with_client(instance: Instance, scenario: Callable[[TestClient], Awaitable[None]]) -> None:
    """Run a scenario against a real server on a loopback port."""

    async def run() -> None:
        async with TestClient(TestServer(instance.app)) as client:
            await scenario(client)

    asyncio.run(run())


async def token(client: TestClient, ttl: str = "60") -> str:
    answer = await client.put("/latest/api/token", headers={TTL: ttl})
    assert answer.status == 200
    assert answer.headers[TTL] == ttl
    return await answer.text()


def test_a_read_needs_a_token_and_the_token_ends_with_its_life_time():
    instance = Instance()

    async def scenario(client: TestClient) -> None:
        path = "/latest/meta-data/instance-id"
        assert (await client.get(path)).status == 401
        assert (await client.get(path, headers={TOKEN: "invented"})).status == 401
        headers = {TOKEN: await token(client)}
        answer = await client.get(path, headers=headers)
        assert (answer.status, await answer.text()) == (200, "i-0abc")
        instance.now += 59.9
        assert (await client.get(path, headers=headers)).status == 200
        instance.now += 0.1
        assert (await client.get(path, headers=headers)).status == 401

    with_client(instance, scenario)


def test_where_tokens_are_optional_none_is_needed_but_a_wrong_one_is_refused():
    async def scenario(client: TestClient) -> None:
        path = "/latest/meta-data/instance-id"
        assert (await client.get(path)).status == 200
        assert (await client.get(path, headers={TOKEN: "invented"})).status == 401

    with_client(Instance(replace(METADATA, http_tokens_required=False)), scenario)


@pytest.mark.parametrize("ttl", [None, "", "0", "21601", "-1", "1.5", "sixty", "6\u0660"])
def test_a_token_request_without_a_life_time_from_1_to_21600_is_refused(ttl):
    async def scenario(client: TestClient) -> None:
        headers = {} if ttl is None else {TTL: ttl}
        assert (await client.put("/latest/api/token", headers=headers)).status == 400
        assert await token(client, "1")
        assert await token(client, "21600")

    with_client(Instance(), scenario)


def test_a_token_request_that_came_through_a_proxy_is_refused():
    async def scenario(client: TestClient) -> None:
        headers = {TTL: "60", "X-Forwarded-For": "10.0.0.1"}
        assert (await client.put("/latest/api/token", headers=headers)).status == 403

    with_client(Instance(), scenario)


def test_other_methods_are_refused():
    async def scenario(client: TestClient) -> None:
        assert (await client.get("/latest/api/token")).status == 405
        assert (await client.post("/latest/meta-data/mac", headers={TOKEN: await token(client)})).status == 405

    with_client(Instance(), scenario)


def test_what_is_not_there_is_a_page_with_404():
    async def scenario(client: TestClient) -> None:
        headers = {TOKEN: await token(client)}
        for path in (
            "/latest/meta-data/nothing",
            "/latest/meta-data/mac/x",
            "/latest/user-data",
            "/nowhere",
            "/latest/x",
        ):
            answer = await client.get(path, headers=headers)
            assert answer.status == 404, path
            assert "404 - Not Found" in await answer.text()

    with_client(Instance(), scenario)


@pytest.mark.parametrize(("metadata", "expected"), [(replace(METADATA, http_endpoint_enabled=False), 403), (None, 503)])
def test_a_switched_off_endpoint_and_a_stopped_instance_answer_nothing_else(metadata, expected):
    async def scenario(client: TestClient) -> None:
        assert (await client.put("/latest/api/token", headers={TTL: "60"})).status == expected

    with_client(Instance(metadata), scenario)


def test_what_an_eni_gains_is_seen_by_the_next_read():
    instance = Instance(replace(METADATA, interfaces=(FIRST,)))

    async def scenario(client: TestClient) -> None:
        headers = {TOKEN: await token(client)}
        path = "/latest/meta-data/network/interfaces/macs/"
        assert await (await client.get(path, headers=headers)).text() == "0a:11:22:33:44:55/"
        instance.metadata = METADATA
        assert await (await client.get(path, headers=headers)).text() == "0a:11:22:33:44:55/\n0a:11:22:33:44:66/"

    with_client(instance, scenario)


@pytest.mark.parametrize("hop_limit", [1, 2])
def test_only_token_answers_travel_with_the_hop_limit_as_their_ttl(hop_limit):
    hops: list[int] = []
    instance = Instance(hop_limit=hop_limit)

    async def scenario(client: TestClient) -> None:
        headers = {TOKEN: await token(client)}
        for _ in range(2):
            await client.get("/latest/meta-data/mac", headers=headers)
        await token(client)

    async def note(request, response):
        hops.append(request.transport.get_extra_info("socket").getsockopt(socket.IPPROTO_IP, socket.IP_TTL))

    instance.app.on_response_prepare.append(note)
    with_client(instance, scenario)
    assert hops == [hop_limit, 64, 64, hop_limit]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/latest", "dynamic/\nmeta-data/"),
        ("/latest/meta-data/placement", "availability-zone\navailability-zone-id\nregion"),
        ("/latest/meta-data/network/interfaces/macs", "0a:11:22:33:44:55/\n0a:11:22:33:44:66/"),
        ("/latest/meta-data/network/interfaces/macs/0a:11:22:33:44:55/local-ipv4s", "10.20.0.10\n10.20.0.11"),
        ("/latest/meta-data/network/interfaces/macs/0a:11:22:33:44:55/security-group-ids", "sg-2\nsg-1"),
        ("/latest/meta-data/network/interfaces/macs/0a:11:22:33:44:66/device-number", "1"),
        ("/latest/meta-data/network/interfaces/macs/0a:11:22:33:44:55/ipv4-associations/198.51.100.7", "10.20.0.10"),
        ("/latest/meta-data/network/interfaces/macs/0a:11:22:33:44:66/ipv4-prefix", "10.20.0.32/28"),
        ("/latest/meta-data/network/interfaces/macs/0a:11:22:33:44:66/ipv6-prefix", "2001:db8:0:0:1::/80"),
        ("/2021-03-23/meta-data/mac", "0a:11:22:33:44:55"),
    ],
)  # fmt: skip
def test_the_tree_holds_what_the_instance_has_with_and_without_a_trailing_slash(path, expected):
    assert find(METADATA, path, 0.0) == expected
    assert find(METADATA, path + "/", 0.0) == expected


def test_keys_without_a_value_are_neither_listed_nor_there():
    listing = find(METADATA, "/latest/meta-data/network/interfaces/macs/" + SECOND.mac, 0.0)
    assert listing is not None
    assert "ipv4-prefix" in listing.split()
    assert "local-ipv4s" not in listing.split()
    assert "network-card" not in listing.split(), "types with one card do not show it"
    assert find(METADATA, f"/latest/meta-data/network/interfaces/macs/{SECOND.mac}/local-ipv4s", 0.0) is None


def test_the_card_is_shown_where_an_instance_has_several():
    metadata = replace(METADATA, interfaces=(FIRST, replace(SECOND, network_card=1)))
    root = "/latest/meta-data/network/interfaces/macs/"
    assert [find(metadata, f"{root}{one.mac}/network-card", 0.0) for one in metadata.interfaces] == ["0", "1"]


def test_every_listed_key_of_the_tree_can_be_read():
    def walk(path: str) -> int:
        text = find(METADATA, path, 0.0)
        assert text, path
        names = text.split("\n") if path.endswith("/") else []
        return 1 + sum(walk(path + name) for name in names)

    assert walk("/latest/meta-data/") > 40


def test_the_identity_document_and_the_roles_credentials_are_json():
    document = json.loads(find(METADATA, "/latest/dynamic/instance-identity/document", 0.0) or "")
    assert (document["region"], document["instanceId"]) == ("us-west-2", "i-0abc")
    assert find(METADATA, "/latest/meta-data/iam/security-credentials/", 0.0) == "node"
    credentials = json.loads(find(METADATA, "/latest/meta-data/iam/security-credentials/node", 7200.0) or "")
    assert credentials["Code"] == "Success"
    assert credentials["Expiration"] == "1970-01-01T08:00:00Z"
    assert find(replace(METADATA, iam_role=""), "/latest/meta-data/iam/", 0.0) is None


def test_expired_tokens_are_forgotten_and_no_token_is_given_twice():
    tokens = Tokens(random.Random(0))
    given = [tokens.issue(now, 1) for now in range(100)]
    assert len(set(given)) == 100
    assert [tokens.valid(99.0, one) for one in given] == [False] * 99 + [True]
