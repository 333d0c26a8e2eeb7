# SPDX-License-Identifier: Apache-2.0
"""What leaves a node, by which device and with which source: a packet socket in the node's network.

Knows packet sockets and which way a packet goes. Must never hold a socket longer than one exchange: it sees all of the
node's traffic. `exchange` opens one around each flow.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from vpccni.core.dissect import HEAD, dissect
from vpccni.netlink.namespace import inside

_ETH_P_ALL = 3
_IPV4, _IPV6 = 0x0800, 0x86DD
_OUTGOING = 4  # PACKET_OUTGOING
_RCVBUFFORCE = 33
_BUFFER = 8 << 20


@dataclass(frozen=True, slots=True)
class Packet:
    """A packet that left by `device`."""

    device: str
    protocol: str
    source: str
    source_port: int
    target: str
    target_port: int


class Capture:
    """`with Capture(fd) as tap: ...; tap.packets()`: everything that leaves any device of a namespace but `lo`."""

    def __init__(self, netns_fd: int) -> None:
        self._netns_fd = netns_fd

    def __enter__(self) -> Self:
        with inside(self._netns_fd):
            kind = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
            self._socket = socket.socket(socket.AF_PACKET, kind, socket.htons(_ETH_P_ALL))
        self._socket.setsockopt(socket.SOL_SOCKET, _RCVBUFFORCE, _BUFFER)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def packets(self) -> list[Packet]:
        """What has left so far, each packet once."""
        found: list[Packet] = []
        while True:
            try:
                head, (device, ether, kind, *_) = self._socket.recvfrom(HEAD)
            except BlockingIOError:
                return found
            packet = parse(device, ether, head) if kind == _OUTGOING and device != "lo" else None
            if packet is not None:
                found.append(packet)


def parse(device: str, ether: int, head: bytes) -> Packet | None:
    """A TCP or UDP packet from its first bytes; None for any other and for later fragments."""
    ends = dissect(head) if ether in (_IPV4, _IPV6) else None
    if ends is None or ends.protocol not in ("tcp", "udp"):
        return None
    return Packet(device, ends.protocol, str(ends.source), ends.source_port, str(ends.target), ends.target_port)
