# SPDX-License-Identifier: Apache-2.0
"""The part of a packet's way that lies outside the machines: source check, security groups, owners, gateway.

Knows what a VPC checks and in which order, and takes notes of hops. Must never know how a machine routes: `walk` does,
and calls this where a packet leaves an ENI or a host outside.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from vpccni.core.walk.groups import allowing
from vpccni.core.walk.meeting import Header, Meeting
from vpccni.core.walk.reasons import NEXT_STEPS, source_check
from vpccni.core.walk.values import Hop, Outside, Phase, Port, Verdict, Vpc, Way

BEYOND = "beyond this node"
_OUTSIDE_DEVICE = "eth0"  # of the hosts outside

# (The next stack, its device, the packet). Without a device the packet stays there.
Step = tuple[str, str, Header]


class Stop(Exception):
    """The packet goes no further."""

    def __init__(self, code: str, where: str, why: str, next_step: str = "", *, answer: Header | None = None) -> None:
        """`answer`: what `where` sends back to tell it."""
        self.answer = answer
        self.verdict = Verdict(code, where, why, next_step or NEXT_STEPS.get(code, ""))
        super().__init__(code)


class Notes:
    """What has been seen and decided so far."""

    def __init__(self) -> None:
        self.hops: list[Hop] = []
        self.phase: Phase = "request"

    def see(self, place: str, device: str, way: Way, meeting: Meeting) -> None:
        """The packet is visible at a device."""
        if device:  # the router's end of an ENI is in view in a lab alone
            self.hops.append(Hop(self.phase, place, device, way, meeting.header, "", "", meeting.mark, meeting.ct_mark))

    def decide(self, place: str, meeting: Meeting, by: str, why: str) -> None:
        """An object decided about it."""
        marks = meeting.mark, meeting.ct_mark
        self.hops.append(Hop(self.phase, place, "", "", meeting.header, by, why, *marks))


class VpcWay:
    """Ways through a VPC."""

    def __init__(self, vpc: Vpc, notes: Notes) -> None:
        self._vpc, self._notes = vpc, notes

    def port(self, stack: str, device: str) -> Port | None:
        """The ENI that a device is."""
        return next((port for port in self._vpc.ports if (port.stack, port.device) == (stack, device)), None)

    def sent(self, port: Port, header: Header) -> Step:
        """A packet leaves an ENI."""
        vpc = self._vpc
        self._notes.see("vpc", port.port, "in", Meeting(header))
        if port.checked and not port.owns(header.source):
            why, next_step = source_check(vpc, port, header.source)
            raise Stop("source-check", "vpc", why, next_step)
        by = f"{port.eni_id} owns {header.source}" if port.checked else "SourceDestCheck=false"
        self._notes.decide("vpc", Meeting(header), by, "the source check lets it pass")
        if header.target in vpc.services:
            return "vpc", "", header
        return self._deliver(header, sender=port)

    def _deliver(self, header: Header, *, sender: Port | None) -> Step:
        vpc = self._vpc
        owner = next((port for port in vpc.ports if port.owns(header.target)), None)
        if sender is not None and (owner or any(header.target in each.addresses for each in vpc.outside)):
            self._judge(sender, header, egress=True)
        if owner is not None:
            self._notes.decide(
                "vpc", Meeting(header), f"{owner.eni_id} owns {header.target}", "the VPC delivers to the owner"
            )
            self._judge(owner, header, egress=False)
            self._notes.see("vpc", owner.port, "out", Meeting(header))
            return owner.stack, owner.device, header
        host = next((each for each in vpc.outside if header.target in each.addresses), None)
        if sender is not None and not vpc.complete:
            self._notes.decide("vpc", Meeting(header), f"{sender.eni_id} ({sender.device})", "from here on out of view")
            return BEYOND, "", header
        if host is None or sender is None:
            raise Stop("unowned-address", "vpc", f"no attached ENI and no known host has {header.target}")
        return self._outward(host, header)

    def _judge(self, port: Port, header: Header, *, egress: bool) -> None:
        """Security groups. They are stateful: only the beginning of a connection is judged."""
        if port.groups is None or self._notes.phase == "reply":
            return
        way = "send" if egress else "receive"
        by = allowing(port.groups, header, egress=egress)
        if not by:
            names = ", ".join(group.name for group in port.groups)
            why = f"no rule of {names} lets {port.eni_id} ({port.stack} {port.device}) {way} {header.protocol} {header}"
            raise Stop("security-group", "vpc", why)
        self._notes.decide("vpc", Meeting(header), by, f"a security group lets {port.eni_id} {way} it")

    def _outward(self, host: Outside, header: Header) -> Step:
        vpc = self._vpc
        if host.via == "internet" and header.source.version == 4:
            public = vpc.public.get(header.source)
            if public is None:
                raise Stop("no-public-address", "vpc", f"{header.source} has no public address at the internet gateway")
            translated = replace(header, source=public)
            self._notes.decide("vpc", Meeting(translated), "internet gateway", f"{header.source} becomes {public}")
            header = translated
        self._notes.see("vpc", _gate(host.via), "out", Meeting(header))
        self._notes.see(host.stack, _OUTSIDE_DEVICE, "in", Meeting(header))
        return host.stack, "", header

    def answered(self, stack: str, header: Header) -> Step:
        """A packet comes from outside: from a host, a service of the VPC, or somebody out of view."""
        vpc = self._vpc
        if stack in ("vpc", BEYOND):  # a service of the VPC itself answers, or somebody out of view
            return self._deliver(header, sender=None)
        host = next(each for each in vpc.outside if header.source in each.addresses)
        self._notes.see(stack, _OUTSIDE_DEVICE, "out", Meeting(header))
        self._notes.see("vpc", _gate(host.via), "in", Meeting(header))
        if host.via == "internet" and header.target.version == 4:
            private = next((own for own, public in vpc.public.items() if public == header.target), None)
            if private is None:
                raise Stop("not-public", "vpc", f"{header.target} is nobody's public address")
            header = replace(header, target=private)
            self._notes.decide("vpc", Meeting(header), "internet gateway", f"the public address stands for {private}")
        return self._deliver(header, sender=None)


def _gate(via: Literal["internet", "private"]) -> str:
    return "igw" if via == "internet" else "site"
