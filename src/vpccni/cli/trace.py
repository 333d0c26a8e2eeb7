# SPDX-License-Identifier: Apache-2.0
"""`vpccni trace`: the way of a packet, predicted and observed side by side.

Knows arguments and how a trace is printed. Must never predict or capture itself: `vpccni.lab.trace` does.
Exit code 0: reached as predicted; 1: not reached, or not as predicted; 2: bad input.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from ipaddress import ip_address
from typing import TYPE_CHECKING, Annotated

import typer

from vpccni.cli.output import EXIT_FAILURE, Format, Marked, OutputOption, emit, session, table
from vpccni.errors import InputError
from vpccni.lab.probe import PORT, Endpoint, choose
from vpccni.netlink.values import IPAddress

if TYPE_CHECKING:  # the trace opens packet sockets; --help need not
    from vpccni.core.walkmatch import Row
    from vpccni.core.walkvalues import Hop
    from vpccni.lab.trace import Trace


def trace(
    ctx: typer.Context,
    source: Annotated[str, typer.Argument(metavar="POD", help="where the packet starts: a pod, or a node")],
    destination: Annotated[str, typer.Argument(metavar="DEST[:PORT]", help="pod, node, host or address; port 80")],
    family: Annotated[int | None, typer.Option(metavar="4|6", help="of a DEST given by name [default: 4]")] = None,
    send: Annotated[bool, typer.Option("--send/--no-send", help="send a probe, or only predict")] = True,
    wait: Annotated[float, typer.Option(metavar="SECONDS", help="for an answer")] = 1.2,
    output: OutputOption = Format.TABLE,
) -> None:
    """Follow a packet hop by hop: which rule, route and translation decide, and where it really went."""
    from vpccni.lab.scene import scene
    from vpccni.lab.trace import trace as run_trace

    found_here = scene(session(ctx).state)
    known = found_here.known
    start = choose(known, source, ("pod", "node"))
    target, port = _destination(known, destination, family)
    own = start.of(target.version)
    found = run_trace(
        found_here.observe(), f"{start.kind} {start.name}", ip_address(own) if own else None, target, port,
        send=send, wait_s=wait, drops=found_here.drops,
    )  # fmt: skip
    if output is Format.JSON:
        emit(_document(found))
    else:
        _print(found)
    if not found.good:
        raise typer.Exit(EXIT_FAILURE)


def _destination(known: Sequence[Endpoint], text: str, family: int | None) -> tuple[IPAddress, int]:
    """`name`, `name:port`, an address of either family, `[address]:port`."""
    name, port = text, str(PORT)
    if text.startswith("["):
        name, _, rest = text[1:].partition("]")
        port = rest.removeprefix(":") or port
    elif text.count(":") == 1:
        name, _, port = text.partition(":")
    if not port.isdigit() or not 0 < int(port) < 65536:
        raise InputError(f"trace to {text!r}", f"{port!r} is not a port")
    try:
        return ip_address(name), int(port)
    except ValueError:
        end = choose(known, name, ("pod", "node", "host"))
    address = end.of(family or 4) or (end.address if family is None else "")
    if not address:
        raise InputError(f"trace to {text!r}", f"it has no IPv{family} address")
    return ip_address(address), int(port)


def _document(found: Trace) -> dict[str, object]:
    verdict = found.trip.verdict
    return {
        "sent": str(found.sent),
        "predicted": {"reached": verdict.reached, **asdict(verdict), "delivered_to": found.trip.delivered_to},
        "hops": [{**asdict(hop), "header": str(hop.header)} for hop in found.trip.hops],
        "observed": [
            {
                "phase": row.phase, "place": row.place, "device": row.device, "way": row.way, "agrees": row.agrees,
                "predicted": _text(row.predicted), "seen": _text(row.seen),
            }
            for row in found.rows
        ],
        "answer": found.answer,
        "dropped": dict(found.dropped),
        "not_evaluated": list(found.trip.unread),
        "agrees": found.agrees,
    }  # fmt: skip


def _text(header: object) -> str:
    return "" if header is None else str(header)


def _print(found: Trace) -> None:
    rows = {(row.phase, row.place, row.device, row.way): row for row in found.rows}
    lines = [_line(hop, rows.pop((hop.phase, hop.place, hop.device, hop.way), None), bool(found.rows))
             for hop in found.trip.hops]  # fmt: skip
    lines += [_line(row, row, sent=True) for row in rows.values()]
    table(["", "place", "device", "predicted", "observed"], lines)
    verdict = found.trip.verdict
    write = sys.stdout.write
    if verdict.reached:
        write(f"\npredicted: {verdict.why} ({verdict.where})\n")
    else:
        write(f"\npredicted: dropped at {verdict.where}, {verdict.code}: {verdict.why}\n  next: {verdict.next_step}\n")
    if found.answer:
        seen = [row for row in found.rows if row.seen is not None]
        last = f"; last seen at {seen[-1].place} {seen[-1].device} ({seen[-1].phase})" if seen else ""
        write(f"observed: {found.answer}{last if found.answer not in ('connected', 'refused') else ''}\n")
        write("observed equals predicted\n" if found.agrees else "observed differs from predicted\n")
    for name, count in found.dropped.items():
        write(f"  counted meanwhile: {name} +{count}\n")
    for rule in found.trip.unread:
        write(f"  not evaluated: {rule}\n")


_BLANK = Marked("")  # nothing, where an empty cell would be shown as a dash


def _line(step: Hop | Row, row: Row | None, sent: bool) -> list[str]:
    if not step.device:
        by, why = getattr(step, "by", ""), getattr(step, "why", "")
        return [_BLANK, step.place, _BLANK, f"  {by}\n  {why}", _BLANK]
    want = getattr(step, "header", None)
    place = [step.phase, step.place, f"{step.device} {step.way}", _text(want) or "nothing"]
    if not sent:
        return [*place, ""]
    if row is None or row.seen is None:
        return [*place, Marked("[red]not seen[/]")]
    word = "as predicted" if row.agrees else "differs"
    return [*place, word if row.agrees and str(row.seen) == place[-1] else f"{word}: {row.seen}"]
