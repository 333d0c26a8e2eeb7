# SPDX-License-Identifier: Apache-2.0
"""Who reaches whom, and who the other side saw: real TCP from inside the namespaces.

Knows endpoints of the lab and how to name an address. Must never conclude from configuration: a pair is reachable when
a server answered. Every connection is a socket created in its source's namespace and driven by this one process.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Literal

from vpccni.errors import InputError
from vpccni.lab.sockets import namespace_handle, tcp_socket
from vpccni.lab.state import LabState, PodRecord
from vpccni.netlink.namespace import NETNS_DIR

PORT = 80
# One retransmission of a lost first packet (after 1 s) still counts as reachable: a link that came up a moment ago may
# drop it, on EC2 as well.
TIMEOUT_S = 1.5
CONCURRENCY = 100
VERSIONS = (4, 6)
_REQUEST = b"GET / HTTP/1.0\r\nHost: lab\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A pod, a node or a host outside. `others` are its addresses beside the main one."""

    kind: Literal["pod", "node", "host"]
    name: str
    netns: Path
    address: str
    others: tuple[str, ...] = ()

    @property
    def addresses(self) -> tuple[str, ...]:
        """All of them, the main one first."""
        return (self.address, *self.others)

    def of(self, version: int) -> str:
        """Its first address of an IP version, empty when it has none."""
        return next((text for text in self.addresses if ip_address(text).version == version), "")

    @property
    def label(self) -> str:
        """How the matrix calls it."""
        return f"{self.kind} {self.name}" if self.kind != "pod" else self.name


@dataclass(frozen=True, slots=True)
class Outcome:
    """One pair. `seen` is the source address that the server saw, `seen_is` whose that is."""

    source: str
    destination: str
    address: str
    reached: bool
    seen: str = ""
    seen_is: str = ""
    answered_by: str = ""
    took_ms: float = 0.0
    error: str = ""


def endpoints(state: LabState, inventory: Mapping[str, Any], pods: Iterable[PodRecord]) -> list[Endpoint]:
    """Everything of the lab that can speak: pods, then nodes, then hosts."""
    found = [
        Endpoint("pod", pod.label, Path(pod.netns), pod.addresses[0], pod.addresses[1:])
        for pod in pods
        if pod.addresses
    ]
    for node in inventory["nodes"]:
        netns = NETNS_DIR / state.node_namespace(node["name"])
        found.append(Endpoint("node", node["name"], netns, node["private_address"], _ipv6(node)))
    for row in inventory["hosts"]:
        found.append(Endpoint("host", row["name"], NETNS_DIR / row["namespace"], row["address"], _ipv6(row)))
    return found


def _ipv6(row: Mapping[str, Any]) -> tuple[str, ...]:
    return (row["ipv6_address"],) if row.get("ipv6_address") else ()


def choose(all_: Sequence[Endpoint], name: str, kinds: Sequence[str]) -> Endpoint:
    """The endpoint of that name (`1`, `node/1`, `web`, `default/web`, a host or its address); InputError if none."""
    kind, _, rest = name.partition("/")
    for endpoint in all_:
        if endpoint.kind not in kinds:
            continue
        names = {endpoint.name, f"{endpoint.kind}/{endpoint.name}", f"default/{endpoint.name}", *endpoint.addresses}
        if name in names or (kind == endpoint.kind and rest == endpoint.name):
            return endpoint
    known = ", ".join(endpoint.name for endpoint in all_ if endpoint.kind in kinds) or "none"
    raise InputError(f"use {name!r}", f"no {' or '.join(kinds)} of that name; there are: {known}")


def owners(inventory: Mapping[str, Any], pods: Iterable[PodRecord]) -> dict[str, str]:
    """Address: whose it is, in words."""
    names: dict[str, str] = {}
    for node in inventory["nodes"]:
        for eni in node["enis"]:
            names.update(
                dict.fromkeys(
                    (eni["primary_address"], *eni["ipv6_addresses"]), f"node {node['name']}'s {eni['device']}"
                )
            )
        names.update(dict.fromkeys((node["private_address"], *_ipv6(node)), f"node {node['name']}'s primary address"))
        if node["public_address"]:
            names[node["public_address"]] = f"public address of node {node['name']}"
    for host in inventory["hosts"]:
        names.update(dict.fromkeys((host["address"], *_ipv6(host)), f"host {host['name']}"))
    names.update({address: f"pod {pod.label}" for pod in pods for address in pod.addresses})
    return names


def attempts(
    pairs: Iterable[tuple[Endpoint, Endpoint]], versions: Sequence[int] = VERSIONS
) -> list[tuple[Endpoint, Endpoint]]:
    """Each pair once per IP version that both speak, with that version's addresses as the main ones."""
    found = []
    for pair in pairs:
        for version in versions:
            source, destination = (replace(end, address=end.of(version), others=()) for end in pair)
            if source.address and destination.address:
                found.append((source, destination))
    return found


async def probe(
    pairs: Sequence[tuple[Endpoint, Endpoint]], names: Mapping[str, str], timeout_s: float = TIMEOUT_S
) -> list[Outcome]:
    """Try every pair's main addresses, at most `CONCURRENCY` at a time; outcomes in the order of the pairs."""
    gate = asyncio.Semaphore(CONCURRENCY)
    with contextlib.ExitStack() as stack:
        sources = {source.netns for source, _ in pairs}
        handles = {netns: stack.enter_context(namespace_handle(netns)) for netns in sources}

        async def one(source: Endpoint, destination: Endpoint) -> Outcome:
            async with gate:
                return await _try(source, destination, handles[source.netns], names, timeout_s)

        return list(await asyncio.gather(*(one(*pair) for pair in pairs)))


async def _try(
    source: Endpoint, destination: Endpoint, netns_fd: int, names: Mapping[str, str], timeout_s: float
) -> Outcome:
    pair = (source.label, destination.label, destination.address)
    started = time.monotonic()
    sock = tcp_socket(netns_fd, destination.address)
    try:
        if source.kind == "host":
            sock.bind((source.address, 0))  # hosts of one kind share a namespace
        answer = await asyncio.wait_for(_ask(sock, destination.address), timeout_s)
    except (OSError, ValueError, TimeoutError) as error:
        return Outcome(*pair, reached=False, error=_reason(error))
    finally:
        sock.close()
    seen = str(answer["client"])
    whose = "own address" if seen == source.address else names.get(seen, "unknown")
    took_ms = round((time.monotonic() - started) * 1000, 2)
    server = str(answer["server"])
    right = destination.kind != "pod" or server == destination.name
    return Outcome(*pair, right, seen, whose, server, took_ms, "" if right else f"answered by {server}")


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno).lower()
    return "no answer" if isinstance(error, TimeoutError) else str(error)


async def _ask(sock: Any, address: str) -> dict[str, Any]:
    loop = asyncio.get_running_loop()
    await loop.sock_connect(sock, (address, PORT))
    await loop.sock_sendall(sock, _REQUEST)
    received = b""
    while chunk := await loop.sock_recv(sock, 65536):
        received += chunk
    answer: dict[str, Any] = json.loads(received.partition(b"\r\n\r\n")[2])
    return answer
