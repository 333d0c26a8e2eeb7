# SPDX-License-Identifier: Apache-2.0
"""Real traffic between two namespaces, measured: TCP round trips, bulk TCP, who is seen, and what is on the wire.

Knows sockets that live in other namespaces. Must never know what lies between the two ends or judge a figure. The
server of a measurement is a forked child, so that the two ends do not share an interpreter's lock. `lab.comparison`
calls it.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from vpccni.errors import HostError
from vpccni.lab.sockets import namespace_handle
from vpccni.netlink.namespace import inside

PORT = 7799
WAIT_S = 3.0  # for a connection, and for a frame on the wire
CHUNK = 1 << 17
SAMPLE_BYTES = 100  # of payload, whose way over the wire is looked at
_ETH_P_ALL = 3
_OUTGOING = 4  # PACKET_OUTGOING


@dataclass(frozen=True, slots=True)
class End:
    """One end of a conversation: a namespace and an address in it."""

    netns: Path
    address: str


@dataclass(frozen=True, slots=True)
class RoundTrips:
    """One byte there and back, again and again: how many a second, and how long one takes."""

    per_s: float
    p50_us: float
    p99_us: float


def round_trips(client: End, server: End, seconds: float) -> RoundTrips:
    """TCP with one byte in each direction, for so long."""
    took: list[int] = []

    def ask(sock: socket.socket) -> None:
        until = time.perf_counter_ns() + int(seconds * 1e9)
        now = time.perf_counter_ns()
        while now < until:
            sock.sendall(b"?")
            if not sock.recv(1):
                raise HostError("measure round trips", f"{server.address} closed the connection")
            then, now = now, time.perf_counter_ns()
            took.append(now - then)

    started = time.perf_counter_ns()
    _converse(client, server, ask, _echo)
    elapsed_s = (time.perf_counter_ns() - started) / 1e9
    took.sort()
    p50_us, p99_us = (took[min(len(took) - 1, int(len(took) * share))] / 1000 for share in (0.50, 0.99))
    return RoundTrips(len(took) / elapsed_s, p50_us, p99_us)


def bandwidth(client: End, server: End, seconds: float) -> float:
    """Bits a second of one TCP stream from `client` to `server`, as the server received them."""
    figures: list[float] = []

    def push(sock: socket.socket) -> None:
        block = bytes(CHUNK)
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            sock.sendall(block)
        sock.shutdown(socket.SHUT_WR)
        answer = sock.recv(16)
        received, took_ns = struct.unpack("!QQ", answer)
        figures.append(received * 8 * 1e9 / took_ns)

    _converse(client, server, push, _swallow)
    return figures[0]


def seen_source(client: End, server: End) -> str:
    """The source address that `server` sees of a connection from `client`; HostError when none comes about."""
    with _listening(server) as listener, _connected(client, server):
        accepted, peer = listener.accept()
        accepted.close()
        return str(peer[0])


def frame_on_wire(client: End, server: End, watch: Path, devices: Callable[[str], bool]) -> bytes:
    """The frame that carries one datagram of `SAMPLE_BYTES` out of the namespace `watch` by one of its `devices`."""
    payload = os.urandom(SAMPLE_BYTES)
    with namespace_handle(watch) as handle, inside(handle):
        tap = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.htons(_ETH_P_ALL))
    with tap, _socket(client, socket.SOCK_DGRAM) as sock:
        sock.sendto(payload, (server.address, PORT))
        deadline = time.monotonic() + WAIT_S
        while (left_s := deadline - time.monotonic()) > 0 and select.select([tap], [], [], left_s)[0]:
            frame, (device, _, kind, *_) = tap.recvfrom(65536)
            if kind == _OUTGOING and devices(device) and payload in frame:
                return frame
    raise HostError(
        "find a datagram on the wire", f"none from {client.address} to {server.address} left {watch.name}",
        hint="see whether the two reach each other: vpccni lab probe",
    )  # fmt: skip


def _converse(
    client: End,
    server: End,
    ask: Callable[[socket.socket], None],
    answer: Callable[[socket.socket], None],
) -> None:
    """Connect, run `answer` at the server's end in a child and `ask` at the client's end here."""
    with _listening(server) as listener, _connected(client, server) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        accepted, _ = listener.accept()
        child = os.fork()
        if child == 0:
            try:
                sock.close()
                accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                answer(accepted)
            finally:
                os._exit(0)
        accepted.close()
        try:
            ask(sock)
        finally:
            sock.close()
            os.waitpid(child, 0)


def _echo(sock: socket.socket) -> None:
    while byte := sock.recv(1):
        sock.sendall(byte)


def _swallow(sock: socket.socket) -> None:
    """Read to the end, then say how many bytes came in how many nanoseconds."""
    room, received = bytearray(CHUNK), 0
    started = time.perf_counter_ns()
    while count := sock.recv_into(room):
        received += count
    sock.sendall(struct.pack("!QQ", received, time.perf_counter_ns() - started))


def _listening(server: End) -> socket.socket:
    """A listener at the server's end."""
    sock = _socket(server, socket.SOCK_STREAM, PORT)
    sock.listen(1)
    return sock


def _connected(client: End, server: End) -> socket.socket:
    """A connection from the client's end to the server's, which listens."""
    sock = _socket(client, socket.SOCK_STREAM)
    try:
        sock.connect((server.address, PORT))
    except OSError as error:
        sock.close()
        raise HostError(
            f"connect {client.address} in {client.netns.name} to {server.address}", error.strerror or str(error),
            hint="see what was dropped: vpccni lab status",
        ) from error  # fmt: skip
    return sock


def _socket(end: End, kind: int, port: int = 0) -> socket.socket:
    """A socket in the namespace of `end`, bound to its address, that gives up after `WAIT_S`."""
    # Family by the address: the lab's pods may be of either.
    family = socket.getaddrinfo(end.address, port, type=kind, flags=socket.AI_NUMERICHOST)[0][0]
    with namespace_handle(end.netns) as handle, inside(handle):
        sock = socket.socket(family, kind | socket.SOCK_CLOEXEC)
    try:
        sock.settimeout(WAIT_S)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((str(ip_address(end.address)), port))
    except OSError as error:
        sock.close()
        raise HostError(f"use {end.address} in {end.netns.name}", error.strerror or str(error)) from error
    return sock
