# SPDX-License-Identifier: Apache-2.0
"""What changes in a namespace, as it happens.

Knows rtnetlink's multicast groups and how the kernel says that events were lost. Must never interpret an event.
The daemon's engine and the lab put the descriptor into their event loop and read when it is readable.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Self

from vpccni.netlink.codec import DELETIONS, decode_message
from vpccni.netlink.errors import NetlinkError
from vpccni.netlink.namespace import inside
from vpccni.netlink.values import Value
from vpccni.netlink.wire import messages

# RTNLGRP_* of linux/rtnetlink.h.
GROUPS = {"link": (1,), "neigh": (3,), "address": (5, 9), "route": (7, 11), "rule": (8, 19)}

_AF_NETLINK, _SOL_NETLINK, _NETLINK_ROUTE, _ADD_MEMBERSHIP = 16, 270, 0, 1
_SO_RCVBUFFORCE = 33
_KIND = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK


@dataclass(frozen=True, slots=True)
class Event:
    """`new` (created or changed) or `del` with the value, or `resync`: events were lost, so dump again."""

    verb: Literal["new", "del", "resync"]
    value: Value | None = None

    def __str__(self) -> str:
        return f"{self.verb} {self.value}" if self.value is not None else self.verb


class Monitor:
    """A non-blocking subscription to groups of `GROUPS` in the namespace `netns_fd` (None: the calling thread's)."""

    __slots__ = ("_socket",)

    def __init__(
        self, groups: Iterable[str] = tuple(GROUPS), netns_fd: int | None = None, *, receive_bytes: int = 1 << 20
    ) -> None:
        with inside(netns_fd):
            self._socket = socket.socket(_AF_NETLINK, _KIND, _NETLINK_ROUTE)
        try:
            try:
                self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, receive_bytes)
            except PermissionError:
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
            # Unbound, the socket has port 0, the kernel's own, and broadcasts skip their sender.
            self._socket.bind((0, 0))
            for name in groups:
                for number in GROUPS[name]:
                    self._socket.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, number)
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def fileno(self) -> int:
        """The descriptor, for `loop.add_reader` or select."""
        return self._socket.fileno()

    def close(self) -> None:
        """Unsubscribe. More than once is fine."""
        self._socket.close()

    def events(self) -> Iterator[Event]:
        """What has happened up to now, oldest first; ends when nothing is pending. `dev` names are not filled."""
        while True:
            try:
                buffer = self._socket.recv(65536)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise NetlinkError("read kernel events", error.errno or errno.EIO) from error
                yield Event("resync")
                continue
            for message in messages(buffer):
                value = decode_message(buffer, message)
                if value is not None:
                    yield Event("del" if message.type in DELETIONS else "new", value)
