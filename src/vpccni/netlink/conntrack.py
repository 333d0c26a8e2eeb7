# SPDX-License-Identifier: Apache-2.0
"""Connection tracking: forget the flows of addresses that are about to change hands, give flows another mark.

Knows nfnetlink's conntrack messages (linux/netfilter/nfnetlink_conntrack.h). Must never know why an address goes, or
what a mark means.
`host` calls it for addresses of deleted pods, gathered, and off the path that a pod waits on.

One walk costs the kernel about 33 ns per hash bucket (9 ms at 262,144 buckets) and 1.7 us per entry shown. A filter in
the kernel has to walk once per address and tuple field, four times 9 ms each, so one plain dump for all addresses
together is cheaper below some 15,000 entries for a single address and nearly always for several; and it works alike on
all kernels.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Collection, Iterator
from struct import Struct

from vpccni.netlink.errors import NetlinkError
from vpccni.netlink.namespace import inside
from vpccni.netlink.values import IPAddress
from vpccni.netlink.wire import (
    AF_INET,
    AF_INET6,
    AF_UNSPEC,
    NLM_F_ACK,
    NLM_F_DUMP,
    NLM_F_REQUEST,
    NLMSG_DONE,
    NLMSG_ERROR,
    acknowledgement,
    attribute,
    attributes,
    messages,
    nested,
)

_AF_NETLINK, _SOL_NETLINK, _NETLINK_NETFILTER = 16, 270, 12
_CAP_ACK, _EXT_ACK = 10, 11
_SET, _GET, _DELETE, _GET_STATS = 0x100, 0x101, 0x102, 0x105
_CTA_TUPLE_ORIG, _CTA_TUPLE_REPLY, _CTA_MARK, _CTA_ID, _CTA_ZONE, _CTA_MARK_MASK = 1, 2, 8, 12, 18, 21
_CTA_TUPLE_IP = 1
_CTA_IP_FIELDS = (1, 2, 3, 4)  # IPv4 source and destination, IPv6 source and destination
_HEADER = Struct("=IHHIIBBH")  # nlmsghdr, then nfgenmsg: family, version, resource
_LENGTH_AND_TYPE = Struct("=IH")
_NUMBER = Struct(">I")
_RECEIVE_BYTES = 65536
_BATCH = 128


def flush_address(addresses: Collection[IPAddress], netns_fd: int | None = None) -> int:
    """Delete every entry with one of `addresses` as source or destination, in its original or reply direction.

    Returns how many were deleted. NetlinkError when the kernel cannot (no connection tracking over netlink, no right).
    """
    packed = {address.packed for address in addresses}
    if not packed:
        return 0
    with _connection(netns_fd) as connection:
        if not _entries(connection):
            return 0
        deletions: list[bytes] = []
        for family, size in ((AF_INET, 4), (AF_INET6, 16)):
            wanted = frozenset(one for one in packed if len(one) == size)
            if wanted:
                deletions += _matching(connection, family, wanted)
        return _send(connection, _DELETE, "delete a connection tracking entry", deletions)


def remark(marked: int, mark: int, mask: int, netns_fd: int | None = None) -> int:
    """Every entry whose mark has all bits of `marked` gets `mark` in the bits of `mask`, and keeps its others.

    Returns how many there were. NetlinkError as above. A flow that begins meanwhile may be missed.
    """
    with _connection(netns_fd) as connection:
        if not _entries(connection):
            return 0
        change = attribute(_CTA_MARK, _NUMBER.pack(mark)) + attribute(_CTA_MARK_MASK, _NUMBER.pack(mask))
        found = [identity + change for identity in _marked(connection, marked)]
        return _send(connection, _SET, "mark a connection tracking entry", found)


def _connection(netns_fd: int | None) -> socket.socket:
    with inside(netns_fd):
        connection = socket.socket(_AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER)
    for option in (_CAP_ACK, _EXT_ACK):
        connection.setsockopt(_SOL_NETLINK, option, 1)
    return connection


def _message(kind: int, flags: int, seq: int, family: int, body: bytes = b"") -> bytes:
    return _HEADER.pack(_HEADER.size + len(body), kind, NLM_F_REQUEST | flags, seq, 0, family, 0, 0) + body


def _entries(connection: socket.socket) -> int:
    """How many entries the namespace has: an empty table is not worth a walk through all buckets."""
    connection.send(_message(_GET_STATS, 0, 1, 0))
    buffer = connection.recv(_RECEIVE_BYTES)
    message = next(messages(buffer))
    if message.type == NLMSG_ERROR:
        number, text = acknowledgement(buffer, message)
        raise NetlinkError("count connection tracking entries", number, text)
    return int(_NUMBER.unpack(attributes(buffer, message.start + 4, message.end)[1])[0])


def _matching(connection: socket.socket, family: int, wanted: frozenset[bytes]) -> list[bytes]:
    """The bodies (family and attributes) of the deletions that `wanted` asks for."""
    connection.send(_message(_GET, NLM_F_DUMP, 2, family))
    # Most datagrams do not mention the addresses at all: one search spares parsing some 200 entries.
    listed = _listed(connection, lambda buffer: any(one in buffer for one in wanted))
    return [header + _identity(entry) for header, entry in listed if _concerns(entry, wanted)]


def _marked(connection: socket.socket, marked: int) -> list[bytes]:
    """The identities of entries that have all bits of `marked`. The kernel filters, older ones do not."""
    wanted = attribute(_CTA_MARK, _NUMBER.pack(marked)) + attribute(_CTA_MARK_MASK, _NUMBER.pack(marked))
    connection.send(_message(_GET, NLM_F_DUMP, 2, AF_UNSPEC, wanted))
    listed = _listed(connection, lambda _buffer: True)
    return [header + _identity(entry) for header, entry in listed if _mark(entry) & marked == marked]


def _mark(entry: dict[int, bytes]) -> int:
    return int(_NUMBER.unpack(entry[_CTA_MARK])[0]) if _CTA_MARK in entry else 0


def _listed(connection: socket.socket, worth: Callable[[bytes], bool]) -> Iterator[tuple[bytes, dict[int, bytes]]]:
    """The entries of a dump that was asked for, each with its family as a header; only datagrams that are `worth` it
    are parsed."""
    while True:
        buffer = connection.recv(_RECEIVE_BYTES)
        if not worth(buffer) and not _holds_end(buffer):
            continue
        for message in messages(buffer):
            if message.type in (NLMSG_DONE, NLMSG_ERROR):
                number, text = acknowledgement(buffer, message)
                if number:
                    raise NetlinkError("list connection tracking entries", number, text)
                return
            yield bytes([buffer[message.start], 0, 0, 0]), attributes(buffer, message.start + 4, message.end)


def _holds_end(buffer: bytes) -> bool:
    """Whether the dump ends in this datagram; newer kernels append the end to the last entries."""
    offset, total = 0, len(buffer)
    while offset < total:
        length, kind = _LENGTH_AND_TYPE.unpack_from(buffer, offset)
        if kind in (NLMSG_DONE, NLMSG_ERROR):
            return True
        offset += max(16, (length + 3) & ~3)
    return False


def _concerns(entry: dict[int, bytes], wanted: frozenset[bytes]) -> bool:
    for direction in (_CTA_TUPLE_ORIG, _CTA_TUPLE_REPLY):
        both = entry.get(direction, b"")
        addresses = attributes(both, 0, len(both)).get(_CTA_TUPLE_IP, b"")
        fields = attributes(addresses, 0, len(addresses))
        if any(fields.get(number) in wanted for number in _CTA_IP_FIELDS):
            return True
    return False


def _identity(entry: dict[int, bytes]) -> bytes:
    """The identity of an entry. Its id keeps a new flow with the same tuple from being hit."""
    body = nested(_CTA_TUPLE_ORIG, entry[_CTA_TUPLE_ORIG])
    for number in (_CTA_ID, _CTA_ZONE):
        if number in entry:
            body += attribute(number, entry[number])
    return body


def _send(connection: socket.socket, kind: int, action: str, bodies: list[bytes]) -> int:
    """Send changes, count those that hit; an entry that expired meanwhile is not an error."""
    return sum(_send_some(connection, kind, action, bodies[at : at + _BATCH]) for at in range(0, len(bodies), _BATCH))


def _send_some(connection: socket.socket, kind: int, action: str, bodies: list[bytes]) -> int:
    parts = []
    last = len(bodies) + 2
    for seq, body in enumerate(bodies, start=3):
        parts.append(_message(kind, NLM_F_ACK if seq == last else 0, seq, body[0], body[4:]))
    connection.send(b"".join(parts))
    changed = len(bodies)
    while True:
        buffer = connection.recv(_RECEIVE_BYTES)
        for message in messages(buffer):
            number, text = acknowledgement(buffer, message)
            if number == errno.ENOENT:
                changed -= 1
            elif number:
                raise NetlinkError(action, number, text)
            if message.seq == last:
                return changed
