# SPDX-License-Identifier: Apache-2.0
"""The way of a packet and of its answer through pods, nodes and the VPC, predicted from observed state.

Knows in which order a kernel routes and asks its firewall; `walk.hooks` knows the firewall, `walk.vpc` the VPC between
the machines. Must never look at anything itself, and knows no layout: rules, routes and firewall are evaluated as they
are. `lab.trace` calls `walk`, and `walks` when the kernel draws lots.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from vpccni.core.walk.conntrack import Connections
from vpccni.core.walk.fib import Choice, Question, choose
from vpccni.core.walk.hooks import Hooks, Passing
from vpccni.core.walk.machine import device_of, machine
from vpccni.core.walk.meeting import Draws, Header, Meeting
from vpccni.core.walk.reasons import purpose
from vpccni.core.walk.values import Hop, Stack, Trip, Verdict, World
from vpccni.core.walk.vpc import Notes, Step, Stop, VpcWay
from vpccni.netlink.values import Route

HOPS_LIMIT = 16  # stacks that a packet may pass; more is a loop
TRIPS_LIMIT = 128  # ways of different draws that are worth a look


def walks(world: World, start: str, header: Header) -> Iterator[Trip]:
    """The trips for all that the kernels may draw, the one of first options first."""
    todo: list[tuple[int, ...]] = [()]
    for _ in range(TRIPS_LIMIT):
        if not todo:
            return
        wanted = todo.pop(0)
        trip = walk(world, start, header, wanted)
        yield trip
        taken = [draw.taken for draw in trip.draws]
        for at in range(len(wanted), len(taken)):
            todo += [(*taken[:at], other) for other in range(1, len(trip.draws[at].options))]


def walk(world: World, start: str, header: Header, wanted: Sequence[int] = ()) -> Trip:
    """The trip of a first packet that a program in the stack `start` sends, and of the answer to it. `wanted` is what
    the kernels draw, in the order in which they are asked; what is missing is the first option."""
    walker = _Walker(world, wanted)
    delivered, final = "", None
    try:
        delivered, arrived = walker.go(start, header)
        final = walker.kept
        walker.notes.phase = "reply"
        home, answer = walker.go(delivered, arrived.reversed)
        if home != start or answer.target != header.source or answer.source != header.target:
            raise Stop("reply-astray", home, f"the answer arrives as {answer}, which no connection there expects")
        verdict = Verdict("", delivered, "the request arrives and the answer comes back")
    except Stop as stop:
        verdict = stop.verdict
        if stop.answer is not None and walker.notes.phase == "request":
            walker.refused(verdict.where, stop.answer)
    unread = tuple(dict.fromkeys(walker.hooks.unread))
    return Trip(tuple(walker.notes.hops), verdict, delivered, unread, tuple(walker.draws.made), final)


class _Walker:
    """One trip: hops so far and the connections that stacks remember."""

    def __init__(self, world: World, wanted: Sequence[int]) -> None:
        self._world = world
        self.notes = Notes()
        self.draws = Draws(wanted)
        self.kept: Hop | None = None
        self._route_out: Route | None = None  # of the packet that a machine is about to send
        self._vpc = VpcWay(world.vpc, self.notes)
        self._connections = Connections()
        self.hooks = Hooks(self.notes, self.draws, self._connections)

    def go(self, start: str, header: Header, *, related: bool = False) -> tuple[str, Header]:
        """(The place that gets the packet, the packet as it gets there)."""
        if start not in self._world.stacks:
            return self._onward(self._vpc.answered(start, header))
        return self._onward(self._passage(self._world.stacks[start], Meeting(header, related=related)))

    def refused(self, place: str, answer: Header) -> None:
        """What a rule sends back goes its way like any answer; where that ends does not matter any more."""
        self.notes.phase = "reply"
        try:
            self.go(place, answer, related=True)
        except Stop:
            return

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
        meeting = replace(meeting, machine=machine(stack))
        answering = self.notes.phase == "reply"
        known = self._connections.find(stack.name, meeting.header, answering=answering)
        passing = Passing(stack, meeting, known, lambda each: self._rerouted(stack, each))
        if not meeting.iif:
            return self._sent(passing, meeting)
        self.notes.see(stack.name, meeting.iif, "in", meeting)
        meeting = self.hooks.run("PREROUTING", passing, meeting)
        self._reverse_path(stack, meeting)
        choice = self._route(stack, meeting)
        assert choice.route is not None  # a refusal has ended the trip
        if choice.route.kind in ("local", "broadcast"):
            return self._keep(passing, meeting)
        version = meeting.header.target.version
        if (version, meeting.iif) in stack.unforwarded:
            why = f"{meeting.header.target} is none of its addresses, and it forwards no IPv{version}"
            raise Stop("not-forwarding", stack.name, why)
        return self._leave(passing, meeting, choice.route)

    def _sent(self, passing: Passing, meeting: Meeting) -> Step:
        """A program of this machine sends it, also to the machine itself: then it comes back from loopback."""
        stack = passing.stack
        meeting = self._rerouted(stack, meeting)
        meeting = self.hooks.run("OUTPUT", passing, meeting)
        route = self._route_out  # a mark that a chain of type filter sets comes too late to change it
        assert route is not None
        if route.kind not in ("local", "broadcast"):
            return self._leave(passing, meeting, route)
        meeting = self.hooks.run("POSTROUTING", passing, replace(meeting, oif="lo"))
        meeting = self.hooks.run("PREROUTING", passing, replace(meeting, iif="lo", oif=""), looped=True)
        return self._keep(passing, meeting, looped=True)

    def _keep(self, passing: Passing, meeting: Meeting, *, looped: bool = False) -> Step:
        meeting = self.hooks.run("INPUT", passing, meeting, looped=looped)
        name, known = passing.stack.name, passing.known
        if known is not None and known.reply:
            meeting = replace(meeting, header=known.connection.came.reversed)
        self._connections.remember(name, passing.came.header, meeting, known)
        marks = meeting.mark, meeting.ct_mark
        self.kept = Hop(self.notes.phase, name, "", "", meeting.header, "", "", *marks)
        return name, "", meeting.header

    def _leave(self, passing: Passing, meeting: Meeting, route: Route) -> Step:
        stack = passing.stack
        device = device_of(stack, route)
        meeting = replace(meeting, oif=device)
        if meeting.iif:
            meeting = self.hooks.run("FORWARD", passing, meeting)
        meeting = self.hooks.run("POSTROUTING", passing, meeting)
        self._connections.remember(stack.name, passing.came.header, meeting, passing.known)
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

    def _rerouted(self, stack: Stack, meeting: Meeting) -> Meeting:
        """A packet of the machine itself with the device that its route leads to."""
        self._route_out = self._route(stack, meeting).route
        return replace(meeting, oif=device_of(stack, self._route_out))

    def _route(self, stack: Stack, meeting: Meeting) -> Choice:
        header = meeting.header
        question = Question(header.source, header.target, meeting.mark, meeting.iif or "lo")
        choice = choose(stack.rules, stack.routes, question)
        if choice.refused:
            decided = f"{choice.route} ({choice.rule})" if choice.route else str(choice.rule or "no rule")
            why = f"no route to {meeting.header.target} (mark {meeting.mark:#x}): {decided}"
            raise Stop("no-route", stack.name, why)
        assert choice.rule is not None
        why = purpose(choice.rule, on_node=stack.name.startswith("node "))
        self.notes.decide(stack.name, meeting, f"{choice.rule} -> {choice.route}", why)
        return choice

    def _reverse_path(self, stack: Stack, meeting: Meeting) -> None:
        if meeting.header.source.version == 6 or stack.reverse_filter.get(meeting.iif, 0) != 1:
            return  # IPv6 has no such check
        header = meeting.header
        back = choose(stack.rules, stack.routes, Question(header.target, header.source))
        if device_of(stack, back.route) != meeting.iif:
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
