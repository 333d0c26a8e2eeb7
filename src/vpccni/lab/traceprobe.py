# SPDX-License-Identifier: Apache-2.0
"""The probe of a trace: one attempt over TCP, UDP or ICMP from inside a namespace, and what came of it.

Knows sockets, and in which words an outcome is told. Must never watch where a packet goes: `lab.trace` does. Each kind
of probe says what only it carries, so that it is told from other traffic.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import time
from types import TracebackType
from typing import Literal, Protocol, Self

from vpccni.core.walk.meeting import Header
from vpccni.errors import InputError
from vpccni.lab.discovery import checksum
from vpccni.netlink.namespace import inside
from vpccni.netlink.values import IPAddress

Kind = Literal["tcp", "udp", "icmp"]
GOOD = ("connected", "refused", "answered")  # packets went both ways
_TOKEN_BYTES = 16
_ECHO = {4: (8, 0), 6: (128, 129)}  # request and answer


class Probe(Protocol):
    """`with probe: ...; probe.run(seconds)`; `sent` is its packet as it begins, `token` what it carries."""

    sent: Header
    token: bytes

    def __enter__(self) -> Self:
        """Hold the socket."""
        ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let go of it."""
        ...

    def run(self, wait_s: float) -> str:
        """Send it and wait: one of `GOOD`, or what went wrong."""
        ...


def probe(kind: Kind, netns_fd: int, source: IPAddress, target: IPAddress, port: int) -> Probe:
    """A probe of a kind that starts in a namespace. `port` is of no account to ICMP."""
    if kind == "icmp":
        return _Echo(netns_fd, source, target)
    return _Transport(kind, netns_fd, source, target, port)


def source_for(netns_fd: int, target: IPAddress) -> str:
    """The source that the kernel there would choose; connecting a datagram socket sends nothing."""
    with inside(netns_fd), socket.socket(_family(target), socket.SOCK_DGRAM) as asked:
        try:
            asked.connect((str(target), 9))
        except OSError as error:
            why = f"it has no way to IPv{target.version}: {error.strerror}"
            hint = "choose a destination of the family that it has addresses of (--family)"
            raise InputError(f"trace to {target}", why, hint=hint) from error
        return str(asked.getsockname()[0])


class _Socket:
    """A socket of a namespace, bound to the probe's source."""

    def __init__(self, netns_fd: int, kind: int, number: int, source: IPAddress) -> None:
        with inside(netns_fd):
            self._socket = socket.socket(_family(source), kind | socket.SOCK_CLOEXEC, number)
        try:
            self._socket.bind((str(source), 0))
        except OSError as error:
            self._socket.close()
            why = f"{source} is no address there: {error.strerror}"
            raise InputError(f"send from {source}", why, hint="see `ip addr` there") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()


class _Transport(_Socket):
    """TCP: a connection attempt. UDP: a datagram, which a closed port answers with an error."""

    def __init__(self, kind: Kind, netns_fd: int, source: IPAddress, target: IPAddress, port: int) -> None:
        super().__init__(netns_fd, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM, 0, source)
        self.sent = Header(source, int(self._socket.getsockname()[1]), target, port, kind)
        self.token = b"" if kind == "tcp" else os.urandom(_TOKEN_BYTES)

    def run(self, wait_s: float) -> str:
        """Connect, or send and wait for a datagram."""
        self._socket.settimeout(wait_s)
        try:
            self._socket.connect((str(self.sent.target), self.sent.target_port))
            if not self.token:
                return "connected"
            self._socket.send(self.token)
            self._socket.recv(2048)
        except OSError as error:
            return _word(error, wait_s)
        return "answered"


class _Echo(_Socket):
    """ICMP: an echo request with an identifier of its own."""

    def __init__(self, netns_fd: int, source: IPAddress, target: IPAddress) -> None:
        number = socket.IPPROTO_ICMP if target.version == 4 else socket.IPPROTO_ICMPV6
        super().__init__(netns_fd, socket.SOCK_RAW, number, source)
        self._identifier = struct.unpack("!H", os.urandom(2))[0] or 1
        self.sent = Header(source, self._identifier, target, 0, "icmp" if target.version == 4 else "icmp6")
        self.token = os.urandom(_TOKEN_BYTES)

    def run(self, wait_s: float) -> str:
        """Ask, and wait for the answer, or for an error that quotes the request."""
        version = self.sent.target.version
        asks, answers = _ECHO[version]
        # The kernel fills in the checksum of ICMPv6, which is over the addresses, too.
        message = struct.pack("!BBHHH", asks, 0, 0, self._identifier, 1) + self.token
        if version == 4:
            message = struct.pack("!BBHHH", asks, 0, checksum(message), self._identifier, 1) + self.token
        deadline = time.monotonic() + wait_s
        try:
            self._socket.settimeout(wait_s)
            self._socket.sendto(message, (str(self.sent.target), 0))
            while (left_s := deadline - time.monotonic()) > 0:
                self._socket.settimeout(left_s)
                packet = self._socket.recv(2048)
                told = packet[(packet[0] & 15) * 4 :] if version == 4 else packet
                if self.token in told and told[0] not in (asks, answers):
                    return "unreachable, an error message says"
                if self.token in told and told[0] == answers:
                    return "answered"
        except OSError as error:
            return _word(error, wait_s)
        return _word(TimeoutError(), wait_s)


def _word(error: OSError, wait_s: float) -> str:
    if isinstance(error, TimeoutError) or error.errno == errno.EAGAIN:
        return f"no answer within {wait_s:g} s"
    if isinstance(error, ConnectionRefusedError):
        return "refused"
    return (error.strerror or str(error)).lower()


def _family(address: IPAddress) -> int:
    return int(socket.getaddrinfo(str(address), None, flags=socket.AI_NUMERICHOST)[0][0])
