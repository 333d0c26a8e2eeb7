# SPDX-License-Identifier: Apache-2.0
"""Netlink framing: message headers, attributes, acknowledgements.

Knows linux/netlink.h (and the numbers of NETLINK_ROUTE messages, linux/rtnetlink.h). Must never know what an attribute
means. The encoders, decoders and sockets of this folder build on it. Byte order is the machine's, as netlink has it.
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct
from typing import NamedTuple

AF_UNSPEC, AF_INET, AF_INET6 = 0, 2, 10

NLMSG_NOOP, NLMSG_ERROR, NLMSG_DONE, NLMSG_OVERRUN = 1, 2, 3, 4

NLM_F_REQUEST, NLM_F_MULTI, NLM_F_ACK = 0x01, 0x02, 0x04
NLM_F_DUMP_INTR = 0x10
NLM_F_REPLACE, NLM_F_EXCL, NLM_F_CREATE = 0x100, 0x200, 0x400
NLM_F_DUMP = 0x300
NLM_F_CAPPED, NLM_F_ACK_TLVS = 0x100, 0x200

NLA_F_NESTED = 0x8000
NLA_TYPE_MASK = 0x3FFF

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK, RTM_SETLINK = 16, 17, 18, 19
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
RTM_NEWNEIGH, RTM_DELNEIGH, RTM_GETNEIGH = 28, 29, 30
RTM_NEWRULE, RTM_DELRULE, RTM_GETRULE = 32, 33, 34

# A message header and the fixed part of each kind of rtnetlink message, packed in one call.
HEADER = Struct("=IHHII")  # length, type, flags, sequence, port
LINK_HEADER = Struct("=IHHIIBxHiII")  # family, device type, index, flags, change mask
ADDRESS_HEADER = Struct("=IHHIIBBBBI")  # family, prefix length, flags, scope, index
ROUTE_HEADER = Struct("=IHHIIBBBBBBBBI")  # rtmsg; fib_rule_hdr has the same shape
NEIGHBOUR_HEADER = Struct("=IHHIIBxxxiHBB")  # family, index, state, flags, type
# The fixed parts alone, for decoding.
LINK_BODY = Struct("=BxHiII")  # ifinfomsg; it also stands inside VETH_INFO_PEER
ADDRESS_BODY = Struct("=BBBBI")
ROUTE_BODY = Struct("=BBBBBBBBI")
NEIGHBOUR_BODY = Struct("=BxxxiHBB")
NEXT_HOP = Struct("=HBBi")  # length, flags, weight - 1, index

ATTRIBUTE = Struct("=HH")
U8_ATTRIBUTE = Struct("=HHBxxx")
U32_ATTRIBUTE = Struct("=HHI")
IPV4_ATTRIBUTE = Struct("=HH4s")
IPV6_ATTRIBUTE = Struct("=HH16s")
U16 = Struct("=H")
U32 = Struct("=I")
S32 = Struct("=i")

_PADDING = (b"", b"\0\0\0", b"\0\0", b"\0")


class Message(NamedTuple):
    """A netlink message inside a buffer: its payload lies at [start, end)."""

    type: int
    flags: int
    seq: int
    start: int
    end: int


def attribute(kind: int, payload: bytes) -> bytes:
    """One attribute, padded to four bytes."""
    size = len(payload)
    return ATTRIBUTE.pack(size + 4, kind) + payload + _PADDING[size & 3]


def nested(kind: int, payload: bytes) -> bytes:
    """An attribute that holds attributes."""
    return attribute(kind | NLA_F_NESTED, payload)


def text_attribute(kind: int, text: str) -> bytes:
    """A NUL-terminated string."""
    return attribute(kind, text.encode() + b"\0")


def messages(buffer: bytes) -> Iterator[Message]:
    """The messages of one received datagram. A truncated tail ends the iteration with ValueError."""
    offset, total = 0, len(buffer)
    while offset < total:
        length, kind, flags, seq, _port = (
            HEADER.unpack_from(buffer, offset) if total - offset >= 16 else (0, 0, 0, 0, 0)
        )
        if length < 16 or offset + length > total:
            raise ValueError(f"netlink message of {length} bytes at {offset} in a datagram of {total}")
        yield Message(kind, flags, seq, offset + 16, offset + length)
        offset += (length + 3) & ~3


def attributes(buffer: bytes, start: int, end: int) -> dict[int, bytes]:
    """Attribute payloads by type; of a repeated type the last one wins."""
    found: dict[int, bytes] = {}
    unpack = ATTRIBUTE.unpack_from
    while start + 4 <= end:
        length, kind = unpack(buffer, start)
        if length < 4 or start + length > end:
            raise ValueError(f"netlink attribute of {length} bytes with {end - start} left")
        found[kind & NLA_TYPE_MASK] = buffer[start + 4 : start + length]
        start += (length + 3) & ~3
    return found


def acknowledgement(buffer: bytes, message: Message) -> tuple[int, str]:
    """Of an NLMSG_ERROR or NLMSG_DONE message: errno (0 is success) and the kernel's extended message.

    An NLMSG_ERROR repeats the header of the request, and its payload too unless the flags say it was capped.
    """
    if message.end - message.start < 4:
        return 0, ""
    (negative,) = S32.unpack_from(buffer, message.start)
    if not message.flags & NLM_F_ACK_TLVS:
        return -negative, ""
    start = message.start + 4
    if message.type == NLMSG_ERROR:
        length = 16 if message.flags & NLM_F_CAPPED else U32.unpack_from(buffer, start)[0]
        start += (length + 3) & ~3
    text = attributes(buffer, start, message.end).get(1, b"")  # NLMSGERR_ATTR_MSG
    return -negative, text.rstrip(b"\0").decode("utf-8", "replace")
