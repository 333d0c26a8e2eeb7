# SPDX-License-Identifier: Apache-2.0
"""What changes in the nftables rule set of a namespace, as it happens; iptables' nf_tables variant shows up here too.

Knows the group and the few attributes that say where a change was made. Must never interpret a rule. The legacy variant
of iptables sends no events. `ipamd.watch` puts the descriptor into its event loop.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Self

from vpccni.netlink.errors import NetlinkError
from vpccni.netlink.namespace import inside
from vpccni.netlink.wire import attributes, messages

_AF_NETLINK, _SOL_NETLINK, _NETLINK_NETFILTER, _ADD_MEMBERSHIP = 16, 270, 12, 1
_NFNLGRP_NFTABLES, _SUBSYSTEM = 7, 10
_SO_RCVBUFFORCE = 33
_KIND = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
_NFGENMSG_BYTES = 4

# Message -> (what happened, attribute of the table's name, attribute of the chain's name or 0); linux/nf_tables.h.
_Verb = Literal["new", "del", "resync"]
_KINDS: dict[int, tuple[_Verb, int, int]] = {
    0: ("new", 1, 0),
    2: ("del", 1, 0),
    3: ("new", 1, 3),
    5: ("del", 1, 3),
    6: ("new", 1, 2),
    8: ("del", 1, 2),
}


@dataclass(frozen=True, slots=True)
class FirewallEvent:
    """A table (`chain` empty), a chain or a rule in it came or went; `resync`: events were lost."""

    verb: _Verb
    table: str = ""
    chain: str = ""


class FirewallMonitor:
    """A non-blocking subscription in the namespace `netns_fd` (None: the calling thread's)."""

    __slots__ = ("_socket",)

    def __init__(self, netns_fd: int | None = None, *, receive_bytes: int = 1 << 20) -> None:
        with inside(netns_fd):
            self._socket = socket.socket(_AF_NETLINK, _KIND, _NETLINK_NETFILTER)
        try:
            try:
                self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, receive_bytes)
            except PermissionError:
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
            self._socket.bind((0, 0))
            self._socket.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, _NFNLGRP_NFTABLES)
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

    def events(self) -> Iterator[FirewallEvent]:
        """What has happened up to now, oldest first; ends when nothing is pending."""
        while True:
            try:
                buffer = self._socket.recv(65536)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise NetlinkError("read firewall events", error.errno or errno.EIO) from error
                yield FirewallEvent("resync")
                continue
            for message in messages(buffer):
                known = _KINDS.get(message.type & 0xFF) if message.type >> 8 == _SUBSYSTEM else None
                if known is not None:
                    verb, table, chain = known
                    found = attributes(buffer, message.start + _NFGENMSG_BYTES, message.end)
                    yield FirewallEvent(verb, _name(found.get(table)), _name(found.get(chain)) if chain else "")


def _name(payload: bytes | None) -> str:
    return "" if payload is None else payload.rstrip(b"\0").decode("utf-8", "replace")
