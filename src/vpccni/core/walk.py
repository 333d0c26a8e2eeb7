# SPDX-License-Identifier: Apache-2.0
"""The way of a packet and of its answer through pods, nodes and the VPC, predicted from observed state.

Knows the order of the kernel's hooks and connection tracking; `walkvpc` knows the VPC between the machines. Must never
look at anything itself, and knows no layout: rules, routes and firewall are evaluated as they are. `lab.trace` calls
`walk`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from vpccni.core import walkmarks
from vpccni.core.conventions import VETH_GROUP
from vpccni.core.walkfib import Choice, Question, choose
from vpccni.core.walkfilter import Header, Meeting, run
from vpccni.core.walkreasons import purpose
from vpccni.core.walkvalues import Stack, Trip, Verdict, World
from vpccni.core.walkvpc import Notes, Step, Stop, VpcWay
from vpccni.netlink.values import IPAddress, Route

HOPS_LIMIT = 16  # stacks that a packet may pass; more is a loop


@dataclass(slots=True)
class _Connection:
    """A tracked connection of one stack: the request as it came and as it left, and the mark."""

    came: Header
    left: Header
    mark: int


def walk(world: World, start: str, header: Header) -> Trip:
    """The trip of a first packet that a program in the stack `start` sends, and of the answer to it."""
    walker = _Walker(world)
    delivered = ""
    try:
        delivered, arrived = walker.go(start, header)
        walker.notes.phase = "reply"
        home, answer = walker.go(delivered, arrived.reversed)
        if home != start or answer.target != header.source or answer.source != header.target:
            raise Stop("reply-astray", home, f"the answer arrives as {answer}, which no connection there expects")
        verdict = Verdict("", delivered, "the request arrives and the answer comes back")
    except Stop as stop:
        verdict = stop.verdict
    return Trip(tuple(walker.notes.hops), verdict, delivered, tuple(dict.fromkeys(walker.unread)))


class _Walker:
    """One trip: hops so far and the connections that stacks remember."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.notes = Notes()
        self.unread: list[str] = []
        self._vpc = VpcWay(world.vpc, self.notes)
        self._connections: dict[str, list[_Connection]] = {}

    def go(self, start: str, header: Header) -> tuple[str, Header]:
        """(The place that gets the packet, the packet as it gets there)."""
        if start not in self._world.stacks:
            return self._onward(self._vpc.answered(start, header))
        return self._onward(self._passage(self._world.stacks[start], Meeting(header)))

    def _onward(self, step: Step) -> tuple[str, Header]:
        """Until a place keeps the packet: then its device is empty."""
        for _ in range(HOPS_LIMIT):
            place, device, header = step
            if not device:
                return place, header
            step = self._passage(self._world.stacks[place], Meeting(header, iif=device))
        raise Stop("loop", step[0], "the packet goes in circles until its TTL is used up")

    # -- one stack ---------------------------------------------------------------------------------------------------
    def _passage(self, stack: Stack, meeting: Meeting) -> Step:
        """Through a kernel: (next place, its device or nothing when it stays, packet)."""
        sent_here, came = not meeting.iif, meeting.header
        meeting = replace(meeting, local=lambda address, device: _is_local(stack, address, device))
        known = self._known(stack, came)
        meeting = replace(meeting, new=known is None, ct_mark=known.mark if known else 0)
        if not sent_here:
            self.notes.see(stack.name, meeting.iif, "in", meeting)
            meeting = self._hook(stack, "mangle", "PREROUTING", meeting)
            meeting = self._translate(stack, "PREROUTING", meeting, known)
            meeting = self._own_marks(stack, meeting)
            self._reverse_path(stack, meeting)
        choice = self._route(stack, meeting)
        if sent_here:
            meeting = replace(meeting, oif=_device_of(stack, choice.route))
            before = meeting.header
            meeting = self._hook(stack, "mangle", "OUTPUT", meeting)
            meeting = self._translate(stack, "OUTPUT", meeting, known)
            meeting = self._hook(stack, "filter", "OUTPUT", meeting)
            if (meeting.header, meeting.mark) != (before, 0):
                choice = self._route(stack, meeting)
        route = choice.route
        assert route is not None  # a refusal has ended the trip
        if route.kind in ("local", "broadcast"):
            return self._keep(stack, meeting, came, known)
        return self._leave(stack, meeting, came, known, route)

    def _keep(self, stack: Stack, meeting: Meeting, came: Header, known: _Connection | None) -> Step:
        meeting = self._hook(stack, "filter", "INPUT", meeting)
        if known is not None and self.notes.phase == "reply":
            meeting = replace(meeting, header=known.came.reversed)
        self._remember(stack, came, meeting, known)
        return stack.name, "", meeting.header

    def _leave(self, stack: Stack, meeting: Meeting, came: Header, known: _Connection | None, route: Route) -> Step:
        device = _device_of(stack, route)
        meeting = replace(meeting, oif=device, address_of_oif=_address_of(stack, device, meeting.header.target.version))
        if meeting.iif:
            meeting = self._hook(stack, "filter", "FORWARD", meeting)
        meeting = self._translate(stack, "POSTROUTING", meeting, known)
        self._remember(stack, came, meeting, known)
        port = self._vpc.port(stack.name, device)
        if port is not None:
            self.notes.see(stack.name, device, "out", meeting)
            return self._vpc.sent(port, meeting.header)
        if device not in stack.cables:
            self.notes.see(stack.name, device, "out", meeting)
            why = f"the packet leaves by {device}, and what is behind was not observed"
            raise Stop("leaves-view", stack.name, why)
        far, far_device = stack.cables[device]
        self._neighbour(stack, route, meeting.header, far, far_device)
        self.notes.see(stack.name, device, "out", meeting)
        return far, far_device, meeting.header

    def _route(self, stack: Stack, meeting: Meeting) -> Choice:
        header = meeting.header
        question = Question(header.source, header.target, meeting.mark, meeting.iif or "lo")
        choice = choose(stack.rules, stack.routes, question)
        if choice.refused:
            decided = f"{choice.route} ({choice.rule})" if choice.route else str(choice.rule or "no rule")
            why = f"no route to {header.target} (mark {meeting.mark:#x}): {decided}"
            raise Stop("no-route", stack.name, why)
        assert choice.rule is not None
        self.notes.decide(
            stack.name,
            meeting,
            f"{choice.rule} -> {choice.route}",
            purpose(choice.rule, on_node=stack.name.startswith("node ")),
        )
        return choice

    def _reverse_path(self, stack: Stack, meeting: Meeting) -> None:
        if stack.reverse_filter.get(meeting.iif, 0) != 1:
            return
        header = meeting.header
        back = choose(stack.rules, stack.routes, Question(header.target, header.source))
        if _device_of(stack, back.route) != meeting.iif:
            way = f"{back.route}" if back.route else "no route"
            why = f"rp_filter=1 on {meeting.iif}, and the way back to {header.source} is {way}"
            raise Stop("reverse-path", stack.name, why)

    def _neighbour(self, stack: Stack, route: Route, header: Header, far: str, far_device: str) -> None:
        """Whether the far end of a cable takes the frame."""
        hop = route.gateway or header.target
        entry = next((each for each in stack.neighbours if (each.dst, each.index) == (hop, route.index)), None)
        other = self._world.stacks[far]
        mac = next((link.mac for link in other.links if link.name == far_device), "")
        if entry is not None and entry.permanent and entry.mac != mac:
            raise Stop("neighbour", stack.name, f"{entry}, but {far_device} there has {mac or 'no address'}")
        if entry is None and not any(each.interface.ip == hop for each in other.addresses):
            raise Stop("neighbour", stack.name, f"no neighbour entry for {hop}, and nobody at {far} has that address")

    # -- firewall and connections ------------------------------------------------------------------------------------
    def _hook(self, stack: Stack, table: str, chain: str, meeting: Meeting) -> Meeting:
        chains: Mapping[str, Sequence[str]] = stack.tables.get(meeting.header.target.version, {}).get(table, {})
        effect = run(chains, chain, meeting, stack.policies.get(f"{table} {chain}", "ACCEPT"))
        self.unread += effect.unread
        if effect.dropped_by:
            raise Stop("filtered", stack.name, f"{table}: {effect.dropped_by}")
        after = effect.meeting
        if after != meeting or (table == "nat" and effect.rules):
            marks = "" if (after.mark, after.ct_mark) == (meeting.mark, meeting.ct_mark) else (
                f"mark {meeting.mark:#x} -> {after.mark:#x}, connection {meeting.ct_mark:#x} -> {after.ct_mark:#x}"
            )  # fmt: skip
            change = f"{meeting.header} becomes {after.header}" if after.header != meeting.header else ""
            why = "; ".join(filter(None, (change, marks))) or "not translated"
            self.notes.decide(stack.name, after, f"{table}: " + "\n  ".join(effect.rules), why)
        return after

    def _translate(self, stack: Stack, chain: str, meeting: Meeting, known: _Connection | None) -> Meeting:
        """The nat table of a new connection; what was done to it in the other direction of a known one."""
        if known is None:
            own = stack.own_marks
            if chain == "POSTROUTING" and own is not None and own.keeps_source(meeting):
                self.notes.decide(stack.name, meeting, walkmarks.KEPT, "a flow of the node itself is not translated")
                return meeting
            return self._hook(stack, "nat", chain, meeting)
        header, answer = meeting.header, known.came.reversed
        if chain == "POSTROUTING":
            after = replace(header, source=answer.source, source_port=answer.source_port)
        else:
            after = replace(header, target=answer.target, target_port=answer.target_port)
        if after != header:
            self.notes.decide(
                stack.name, meeting, "conntrack", f"{header} becomes {after}: the connection's translation"
            )
        return replace(meeting, header=after)

    def _own_marks(self, stack: Stack, meeting: Meeting) -> Meeting:
        group = next((link.group for link in stack.links if link.name == meeting.iif), 0)
        if stack.own_marks is None or group != VETH_GROUP:
            return meeting
        after = stack.own_marks.prerouting(meeting)
        if after != meeting:
            by = f"{walkmarks.MARKED}{stack.own_marks.mark:#x}"
            self.notes.decide(stack.name, after, by, f"mark {meeting.mark:#x} -> {after.mark:#x}")
        return after

    def _known(self, stack: Stack, header: Header) -> _Connection | None:
        if self.notes.phase == "request":
            return None
        found = reversed(self._connections.get(stack.name, ()))
        return next((each for each in found if _answers(header, each.left)), None)

    def _remember(self, stack: Stack, came: Header, meeting: Meeting, known: _Connection | None) -> None:
        if known is None:
            made = _Connection(came, meeting.header, meeting.ct_mark)
            self._connections.setdefault(stack.name, []).append(made)


def _answers(header: Header, request: Header) -> bool:
    """Whether a packet is the answer to a request, as far as ports are known."""
    return (header.source, header.target, header.source_port) == (request.target, request.source, request.target_port)


def _is_local(stack: Stack, address: IPAddress, device: str) -> bool:
    own = (each for each in stack.addresses if not device or stack.device(each.index) == device)
    return any(each.interface.ip == address for each in own)


def _device_of(stack: Stack, route: Route | None) -> str:
    return (stack.device(route.index) or route.dev) if route is not None else ""


def _address_of(stack: Stack, device: str, version: int) -> IPAddress | None:
    """What MASQUERADE takes: the device's own address, or the main one of the machine."""
    own = [each for each in stack.addresses if each.interface.version == version and each.scope == "global"]
    here = [each for each in own if stack.device(each.index) == device]
    return next((each.interface.ip for each in [*here, *own]), None)
