# SPDX-License-Identifier: Apache-2.0
"""The pods' server, the held connection and the probe, between namespaces joined by a plain veth."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Interface
from pathlib import Path
from typing import Any

import pytest

from vpccni.errors import InputError
from vpccni.lab.held import HeldConnection
from vpccni.lab.probe import Endpoint, attempts, choose, probe
from vpccni.lab.router import make_namespace
from vpccni.lab.servers import Servers
from vpccni.lab.sockets import NamespaceHttp, plain
from vpccni.lab.state import PodRecord
from vpccni.netlink import namespace
from vpccni.netlink.namespace import NETNS_DIR
from vpccni.netlink.socket import RouteSocket
from vpccni.netlink.values import Address, Link, add, set_link

pytestmark = [pytest.mark.netns, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]
A, B = "10.9.0.1", "10.9.0.2"


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[Path, Path]]:
    names = [f"vt-{os.getpid()}-srv{letter}" for letter in "ab"]
    first, second = (make_namespace(name) for name in names)
    with RouteSocket(first) as one, RouteSocket(second) as other:
        one.run(add(Link("x", index=7, kind="veth", up=True, peer=Link("x", netns_fd=second))))
        link = other.link("x")
        assert link
        other.run(set_link(Link("x", index=link.index, up=True)))
        one.run(add(Address(IPv4Interface(f"{A}/24"), 7)))
        other.run(add(Address(IPv4Interface(f"{B}/24"), link.index)))
    yield NETNS_DIR / names[0], NETNS_DIR / names[1]
    for handle, name in zip((first, second), names, strict=True):
        os.close(handle)
        namespace.remove(name)


class Running:
    """Servers on a loop of their own thread, as the lab daemon would run them."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()
        self.servers = Servers()

    def call(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(5)

    def stop(self, label: str) -> bool:
        async def on_the_loop() -> bool:
            return self.servers.stop(label)

        return bool(self.call(on_the_loop()))

    def close(self) -> None:
        for label in self.servers.labels():
            self.stop(label)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()


@pytest.fixture
def serve(pair: tuple[Path, Path]) -> Iterator[Running]:
    running = Running()
    running.call(running.servers.start("web", pair[1], {"node": "1"}))
    yield running
    running.close()


def test_the_server_says_who_it_is_and_whom_it_sees(serve: Running, pair: tuple[Path, Path]) -> None:
    connection = NamespaceHttp(pair[0], B, 80)
    connection.request("GET", "/")
    answer = connection.getresponse()
    assert answer.status == 200
    text = answer.read().decode()
    for part in ('"server": "web"', f'"client": "{A}"', f'"address": "{B}"', '"node": "1"'):
        assert part in text


def test_a_held_connection_notices_that_its_server_is_gone(serve: Running, pair: tuple[Path, Path]) -> None:
    source = PodRecord("default", "a", "1", "c", str(pair[0]), (A,))
    with HeldConnection(source, PodRecord("default", "web", "1", "d", str(pair[1]), (B,))) as held:
        assert held.exchange() and held.exchange()
        held._socket.shutdown(2)
        assert not held.exchange()
    assert "2 lines" in str(held)


def probe_one(pair: tuple[Path, Path], label: str = "web", address: str = B) -> Any:
    source, target = Endpoint("pod", "a", pair[0], A), Endpoint("pod", label, pair[1], address)
    return asyncio.run(probe([(source, target)], {}, timeout_s=0.4))[0]


def test_the_probe_reaches_what_answers_and_nothing_else(serve: Running, pair: tuple[Path, Path]) -> None:
    good = probe_one(pair)
    assert good.reached and good.seen == A and good.seen_is == "own address" and good.answered_by == "web"
    assert not probe_one(pair, address="10.9.0.77").reached
    assert "answered by web" in probe_one(pair, label="other").error  # the right address, but somebody else has it
    assert serve.stop("web") and not serve.stop("web")
    refused = probe_one(pair)
    assert not refused.reached and "refused" in refused.error.lower()


def test_a_pair_is_tried_once_in_each_family_that_both_ends_speak() -> None:
    both = Endpoint("pod", "both", Path("/b"), "10.0.0.1", ("2001:db8::1",))
    four, six = Endpoint("pod", "four", Path("/4"), "10.0.0.4"), Endpoint("pod", "six", Path("/6"), "2001:db8::6")

    def tried(*pair: Endpoint, versions: tuple[int, ...] = (4, 6)) -> list[tuple[str, ...]]:
        return [(source.address, target.address) for source, target in attempts([(pair[0], pair[1])], versions)]

    assert tried(both, replace(both, name="other")) == [("10.0.0.1", "10.0.0.1"), ("2001:db8::1", "2001:db8::1")]
    assert tried(both, six) == [("2001:db8::1", "2001:db8::6")] and tried(four, both) == [("10.0.0.4", "10.0.0.1")]
    assert tried(four, six) == [] == tried(both, six, versions=(4,))
    assert choose([both, six], "2001:db8::1", ("pod",)) is both


def test_a_mapped_address_is_shown_as_its_owner_writes_it() -> None:
    assert (
        plain("::ffff:10.0.0.1") == "10.0.0.1" == plain("10.0.0.1") and plain("2001:db8::ffff:1") == "2001:db8::ffff:1"
    )


def test_an_endpoint_is_chosen_by_kind_and_name() -> None:
    known = [Endpoint("pod", "1", Path("/p"), "10.0.0.1"), Endpoint("node", "1", Path("/n"), "10.0.0.2")]

    def find(name: str) -> Endpoint:
        return choose(known, name, ("pod", "node"))

    assert find("1").kind == "pod" and find("node/1").kind == "node" and find("10.0.0.2").kind == "node"
    with pytest.raises(InputError, match="there are: 1"):
        choose(known, "2", ("pod",))
