# SPDX-License-Identifier: Apache-2.0
"""The metadata service through the fabric: the port says who asks, and the kernel keeps the hop limit."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address

import pytest
from netns_world import World

from vpccni.lab.cloud.metadata import InstanceMetadata
from vpccni.lab.metadata import MetadataEndpoints

pytestmark = [pytest.mark.netns, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

ANY = InstanceMetadata("", "m5.large", "ami-1", "1", "eu-central-1", "eu-central-1a", "euc1-az1", "", None, "h", "h")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    made = World(tmp_path_factory.mktemp("lab"))
    yield made
    made.close()


async def fetch(world: World, place: str) -> str:
    """The instance id as a program in that namespace gets it; empty when the service does not answer."""
    script = (
        'T=$(curl -s -m 0.8 -X PUT -H "X-aws-ec2-metadata-token-ttl-seconds: 60" 169.254.169.254/latest/api/token)'
        ' && curl -s -m 0.8 -H "X-aws-ec2-metadata-token: $T" 169.254.169.254/latest/meta-data/instance-id'
    )
    argv = ["nsenter", f"--net={world.netns(place)}", "sh", "-c", script]
    child = await asyncio.create_subprocess_exec(*argv, stdout=asyncio.subprocess.PIPE)
    return (await child.communicate())[0].decode()


def answers(world: World, hop_limit: int, *places: str) -> list[str]:
    async def ask() -> list[str]:
        view = lambda instance_id: replace(ANY, instance_id=instance_id, http_put_response_hop_limit=hop_limit)  # noqa: E731
        endpoints = MetadataEndpoints(world.fabric.router.fd, view)
        for node in "ab":
            await endpoints.open(f"i-{node}", world.fabric.port_of(f"eni-{node}0"))
        try:
            return [await fetch(world, place) for place in places]
        finally:
            for node in "ab":
                await endpoints.close(world.fabric.port_of(f"eni-{node}0"))

    return asyncio.run(ask())


def test_every_node_gets_its_own_metadata_at_the_one_address(world: World) -> None:
    assert answers(world, 1, "a", "b") == ["i-a", "i-b"]


def test_a_pod_behind_a_node_needs_a_hop_limit_of_two(world: World) -> None:
    world.own("eni-a0", "10.20.0.10", str(IPv4Address("10.20.0.11")))
    pod = world.pod("a", "10.20.0.11")
    assert answers(world, 1, pod) == [""]
    assert answers(world, 2, pod) == ["i-a"]


def test_a_closed_port_is_not_served_any_more(world: World) -> None:
    async def ask() -> str:
        endpoints = MetadataEndpoints(world.fabric.router.fd, lambda instance_id: replace(ANY, instance_id=instance_id))
        port = world.fabric.port_of("eni-a0")
        await endpoints.open("i-a", port)
        await endpoints.close(port)
        return await fetch(world, "a")

    assert asyncio.run(ask()) == ""
