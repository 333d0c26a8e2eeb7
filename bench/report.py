# SPDX-License-Identifier: Apache-2.0
"""The benchmark's rows as tables for people.

Knows rich and the keys of a row. Must never compute a figure that is not in the row. `bench.__main__` calls it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

Row = Mapping[str, Any]


def print_table(rows: Sequence[Row], console: Console | None = None) -> None:
    """Latencies and ratios, then the shares of one ADD."""
    # A pipe has no width of its own; 80 columns would cut figures off.
    console = console or Console(width=None if Console().is_terminal else 140)
    console.print(_latencies(rows))
    shares = [row for row in rows if "shares" in row]
    if shares:
        console.print(_shares(shares))
    if not any("node" in row for row in rows):
        console.print("No node was measured (--without-node): there is nothing to compare with the floor.")


def _latencies(rows: Sequence[Row]) -> Table:
    table = Table(title="ADD from exec to result, milliseconds (median of repetitions)")
    table.add_column("scenario", no_wrap=True)
    for heading in ("node p50", "p99", "pods/s", "floor p50", "p99", "pods/s", "p50/floor", "by pods/s", "DEL p50"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        node, floor = row.get("node", {}), row["floor"]
        table.add_row(
            row["scenario"],
            _number(node.get("p50_ms")),
            _number(node.get("p99_ms")),
            _number(node.get("pods_per_s"), 0),
            _number(floor["p50_ms"]),
            _number(floor["p99_ms"]),
            _number(floor["pods_per_s"], 0),
            _number(row.get("p50_to_floor"), 1, "x"),
            _number(row.get("throughput_to_floor"), 1, "x"),
            _number(node.get("del_p50_ms")),
        )
    return table


def _shares(rows: Sequence[Row]) -> Table:
    table = Table(title="Share of relay, daemon and kernel in the p50 of one ADD")
    table.add_column("scenario")
    for part in ("relay", "daemon", "kernel"):
        table.add_column(part, justify="right")
    for row in rows:
        parts = [row["shares"][part] for part in ("relay", "daemon", "kernel")]
        table.add_row(row["scenario"], *(f"{part['ms']:.2f} ms  {part['of_p50']:4.0%}" for part in parts))
    return table


def _number(value: float | None, digits: int = 2, unit: str = "") -> str:
    return "-" if value is None else f"{value:.{digits}f}{unit}"
