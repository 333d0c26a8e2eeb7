# SPDX-License-Identifier: Apache-2.0
"""Traces of pods: events in order of time, read from JSON lines or generated, each on its node.

Knows the file format and a simple scheduler for pods that name no node. Must never know addresses: a trace is the same
for every setting and policy that is compared over it. `sim.run` plays it.

One line per event: `{"t": 12.5, "op": "add", "pod": "web-1", "node": 3}`; `node` is a number from 0 or a name, and may
be left out: then the pod goes to the node with the fewest pods.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec

from vpccni.errors import InputError


class PodEvent(NamedTuple):
    """A pod arrives on a node (`add`) or goes. `t` in seconds from the start."""

    t: float
    add: bool
    pod: str
    node: int


class TraceError(InputError):
    """A trace file cannot be used; the message names the lines."""

    code = "invalid-trace"


class _Line(msgspec.Struct, forbid_unknown_fields=True):
    t: float
    op: str
    pod: str
    node: int | str | None = None


SHOWN = 5  # wrong lines in one message


def parse(text: Iterable[str], nodes: int, capacity: int, source: str = "trace") -> tuple[list[PodEvent], int]:
    """The events of a file, and how many pods found every node full (`capacity` pods) and are left out.

    Raises TraceError with the numbers of all wrong lines: no JSON, unknown fields, time that runs backwards, a pod that
    is added twice, a pod that goes and never came, a node that does not exist.
    """
    reader = _Reader(nodes, capacity)
    problems: list[str] = []
    decoder = msgspec.json.Decoder(_Line)
    for number, line in enumerate(text, 1):
        if not line.strip():
            continue
        try:
            reader.read(decoder.decode(line))
        except (msgspec.MsgspecError, ValueError, UnicodeError) as error:
            problems.append(f"line {number}: {error}")
    if problems:
        more = f"; and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        raise TraceError(
            f"read {source}",
            "; ".join(problems[:SHOWN]) + more,
            hint='each line is {"t": seconds, "op": "add" or "del", "pod": name, "node": number or name, optional}',
            evidence={"wrong_lines": len(problems)},
        )
    if not reader.events:
        raise TraceError(f"read {source}", "it holds no event", hint="add lines with op add and del")
    return reader.events, reader.unschedulable


class _Reader:
    def __init__(self, nodes: int, capacity: int) -> None:
        self._nodes, self._capacity = nodes, capacity
        self._names: dict[str, int] = {}
        self._where: dict[str, int] = {}  # pod -> node, -1 when it found none
        self._count = [0] * nodes
        self._emptiest = [(0, node) for node in range(nodes)]  # may hold old counts
        self._last_t = 0.0
        self.events: list[PodEvent] = []
        self.unschedulable = 0

    def read(self, line: _Line) -> None:
        if line.op not in ("add", "del"):
            raise ValueError(f"op {line.op!r} is neither add nor del")
        if not 0.0 <= line.t < float("inf"):
            raise ValueError(f"t {line.t!r} is not a time from 0 on")
        if line.t < self._last_t:
            raise ValueError(f"t {line.t:g} is before the line above, {self._last_t:g}")
        if not line.pod:
            raise ValueError("pod is empty")
        if line.op == "add":
            if line.pod in self._where:
                raise ValueError(f"pod {line.pod!r} is there already")
            self._add(line)
        else:
            if line.pod not in self._where:
                raise ValueError(f"pod {line.pod!r} is not there")
            node = self._where.pop(line.pod)
            if node >= 0:
                self._counted(node, -1)
                self.events.append(PodEvent(line.t, False, line.pod, node))
        self._last_t = line.t

    def _add(self, line: _Line) -> None:
        node = self._emptiest_node() if line.node is None else self._named(line.node)
        self._where[line.pod] = node
        if node < 0:
            self.unschedulable += 1
            return
        self._counted(node, 1)
        self.events.append(PodEvent(line.t, True, line.pod, node))

    def _named(self, node: int | str) -> int:
        if isinstance(node, str):
            number = self._names.setdefault(node, len(self._names))
            if number >= self._nodes:
                raise ValueError(f"node {node!r} is the {number + 1}th name, there are {self._nodes} nodes")
            return number
        if not 0 <= node < self._nodes:
            raise ValueError(f"node {node} does not exist, there are {self._nodes} from 0 on")
        return node

    def _counted(self, node: int, change: int) -> None:
        self._count[node] += change
        heapq.heappush(self._emptiest, (self._count[node], node))

    def _emptiest_node(self) -> int:
        while self._emptiest:
            count, node = self._emptiest[0]
            if count == self._count[node]:
                return node if count < self._capacity else -1
            heapq.heappop(self._emptiest)
        return -1


def merged(parts: Iterable[Sequence[PodEvent]], duration_s: float) -> list[PodEvent]:
    """The events of all nodes up to the end, in order of time; departures before arrivals of the same moment."""
    events = [event for part in parts for event in part if event.t < duration_s]
    events.sort()
    return events
