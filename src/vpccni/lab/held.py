# SPDX-License-Identifier: Apache-2.0
"""A TCP connection between two pods that is held open: does it survive what happens to the nodes?

Knows the line echo of the pods' servers. Must never reconnect: a connection that broke stays broken. The demo and the
scenario tests hold one across a restart.
"""

from __future__ import annotations

import socket
from pathlib import Path
from types import TracebackType
from typing import Self

from vpccni.lab.servers import PORT
from vpccni.lab.sockets import namespace_handle, tcp_socket
from vpccni.lab.state import PodRecord

ANSWER_WITHIN_S = 3.0


class HeldConnection:
    """From one pod to another pod's server."""

    def __init__(self, source: PodRecord, destination: PodRecord) -> None:
        """Connect; raises OSError when that fails."""
        self._exchanged = 0
        self._name = f"{source.label} to {destination.label}"
        with namespace_handle(Path(source.netns)) as handle:
            self._socket: socket.socket = tcp_socket(handle, destination.addresses[0])
        self._socket.settimeout(ANSWER_WITHIN_S)
        self._socket.connect((destination.addresses[0], PORT))
        self._own = source.addresses[0]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def __str__(self) -> str:
        return f"{self._name}, {self._exchanged} lines exchanged"

    def exchange(self) -> bool:
        """Send a line and get it back with our own address before it; False when the connection is broken."""
        line = f"line {self._exchanged}"
        want = f"{self._own} {line}\n".encode()
        try:
            self._socket.sendall(f"{line}\n".encode())
            received = b""
            while len(received) < len(want):
                chunk = self._socket.recv(len(want) - len(received))
                if not chunk:
                    return False
                received += chunk
        except OSError:
            return False
        self._exchanged += 1
        return received == want
