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
    from vpccni.core.walk.sightings import Row
    from vpccni.core.walk.values import Hop
    from vpccni.lab.trace import Trace
    from vpccni.lab.traceprobe import Kind


def trace(
    ctx: typer.Context,
    source: Annotated[str, typer.Argument(metavar="POD", help="where the packet starts: a pod, or a node")],
    destination: Annotated[str, typer.Argument(metavar="DEST[:PORT]", help="pod, node, host or address; port 80")],
    family: Annotated[int | None, typer.Option(metavar="4|6", help="of a DEST given by name [default: 4]")] = None,
    protocol: Annotated[str, typer.Option(metavar="tcp|udp|icmp", help="of the probe")] = "tcp",
    send: Annotated[bool, typer.Option("--send/--no-send", help="send a probe, or only predict")] = True,
    wait: Annotated[float, typer.Option(metavar="SECONDS", help="for an answer")] = 1.2,
    output: OutputOption = Format.TABLE,
) -> None:
    """Follow a packet hop by hop: which rule, route and translation decide, and where it really went."""
    from vpccni.lab.scene import scene
    from vpccni.lab.trace import trace as run_trace

    found_here = scene(session(ctx).state)
    known = found_here.known
    kind = _kind(protocol)
    start = choose(known, source, ("pod", "node"))
    target, port = _destination(known, destination, family, kind)
    own = start.of(target.version)
    found = run_trace(
        found_here.observe(), f"{start.kind} {start.name}", ip_address(own) if own else None, target, port,
        send=send, wait_s=wait, drops=found_here.drops, protocol=kind,
    )  # fmt: skip
    if output is Format.JSON:
        emit(_document(found))
    else:
        _print(found)
    if not found.good:
        raise typer.Exit(EXIT_FAILURE)


def _kind(text: str) -> Kind:
    if text not in ("tcp", "udp", "icmp"):
        raise InputError(
            f"trace with --protocol {text!r}",
            "no probe of that kind",
            hint="one of tcp, udp, icmp",
            code="bad-protocol",
        )
    return text  # type: ignore[return-value]  # mypy does not narrow a str to a Literal


def _destination(known: Sequence[Endpoint], text: str, family: int | None, kind: Kind) -> tuple[IPAddress, int]:
    """`name`, `name:port`, an address of either family, `[address]:port`. An echo request has no port."""
    action = f"trace to {text!r}"
    name, port = text, ""
    if text.startswith("["):
        name, bracket, port = text[1:].partition("]")
        if not bracket or (port and not port.startswith(":")):
            raise InputError(action, "no `]` ends the address", hint="[2001:db8::1]:80", code="bad-destination")
        port = port.removeprefix(":")
    elif text.count(":") == 1:
        name, _, port = text.partition(":")
    if kind == "icmp" and port:
        raise InputError(action, "an echo request has no port", hint=f"leave out :{port}", code="bad-port")
    port = port or str(PORT)
    if not port.isdigit() or not 0 < int(port) < 65536:
        raise InputError(action, f"{port!r} is not a port", hint="a number from 1 to 65535", code="bad-port")
    if family not in (None, 4, 6):
        raise InputError(action, f"there is no IPv{family}", hint="--family 4 or --family 6", code="bad-family")
    try:
        address = ip_address(name)
    except ValueError:
        address = _of_name(known, name, action, family)
    if family is not None and address.version != family:
        raise InputError(action, f"it is an IPv{address.version} address", hint="leave out --family", code="bad-family")
    if address.is_multicast or address.is_unspecified:
        hint = "the address of a pod, node or host, or of a Service"
        raise InputError(action, "it is not the address of one host", hint=hint, code="bad-destination")
    return address, int(port)


def _of_name(known: Sequence[Endpoint], name: str, action: str, family: int | None) -> IPAddress:
    end = choose(known, name, ("pod", "node", "host"))
    address = end.of(family or 4) or (end.address if family is None else "")
    if not address:
        raise InputError(action, f"it has no IPv{family} address", hint="leave out --family", code="family-missing")
    return ip_address(address)


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
        "by_chance": [asdict(draw) for draw in found.trip.draws],
        "agrees": found.agrees,
    }  # fmt: skip


def _text(header: object) -> str:
    return "" if header is None else str(header)


def _print(found: Trace) -> None:
    from vpccni.lab.traceprobe import GOOD

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
        write(f"observed: {found.answer}{last if found.answer not in GOOD else ''}\n")
        write("observed equals predicted\n" if found.agrees else "observed differs from predicted\n")
    for name, count in found.dropped.items():
        write(f"  counted meanwhile: {name} +{count}\n")
    for draw in found.trip.draws:
        others = ", ".join(option for at, option in enumerate(draw.options) if at != draw.taken)
        write(f"  by chance: {draw.options[draw.taken]}, and not {others}; {draw.rule}\n")
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
