# SPDX-License-Identifier: Apache-2.0
"""Flows without end, as a program for one network namespace: new ones about every millisecond, and some that go on.

Knows sockets and the standard library only, so that it runs wherever `ip netns exec` puts it. `listen ADDRESS PORT`
tells everybody who asks from where they were seen, over UDP and TCP, and goes on answering. `begin SECONDS PERIOD_MS
NAME=ADDRESS:PORT...` begins UDP and TCP flows in turn to the targets, keeps one of each kind to each of them, and
prints as JSON what became of them. SIGTERM ends both.
"""

from __future__ import annotations

import json
import resource
import select
import signal
import socket
import sys
import time
from dataclasses import asdict, dataclass, field

UDP_EVERY = 3  # of four flows three are UDP, which nobody sends again
PATIENCE_S = 1.6  # until a flow counts as lost; a SYN is sent again after 1 s, and escapes again
STANDING_EVERY_S = 0.005
_RCVBUFFORCE, _SNDBUFFORCE = 33, 32


@dataclass
class Target:
    """What became of the flows to one address. `lost`: the moments at which they began, on the monotonic clock."""

    address: tuple[str, int]
    begun: int = 0
    seen: dict[str, int] = field(default_factory=dict)
    first: dict[str, tuple[str, float]] = field(default_factory=dict)  # source -> the first flow that was seen with it
    lost: list[tuple[str, float]] = field(default_factory=list)
    gaps: dict[str, float] = field(default_factory=dict)  # kind -> longest silence of the standing flow, in seconds
    standing: dict[str, list[str]] = field(default_factory=dict)  # kind -> every source it was seen with

    def answered(self, source: str, kind: str, began: float) -> None:
        self.seen[source] = self.seen.get(source, 0) + 1
        self.first.setdefault(source, (kind, began))


@dataclass
class Flow:
    """One that is waited for; a standing one is asked again and again."""

    target: Target
    kind: str
    sock: socket.socket
    at: float
    standing: bool = False
    last: float = 0.0
    buffer: bytes = b""


class Client:
    """Begins flows and collects the answers, in one thread."""

    def __init__(self, targets: list[Target], period_s: float) -> None:
        self._targets, self._period_s = targets, period_s
        self._poll, self._open = select.epoll(), dict[int, Flow]()
        self.pauses: list[float] = []  # the longest times in which none was begun

    def run(self, until: float) -> None:
        for target in self._targets:
            for kind in ("udp", "tcp"):
                self._begin(target, kind, standing=True)
        number, due, asked, last = 0, time.monotonic(), 0.0, time.monotonic()
        while (now := time.monotonic()) < until and not _ended:
            if now >= due:
                target = self._targets[number % len(self._targets)]
                self._begin(target, "udp" if number // len(self._targets) % 4 < UDP_EVERY else "tcp")
                self.pauses = sorted([*self.pauses, now - last])[-5:]
                number, due, last = number + 1, max(due + self._period_s, now), now
            if now >= asked + STANDING_EVERY_S:
                self._ask_again()
                asked = now
            if number % 64 == 0:
                self._forget(now - PATIENCE_S)
            self._collect(max(0.0, due - time.monotonic()))
        end = time.monotonic() + PATIENCE_S
        while any(not flow.standing for flow in self._open.values()) and time.monotonic() < end:
            self._ask_again()
            self._collect(STANDING_EVERY_S)
        self._forget(time.monotonic())
        for flow in self._open.values():
            self._heard(flow)

    def _begin(self, target: Target, kind: str, *, standing: bool = False) -> None:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM if kind == "udp" else socket.SOCK_STREAM)
        sock.setblocking(False)
        now = time.monotonic()
        flow = Flow(target, kind, sock, now, standing, now)
        target.begun += not standing
        sock.connect_ex(target.address)
        if kind == "udp":
            _send(sock)
        self._open[sock.fileno()] = flow
        self._poll.register(sock, select.EPOLLIN)

    def _ask_again(self) -> None:
        for flow in self._open.values():
            if flow.standing:
                _send(flow.sock)

    def _collect(self, timeout_s: float) -> None:
        for number, _ in self._poll.poll(timeout_s):
            flow = self._open[number]
            try:
                answer = flow.sock.recv(4096)
            except OSError:
                answer = b""
            flow.buffer += answer
            *lines, flow.buffer = flow.buffer.split(b"\n")
            if flow.standing:
                for line in set(lines):
                    sources = flow.target.standing.setdefault(flow.kind, [])
                    sources += [] if line.decode() in sources else [line.decode()]
                if lines:
                    self._heard(flow)
                if not answer:
                    self._poll.unregister(flow.sock)  # the silence goes on until the end
            elif lines:
                flow.target.answered(lines[0].decode().split()[0], flow.kind, flow.at)
                self._close(flow)
            elif not answer:
                self._lose(flow)

    def _heard(self, flow: Flow) -> None:
        now = time.monotonic()
        flow.target.gaps[flow.kind] = max(flow.target.gaps.get(flow.kind, 0.0), now - flow.last)
        flow.last = now

    def _forget(self, before: float) -> None:
        for flow in [flow for flow in self._open.values() if not flow.standing and flow.at < before]:
            self._lose(flow)

    def _lose(self, flow: Flow) -> None:
        flow.target.lost.append((flow.kind, flow.at))
        self._close(flow)

    def _close(self, flow: Flow) -> None:
        del self._open[flow.sock.fileno()]
        flow.sock.close()  # which takes it out of the poll, too


def _send(sock: socket.socket) -> None:
    try:
        sock.send(b"whom do you see?\n")
    except OSError:
        return  # not connected yet, or full: it is asked again


def begin(seconds: float, period_ms: float, named: list[str]) -> None:
    targets = {}
    for each in named:
        name, _, text = each.partition("=")
        host, _, port = text.rpartition(":")
        targets[name] = Target((host, int(port)))
    client = Client(list(targets.values()), period_ms / 1000)
    client.run(time.monotonic() + seconds)
    told = {name: asdict(target) for name, target in targets.items()}
    print(json.dumps({"targets": told, "pauses": client.pauses}), flush=True)


def listen(host: str, port: int) -> None:
    datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    datagrams.setsockopt(socket.SOL_SOCKET, _RCVBUFFORCE, 8 << 20)
    datagrams.setsockopt(socket.SOL_SOCKET, _SNDBUFFORCE, 8 << 20)
    datagrams.bind((host, port))
    server = socket.create_server((host, port), backlog=4096)
    poll, peers = select.epoll(), dict[int, tuple[socket.socket, bytes]]()
    for sock in (datagrams, server):
        sock.setblocking(False)
        poll.register(sock, select.EPOLLIN)
    print("listening", flush=True)
    while not _ended:
        for number, _ in poll.poll(0.2):
            if number == datagrams.fileno():
                _, peer = datagrams.recvfrom(64)
                datagrams.sendto(_told(peer), peer)
            elif number == server.fileno():
                sock, peer = server.accept()
                peers[sock.fileno()] = sock, _told(peer)
                poll.register(sock, select.EPOLLIN)
                sock.sendall(_told(peer))
            else:
                sock, told = peers[number]
                try:
                    if sock.recv(4096):
                        sock.sendall(told)
                        continue
                except OSError:
                    pass
                del peers[number]
                sock.close()


def _told(peer: tuple[str, int]) -> bytes:
    return f"{peer[0]} {peer[1]}\n".encode()


_ended: list[int] = []

if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda number, _: _ended.append(number))
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    if sys.argv[1] == "listen":
        listen(sys.argv[2], int(sys.argv[3]))
    else:
        begin(float(sys.argv[2]), float(sys.argv[3]), sys.argv[4:])
