# SPDX-License-Identifier: Apache-2.0
"""Connections that the kernels on the way remember, and what they do to the packets that follow the first one.

Knows how the tuples of a connection's two directions belong together. Must never run a rule: which translation a
connection got, the nat chains decide once. `walk` and `walk.hooks` ask it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from vpccni.core.walk.meeting import CONFIRMED, DNAT, DNAT_DONE, SEEN_REPLY, SNAT, SNAT_DONE, Header, Meeting

# Hooks in which targets are translated; in the other two it is sources (nf_nat_proto.c).
TARGET_HOOKS = ("PREROUTING", "OUTPUT")


@dataclass(slots=True)
class Connection:
    """A tracked connection of one machine: its first packet as it came and as it left, mark and status."""

    came: Header
    left: Header
    mark: int = 0
    status: int = 0


@dataclass(frozen=True, slots=True)
class Known:
    """What conntrack says of a packet: its connection, and whether it is an answer."""

    connection: Connection
    reply: bool

    def translated(self, header: Header, hook: str) -> Header:
        """The packet after the hook has done what it did to the connection's first packet, or undone it."""
        came, left = self.connection.came, self.connection.left
        goal = came.reversed if self.reply else left
        if hook in TARGET_HOOKS:
            return replace(header, target=goal.target, target_port=goal.target_port)
        return replace(header, source=goal.source, source_port=goal.source_port)


class Connections:
    """All of one trip, by machine."""

    def __init__(self) -> None:
        self._of: dict[str, list[Connection]] = {}

    def find(self, machine: str, header: Header, *, answering: bool) -> Known | None:
        """The connection of a packet that comes to a machine. Only an answer can be one: a request that comes by a
        second time is looked up by the way it came."""
        for each in reversed(self._of.get(machine, ())):
            if answering and _answers(header, each.left):
                return Known(each, True)
            if not answering and header == each.came:
                return Known(each, False)
        return None

    def remember(self, machine: str, came: Header, meeting: Meeting, known: Known | None) -> None:
        """The packet has passed: its connection is confirmed."""
        if meeting.untracked or meeting.original is None:
            return
        if known is not None:
            known.connection.mark = meeting.ct_mark
            return
        made = Connection(came, meeting.header, meeting.ct_mark, meeting.status | CONFIRMED)
        self._of.setdefault(machine, []).append(made)


def tracked(meeting: Meeting, known: Known | None) -> Meeting:
    """The packet once conntrack has seen it (priority -200)."""
    if meeting.untracked:
        return meeting
    if known is None:
        return replace(meeting, original=meeting.header, new=True, ct_mark=0, status=0)
    found = known.connection
    status = found.status | (SEEN_REPLY if known.reply else 0)
    return replace(
        meeting, original=found.came, new=not known.reply, reply=known.reply, ct_mark=found.mark, status=status
    )


def translated_status(before: Meeting, after: Meeting, hook: str) -> int:
    """The status of a new connection after the nat chains of a hook."""
    done, changed = (DNAT_DONE, DNAT) if hook in TARGET_HOOKS else (SNAT_DONE, SNAT)
    return after.status | done | (changed if after.header != before.header else 0)


def _answers(header: Header, request: Header) -> bool:
    """Whether a packet is the answer to a request, as far as ports are known."""
    return (header.source, header.target, header.source_port) == (request.target, request.source, request.target_port)
