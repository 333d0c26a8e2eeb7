# SPDX-License-Identifier: Apache-2.0
"""A rtnetlink socket in one network namespace: requests, batches, dumps.

Knows how the kernel answers: acknowledgements with extended messages, multi-part dumps, interrupted dumps. Must never
decide what to ask. One thread at a time uses a socket; it keeps to its namespace wherever that thread goes later.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Self, TypeVar

from vpccni.netlink import ipv6conf, queries
from vpccni.netlink.codec import NO_NAMES, decode_message, encode
from vpccni.netlink.errors import NetlinkError
from vpccni.netlink.namespace import inside
from vpccni.netlink.values import Address, Link, Neighbour, Request, Route, Rule
from vpccni.netlink.wire import NLM_F_ACK, NLM_F_DUMP_INTR, NLMSG_DONE, NLMSG_ERROR, acknowledgement, messages

_AF_NETLINK, _SOL_NETLINK, NETLINK_ROUTE = 16, 270, 0
_CAP_ACK, _EXT_ACK, _GET_STRICT_CHK = 10, 11, 12
_KIND = socket.SOCK_RAW | socket.SOCK_CLOEXEC

_DUMP_BYTES = 65536
# Only failures and the last message are answered, but should all fail, the answers must fit the receive buffer.
_BATCH = 128
_DUMP_ATTEMPTS = 20

Names = Mapping[int, str]
_Kind = TypeVar("_Kind", Link, Address, Route, Rule, Neighbour)


class RouteSocket:
    """NETLINK_ROUTE in the namespace `netns_fd` (None: the calling thread's), with extended acknowledgements on.

    `home_fd`, a descriptor of the calling thread's own namespace, spares opening one (7 of 20 us): see `inside`.
    """

    __slots__ = ("_seq", "_socket")

    def __init__(self, netns_fd: int | None = None, *, home_fd: int | None = None) -> None:
        with inside(netns_fd, home_fd):
            self._socket = socket.socket(_AF_NETLINK, _KIND, NETLINK_ROUTE)
        for option in (_CAP_ACK, _EXT_ACK, _GET_STRICT_CHK):
            self._socket.setsockopt(_SOL_NETLINK, option, 1)
        self._seq = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket. More than once is fine."""
        self._socket.close()

    def run(self, request: Request) -> None:
        """Do one request; NetlinkError when the kernel refuses."""
        failure = self.batch((request,))[0]
        if failure is not None:
            raise failure

    def batch(self, requests: Sequence[Request]) -> list[NetlinkError | None]:
        """Do all requests in order, with one system call per 128; one result per request, None for success.

        A refused request does not stop the ones behind it: what others depend on has to be run alone before.
        """
        results: list[NetlinkError | None] = []
        for start in range(0, len(requests), _BATCH):
            results += self._send(requests[start : start + _BATCH])
        return results

    def _send(self, requests: Sequence[Request]) -> list[NetlinkError | None]:
        first, last = self._seq + 1, self._seq + len(requests)
        self._seq = last
        # The kernel answers every failure, asked or not; the last message's acknowledgement tells that it is done.
        parts = [encode(request, first + place) for place, request in enumerate(requests[:-1])]
        parts.append(encode(requests[-1], last, NLM_F_ACK))
        self._socket.send(b"".join(parts))
        results: list[NetlinkError | None] = [None] * len(requests)
        while True:
            answer = self._socket.recv(_DUMP_BYTES)
            for message in messages(answer):
                if message.type != NLMSG_ERROR or not first <= message.seq <= last:
                    continue
                number, text = acknowledgement(answer, message)
                if number:
                    results[message.seq - first] = NetlinkError(f"do `{requests[message.seq - first]}`", number, text)
                if message.seq == last:
                    return results

    def links(self) -> list[Link]:
        """All devices of the namespace."""
        return self._dump(Link, queries.links, "list links", NO_NAMES)

    def link(self, name: str) -> Link | None:
        """The device of that name, or None."""
        return self._single_link(partial(queries.link, index=0, name=name), f"find link {name}")

    def link_by_index(self, index: int) -> Link | None:
        """The device of that index, or None."""
        return self._single_link(partial(queries.link, index=index, name=""), f"find link {index}")

    def link_names(self) -> dict[int, str]:
        """Index -> name of all devices."""
        return {link.index: link.name for link in self.links()}

    def addresses(self, family: int = 0, names: Names | None = None) -> list[Address]:
        """Addresses of `family` 4 or 6, or both (0). `names` fills `dev`; None looks the names up, `{}` leaves it."""
        return self._dump(Address, partial(queries.addresses, version=family), "list addresses", names)

    def routes(self, family: int = 4, table: int | None = None, names: Names | None = None) -> list[Route]:
        """Routes of all tables or of one (none when that table does not exist). `names` as in `addresses`."""
        action = f"list IPv{family} routes of {'all tables' if table is None else f'table {table}'}"
        try:
            return self._dump(Route, partial(queries.routes, version=family, table=table or 0), action, names)
        except NetlinkError as error:
            if error.errno == errno.ENOENT and table is not None:
                return []
            raise

    def rules(self, family: int = 4) -> list[Rule]:
        """Policy rules of `family`, in the order in which the kernel consults them."""
        return self._dump(Rule, partial(queries.rules, version=family), f"list IPv{family} rules", NO_NAMES)

    def neighbours(self, family: int = 0, *, proxy: bool = False, names: Names | None = None) -> list[Neighbour]:
        """Neighbours, or with `proxy` the addresses answered for. Entries in state noarp are left out, as `ip` does."""
        query = partial(queries.neighbours, version=family, proxy=proxy)
        found = self._dump(Neighbour, query, "list neighbours", names)
        return [value for value in found if value.proxy or value.state != "noarp"]

    def ipv6_settings(self) -> ipv6conf.Settings:
        """Settings of `ipv6conf.PLACES` by link and name; none where the kernel has no IPv6."""
        return ipv6conf.decode(self._whole(queries.ipv6_links, "list IPv6 settings"))

    def _dump(self, kind: type[_Kind], query: Callable[[int], bytes], action: str, names: Names | None) -> list[_Kind]:
        """All values of a dump."""
        buffers = self._whole(query, action, twice=kind is Rule)
        if names is None:
            names = self.link_names() if buffers else NO_NAMES
        values = (decode_message(buffer, message, names) for buffer in buffers for message in messages(buffer))
        return [value for value in values if isinstance(value, kind)]

    def _whole(self, query: Callable[[int], bytes], action: str, *, twice: bool = False) -> list[bytes]:
        """The datagrams of a dump, repeated while the kernel says that it changed under the reader."""
        self._seq = seq = self._seq + 1
        previous = b""
        for _attempt in range(_DUMP_ATTEMPTS):
            buffers, complete = self._read_dump(query(seq), seq, action)
            if complete and (not twice or len(buffers) < 2):
                return buffers
            # The kernel does not notice changes under a dump of rules: it goes on at the same place in the list, and
            # shows rules twice or never. What two dumps in a row agree on, byte for byte, is whole.
            joined = b"".join(buffers)
            if complete and joined == previous:
                return buffers
            previous = joined
        raise NetlinkError(action, errno.EAGAIN, f"other programs changed it during each of {_DUMP_ATTEMPTS} dumps")

    def _read_dump(self, query: bytes, seq: int, action: str) -> tuple[list[bytes], bool]:
        """The datagrams of one dump, and whether the kernel noticed no change while it was read."""
        self._socket.send(query)
        buffers: list[bytes] = []
        complete = True
        while True:
            buffer = self._socket.recv(_DUMP_BYTES)
            mine = False
            for message in messages(buffer):
                if message.seq != seq:
                    break
                complete = complete and not message.flags & NLM_F_DUMP_INTR
                if message.type in (NLMSG_DONE, NLMSG_ERROR):
                    number, text = acknowledgement(buffer, message)
                    if number:
                        raise NetlinkError(action, number, text)
                    return ([*buffers, buffer] if mine else buffers), complete
                mine = True
            if mine:
                buffers.append(buffer)

    def _single_link(self, query: Callable[[int], bytes], action: str) -> Link | None:
        self._seq = seq = self._seq + 1
        self._socket.send(query(seq))
        while True:
            buffer = self._socket.recv(_DUMP_BYTES)
            for message in messages(buffer):
                if message.seq != seq:
                    continue
                if message.type == NLMSG_ERROR:
                    number, text = acknowledgement(buffer, message)
                    if number == errno.ENODEV:
                        return None
                    raise NetlinkError(action, number, text)
                value = decode_message(buffer, message)
                if isinstance(value, Link):
                    return value
