# SPDX-License-Identifier: Apache-2.0
"""Sockets that live in another network namespace than the process that holds them.

Knows that a socket belongs to the namespace in which it was created, wherever its owner goes afterwards. Must never
leave the calling thread in a foreign namespace. The lab daemon listens through it, the probe connects through it.
"""

from __future__ import annotations

import http.client
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vpccni.errors import HostError
from vpccni.netlink.namespace import inside

BACKLOG = 256
ANY = "::"  # IPv4 peers show up as ::ffff:a.b.c.d; see `plain`


def plain(address: str) -> str:
    """A peer's address as its owner writes it: an IPv4 address that a socket of both families shows mapped is IPv4."""
    return address.removeprefix("::ffff:") if "." in address else address


@contextmanager
def namespace_handle(path: Path) -> Iterator[int]:
    """An open descriptor of a named namespace, closed at the end; raises HostError when it does not exist."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise HostError(
            f"open the namespace {path.name}", error.strerror or str(error), evidence={"path": path},
            hint="`vpccni lab status` shows what exists",
        ) from error  # fmt: skip
    try:
        yield handle
    finally:
        os.close(handle)


def tcp_socket(netns_fd: int, address: str = "0.0.0.0") -> socket.socket:
    """A non-blocking TCP socket of that namespace, of the family of an address."""
    family = socket.getaddrinfo(address, None, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)[0][0]
    with inside(netns_fd):
        return socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)


def listener(netns_fd: int, address: str, port: int, *, device: str = "") -> socket.socket:
    """A non-blocking TCP listener of that namespace; `ANY` means every address of every family.

    `device` restricts it to one interface, so that several listeners share an address and the interface tells the
    caller apart.
    """
    sock = tcp_socket(netns_fd, address)
    try:
        if address == ANY:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if device:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode() + b"\0")
        sock.bind((address, port))
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise HostError(f"listen on {address}:{port}{' of ' + device if device else ''}", str(error)) from error
    return sock


class NamespaceHttp(http.client.HTTPConnection):
    """An HTTP connection whose socket lives in another namespace: how the machine asks a node's own loopback."""

    def __init__(self, netns: Path, host: str, port: int, timeout_s: float = 2.0) -> None:
        """`netns` is the path of the namespace; it is opened when the connection is."""
        super().__init__(host, port, timeout=timeout_s)
        self._netns = netns

    def connect(self) -> None:
        """Connect from inside the namespace."""
        with namespace_handle(self._netns) as handle:
            self.sock = tcp_socket(handle, self.host)
        self.sock.settimeout(self.timeout)
        self.sock.connect((self.host, self.port))
