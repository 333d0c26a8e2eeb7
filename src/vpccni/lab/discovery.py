# SPDX-License-Identifier: Apache-2.0
"""Answers to neighbour discovery: the VPC tells an instance the way to every owned address, as it does for ARP.

Knows solicitations and advertisements (RFC 4861) as bytes. Must never know who owns what: it is told by a function.
Only the kernel's ARP has a proxy for whatever is routed; for IPv6 each address would have to be listed, and a /80 has
2^48 of them. The lab daemon calls `answer` when the socket is readable; `lab.fabric` owns it.
"""

from __future__ import annotations

import contextlib
import ctypes
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv6Address

from vpccni.netlink.namespace import inside

_ETH_P_IPV6 = 0x86DD
_SO_ATTACH_FILTER = 26
_ICMPV6, _SOLICITATION, _ADVERTISEMENT = 58, 135, 136
_SOLICITED_AND_OVERRIDE = 0x60000000
_TARGET_MAC_OPTION = b"\x02\x01"
_HEADERS = 14 + 40  # Ethernet, IPv6
_LENGTH = _HEADERS + 24  # with the solicitation itself, without options

# cBPF: next header is ICMPv6, and the type a solicitation. Nothing else that the router forwards wakes us up.
_FILTER = (
    (0x30, 0, 0, 20), (0x15, 0, 3, _ICMPV6), (0x30, 0, 0, _HEADERS), (0x15, 0, 1, _SOLICITATION), (0x06, 0, 0, 0xFFFF),
    (0x06, 0, 0, 0),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Solicitation:
    """Somebody asks who has `target`. Whoever has no address himself yet asks from `::`, to find a duplicate."""

    mac: bytes
    source: IPv6Address
    target: IPv6Address


def parse(frame: bytes) -> Solicitation | None:
    """The solicitation in a frame; None when it is too short or has come from afar (its hop limit is not 255)."""
    if len(frame) < _LENGTH or frame[21] != 255:
        return None
    return Solicitation(frame[6:12], IPv6Address(frame[22:38]), IPv6Address(frame[_HEADERS + 8 : _LENGTH]))


def advertisement(asked: Solicitation, mac: bytes) -> bytes:
    """The frame that tells the one who asked that `target` is at this MAC."""
    target, asker = asked.target.packed, asked.source.packed
    tail = struct.pack("!I", _SOLICITED_AND_OVERRIDE) + target + _TARGET_MAC_OPTION + mac
    message = struct.pack("!BBH", _ADVERTISEMENT, 0, 0) + tail
    pseudo = target + asker + struct.pack("!II", len(message), _ICMPV6)
    checked = struct.pack("!BBH", _ADVERTISEMENT, 0, checksum(pseudo + message)) + tail
    header = struct.pack("!IHBB", 6 << 28, len(message), _ICMPV6, 255) + target + asker
    return asked.mac + mac + struct.pack("!H", _ETH_P_IPV6) + header + checked


def checksum(message: bytes) -> int:
    """The internet checksum (RFC 1071) of an even number of bytes."""
    total: int = sum(struct.unpack(f"!{len(message) // 2}H", message))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


class Discovery:
    """Listens on every port of the router. `mac_for(port, target)`: what to answer, or None to stay silent."""

    def __init__(self, netns_fd: int, mac_for: Callable[[str, IPv6Address], str | None]) -> None:
        self._mac_for = mac_for
        kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        with inside(netns_fd):
            # The router has no port yet, so that nothing comes in before the filter is in place.
            self._socket: socket.socket = socket.socket(socket.AF_PACKET, kind, socket.htons(_ETH_P_IPV6))
        program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in _FILTER))
        length_and_place = struct.pack("HL", len(_FILTER), ctypes.addressof(program))
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, length_and_place)

    def fileno(self) -> int:
        """The descriptor that is readable when somebody has asked."""
        return self._socket.fileno()

    def close(self) -> None:
        """Answer nobody any more."""
        self._socket.close()

    def answer(self) -> None:
        """Answer all that have asked so far. Nobody is answered about a duplicate: EC2 has given each address once."""
        while True:
            try:
                frame, (port, *_) = self._socket.recvfrom(2048)
            except BlockingIOError:
                return
            asked = parse(frame)
            if asked is None or asked.source.is_unspecified:
                continue
            mac = self._mac_for(port, asked.target)
            if mac is not None:
                with contextlib.suppress(OSError):  # the port has gone in the meantime
                    self._socket.sendto(advertisement(asked, bytes.fromhex(mac.replace(":", ""))), (port, _ETH_P_IPV6))
