# SPDX-License-Identifier: Apache-2.0
"""Questions, answers and captures between two namespaces, with real packets."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from ipaddress import ip_address, ip_interface
from pathlib import Path

import pytest

from vpccni.netlink import namespace
from vpccni.netlink.namespace import NETNS_DIR
from vpccni.netlink.socket import RouteSocket
from vpccni.netlink.values import Address, Link, Route, add, set_link
from vpccni.selftest.capture import parse
from vpccni.selftest.exchange import Answer, Servers, ask

pytestmark = pytest.mark.netns
NEAR = {4: ip_address("192.0.2.1"), 6: ip_address("2001:db8::1")}
FAR = {4: ip_address("192.0.2.2"), 6: ip_address("2001:db8::2")}


@pytest.fixture
def pair() -> Iterator[tuple[Path, Path]]:
    """Two namespaces with a cable: n0 and n1."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    names = [f"vs-{os.getpid()}-{end}" for end in ("near", "far")]
    fds = [namespace.create(name) for name in names]
    with RouteSocket(fds[0]) as near, RouteSocket(fds[1]) as far:
        near.run(add(Link("n0", kind="veth", up=True, peer=Link("n1", netns_fd=fds[1]))))
        far.run(set_link(Link("n1", up=True)))
        for kernel, link, own, other in ((near, "n0", NEAR, FAR), (far, "n1", FAR, NEAR)):
            found = kernel.link(link)
            assert found is not None
            for version in (4, 6):
                kernel.run(add(Address(ip_interface(own[version]), found.index, nodad=version == 6)))
                kernel.run(add(Route(ip_interface(other[version]).network, found.index, scope="link")))
    yield NETNS_DIR / names[0], NETNS_DIR / names[1]
    for fd, name in zip(fds, names, strict=True):
        os.close(fd)
        namespace.remove(name)


def converse(pair: tuple[Path, Path], protocol: str, version: int, *, wrong: int = 0, timeout_s: float = 2.0) -> Answer:
    async def run() -> Answer:
        servers = Servers()
        port = await servers.start(pair[1], FAR[version])
        handle = os.open(pair[0], os.O_RDONLY)
        try:
            return await ask(pair[0], None, FAR[version], port + wrong, protocol, timeout_s, handle)
        finally:
            os.close(handle)
            servers.close()

    return asyncio.run(run())


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_the_far_end_tells_whom_it_saw_and_the_capture_by_which_device(pair, protocol: str, version: int) -> None:
    answer = converse(pair, protocol, version)
    assert answer.reached and (answer.seen, answer.seen_port) == (str(NEAR[version]), answer.port)
    first = next(one for one in answer.packets if one.target == str(FAR[version]))
    assert (first.device, first.protocol, first.source, first.source_port) == (
        "n0",
        protocol,
        str(NEAR[version]),
        answer.port,
    )


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_a_closed_port_is_a_refusal_and_a_cut_cable_silence(pair, protocol: str) -> None:
    refused = converse(pair, protocol, 4, wrong=1)
    assert not refused.reached and "refused" in refused.error
    handle = namespace.open_namespace(str(pair[1]))
    with RouteSocket(handle) as kernel:
        kernel.run(set_link(Link("n1", up=False), "up"))
        silent = converse(pair, protocol, 4, timeout_s=0.3)
    os.close(handle)
    assert not silent.reached and silent.seen == ""


def test_what_is_neither_tcp_nor_udp_or_cut_short_is_no_packet() -> None:
    tcp = bytes([0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2, 0, 80, 1, 0])
    found = parse("n0", 0x0800, tcp)
    assert found is not None and (found.source_port, found.target_port) == (80, 256)
    assert parse("n0", 0x0800, tcp[:9] + bytes([1]) + tcp[10:]) is None  # ICMP
    assert parse("n0", 0x0800, tcp[:6] + bytes([0, 9]) + tcp[8:]) is None  # a later fragment
    assert parse("n0", 0x0800, tcp[:22]) is None
    assert parse("n0", 0x0806, tcp) is None
