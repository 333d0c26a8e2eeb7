# SPDX-License-Identifier: Apache-2.0
"""A row of the matrix with a node's addresses and devices in it, and whether what was observed agrees.

Knows the cast of one run and what an internet gateway does to addresses. Must never open a socket: the same cast and
observation give the same verdict. `run` calls it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from vpccni.netlink.values import IPAddress, IPNetwork
from vpccni.selftest.matrix import Case, Conditions, Leaves, Party, Row, Seen

OUTSIDE = (Party.SITE, Party.INTERNET, Party.METADATA, Party.VPC_HOST)


@dataclass(frozen=True, slots=True)
class Actor:
    """Who plays a party. `netns` None: it can be addressed, but nothing of ours runs there."""

    party: Party
    address: IPAddress
    netns: Path | None = None
    port: int = 0  # where it listens, 0 when nobody was asked to
    link: str = ""  # a pod's host veth
    eni: str = ""  # device of the ENI that a pod's address lives on


@dataclass(frozen=True, slots=True)
class Policy:
    """The node's settings that the matrix depends on."""

    external_snat: bool = False
    node_port_support: bool = True
    excluded: tuple[IPNetwork, ...] = ()
    external_services: tuple[IPNetwork, ...] = ()
    randomize: str = "prng"
    veth_prefix: str = "eni"

    def conditions(self, row: Row, cast: Cast) -> Conditions:
        """What decides the row's case: the policy, and whether its far end is on one of the lists."""
        ends = [cast.actors[party] for party in (row.target, row.source) if party in OUTSIDE]
        far = ends[0].address if ends else None
        return Conditions(
            cast.version,
            self.external_snat,
            self.node_port_support,
            excluded=far is not None and _within(far, self.excluded),
            external_service=far is not None and _within(far, self.external_services),
        )


@dataclass(frozen=True, slots=True)
class Cast:
    """Everybody in one run, of one address family. `absent` says why a party is not played.

    `public` maps private addresses to what hosts behind the internet gateway see; None when that is not known.
    """

    version: int
    actors: Mapping[Party, Actor]
    absent: Mapping[Party, str]
    primary_link: str
    node: IPAddress
    public: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Expected:
    """What must be observed. `source` is what the packet must carry when it leaves the node, `seen` what the far end
    must see; `device` and `reply` None: not looked at, "": must not leave. `ports`: kept, random or not looked at ("").
    """

    reached: bool
    seen: str = ""
    source: str = ""
    device: str | None = None
    reply: str | None = None
    ports: str = ""
    why: str = ""

    def __str__(self) -> str:
        if not self.reached:
            return "no answer"
        words = [f"{self.seen or self.source}"]
        words += [f"by {self.device}"] if self.device else ["stays here"] if self.device == "" else []
        words += [f"answers by {self.reply}"] if self.reply else []
        words += [f"port {self.ports}"] if self.ports else []
        return ", ".join(words)


@dataclass(frozen=True, slots=True)
class Observed:
    """What happened. `left`: (device, source) of every packet towards the far end; `replied`: devices of answers."""

    reached: bool
    seen: str = ""
    ports_kept: bool | None = None
    left: tuple[tuple[str, str], ...] = ()
    replied: tuple[str, ...] = ()
    took_ms: float = 0.0
    error: str = ""

    def __str__(self) -> str:
        if not self.reached:
            gone = ", ".join(f"left by {device} as {source}" for device, source in self.left)
            return f"{self.error or 'no answer'}{'; ' if gone else ''}{gone}"
        words = [self.seen or ", ".join(dict.fromkeys(source for _, source in self.left)) or "reached"]
        words += [f"by {device}" for device in dict.fromkeys(device for device, _ in self.left)] or ["stays here"]
        words += [f"answers by {device}" for device in self.replied]
        words += [] if self.ports_kept is None else ["port kept" if self.ports_kept else "port random"]
        return ", ".join(words)


def expected(row: Row, case: Case, cast: Cast, randomize: str) -> Expected:
    """The case with this node's addresses and devices."""
    source, target = cast.actors[row.source], cast.actors[row.target]
    wire = str(source.address if case.seen is Seen.OWN else cast.node)
    seen = wire
    if row.target is Party.INTERNET and cast.public is not None and cast.version == 4:
        # An internet gateway passes what has a public address, as that, and nothing else.
        seen = cast.public.get(wire, "")
    if case.seen is Seen.NOBODY or not seen:
        return Expected(False, why=case.why or "the internet gateway knows no public address for it")
    if target.netns is None or (row.target is Party.INTERNET and cast.public is None):
        seen = ""  # nobody tells
    pod = source if source.eni else target
    device = {Leaves.POD_LINK: target.link, Leaves.PRIMARY: cast.primary_link, Leaves.ENI: pod.eni, Leaves.NOT: ""}
    ports = ("kept" if randomize == "none" else "random") if case.translated and target.netns else ""
    return Expected(True, seen, wire, device.get(case.leaves), device.get(case.reply), ports, case.why)


def mismatches(want: Expected, got: Observed) -> list[str]:
    """In what the observation differs from what is expected; nothing when it agrees."""
    if not want.reached or not got.reached:
        if want.reached == got.reached:
            return []
        return [f"not reached: {got.error or 'no answer'}" if want.reached else "reached, though it must not be"]
    found = []
    if want.seen and not _same(got.seen, want.seen):
        found.append(f"the far end saw {got.seen}, not {want.seen}")
    if want.device == "" and got.left:
        found.append(f"left by {got.left[0][0]}, must not leave the node")
    elif want.device and (want.device, want.source) not in got.left:
        shown = ", ".join(f"{device} as {source}" for device, source in got.left) or "no device"
        found.append(f"left by {shown}, not {want.device} as {want.source}")
    if want.reply and want.reply not in got.replied:
        found.append(f"answers left by {', '.join(got.replied) or 'no device'}, not {want.reply}")
    if want.ports and got.ports_kept is not None and got.ports_kept != (want.ports == "kept"):
        found.append(f"source ports were {'kept' if got.ports_kept else 'changed'}, must be {want.ports}")
    return found


def _same(one: str, other: str) -> bool:
    return bool(one) and ip_address(one) == ip_address(other)


def _within(address: IPAddress, networks: tuple[IPNetwork, ...]) -> bool:
    return any(address.version == network.version and address in network for network in networks)
