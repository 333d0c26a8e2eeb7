# SPDX-License-Identifier: Apache-2.0
"""One question and one answer over TCP or UDP between two namespaces, and a server that says whom it saw.

Knows sockets that live in other namespaces than this process. Must never know what a flow is expected to do. `run`
calls it; the servers are in this one process, so that a pod needs no program in it.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from vpccni.errors import HostError
from vpccni.lab.sockets import namespace_handle
from vpccni.netlink.namespace import inside
from vpccni.netlink.values import IPAddress
from vpccni.selftest.capture import Capture, Packet

ATTEMPTS = 20  # to find a port that is free for both protocols
UDP_AGAIN_S = 0.5
_KINDS = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}
# A server of ours answers both lines; a stranger's HTTP server is content with the request.
QUESTION = b"GET / HTTP/1.0\r\nHost: selftest\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of one exchange. `seen` and `seen_port` are empty when the far end does not tell."""

    reached: bool
    port: int
    seen: str = ""
    seen_port: int = 0
    error: str = ""
    took_ms: float = 0.0
    packets: tuple[Packet, ...] = ()


class Servers:
    """Servers in other namespaces, until `close`."""

    def __init__(self) -> None:
        self._closing: list[asyncio.Server | asyncio.DatagramTransport] = []

    async def start(self, netns: Path, address: IPAddress) -> int:
        """Answer on one address with TCP and UDP; the port, the same for both."""
        with namespace_handle(netns) as handle:
            stream, datagram, port = _pair(handle, address)
        loop = asyncio.get_running_loop()
        self._closing.append(await loop.create_server(_Stream, sock=stream))
        transport, _ = await loop.create_datagram_endpoint(_Datagrams, sock=datagram)
        self._closing.append(transport)
        return port

    def close(self) -> None:
        """Stop all of them."""
        for each in self._closing:
            each.close()
        self._closing.clear()


class _Stream(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, chunk: bytes) -> None:
        self._transport.write(_told(self._transport.get_extra_info("peername")))
        self._transport.close()


class _Datagrams(asyncio.DatagramProtocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # asyncio's own datagram transport is no instance of its DatagramTransport before Python 3.12.
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, chunk: bytes, addr: tuple[str, int]) -> None:
        self._transport.sendto(_told(addr), addr)


def _told(peer: Sequence[object]) -> bytes:
    return b"HTTP/1.0 200 OK\r\n\r\n" + json.dumps({"client": peer[0], "port": peer[1]}).encode() + b"\n"


async def ask(
    netns: Path, source: IPAddress | None, target: IPAddress, port: int, protocol: str, timeout_s: float, node_fd: int
) -> Answer:
    """Ask from a namespace (`source`: bind to that address first), watching what leaves the node meanwhile."""
    with namespace_handle(netns) as handle, Capture(node_fd) as tap:
        sock = _socket(handle, target, protocol)
        started = time.monotonic()
        answer, error = b"", ""
        try:
            if source is not None:
                sock.bind((str(source), 0))
            answer = await asyncio.wait_for(_converse(sock, (str(target), port), protocol), timeout_s)
        except TimeoutError:
            error = "no answer"
        except OSError as failure:
            error = os.strerror(failure.errno).lower() if failure.errno else str(failure)
        took_ms = round((time.monotonic() - started) * 1000, 2)
        own_port = int(sock.getsockname()[1])
        sock.close()
        packets = tuple(tap.packets())
    seen, seen_port = _read(answer)
    return Answer(bool(answer), own_port, seen, seen_port, error or ("" if answer else "closed"), took_ms, packets)


async def _converse(sock: socket.socket, target: tuple[str, int], protocol: str) -> bytes:
    loop = asyncio.get_running_loop()
    await loop.sock_connect(sock, target)
    if protocol == "tcp":
        await loop.sock_sendall(sock, QUESTION)
        return await loop.sock_recv(sock, 65536)
    while True:
        await loop.sock_sendall(sock, QUESTION)
        try:
            return await asyncio.wait_for(loop.sock_recv(sock, 65536), UDP_AGAIN_S)
        except TimeoutError:
            continue  # a datagram may be lost; whoever waits for us says when to give up


def _read(answer: bytes) -> tuple[str, int]:
    try:
        told = json.loads(answer.partition(b"\r\n\r\n")[2])
        return str(told["client"]), int(told["port"])
    except (ValueError, KeyError, TypeError):
        return "", 0


def _socket(netns_fd: int, address: IPAddress, protocol: str) -> socket.socket:
    family = socket.getaddrinfo(str(address), None, flags=socket.AI_NUMERICHOST)[0][0]
    with inside(netns_fd):
        return socket.socket(family, _KINDS[protocol] | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)


def _pair(netns_fd: int, address: IPAddress) -> tuple[socket.socket, socket.socket, int]:
    """A TCP listener and a UDP socket with one port number."""
    for _ in range(ATTEMPTS):
        stream, datagram = (_socket(netns_fd, address, protocol) for protocol in ("tcp", "udp"))
        try:
            stream.bind((str(address), 0))
            port = int(stream.getsockname()[1])
            datagram.bind((str(address), port))
            stream.listen(16)
        except OSError as error:
            stream.close()
            datagram.close()
            refusal = error
            continue
        return stream, datagram, port
    raise HostError(f"listen on {address}", str(refusal))
