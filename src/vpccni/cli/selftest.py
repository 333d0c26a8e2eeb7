# SPDX-License-Identifier: Apache-2.0
"""`vpccni selftest`: the flow matrix, played on a node with real packets.

Knows arguments and how results are printed. Must never make a pod or open a socket itself: `vpccni.selftest` does.
"""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from enum import Enum
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vpccni.cli.output import EXIT_FAILURE, Format, Marked, OutputOption, Session, emit, say, session, table
from vpccni.errors import InputError

if TYPE_CHECKING:  # what a run needs is imported by the run
    from vpccni.selftest.matrix import Party, Row
    from vpccni.selftest.node import Node
    from vpccni.selftest.peers import Peers
    from vpccni.selftest.run import Result

_COLOURS = {"passed": "green", "failed": "bold red", "skipped": "yellow"}
Target = Annotated[str, typer.Option(metavar="ADDRESS:PORT", show_default=False, help="on a real node: a TCP server")]


class ServiceForm(str, Enum):  # noqa: UP042  # typer reads the members' values
    """What `--services` accepts."""

    NFTABLES = "nftables"
    IPTABLES = "iptables"


def selftest(
    ctx: typer.Context,
    node: Annotated[
        list[str] | None, typer.Option("--node", metavar="NAME", help="of the lab; repeatable [default: all]")
    ] = None,
    rows: Annotated[
        str, typer.Option("--rows", metavar="LIST", help="numbers, ranges, names with *: 1,9-12,site-to-*")
    ] = "",
    protocol: Annotated[str, typer.Option(metavar="tcp|udp", help="of the rows, only this one [default: both]")] = "",
    family: Annotated[int, typer.Option(metavar="4|6", help="of the rows, only this one [default: both]")] = 0,
    negatives: Annotated[
        bool,
        typer.Option(
            "--negatives",
            help="also remove each object that a flow needs, see it fail, and put it back; the daemon is held "
            "meanwhile, and other pods of the node lose packets",
        ),
    ] = False,
    listed: Annotated[bool, typer.Option("--list", help="print the matrix and run nothing")] = False,
    here: Annotated[bool, typer.Option("--here", help="test this machine as a node, though a lab is up")] = False,
    far_pod: Target = "",
    vpc_host: Target = "",
    site: Target = "",
    internet: Target = "",
    most_pods: Annotated[int, typer.Option(metavar="N", help="test pods at most, to reach a secondary ENI")] = 40,
    services: Annotated[
        ServiceForm, typer.Option("--services", help="the test's Services as kube-proxy would write them in this mode")
    ] = ServiceForm.NFTABLES,
    junit: Annotated[Path | None, typer.Option(metavar="FILE", help="write the results as JUnit XML too")] = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Play the flow matrix on a node: who reaches whom, seen as whom, by which device (docs/flows.md).

    In a lab on its nodes, else on this machine. Needs root and the node's running daemon. Test pods are made through
    the node's CNI configuration and removed at the end. Exit code 1 when a flow is not as expected.
    """
    from vpccni.lab.machine import require_root
    from vpccni.selftest.matrix import Party
    from vpccni.selftest.report import junit as document
    from vpccni.selftest.run import Plan, Selftest

    chosen = narrowed(choose(rows), protocol, family)
    if listed:
        _list(chosen, output)
        return
    require_root()
    named = {Party.FAR_POD: far_pod, Party.VPC_HOST: vpc_host, Party.SITE: site, Party.INTERNET: internet}
    plan = Plan(chosen, negatives, most_pods, services.value)
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))  # to end it is to interrupt it
    results: list[Result] = []
    for where, peers in _nodes(session(ctx), node or [], here, {k: v for k, v in named.items() if v}):
        results += Selftest(where, peers, plan, say, _progress).run()
    if junit is not None:
        junit.write_text(document(results))
    raise typer.Exit(_finish(results, output))


def choose(text: str) -> tuple[Row, ...]:
    """The rows that a list of numbers, ranges and names means, all of them for an empty one; InputError for an unknown.

    `9`, `9-12`, `site-to-*`, separated by commas.
    """
    from vpccni.selftest.rows import matrix

    everything = matrix()
    if not text:
        return everything
    wanted: set[str] = set()
    for word in filter(None, (part.strip() for part in text.split(","))):
        first, _, last = word.partition("-")
        if first.isdigit() and (last or first).isdigit():
            numbers = range(int(first), int(last or first) + 1)
            found = {row.name for row in everything if row.number in numbers}
        else:
            found = {row.name for row in everything if fnmatch(row.name, word)}
        if not found:
            names = ", ".join(row.name for row in everything)
            raise InputError(f"run rows {word!r}", "the matrix has none", hint=f"1 to 19, or one of {names}")
        wanted |= found
    return tuple(row for row in everything if row.name in wanted)


def narrowed(rows: Sequence[Row], protocol: str, version: int) -> tuple[Row, ...]:
    """The rows with one protocol and one IP version alone ("" and 0: with all of theirs); InputError without any."""
    found = []
    for row in rows:
        protocols = tuple(each for each in row.protocols if protocol in ("", each))
        versions = tuple(each for each in row.versions if version in (0, each))
        if protocols and versions:
            found.append(replace(row, protocols=protocols, versions=versions))
    if not found:
        why, hint = "no row that was asked for has it", "--protocol tcp or udp; --family 4 or 6"
        raise InputError(f"run rows with {protocol or 'any protocol'} and IPv{version or '4 or 6'}", why, hint=hint)
    return tuple(found)


def _list(rows: Sequence[Row], output: Format) -> None:
    from vpccni.selftest import describe

    if output is Format.JSON:
        emit([describe.plain(row) for row in rows])
    else:
        table(describe.COLUMNS, [line for row in rows for line in describe.lines(row)])


def _nodes(
    current: Session, names: Sequence[str], here: bool, named: dict[Party, str]
) -> list[tuple[Node, Peers]]:  # fmt: skip
    from vpccni.lab import nodes
    from vpccni.selftest import node, peers

    state = current.state
    if here or not state.topology.exists():
        if names and not here:
            nodes.load_topology(state)  # says that no lab is up
        if names:
            raise InputError("use --node", "--here tests this machine alone")
        return [(node.this_machine(), peers.named(named))]
    if named:
        option = peers.option(next(iter(named)))
        raise InputError(f"use --{option}", "the lab has hosts of its own", hint="leave it out, or add --here")
    chosen = [nodes.require_node(state, name) for name in names] or nodes.node_names(state)
    return [(node.of_lab(state, name), peers.of_lab_node(state, name)) for name in chosen]


def _finish(results: Sequence[Result], output: Format) -> int:
    """Print the results; the exit code."""
    from vpccni.selftest.report import plain

    if output is Format.JSON:
        emit([plain(result) for result in results])
    else:
        _print(results)
    counts = Counter(result.verdict for result in results)
    say(", ".join(f"{count} {verdict}" for verdict, count in counts.items()))
    return EXIT_FAILURE if counts["failed"] or not counts["passed"] else 0


def _progress(result: Result) -> None:
    why = f": {result.why}" if result.why and result.verdict != "passed" else ""
    say(f"  {result.verdict:7} {result.row.number:2} {result.name}{why}")


def _print(results: Sequence[Result]) -> None:
    several = len({result.node for result in results}) > 1
    columns = [*(["node"] if several else []), "row", "flow", "", "from", "to", "expected", "seen", "verdict", "ms"]
    rows = []
    for result in results:
        verdict = Marked(f"[{_COLOURS[result.verdict]}]{result.verdict}[/]")
        flow = f"{result.row.name}, without {result.negative}" if result.negative else result.row.name
        seen = result.observed if result.verdict == "passed" else result.why
        cells = [result.row.number, flow, result.protocol, result.source, result.target, result.expected, seen]
        rows.append([*([result.node] if several else []), *cells, verdict, result.took_ms or ""])
    table(columns, rows)
