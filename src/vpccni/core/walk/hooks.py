# SPDX-License-Identifier: Apache-2.0
"""One hook of a kernel's firewall: the chains of iptables and nftables in the order in which the kernel runs them.

Knows priorities, connection tracking between them, and that all nat chains are run together. Must never evaluate a rule
(`walk.iptables`, `walk.nft`) or choose a route: `walk` calls it and is asked back when a chain reroutes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from vpccni.core.walk.conntrack import TARGET_HOOKS, Connections, Known, tracked, translated_status
from vpccni.core.walk.iptables import run as run_iptables
from vpccni.core.walk.meeting import Draws, Effect, Meeting
from vpccni.core.walk.nft import run as run_nft
from vpccni.core.walk.nftread import IPTABLES, SOURCE_NAT, TARGET_NAT, NftChain, NftTable
from vpccni.core.walk.values import Stack
from vpccni.core.walk.vpc import Notes, Stop

# linux/netfilter_ipv4.h. nf_nat runs every nat chain at its own two priorities, whatever the chain's priority says:
# that orders them among themselves alone (nf_nat_core.c, nf_nat_register_fn).
CONNTRACK = -200
_CODES = {"drop": "filtered", "reject": "rejected", "reset": "rejected", "queue": "queued"}


@dataclass(frozen=True, slots=True)
class Stage:
    """A base chain. `nat`: it decides about translations; `reroutes`: a change of mark or address chooses the route of
    a packet of the machine itself again; `strict`: what no rule accepts is dropped."""

    priority: int
    title: str
    run: Callable[[Meeting, Draws], Effect]
    nat: bool = False
    reroutes: bool = False
    strict: bool = False
    age: int = 0  # greater is newer


@dataclass(frozen=True, slots=True)
class Passing:
    """A packet that passes a kernel: how it came, its connection, and how to route it anew."""

    stack: Stack
    came: Meeting
    known: Known | None
    reroute: Callable[[Meeting], Meeting]


class Hooks:
    """All hooks of one trip."""

    def __init__(self, notes: Notes, draws: Draws, connections: Connections) -> None:
        self._notes, self._draws, self._connections = notes, draws, connections
        self.unread: list[str] = []
        self._known: dict[tuple[str, int, str], list[Stage]] = {}  # thousands of chains on a node with kube-proxy

    def run(self, hook: str, passing: Passing, meeting: Meeting, *, looped: bool = False) -> Meeting:
        """The packet after a hook; Stop when a rule ends its way. `looped`: it comes back from loopback with the
        connection that it has already, whose translations are made (nf_conntrack_in)."""
        stack, version = passing.stack, meeting.header.target.version
        todo = self._stages(stack, version, hook)
        tracks = hook in TARGET_HOOKS and not looped
        for stage in (each for each in todo if tracks and each.priority < CONNTRACK):
            meeting = self._pass(stage, hook, passing, meeting)
        if tracks:
            meeting = tracked(meeting, passing.known)
            todo = [each for each in todo if each.priority >= CONNTRACK]
        # nf_nat's own hooks come with the first nat chain of the machine; newer ones of their priority stand in front.
        at = TARGET_NAT if hook in TARGET_HOOKS else SOURCE_NAT
        born = min(
            (each.age for name in IPTABLES for each in self._stages(stack, version, name) if each.nat), default=0
        )
        first = [each for each in todo if not each.nat and (each.priority, -each.age) < (at, -born)]
        for stage in first:
            meeting = self._pass(stage, hook, passing, meeting)
        if hook != "FORWARD" and not looped and not meeting.untracked and translates(stack, version):
            meeting = self._translate([each for each in todo if each.nat], hook, passing, meeting)
        for stage in (each for each in todo if not each.nat and each not in first):
            meeting = self._pass(stage, hook, passing, meeting)
        return meeting

    def _stages(self, stack: Stack, version: int, hook: str) -> list[Stage]:
        key = stack.name, version, hook
        if key not in self._known:
            self._known[key] = stages(stack, version, hook)
        return self._known[key]

    def _pass(self, stage: Stage, hook: str, passing: Passing, meeting: Meeting) -> Meeting:
        after = self._applied(stage, hook, passing, meeting, stage.run(meeting, self._draws)).meeting
        if stage.reroutes and (after.mark, after.header) != (meeting.mark, meeting.header):
            return passing.reroute(after)
        return after

    def _translate(self, chains: list[Stage], hook: str, passing: Passing, meeting: Meeting) -> Meeting:
        """The nat chains of a new connection, until one decides; what they did to it when it is known."""
        before = meeting
        if passing.known is not None:
            header = passing.known.translated(meeting.header, hook)
            if header != meeting.header:
                why = f"{meeting.header} becomes {header}: the connection's translation"
                self._notes.decide(passing.stack.name, meeting, "conntrack", why)
            meeting = replace(meeting, header=header)
        else:
            for chain in chains:
                effect = self._applied(chain, hook, passing, meeting, chain.run(meeting, self._draws))
                meeting = effect.meeting
                if effect.bound:
                    break
            meeting = replace(meeting, status=translated_status(before, meeting, hook))
        if hook == "OUTPUT" and meeting.header.target != before.header.target:
            return passing.reroute(meeting)
        return meeting

    def _applied(self, stage: Stage, hook: str, passing: Passing, meeting: Meeting, effect: Effect) -> Effect:
        """Note what a chain did; Stop when it ended the packet's way."""
        place, after = passing.stack.name, effect.meeting
        for rule in effect.unread:
            self.unread.append(rule)
            self._notes.decide(place, meeting, rule, "not modelled: taken as not matching")
        prefix = "" if stage.title.startswith("table ") else f"{stage.title}: "
        if effect.ending:
            self._connections.remember(place, passing.came.header, after, passing.known)
            answers = effect.ending == "reset" or (
                effect.ending == "reject" and hook == "INPUT" and after.header.protocol != "tcp"
            )
            raise Stop(
                _CODES[effect.ending], place, f"{prefix}{effect.ended_by}",
                answer=after.header.reversed if answers else None,
            )  # fmt: skip
        told = [draw for draw in self._draws.made if draw.rule in effect.rules]
        decisive = stage.nat or stage.strict
        if replace(after, status=meeting.status) != meeting or (decisive and effect.rules):
            marks = "" if (after.mark, after.ct_mark) == (meeting.mark, meeting.ct_mark) else (
                f"mark {meeting.mark:#x} -> {after.mark:#x}, connection {meeting.ct_mark:#x} -> {after.ct_mark:#x}"
            )  # fmt: skip
            change = f"{meeting.header} becomes {after.header}" if after.header != meeting.header else ""
            drawn = "; ".join(f"by chance {draw.options[draw.taken]} of {', '.join(draw.options)}" for draw in told)
            kept = "not translated" if stage.nat else "accepted"
            untracked = "not tracked" if after.untracked and not meeting.untracked else ""
            why = "; ".join(filter(None, (change, marks, drawn, untracked))) or kept
            self._notes.decide(place, after, prefix + "\n  ".join(effect.rules), why)
        return effect


def stages(stack: Stack, version: int, hook: str) -> list[Stage]:
    """The base chains of a hook in the kernel's order. Of equal priorities the one that was made last comes first
    (nf_hook_entries_grow in netfilter/core.c)."""
    made = [*_of_iptables(stack, version, hook), *_of_nftables(stack, version, hook)]
    return sorted(made, key=lambda each: (each.priority, -each.age))


def translates(stack: Stack, version: int) -> bool:
    """Whether the kernel has any nat chain of an IP version: without one, nobody translates."""
    own = (chain.kind == "nat" for table in stack.nft if table.concerns(version) for chain in table.chains.values())
    return "nat" in stack.tables.get(version, {}) or any(own)


def _of_iptables(stack: Stack, version: int, hook: str) -> Iterator[Stage]:
    tables = stack.tables.get(version, {})
    family = "ip" if version == 4 else "ip6"
    ages = {table.name: age for age, table in enumerate(stack.nft) if table.of_iptables and table.family == family}
    for name, priority in IPTABLES[hook].items():
        policy = stack.policies.get(version, {}).get(f"{name} {hook}", "ACCEPT")
        if name in tables or policy != "ACCEPT":

            def run(meeting: Meeting, draws: Draws, name: str = name, policy: str = policy) -> Effect:
                return run_iptables(tables.get(name, {}), hook, meeting, policy, draws)

            reroutes = (name, hook) == ("mangle", "OUTPUT")
            age = ages.get(name, -1) * 1000
            yield Stage(priority, name, run, name == "nat", reroutes, policy != "ACCEPT", age)


def _of_nftables(stack: Stack, version: int, hook: str) -> Iterator[Stage]:
    for age, table in enumerate(stack.nft):
        for at, chain in enumerate(table.chains.values()):
            if chain.hook == hook.lower() and table.concerns(version) and not table.of_iptables:
                yield _stage(table, chain, age * 1000 + at)


def _stage(table: NftTable, chain: NftChain, age: int) -> Stage:
    reroutes = chain.kind == "route" and chain.hook == "output"
    return Stage(
        chain.priority, table.title, lambda meeting, draws: run_nft(table, chain, meeting, draws),
        chain.kind == "nat", reroutes, chain.policy == "drop", age,
    )  # fmt: skip
