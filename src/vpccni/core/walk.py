# SPDX-License-Identifier: Apache-2.0
"""The way of a packet and of its answer through pods, nodes and the VPC, predicted from observed state.

Knows the order of the kernel's hooks, connection tracking, and what a VPC checks. Must never look at anything itself,
and knows no layout: rules, routes and firewall are evaluated as they are. `lab.trace` calls `walk`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from vpccni.core import walkmarks
from vpccni.core.conventions import VETH_GROUP
from vpccni.core.walkfib import Choice, Question, choose
from vpccni.core.walkfilter import Header, Meeting, run
from vpccni.core.walkgroups import allowing
from vpccni.core.walkreasons import NEXT_STEPS, purpose, source_check
from vpccni.core.walkvalues import Hop, Outside, Phase, Port, Stack, Trip, Verdict, Way, World
from vpccni.netlink.values import IPAddress, Route

HOPS_LIMIT = 16  # stacks that a packet may pass; more is a loop


@dataclass(slots=True)
class _Connection:
    """A tracked connection of one stack: the request as it came and as it left, and the mark."""

    came: Header
    left: Header
    mark: int


class _Stop(Exception):
    def __init__(self, code: str, where: str, why: str, next_step: str = "") -> None:
        self.verdict = Verdict(code, where, why, next_step or NEXT_STEPS.get(code, ""))
        super().__init__(code)


def walk(world: World, start: str, header: Header) -> Trip:
    """The trip of a first packet that a program in the stack `start` sends, and of the answer to it."""
    walker = _Walker(world)
    delivered = ""
    try:
        delivered, arrived = walker.go(start, header)
        walker.phase = "reply"
        home, answer = walker.go(delivered, arrived.reversed)
        if home != start or answer.target != header.source or answer.source != header.target:
            raise _Stop("reply-astray", home, f"the answer arrives as {answer}, which no connection there expects")
        verdict = Verdict("", delivered, "the request arrives and the answer comes back")
    except _Stop as stop:
        verdict = stop.verdict
    return Trip(tuple(walker.hops), verdict, delivered, tuple(dict.fromkeys(walker.unread)))


class _Walker:
    """One trip: hops so far and the connections that stacks remember."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.hops: list[Hop] = []
        self.unread: list[str] = []
        self.phase: Phase = "request"
        self._connections: dict[str, list[_Connection]] = {}

    def go(self, start: str, header: Header) -> tuple[str, Header]:
        """(The place that gets the packet, the packet as it gets there)."""
        if start not in self._world.stacks:
            return self._onward(self._from_outside(start, header))
        return self._onward(self._passage(self._world.stacks[start], Meeting(header)))

    def _onward(self, step: tuple[str, str, Header]) -> tuple[str, Header]:
        """Until a place keeps the packet: then its device is empty."""
        for _ in range(HOPS_LIMIT):
            place, device, header = step
            if not device:
                return place, header
            step = self._passage(self._world.stacks[place], Meeting(header, iif=device))
        raise _Stop("loop", step[0], "the packet goes in circles until its TTL is used up")

    # -- one stack ---------------------------------------------------------------------------------------------------
    def _passage(self, stack: Stack, meeting: Meeting) -> tuple[str, str, Header]:
        """Through a kernel: (next place, its device or nothing when it stays, packet)."""
        sent_here, came = not meeting.iif, meeting.header
        meeting = replace(meeting, local=lambda address, device: _is_local(stack, address, device))
        known = self._known(stack, came)
        meeting = replace(meeting, new=known is None, ct_mark=known.mark if known else 0)
        if not sent_here:
            self._see(stack.name, meeting.iif, "in", meeting)
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

    def _keep(self, stack: Stack, meeting: Meeting, came: Header, known: _Connection | None) -> tuple[str, str, Header]:
        meeting = self._hook(stack, "filter", "INPUT", meeting)
        if known is not None and self.phase == "reply":
            meeting = replace(meeting, header=known.came.reversed)
        self._remember(stack, came, meeting, known)
        return stack.name, "", meeting.header

    def _leave(
        self, stack: Stack, meeting: Meeting, came: Header, known: _Connection | None, route: Route
    ) -> tuple[str, str, Header]:
        device = _device_of(stack, route)
        meeting = replace(meeting, oif=device, address_of_oif=_address_of(stack, device, meeting.header.target.version))
        if meeting.iif:
            meeting = self._hook(stack, "filter", "FORWARD", meeting)
        meeting = self._translate(stack, "POSTROUTING", meeting, known)
        self._remember(stack, came, meeting, known)
        port = self._port(stack.name, device)
        if port is not None:
            self._see(stack.name, device, "out", meeting)
            return self._through_vpc(port, meeting.header)
        if device not in stack.cables:
            if self._world.vpc is None:
                self._see(stack.name, device, "out", meeting)
            raise _Stop(
                "leaves-view", stack.name, f"the packet leaves by {device}, and what is behind was not observed"
            )
        far, far_device = stack.cables[device]
        self._neighbour(stack, route, meeting.header, far, far_device)
        self._see(stack.name, device, "out", meeting)
        return far, far_device, meeting.header

    def _route(self, stack: Stack, meeting: Meeting) -> Choice:
        header = meeting.header
        question = Question(header.source, header.target, meeting.mark, meeting.iif or "lo")
        choice = choose(stack.rules, stack.routes, question)
        if choice.refused:
            decided = f"{choice.route} ({choice.rule})" if choice.route else str(choice.rule or "no rule")
            why = f"no route to {header.target} (mark {meeting.mark:#x}): {decided}"
            raise _Stop("no-route", stack.name, why)
        assert choice.rule is not None
        self._decide(
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
            raise _Stop("reverse-path", stack.name, why)

    def _neighbour(self, stack: Stack, route: Route, header: Header, far: str, far_device: str) -> None:
        """Whether the far end of a cable takes the frame."""
        hop = route.gateway or header.target
        entry = next((each for each in stack.neighbours if (each.dst, each.index) == (hop, route.index)), None)
        other = self._world.stacks[far]
        mac = next((link.mac for link in other.links if link.name == far_device), "")
        if entry is not None and entry.permanent and entry.mac != mac:
            raise _Stop("neighbour", stack.name, f"{entry}, but {far_device} there has {mac or 'no address'}")
        if entry is None and not any(each.interface.ip == hop for each in other.addresses):
            raise _Stop("neighbour", stack.name, f"no neighbour entry for {hop}, and nobody at {far} has that address")

    # -- firewall and connections ------------------------------------------------------------------------------------
    def _hook(self, stack: Stack, table: str, chain: str, meeting: Meeting) -> Meeting:
        chains: Mapping[str, Sequence[str]] = stack.tables.get(meeting.header.target.version, {}).get(table, {})
        effect = run(chains, chain, meeting, stack.policies.get(f"{table} {chain}", "ACCEPT"))
        self.unread += effect.unread
        if effect.dropped_by:
            raise _Stop("filtered", stack.name, f"{table}: {effect.dropped_by}")
        after = effect.meeting
        if after != meeting or (table == "nat" and effect.rules):
            marks = "" if (after.mark, after.ct_mark) == (meeting.mark, meeting.ct_mark) else (
                f"mark {meeting.mark:#x} -> {after.mark:#x}, connection {meeting.ct_mark:#x} -> {after.ct_mark:#x}"
            )  # fmt: skip
            change = f"{meeting.header} becomes {after.header}" if after.header != meeting.header else ""
            why = "; ".join(filter(None, (change, marks))) or "not translated"
            self._decide(stack.name, after, f"{table}: " + "\n  ".join(effect.rules), why)
        return after

    def _translate(self, stack: Stack, chain: str, meeting: Meeting, known: _Connection | None) -> Meeting:
        """The nat table of a new connection; what was done to it in the other direction of a known one."""
        if known is None:
            own = stack.own_marks
            if chain == "POSTROUTING" and own is not None and own.keeps_source(meeting):
                self._decide(stack.name, meeting, walkmarks.KEPT, "a flow of the node itself is not translated")
                return meeting
            return self._hook(stack, "nat", chain, meeting)
        header, answer = meeting.header, known.came.reversed
        if chain == "POSTROUTING":
            after = replace(header, source=answer.source, source_port=answer.source_port)
        else:
            after = replace(header, target=answer.target, target_port=answer.target_port)
        if after != header:
            self._decide(stack.name, meeting, "conntrack", f"{header} becomes {after}: the connection's translation")
        return replace(meeting, header=after)

    def _own_marks(self, stack: Stack, meeting: Meeting) -> Meeting:
        group = next((link.group for link in stack.links if link.name == meeting.iif), 0)
        if stack.own_marks is None or group != VETH_GROUP:
            return meeting
        after = stack.own_marks.prerouting(meeting)
        if after != meeting:
            by = f"{walkmarks.MARKED}{stack.own_marks.mark:#x}"
            self._decide(stack.name, after, by, f"mark {meeting.mark:#x} -> {after.mark:#x}")
        return after

    def _known(self, stack: Stack, header: Header) -> _Connection | None:
        if self.phase == "request":
            return None
        found = reversed(self._connections.get(stack.name, ()))
        return next((each for each in found if _answers(header, each.left)), None)

    def _remember(self, stack: Stack, came: Header, meeting: Meeting, known: _Connection | None) -> None:
        if known is None:
            made = _Connection(came, meeting.header, meeting.ct_mark)
            self._connections.setdefault(stack.name, []).append(made)

    # -- the VPC -----------------------------------------------------------------------------------------------------
    def _port(self, stack: str, device: str) -> Port | None:
        ports = self._world.vpc.ports if self._world.vpc else ()
        return next((port for port in ports if (port.stack, port.device) == (stack, device)), None)

    def _through_vpc(self, port: Port, header: Header) -> tuple[str, str, Header]:
        vpc = self._world.vpc
        assert vpc is not None  # the port is one of it
        self._see("vpc", port.port, "in", Meeting(header))
        if port.checked and not port.owns(header.source):
            why, next_step = source_check(vpc, port, header.source)
            raise _Stop("source-check", "vpc", why, next_step)
        by = f"{port.eni_id} owns {header.source}" if port.checked else "SourceDestCheck=false"
        self._decide("vpc", Meeting(header), by, "the source check lets it pass")
        if header.target in vpc.services:
            return "vpc", "", header
        return self._deliver(header, sender=port)

    def _deliver(self, header: Header, *, sender: Port | None) -> tuple[str, str, Header]:
        vpc = self._world.vpc
        assert vpc is not None
        owner = next((port for port in vpc.ports if port.owns(header.target)), None)
        if sender is not None and (owner or any(header.target in each.addresses for each in vpc.outside)):
            self._judge(sender, header, egress=True)
        if owner is not None:
            self._decide(
                "vpc", Meeting(header), f"{owner.eni_id} owns {header.target}", "the VPC delivers to the owner"
            )
            self._judge(owner, header, egress=False)
            self._see("vpc", owner.port, "out", Meeting(header))
            return owner.stack, owner.device, header
        host = next((each for each in vpc.outside if header.target in each.addresses), None)
        if sender is not None and not vpc.complete:
            self._decide("vpc", Meeting(header), f"{sender.eni_id} ({sender.device})", "from here on out of view")
            return _BEYOND, "", header
        if host is None or sender is None:
            raise _Stop("unowned-address", "vpc", f"no attached ENI and no known host has {header.target}")
        return self._outward(host, header)

    def _judge(self, port: Port, header: Header, *, egress: bool) -> None:
        """Security groups. They are stateful: only the beginning of a connection is judged."""
        if port.groups is None or self.phase == "reply":
            return
        way = "send" if egress else "receive"
        by = allowing(port.groups, header, egress=egress)
        if not by:
            names = ", ".join(group.name for group in port.groups)
            why = f"no rule of {names} lets {port.eni_id} ({port.stack} {port.device}) {way} {header.protocol} {header}"
            raise _Stop("security-group", "vpc", why)
        self._decide("vpc", Meeting(header), by, f"a security group lets {port.eni_id} {way} it")

    def _outward(self, host: Outside, header: Header) -> tuple[str, str, Header]:
        vpc = self._world.vpc
        assert vpc is not None
        if host.via == "internet" and header.source.version == 4:
            public = vpc.public.get(header.source)
            if public is None:
                raise _Stop(
                    "no-public-address", "vpc", f"{header.source} has no public address at the internet gateway"
                )
            translated = replace(header, source=public)
            self._decide("vpc", Meeting(translated), "internet gateway", f"{header.source} becomes {public}")
            header = translated
        self._see("vpc", _gate(host.via), "out", Meeting(header))
        self._see(host.stack, _OUTSIDE_DEVICE, "in", Meeting(header))
        return host.stack, "", header

    def _from_outside(self, stack: str, header: Header) -> tuple[str, str, Header]:
        vpc = self._world.vpc
        assert vpc is not None  # only it has places that are no stacks
        if stack in ("vpc", _BEYOND):  # a service of the VPC itself answers, or somebody out of view
            return self._deliver(header, sender=None)
        host = next(each for each in vpc.outside if header.source in each.addresses)
        self._see(stack, _OUTSIDE_DEVICE, "out", Meeting(header))
        self._see("vpc", _gate(host.via), "in", Meeting(header))
        if host.via == "internet" and header.target.version == 4:
            private = next((own for own, public in vpc.public.items() if public == header.target), None)
            if private is None:
                raise _Stop("not-public", "vpc", f"{header.target} is nobody's public address")
            header = replace(header, target=private)
            self._decide("vpc", Meeting(header), "internet gateway", f"the public address stands for {private}")
        return self._deliver(header, sender=None)

    # -- notes -------------------------------------------------------------------------------------------------------
    def _see(self, place: str, device: str, way: Way, meeting: Meeting) -> None:
        if device:  # the router's end of an ENI is in view in a lab alone
            self.hops.append(Hop(self.phase, place, device, way, meeting.header, mark=meeting.mark))

    def _decide(self, place: str, meeting: Meeting, by: str, why: str) -> None:
        self.hops.append(Hop(self.phase, place, "", "", meeting.header, by, why, meeting.mark))


_BEYOND = "beyond this node"
_OUTSIDE_DEVICE = "eth0"  # of the hosts outside


def _gate(via: Literal["internet", "private"]) -> str:
    return "igw" if via == "internet" else "site"


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
