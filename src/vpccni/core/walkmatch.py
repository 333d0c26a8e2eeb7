# SPDX-License-Identifier: Apache-2.0
"""Prediction beside observation: where a probe was really seen, and whether that is where it should have been.

Knows how a TCP probe and its answer are told from other traffic although addresses and ports change on the way: by the
sequence number of the SYN, which no translation touches. Must never capture anything. `lab.trace` calls it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from vpccni.core.dissect import TCP_ACK, TCP_SYN, Ends
from vpccni.core.walkfilter import Header
from vpccni.core.walkvalues import Hop, Phase, Way


@dataclass(frozen=True, slots=True)
class Sighting:
    """A packet of somebody's at a device."""

    place: str
    device: str
    way: Way
    ends: Ends
    time_ns: int = 0


@dataclass(frozen=True, slots=True)
class Row:
    """A place on the way: predicted, seen, or both. `agrees` is False when one is missing or they differ."""

    phase: Phase
    place: str
    device: str
    way: Way
    predicted: Header | None
    seen: Header | None

    @property
    def agrees(self) -> bool:
        """Whether the packet was there as predicted; a port that the kernel draws may be any."""
        want, have = self.predicted, self.seen
        return want is not None and have is not None and same(want, have)


def same(want: Header, have: Header) -> bool:
    """Equal but for ports that could not be known."""
    ports = ((want.source_port, have.source_port), (want.target_port, have.target_port))
    return (want.source, want.target) == (have.source, have.target) and all(not a or a == b for a, b in ports)


def of_probe(sightings: Iterable[Sighting], sent: Header) -> dict[tuple[Phase, str, str, Way], Sighting]:
    """The first sighting of the probe `sent`, and of its answer, at each place."""
    ordered = sorted(sightings, key=lambda each: each.time_ns)
    start = next((each.ends.sequence for each in ordered if _is_sent(each.ends, sent)), None)
    found: dict[tuple[Phase, str, str, Way], Sighting] = {}
    for each in ordered if start is not None else ():
        ends = each.ends
        asks = ends.flags & (TCP_SYN | TCP_ACK) == TCP_SYN and ends.sequence == start
        answers = ends.flags & TCP_ACK and ends.flags & ~TCP_ACK and ends.acknowledged == (start or 0) + 1 & 0xFFFFFFFF
        if asks or (answers and ends.sequence != (start or 0) + 1):
            found.setdefault(("request" if asks else "reply", each.place, each.device, each.way), each)
    return found


def align(hops: Sequence[Hop], seen: dict[tuple[Phase, str, str, Way], Sighting]) -> list[Row]:
    """One row for each place where the packet was predicted, then those where it was not but was seen."""
    rows, used = [], set()
    for hop in hops:
        if hop.device:
            key = (hop.phase, hop.place, hop.device, hop.way)
            used.add(key)
            rows.append(Row(*key, hop.header, _header(seen[key].ends) if key in seen else None))
    extra = [Row(*key, None, _header(sighting.ends)) for key, sighting in seen.items() if key not in used]
    return rows + extra


def _is_sent(ends: Ends, sent: Header) -> bool:
    return _header(ends) == sent and ends.flags & (TCP_SYN | TCP_ACK) == TCP_SYN


def _header(ends: Ends) -> Header:
    return Header(ends.source, ends.source_port, ends.target, ends.target_port, ends.protocol)
