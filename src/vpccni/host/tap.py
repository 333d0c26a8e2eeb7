# SPDX-License-Identifier: Apache-2.0
"""Frames of every device of a network namespace, as they pass: a packet socket that lives there.

Knows packet sockets, their directions and the kernel's nanosecond timestamps. Must never interpret a packet, and never
stays open longer than its `with` block: it sees all traffic. `lab.trace` and `vpccni pcap` open it.
"""

from __future__ import annotations

import socket
import struct
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from vpccni.errors import HostError
from vpccni.netlink.namespace import inside

_ETH_P_ALL = 3
_PACKET_OUTGOING = 4
_RCVBUFFORCE, _TIMESTAMPNS = 33, 35
_BUFFER = 8 << 20
_TIMESPEC = struct.Struct("@qq")
ETHERNET_HEADER = 14
WHOLE = 65535


@dataclass(frozen=True, slots=True)
class Frame:
    """One whole frame, `octets` with its Ethernet header."""

    device: str
    outgoing: bool
    time_ns: int
    octets: bytes

    @property
    def packet(self) -> bytes:
        """Without the Ethernet header."""
        return self.octets[ETHERNET_HEADER:]


class Tap:
    """`with Tap(fd) as tap: ...; tap.frames()`: what passes any device of a namespace but `lo`, in both directions."""

    def __init__(self, netns_fd: int | None, device: str = "") -> None:
        """`netns_fd` None is the calling thread's namespace; `device` alone, when given."""
        self._netns_fd, self._device = netns_fd, device

    def __enter__(self) -> Self:
        with inside(self._netns_fd):
            kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
            self._socket = socket.socket(socket.AF_PACKET, kind, socket.htons(_ETH_P_ALL))
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, _RCVBUFFORCE, _BUFFER)
            self._socket.setsockopt(socket.SOL_SOCKET, _TIMESTAMPNS, 1)
            if self._device:
                self._socket.bind((self._device, _ETH_P_ALL))
        except OSError as error:
            self._socket.close()
            raise HostError(f"capture on {self._device}", error.strerror or str(error), code="no-device") from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def fileno(self) -> int:
        """For a selector."""
        return self._socket.fileno()

    def frames(self) -> list[Frame]:
        """What has passed since the last call."""
        found: list[Frame] = []
        while True:
            try:
                octets, ancillary, _, place = self._socket.recvmsg(WHOLE, 64)
            except BlockingIOError:
                return found
            device, kind = place[0], place[2]
            if device != "lo":
                found.append(Frame(device, kind == _PACKET_OUTGOING, _time_ns(ancillary), octets))


def _time_ns(ancillary: list[tuple[int, int, bytes]]) -> int:
    for level, kind, payload in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, _TIMESTAMPNS) and len(payload) >= _TIMESPEC.size:
            seconds, nanoseconds = _TIMESPEC.unpack_from(payload)
            return int(seconds) * 1_000_000_000 + int(nanoseconds)
    return time.time_ns()
