# SPDX-License-Identifier: Apache-2.0
"""The first bytes of an IP packet: who sends to whom, over which ports, and what tells one TCP connection from others.

Knows the fixed parts of IPv4, IPv6, TCP, UDP and ICMP, and the packet that an ICMP error is about. Must never hold or
follow packets. Captures use it.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import ip_address

from vpccni.netlink.values import IPAddress

HEAD = 128
TCP_SYN, TCP_RST, TCP_ACK = 2, 4, 16
_PROTOCOLS = {1: "icmp", 6: "tcp", 17: "udp", 58: "icmp6"}
_WITH_PORTS = {"tcp", "udp"}
# Types of echo requests and answers, and of errors, which quote a packet.
_ASKS, _ANSWERS = {"icmp": 8, "icmp6": 128}, {"icmp": 0, "icmp6": 129}
_ERRORS = {"icmp": (3, 5, 11, 12), "icmp6": (1, 2, 3, 4)}


@dataclass(frozen=True, slots=True)
class Ends:
    """A packet's ends. Ports are 0 without any, an echo's identifier is the port of the one who asks; `sequence`,
    `acknowledged` and `flags` are TCP's; `quoted` is the packet that an ICMP error is about."""

    protocol: str
    source: IPAddress
    source_port: int
    target: IPAddress
    target_port: int
    sequence: int = 0
    acknowledged: int = 0
    flags: int = 0
    quoted: Ends | None = None


def dissect(head: bytes) -> Ends | None:
    """An IP packet from its first bytes; None for anything else, for later fragments and for a packet cut short."""
    version = head[0] >> 4 if head else 0
    if version == 4 and len(head) >= 20:
        start, number, source, target = (head[0] & 15) * 4, head[9], head[12:16], head[16:20]
        if struct.unpack_from("!H", head, 6)[0] & 0x1FFF:
            return None
    elif version == 6 and len(head) >= 40:
        start, number, source, target = 40, head[6], head[8:24], head[24:40]
    else:
        return None
    protocol = _PROTOCOLS.get(number, str(number))
    ends = ip_address(source), ip_address(target)
    if protocol in _ASKS:
        return _icmp(protocol, *ends, head[start:])
    if protocol not in _WITH_PORTS:
        return Ends(protocol, ends[0], 0, ends[1], 0)
    if len(head) < start + 4:
        return None
    ports = struct.unpack_from("!HH", head, start)
    if protocol == "tcp" and len(head) >= start + 14:
        sequence, acknowledged, _, flags = struct.unpack_from("!IIBB", head, start + 4)
        return Ends(protocol, ends[0], ports[0], ends[1], ports[1], sequence, acknowledged, flags)
    return Ends(protocol, ends[0], ports[0], ends[1], ports[1])


def _icmp(protocol: str, source: IPAddress, target: IPAddress, message: bytes) -> Ends:
    kind = message[0] if len(message) >= 8 else -1
    if kind in _ERRORS[protocol]:
        return Ends(protocol, source, 0, target, 0, quoted=dissect(message[8:]))
    identifier = struct.unpack_from("!H", message, 4)[0] if kind in (_ASKS[protocol], _ANSWERS[protocol]) else 0
    asks = kind == _ASKS[protocol]
    return Ends(protocol, source, identifier if asks else 0, target, 0 if asks else identifier)
