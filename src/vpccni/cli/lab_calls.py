# SPDX-License-Identifier: Apache-2.0
"""`vpccni lab calls`: what was asked of the box's EC2, and how it answered.

Knows arguments and how answers are printed. Must never count anything itself: the lab daemon's record does.
"""

from __future__ import annotations

import re
import sys
import time
from datetime import datetime
from typing import Annotated, Any
from urllib.parse import urlencode

import typer

from vpccni.cli.output import Format, Marked, OutputOption, emit, say, session, table
from vpccni.errors import InputError

FOLLOW_EVERY_S = 0.5
_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}


def calls(
    ctx: typer.Context,
    node: Annotated[
        str | None, typer.Option(metavar="NODE", help="only those of this node; `machine` is everybody outside the box")
    ] = None,
    since: Annotated[
        str | None, typer.Option(metavar="TIME", help="only the last 30, 30s, 5m, 1h [default: all]")
    ] = None,
    last: Annotated[int, typer.Option(min=0, metavar="N", help="how many to list one by one")] = 20,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="print new calls until interrupted")] = False,
    output: OutputOption = Format.TABLE,
) -> None:
    """List the EC2 calls: totals by action, then the last ones with code and duration."""
    query: dict[str, Any] = {"last": last}
    if node is not None:
        query["node"] = node.removeprefix("node/")
    if since is not None:
        query["since_s"] = _seconds(since)
    answer = _ask(ctx, query)
    if output is Format.JSON:
        if follow:
            raise InputError("list the calls", "--follow prints lines, not one JSON value; leave -o json out")
        emit(answer)
        return
    _print_totals(answer)
    sys.stdout.write("\n")
    for entry in answer["calls"]:
        _line(entry)
    if follow:
        _follow(ctx, query, answer)


def _ask(ctx: typer.Context, query: dict[str, Any]) -> dict[str, Any]:
    from vpccni.lab import control, nodes

    state = session(ctx).state
    nodes.load_topology(state)
    answer: dict[str, Any] = control.ask(state, "GET", f"/calls?{urlencode(query)}")
    return answer


def _seconds(text: str) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text)
    if found is None:
        raise InputError("list the calls", f"--since {text}: accepted is a number with s, m or h, such as 30s")
    return float(found[1]) * _UNITS[found[2]]


def _follow(ctx: typer.Context, query: dict[str, Any], answer: dict[str, Any]) -> None:
    query = {name: value for name, value in query.items() if name != "since_s"} | {"last": 1000}
    seen = max((entry["number"] for entry in answer["calls"]), default=0)
    while True:
        time.sleep(FOLLOW_EVERY_S)
        for entry in _ask(ctx, {**query, "after": seen})["calls"]:
            _line(entry)
            seen = entry["number"]
        sys.stdout.flush()


def _print_totals(answer: dict[str, Any]) -> None:
    rows = []
    for total in answer["totals"]:
        codes = ", ".join(f"{code} {number}" for code, number in total["codes"].items())
        refused = Marked(f"[yellow]{codes}[/]") if codes else ""
        mean, worst = f"{total['mean_s'] * 1000:.0f}", f"{total['worst_s'] * 1000:.0f}"
        rows.append((total["action"], total["calls"], total["succeeded"], refused, mean, worst))
    table(["action", "calls", "succeeded", "refused or lost", "mean ms", "worst ms"], rows)
    every = sum(total["calls"] for total in answer["totals"])
    say(f"{every} calls" + (f", {answer['forgotten']} of them only counted" if answer["forgotten"] else ""))


def _line(entry: dict[str, Any]) -> None:
    moment = datetime.fromtimestamp(entry["at"]).strftime("%H:%M:%S.%f")[:-3]
    result = entry["code"] or "ok"
    sys.stdout.write(
        f"{moment}  {entry['caller']:<8} {entry['action']:<32} {entry['took_s'] * 1000:7.0f} ms  {result}"
        f"{'  ' + entry['subject'] if entry['subject'] else ''}\n"
    )
