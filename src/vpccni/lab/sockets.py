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


def tcp_socket(netns_fd: int) -> socket.socket:
    """A non-blocking TCP socket of that namespace."""
    with inside(netns_fd):
        return socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)


def listener(netns_fd: int, address: str, port: int, *, device: str = "") -> socket.socket:
    """A non-blocking TCP listener of that namespace.

    `device` restricts it to one interface, so that several listeners share an address and the interface tells the
    caller apart.
    """
    sock = tcp_socket(netns_fd)
    try:
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
            self.sock = tcp_socket(handle)
        self.sock.settimeout(self.timeout)
        self.sock.connect((self.host, self.port))
