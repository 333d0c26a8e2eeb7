# SPDX-License-Identifier: Apache-2.0
"""A probe, predicted and then sent: who saw it where, and what was counted as dropped.

Knows how to open taps in every namespace on the way and to send one probe. Must never predict (`core.walk` does) or
change anything: a trace leaves everything as it was. `vpccni trace` calls it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from pathlib import Path

from vpccni.core.dissect import dissect
from vpccni.core.walk.meeting import Header
from vpccni.core.walk.sightings import Row, Sighting, align, of_probe
from vpccni.core.walk.values import Trip, Way
from vpccni.core.walk.walk import walk, walks
from vpccni.errors import HostError
from vpccni.host.tap import Tap
from vpccni.lab.sockets import namespace_handle
from vpccni.lab.traceprobe import GOOD, Kind, Probe, probe, source_for
from vpccni.lab.world import LabWorld, with_firewall
from vpccni.netlink.namespace import inside
from vpccni.netlink.values import IPAddress

# Kernel counters that say why a packet was dropped; the two files of /proc/net have the same form.
_COUNTERS = {"netstat": ("IPReversePathFilter", "InNoRoutes"), "snmp": ("OutNoRoutes", "InAddrErrors")}

Drops = Callable[[], Mapping[str, int]]  # the VPC's counters


@dataclass(frozen=True, slots=True)
class Trace:
    """Everything about one probe. Without sending there are no rows, and `answer` is empty.

    `answer`: one of `traceprobe.GOOD` ("refused": the port is closed, the packets went both ways), or what went wrong.
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
        return self.trip.verdict.reached and self.agrees and self.answer in ("", *GOOD)


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
    protocol: Kind = "tcp",
) -> Trace:
    """Predict the way from the place `start` (such as `pod web`), and then try it.

    Without `sent_from` the kernel there picks the source: an address for egress is none that anybody knows a pod by.
    What the kernels drew by chance is known afterwards: the prediction is that of the way which was seen.
    """
    if start not in lab.world.stacks:
        raise HostError(f"trace from {start}", "it is gone", code="namespace-missing")
    with namespace_handle(lab.namespaces[start]) as handle:
        source = sent_from or ip_address(source_for(handle, target))
        with probe(protocol, handle, source, target, port) as prepared:
            sent = prepared.sent
            lab = _with_pods_rules(lab, start, sent)
            trip = walk(lab.world, start, sent)
            if not send:
                return Trace(sent, trip)
            before = {**_counters(lab.namespaces), **drops()}
            answer, sightings = _try(prepared, lab.namespaces, wait_s)
    after = {**_counters(lab.namespaces), **drops()}
    moved = {name: count - before.get(name, 0) for name, count in after.items() if count > before.get(name, 0)}
    trips: Iterable[Trip] = walks(lab.world, start, sent) if trip.draws else [trip]
    beside = ((each, align(each.hops, of_probe(sightings, sent, each.hops))) for each in trips)
    trip, rows = min(beside, key=lambda each: sum(not row.agrees for row in each[1]))
    return Trace(sent, trip, tuple(rows), answer, moved)


def _with_pods_rules(lab: LabWorld, start: str, sent: Header) -> LabWorld:
    """The lab with the firewalls of the pods at both ends: a sidecar may redirect there. Those of other pods nobody
    passes, and to read all of them would take seconds."""
    stacks = dict(lab.world.stacks)
    ends = {start, *(trip.delivered_to for trip in walks(lab.world, start, sent))}
    for place in ends & stacks.keys():
        if place.startswith("pod "):
            with namespace_handle(lab.namespaces[place]) as handle, inside(handle):
                stacks[place] = with_firewall(stacks[place])
    return replace(lab, world=replace(lab.world, stacks=stacks))


def _try(prepared: Probe, namespaces: Mapping[str, Path], wait_s: float) -> tuple[str, list[Sighting]]:
    """Send while all places are watched; (what came of it, who saw what)."""
    with ExitStack() as stack:
        taps = {}
        for place, path in namespaces.items():
            handle = stack.enter_context(namespace_handle(path))
            taps[place] = stack.enter_context(Tap(handle))
        answer = prepared.run(wait_s)
        found: list[Sighting] = []
        for place, tap in taps.items():
            for frame in tap.frames():
                ends = dissect(frame.packet)
                if ends is not None and (ends.quoted is not None or ends.protocol == prepared.sent.protocol):
                    way: Way = "out" if frame.outgoing else "in"
                    carries = bool(prepared.token) and prepared.token in frame.packet
                    found.append(Sighting(place, frame.device, way, ends, frame.time_ns, carries))
        return answer, found


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
