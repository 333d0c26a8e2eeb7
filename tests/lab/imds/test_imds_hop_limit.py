# SPDX-License-Identifier: Apache-2.0
"""The hop limit in the kernel: a token answer reaches the instance's own namespace, and a pod's only if it may."""

from __future__ import annotations

import asyncio
import http.client
import os
import random
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from aiohttp import web

from vpccni.lab.cloud.metadata import InstanceMetadata
from vpccni.lab.imds import ImdsService
from vpccni.netlink.namespace import inside

pytestmark = [pytest.mark.netns, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

METADATA = InstanceMetadata(
    instance_id="i-0abc",
    instance_type="m5.large",
    ami_id="ami-1",
    account_id="123456789012",
    region="us-west-2",
    availability_zone="us-west-2a",
    availability_zone_id="usw2-az1",
    mac="0a:11:22:33:44:55",
    local_ipv4=IPv4Address("10.20.0.10"),
    local_hostname="",
    hostname="",
)


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, timeout=10)


@contextmanager
def within(name: str) -> Iterator[None]:
    """The calling thread in a namespace, there and back."""
    handle = os.open(f"/run/netns/{name}", os.O_RDONLY)
    try:
        with inside(handle):
            yield
    finally:
        os.close(handle)


@pytest.fixture
def chain() -> Iterator[tuple[str, str, str]]:
    """Namespaces in a row: the service's, the instance's (which forwards), a pod's."""
    names = [f"vt-{os.getpid()}-{random.randrange(10**6)}-{role}" for role in ("imds", "node", "pod")]
    service, node, pod = names
    try:
        for name in names:
            ip("netns", "add", name)
            ip("-n", name, "link", "set", "lo", "up")
        for left, right, number in ((service, node, 1), (node, pod, 2)):
            ip("-n", left, "link", "add", f"r{number}", "type", "veth", "peer", "name", f"l{number}", "netns", right)
            ip("-n", left, "addr", "add", f"10.99.{number}.1/24", "dev", f"r{number}")
            ip("-n", right, "addr", "add", f"10.99.{number}.2/24", "dev", f"l{number}")
            ip("-n", left, "link", "set", f"r{number}", "up")
            ip("-n", right, "link", "set", f"l{number}", "up")
        ip("-n", service, "route", "add", "10.99.2.0/24", "via", "10.99.1.2")
        ip("-n", pod, "route", "add", "default", "via", "10.99.2.1")
        with within(node):
            Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
        yield service, node, pod
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True, timeout=10)


@contextmanager
def serving_in(name: str, hop_limit: int) -> Iterator[None]:
    """The service on 10.99.1.1:80 of a namespace."""
    with within(name):
        listener = socket.create_server(("10.99.1.1", 80))
    loop, ready, stop = asyncio.new_event_loop(), threading.Event(), asyncio.Event()

    async def serve() -> None:
        runner = web.AppRunner(ImdsService(lambda: METADATA, hop_limit=hop_limit).app(), access_log=None)
        await runner.setup()
        await web.SockSite(runner, listener).start()
        ready.set()
        await stop.wait()
        await runner.cleanup()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()), daemon=True)
    thread.start()
    assert ready.wait(10)
    try:
        yield
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)
        loop.close()


def token_from(name: str) -> str:
    """Ask for a token from within a namespace. Raises TimeoutError when the answer does not get there."""
    with within(name):
        connection = http.client.HTTPConnection("10.99.1.1", 80, timeout=1)
        connection.connect()
    try:
        connection.request("PUT", "/latest/api/token", headers={"X-aws-ec2-metadata-token-ttl-seconds": "60"})
        return connection.getresponse().read().decode()
    finally:
        connection.close()


def test_with_one_hop_a_token_reaches_the_instance_but_not_its_pods(chain):
    service, node, pod = chain
    with serving_in(service, 1):
        assert token_from(node)
        with pytest.raises(TimeoutError):
            token_from(pod)


def test_with_two_hops_a_token_reaches_the_pods_too(chain):
    service, node, pod = chain
    with serving_in(service, 2):
        assert token_from(node)
        assert token_from(pod)
