# SPDX-License-Identifier: Apache-2.0
"""`vpccni lab probe`: the reachability matrix.

Knows arguments, and how a matrix is printed. Must never open a connection itself: `vpccni.lab.probe` does.
"""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated

import typer

from vpccni.cli.output import EXIT_FAILURE, Format, Marked, OutputOption, emit, session, table
from vpccni.errors import InputError
from vpccni.lab.probe import VERSIONS, Endpoint, Outcome, attempts, choose, endpoints, owners
from vpccni.lab.probe import probe as run_probe

MATRIX_LIMIT = 10  # more columns than this do not fit a screen


def probe(
    ctx: typer.Context,
    source: Annotated[
        list[str] | None, typer.Option("--from", metavar="POD|NODE|HOST", help="[default: all pods]")
    ] = None,
    destination: Annotated[list[str] | None, typer.Option("--to", metavar="POD|HOST", help="[default: all]")] = None,
    family: Annotated[
        int | None, typer.Option(metavar="4|6", help="one IP version [default: all that both ends speak]")
    ] = None,
    timeout: Annotated[float, typer.Option(metavar="SECONDS", help="per connection")] = 1.5,
    output: OutputOption = Format.TABLE,
) -> None:
    """Connect everybody to everybody with real TCP and say who the other side saw."""
    from vpccni.lab import control, nodes

    if family not in (None, *VERSIONS):
        raise InputError("probe", f"--family {family}: accepted are 4 and 6")
    state = session(ctx).state
    nodes.load_topology(state)
    inventory = control.ask(state, "GET", "/status")
    pods = list(state.pods())
    known = endpoints(state, inventory, pods)
    sources = [choose(known, name, ("pod", "node", "host")) for name in source or []] or _of(known, "pod")
    targets = [choose(known, name, ("pod", "host")) for name in destination or []] or _of(known, "pod", "host")
    pairs = [(one, other) for one in sources for other in targets if one != other]
    pairs = attempts(pairs, VERSIONS if family is None else (family,))
    if not pairs:
        raise InputError("probe", "there is nothing to connect", hint="vpccni lab pod add NAME, or another --family")
    outcomes = asyncio.run(run_probe(pairs, owners(inventory, pods), timeout))
    failed = [outcome for outcome in outcomes if not outcome.reached]
    if output is Format.JSON:
        emit([asdict(outcome) for outcome in outcomes])
    elif len(targets) <= MATRIX_LIMIT:
        _matrix(sources, targets, outcomes)
    else:
        _summary(outcomes)
    if output is Format.TABLE:
        sys.stdout.write(f"\n{len(outcomes) - len(failed)} of {len(outcomes)} pairs reach each other\n")
    if failed:
        raise typer.Exit(EXIT_FAILURE)


def _of(known: Sequence[Endpoint], *kinds: str) -> list[Endpoint]:
    return [endpoint for endpoint in known if endpoint.kind in kinds]


def _matrix(sources: Sequence[Endpoint], targets: Sequence[Endpoint], outcomes: Sequence[Outcome]) -> None:
    found: dict[tuple[str, str], list[Outcome]] = {}
    for outcome in outcomes:
        found.setdefault((outcome.source, outcome.destination), []).append(outcome)
    rows = []
    for source in sources:
        cells = [_cells(found.get((source.label, target.label), ())) for target in targets]
        rows.append([" ".join((source.label, *source.addresses)), *cells])
    table(["from / seen as", *(" ".join((target.label, *target.addresses)) for target in targets)], rows)


def _cells(outcomes: Sequence[Outcome]) -> str:
    """One line for each address that was tried."""
    return Marked("\n".join(_cell(outcome) for outcome in outcomes))


def _cell(outcome: Outcome) -> str:
    if not outcome.reached:
        return Marked(f"[red]{outcome.error}[/]")
    return Marked(f"[green]{outcome.seen_is}[/]" + ("" if outcome.seen_is == "own address" else f" {outcome.seen}"))


def _summary(outcomes: Sequence[Outcome]) -> None:
    kinds = Counter(f"seen as {one.seen_is}" if one.reached else f"failed: {one.error}" for one in outcomes)
    table(["outcome", "pairs"], kinds.most_common())
    rows = [(one.source, one.destination, one.address, one.error) for one in outcomes if not one.reached]
    if rows:
        table(["from", "to", "address", "why"], rows[:50])
