# SPDX-License-Identifier: Apache-2.0
"""A netlink socket that hears multicasts of a namespace: what the monitors of routes and of the firewall share.

Knows how to join groups, make room for bursts and tell that events were lost. Must never look into a message.
`netlink.monitor` and `netlink.firewall_events` build on it.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Self

from vpccni.netlink.errors import NetlinkError
from vpccni.netlink.namespace import inside

_AF_NETLINK, _SOL_NETLINK, _ADD_MEMBERSHIP = 16, 270, 1
_SO_RCVBUFFORCE = 33
_KIND = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK


class Subscription:
    """A non-blocking subscription to multicast groups in the namespace `netns_fd` (None: the calling thread's)."""

    __slots__ = ("_socket", "_what")

    def __init__(
        self, what: str, protocol: int, groups: Iterable[int], netns_fd: int | None, receive_bytes: int
    ) -> None:
        """`what` is heard, for errors; `protocol` is NETLINK_ROUTE, NETLINK_NETFILTER, ..."""
        self._what = what
        with inside(netns_fd):
            self._socket = socket.socket(_AF_NETLINK, _KIND, protocol)
        try:
            try:
                self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, receive_bytes)
            except PermissionError:
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
            # Unbound, the socket has port 0, the kernel's own, and broadcasts skip their sender.
            self._socket.bind((0, 0))
            for number in groups:
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

    def _buffers(self) -> Iterator[bytes | None]:
        """What has come up to now, oldest first; None where events were lost. Ends when nothing is pending."""
        while True:
            try:
                yield self._socket.recv(65536)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise NetlinkError(f"read {self._what}", error.errno or errno.EIO) from error
                yield None
