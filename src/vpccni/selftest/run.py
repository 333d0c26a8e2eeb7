# SPDX-License-Identifier: Apache-2.0
"""Plays the matrix on one node: pods and servers made, every row tried, everything removed.

Knows the order and what a result is. Must never decide what is right (`expect` does) or print (`cli` does). Nothing of
it is left afterwards, also when it is interrupted: pods, namespaces, the table of Services, broken objects.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

from vpccni.errors import VpcCniError
from vpccni.lab.kubeproxy.sync import clear, present, sync
from vpccni.lab.sockets import namespace_handle
from vpccni.netlink.namespace import inside
from vpccni.netlink.values import IPAddress
from vpccni.selftest import service
from vpccni.selftest.breaks import broken
from vpccni.selftest.exchange import Answer, Servers, ask
from vpccni.selftest.expect import Actor, Cast, Expected, Observed, expected, mismatches
from vpccni.selftest.hold import held_daemon
from vpccni.selftest.matrix import Break, Case, End, Party, Row, Way
from vpccni.selftest.node import Facts, Node, observe
from vpccni.selftest.peers import Peers, cast, listening
from vpccni.selftest.pods import TestPods

REACHED_WITHIN_S = 2.0  # one lost first packet still counts as reached
SILENT_FOR_S = 1.2  # longer than until the first retransmission
BROKEN_FOR_S = 0.4
PORT_SAMPLES = 4
BOUND = (Party.SITE, Party.INTERNET)  # several hosts of the lab share a namespace

Progress = Callable[[str], None]
Services = dict[tuple[Way, Party], service.Service]


@dataclass(frozen=True, slots=True)
class Result:
    """One row with one protocol, or (`negative`) the same row without an object that it needs."""

    node: str
    row: Row
    version: int
    protocol: str
    verdict: str  # passed, failed or skipped
    source: str = ""
    target: str = ""
    expected: str = ""
    observed: str = ""
    why: str = ""
    took_ms: float = 0.0
    negative: str = ""

    @property
    def name(self) -> str:
        """Unique in a run of one node."""
        name = f"{self.row.name}/ipv{self.version}/{self.protocol}"
        return f"{name} without {self.negative}" if self.negative else name


@dataclass(frozen=True, slots=True)
class Plan:
    """What to run."""

    rows: tuple[Row, ...]
    negatives: bool = False
    most_pods: int = 40
    services: str = "nftables"  # one of `lab.kubeproxy.values.MODES`


class Selftest:
    """One run on one node."""

    def __init__(
        self, node: Node, peers: Peers, plan: Plan, progress: Progress, report: Callable[[Result], None]
    ) -> None:
        """`report` gets each result as it comes, `progress` a line for people about what goes on meanwhile."""
        self._node, self._peers, self._plan, self._progress, self._report = node, peers, plan, progress, report
        self._results: list[Result] = []

    def run(self) -> list[Result]:
        """All results. Raises VpcCniError when the node cannot be tested at all."""
        with ExitStack() as stack:
            self._fd = stack.enter_context(namespace_handle(self._node.netns))
            kinds = observe(self._node).pods_on  # a daemon that does not answer is said before anything is made
            self._progress(f"node {self._node.name}: making test pods")
            made = stack.enter_context(TestPods(self._node))
            pods = made.of_each_kind(kinds, 2, self._plan.most_pods, self._progress)
            far = stack.enter_context(TestPods(self._peers.far)).add() if self._peers.far else None
            facts = observe(self._node)
            secondary = sum(pod.device != 0 for pod in pods)
            self._progress(f"{len(pods) - secondary} pods on the primary ENI, {secondary} on secondary ones")
            for version in (4, 6):
                people = cast(self._node, facts, pods, far, self._peers, version)
                if people is not None and any(each.link for each in people.actors.values()):
                    asyncio.run(self._play(facts, people))
        return self._results

    async def _play(self, facts: Facts, people: Cast) -> None:
        servers = Servers()
        try:
            ports = {}
            for party, actor in people.actors.items():
                if actor.netns is not None:
                    ports[party] = await servers.start(actor.netns, actor.address)
            people = listening(people, ports)
            rows = [row for row in self._plan.rows if people.version in row.versions]
            services = _services(rows, people)
            with self._serving(list(services.values()), people):
                for row in rows:
                    for protocol in row.protocols:
                        await self._row(row, protocol, facts, people, services)
        finally:
            servers.close()

    @contextmanager
    def _serving(self, services: Sequence[service.Service], people: Cast) -> Iterator[None]:
        """The Services on the node for as long as the block."""
        if not services:
            yield
            return
        with inside(self._fd):
            names = service.names(self._node.names, present(self._node.names))
            clear(names)  # what a killed run may have left
        try:
            with inside(self._fd):
                ports = [port for each in services for port in each.ports]
                sync(self._plan.services, ports, names, [people.node], people.version)
            yield
        finally:
            with inside(self._fd):
                clear(names)

    # -- one row ----------------------------------------------------------------------------------------------------
    async def _row(self, row: Row, protocol: str, facts: Facts, people: Cast, services: Services) -> None:
        flow = _Flow(row, protocol, people, services.get((row.way, row.target)))
        blank = Result(self._node.name, row, people.version, protocol, "skipped", row.source.value, row.target.value)
        why = flow.missing()
        case = None if why else row.case(facts.policy.conditions(row, people))
        if case is None:
            self._add(replace(blank, why=why or "the matrix says nothing about these settings"))
            return
        want = expected(row, case, people, facts.policy.randomize)
        source, target = people.actors[row.source], people.actors[row.target]
        blank = replace(blank, source=_shown(source), target=_shown(target, row.way), expected=str(want))
        got = await self._observe(flow, want, case)
        found = mismatches(want, got)
        verdict = "failed" if found else "passed"
        self._add(
            replace(
                blank,
                verdict=verdict,
                observed=str(got),
                why="; ".join(found) or ("" if want.reached else want.why),
                took_ms=got.took_ms,
            )
        )
        if self._plan.negatives and want.reached and not found:
            for what in case.breaks:
                await self._negative(blank, flow, want, what)

    async def _negative(self, blank: Result, flow: _Flow, want: Expected, what: Break) -> None:
        """The row must fail without the object, and hold again with it."""
        ends = {End.SOURCE: flow.source.address, End.TARGET: flow.target.address}
        result = replace(blank, negative=str(what), expected="fails without it")
        try:
            with held_daemon(self._node), broken(what, ends, self._fd, flow.people.primary_link) as removed:
                without = await self._ask(flow, BROKEN_FOR_S)
            again = mismatches(want, await self._ask(flow, REACHED_WITHIN_S))
        except VpcCniError as error:
            self._add(replace(result, verdict="failed", why=str(error)))
            return
        found = mismatches(want, without)
        why = "; ".join(["the row holds without it"] * (not found) + [f"put back, but {each}" for each in again])
        verdict = "failed" if why else "passed"
        self._add(
            replace(result, verdict=verdict, observed=str(without), why=why or removed, took_ms=without.took_ms)
        )  # fmt: skip

    async def _observe(self, flow: _Flow, want: Expected, case: Case) -> Observed:
        got = await self._ask(flow, REACHED_WITHIN_S if want.reached else SILENT_FOR_S)
        if not got.reached or not want.ports:
            return replace(got, ports_kept=None)
        more = [await self._ask(flow, REACHED_WITHIN_S) for _ in range(PORT_SAMPLES - 1)]
        return replace(got, ports_kept=all(each.ports_kept for each in (got, *more)))

    async def _ask(self, flow: _Flow, timeout_s: float) -> Observed:
        assert flow.source.netns is not None  # `missing` has seen to it
        bound = flow.source.address if flow.source.party in BOUND else None
        address, port = flow.dialled()
        answer = await ask(flow.source.netns, bound, address, port, flow.protocol, timeout_s, self._fd)
        return flow.observed(answer)

    def _add(self, result: Result) -> None:
        self._results.append(result)
        self._report(result)


@dataclass(frozen=True, slots=True)
class _Flow:
    """A row with its two actors and the Service between them."""

    row: Row
    protocol: str
    people: Cast
    service: service.Service | None

    @property
    def source(self) -> Actor:
        return self.people.actors[self.row.source]

    @property
    def target(self) -> Actor:
        return self.people.actors[self.row.target]

    @property
    def _gateway(self) -> Mapping[str, str] | None:
        """What an internet gateway makes of addresses; None for IPv6, which it leaves as they are."""
        return (self.people.public or {}) if self.people.version == 4 else None

    def missing(self) -> str:
        """Why the flow cannot be tried; empty when it can."""
        for party in (self.row.source, self.row.target):
            if party not in self.people.actors:
                return f"{party.value}: {self.people.absent[party]}"
        if self.source.netns is None:
            return f"{self.row.source.value}: nothing of ours runs there"
        if self.target.netns is None and self.protocol == "udp":
            return f"{self.row.target.value}: only a server of ours answers UDP"
        if self.row.way is not Way.DIRECT and self.service is None:
            return f"{self.row.target.value}: nobody listens there that a Service could lead to"
        if (
            self.row.source is Party.INTERNET
            and self._gateway is not None
            and str(self.people.node) not in self._gateway
        ):
            return "the node has no public address"
        return ""

    def dialled(self) -> tuple[IPAddress, int]:
        """What the source connects to."""
        if self.service is None:
            return self.target.address, self.target.port
        if self.row.way is Way.CLUSTER_IP:
            return self.service.cluster_ip, service.PORT
        node = self.people.node
        if self.row.source is Party.INTERNET and self._gateway is not None:
            node = type(node)(self._gateway[str(node)])
        return node, self.service.node_port

    def observed(self, answer: Answer) -> Observed:
        """What the answer and the packets that left the node say about this flow."""
        there = (str(self.target.address), self.target.port)
        back = (str(self.source.address), answer.port)
        ours = [packet for packet in answer.packets if packet.protocol == self.protocol]
        left = [(one.device, one.source) for one in ours if (one.target, one.target_port) == there]
        replied = [one.device for one in ours if (one.target, one.target_port) == back]
        kept = answer.seen_port == answer.port if answer.seen_port else None
        return Observed(
            answer.reached,
            answer.seen,
            kept,
            tuple(dict.fromkeys(left)),
            tuple(dict.fromkeys(replied)),
            answer.took_ms,
            answer.error,
        )


def _services(rows: Sequence[Row], people: Cast) -> Services:
    """One Service for each way and endpoint that the rows ask for, where somebody of ours can ask."""
    asking = [row for row in rows if (asker := people.actors.get(row.source)) is not None and asker.netns]
    wanted = dict.fromkeys((row.way, row.target) for row in asking if row.way is not Way.DIRECT)
    made: Services = {}
    for number, (way, party) in enumerate(wanted):
        actor = people.actors.get(party)
        if actor is not None and actor.port:
            made[way, party] = service.Service(way, party, number, actor.address, actor.port)
    return made


def _shown(actor: Actor, way: Way = Way.DIRECT) -> str:
    shown = f"{actor.party.value} {actor.address}"
    return f"{way.value} of {shown}" if way is not Way.DIRECT else shown
