# SPDX-License-Identifier: Apache-2.0
"""A probe, predicted and then sent: who saw it where, and what was counted as dropped.

Knows how to open taps in every namespace on the way and to send one TCP probe. Must never predict (`core.walk` does) or
change anything: a trace leaves everything as it was. `vpccni trace` calls it.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path

from vpccni.core.dissect import dissect
from vpccni.core.walk import walk
from vpccni.core.walkfilter import Header
from vpccni.core.walkmatch import Row, Sighting, align, of_probe
from vpccni.core.walkvalues import Trip, Way
from vpccni.errors import HostError, InputError
from vpccni.host.tap import Tap
from vpccni.lab.sockets import namespace_handle, tcp_socket
from vpccni.lab.world import LabWorld
from vpccni.netlink.namespace import inside
from vpccni.netlink.values import IPAddress

# Kernel counters that say why a packet was dropped; the two files of /proc/net have the same form.
_COUNTERS = {"netstat": ("IPReversePathFilter", "InNoRoutes"), "snmp": ("OutNoRoutes", "InAddrErrors")}

Drops = Callable[[], Mapping[str, int]]  # the VPC's counters


@dataclass(frozen=True, slots=True)
class Trace:
    """Everything about one probe. Without sending there are no rows, and `answer` is empty.

    `answer`: "connected", "refused" (the port is closed, the packets went both ways) or what went wrong.
    `dropped` are counters that moved meanwhile, of the VPC and of the kernels on the way.
    """

    sent: Header
    trip: Trip
    rows: tuple[Row, ...] = ()
    answer: str = ""
    dropped: Mapping[str, int] = field(default_factory=dict)

    @property
    def agrees(self) -> bool:
        """Whether everything was seen as predicted and nothing else."""
        return all(row.agrees for row in self.rows)

    @property
    def good(self) -> bool:
        """Whether the request arrives and is answered, as predicted."""
        return self.trip.verdict.reached and self.agrees and self.answer in ("", "connected", "refused")


def trace(
    lab: LabWorld,
    start: str,
    sent_from: IPAddress | None,
    target: IPAddress,
    port: int,
    *,
    send: bool,
    wait_s: float,
    drops: Drops,
) -> Trace:
    """Predict the way from the place `start` (such as `pod web`), and then try it.

    Without `sent_from` the kernel there picks the source: an address for egress is none that anybody knows a pod by.
    """
    if start not in lab.world.stacks:
        raise HostError(f"trace from {start}", "it is gone", code="namespace-missing")
    with namespace_handle(lab.namespaces[start]) as handle, tcp_socket(handle, str(target)) as probe:
        source = sent_from or _source(handle, target)
        probe.bind((str(source), 0))
        sent = Header(source, int(probe.getsockname()[1]), target, port)
        trip = walk(lab.world, start, sent)
        if not send:
            return Trace(sent, trip)
        before = {**_counters(lab.namespaces), **drops()}
        answer, sightings = _try(probe, sent, lab.namespaces, wait_s)
    after = {**_counters(lab.namespaces), **drops()}
    moved = {name: count - before.get(name, 0) for name, count in after.items() if count > before.get(name, 0)}
    return Trace(sent, trip, tuple(align(trip.hops, of_probe(sightings, sent))), answer, moved)


def _source(netns_fd: int, target: IPAddress) -> IPAddress:
    """The source that the kernel would choose; connecting a datagram socket sends nothing."""
    family = socket.getaddrinfo(str(target), None, flags=socket.AI_NUMERICHOST)[0][0]
    with inside(netns_fd), socket.socket(family, socket.SOCK_DGRAM) as asked:
        try:
            asked.connect((str(target), 9))
        except OSError as error:
            why = f"it has no way to IPv{target.version}: {error.strerror}"
            raise InputError(f"trace to {target}", why) from error
        return ip_address(asked.getsockname()[0])


def _try(
    probe: socket.socket, sent: Header, namespaces: Mapping[str, Path], wait_s: float
) -> tuple[str, list[Sighting]]:
    """Connect while all places are watched; (what came of it, who saw what)."""
    with ExitStack() as stack:
        taps = {}
        for place, path in namespaces.items():
            handle = stack.enter_context(namespace_handle(path))
            taps[place] = stack.enter_context(Tap(handle))
        answer = _connect(probe, sent, wait_s)
        found: list[Sighting] = []
        for place, tap in taps.items():
            for frame in tap.frames():
                ends = dissect(frame.packet)
                if ends is not None and ends.protocol == sent.protocol:
                    way: Way = "out" if frame.outgoing else "in"
                    found.append(Sighting(place, frame.device, way, ends, frame.time_ns))
        return answer, found


def _connect(probe: socket.socket, sent: Header, wait_s: float) -> str:
    probe.settimeout(wait_s)
    try:
        probe.connect((str(sent.target), sent.target_port))
    except ConnectionRefusedError:
        return "refused"
    except TimeoutError:
        return f"no answer within {wait_s:g} s"
    except OSError as error:
        return (error.strerror or str(error)).lower()
    return "connected"


def _counters(namespaces: Mapping[str, Path]) -> dict[str, int]:
    """Drop counters of the kernels, as "place: counter"."""
    found: dict[str, int] = {}
    for place, path in namespaces.items():
        with namespace_handle(path) as handle, inside(handle):
            for file, names in _COUNTERS.items():
                found |= {f"{place}: {name}": count for name, count in _table(file).items() if name in names}
    return found


def _table(file: str) -> dict[str, int]:
    """/proc/net/snmp and netstat: a line of names, then a line of numbers, each behind the same word."""
    lines = Path(f"/proc/thread-self/net/{file}").read_text().splitlines()
    pairs = zip(lines[::2], lines[1::2], strict=False)
    columns = (
        (name, value) for names, values in pairs for name, value in zip(names.split(), values.split(), strict=True)
    )
    return {name: int(value) for name, value in columns if value.lstrip("-").isdigit()}
