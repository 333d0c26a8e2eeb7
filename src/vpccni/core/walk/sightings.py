# SPDX-License-Identifier: Apache-2.0
"""Prediction beside observation: where a probe was really seen, and whether that is where it should have been.

Knows how a probe and its answer are told from other traffic although addresses and ports change on the way: in TCP by
the sequence number of the SYN, in UDP and ICMP by what the probe carries, and which errors quote. No translation
touches either. Must never capture anything. `lab.trace` calls it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from vpccni.core.dissect import TCP_ACK, TCP_SYN, Ends
from vpccni.core.walk.meeting import Header
from vpccni.core.walk.values import Hop, Phase, Way

Key = tuple[Phase, str, str, Way]


@dataclass(frozen=True, slots=True)
class Sighting:
    """A packet of somebody's at a device. `carries`: what only the probe has in it."""

    place: str
    device: str
    way: Way
    ends: Ends
    time_ns: int = 0
    carries: bool = False


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


def of_probe(sightings: Iterable[Sighting], sent: Header, hops: Sequence[Hop] = ()) -> dict[Key, Header]:
    """The first sighting of the probe `sent`, and of its answer, at each place. An error message about the probe counts
    as its answer when it comes from where the probe arrived, and has the ends of an answer there.

    `hops` are those predicted: a machine may translate its own probe before anybody can see it.
    """
    ordered = sorted(sightings, key=lambda each: each.time_ns)
    first = next((hop.header for hop in hops if hop.device), sent)
    return _of_tcp(ordered, sent, first) if sent.protocol == "tcp" else _of_carrier(ordered, sent)


def align(hops: Sequence[Hop], seen: dict[Key, Header]) -> list[Row]:
    """One row for each place where the packet was predicted, then those where it was not but was seen."""
    rows, used = [], set()
    for hop in hops:
        if hop.device:
            key = (hop.phase, hop.place, hop.device, hop.way)
            used.add(key)
            rows.append(Row(*key, hop.header, seen.get(key)))
    return rows + [Row(*key, None, header) for key, header in seen.items() if key not in used]


def _of_tcp(ordered: Sequence[Sighting], sent: Header, first: Header) -> dict[Key, Header]:
    start = next((each.ends.sequence for each in ordered if _is_sent(each.ends, sent, first)), None)
    found: dict[Key, Header] = {}
    for each in ordered if start is not None else ():
        ends = each.ends
        asks = ends.flags & (TCP_SYN | TCP_ACK) == TCP_SYN and ends.sequence == start
        answers = ends.flags & TCP_ACK and ends.flags & ~TCP_ACK and ends.acknowledged == (start or 0) + 1 & 0xFFFFFFFF
        if ends.protocol == "tcp" and (asks or (answers and ends.sequence != (start or 0) + 1)):
            found.setdefault(("request" if asks else "reply", each.place, each.device, each.way), _header(ends))
    return found


def _of_carrier(ordered: Sequence[Sighting], sent: Header) -> dict[Key, Header]:
    """Answers of UDP need not carry anything of the request: they go back between two ends that it had."""
    asked: set[Header] = set()
    found: dict[Key, Header] = {}
    for each in ordered:
        ends, phase = each.ends, None
        header = _header(ends)
        if ends.quoted is not None:
            quoted = _header(ends.quoted)
            if each.carries and quoted.protocol == sent.protocol and ends.source == quoted.target:
                phase, header = "reply", quoted.reversed
        elif ends.protocol != sent.protocol:
            continue
        elif header.reversed in asked or (each.carries and header.is_echo and not header.source_port):
            phase = "reply"
        elif each.carries:
            phase = "request"
            asked.add(header)
        if phase is not None:
            found.setdefault(("request" if phase == "request" else "reply", each.place, each.device, each.way), header)
    return found


def _is_sent(ends: Ends, sent: Header, first: Header) -> bool:
    if ends.protocol != "tcp" or ends.flags & (TCP_SYN | TCP_ACK) != TCP_SYN:
        return False
    return (ends.source, ends.source_port) == (sent.source, sent.source_port) or same(first, _header(ends))


def _header(ends: Ends) -> Header:
    return Header(ends.source, ends.source_port, ends.target, ends.target_port, ends.protocol)
