# SPDX-License-Identifier: Apache-2.0
"""The benchmark's results as tables for people.

Knows rich and the keys of a result. Must never compute a figure that is not in the results, but for ratios between two
of them. `bench.__main__` calls it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

Row = Mapping[str, Any]
_KINDS = {"rr": "TCP round trips/s", "pps": "datagrams/s"}
_PLACES = {"pod": "pod on the same node", "peer": "node beyond the ENI"}


def print_all(results: Sequence[Mapping[str, Any]], console: Console | None = None) -> None:
    """ADD and DEL of each variant with the shares of one ADD, then what grows with the pods, then packets."""
    # A pipe has no width of its own; 80 columns would cut figures off.
    console = console or Console(width=None if Console().is_terminal else 170)
    for result in results:
        rows = result.get("rows", ())
        if rows:
            console.print(_latencies(result["variant"], rows))
        shares = [row for row in rows if "shares" in row]
        if shares:
            console.print(_shares(result["variant"], shares))
    measured = [result for result in results if result.get("flatness")]
    if measured:
        console.print(_flatness(measured))
    packets = [result for result in results if result.get("forwarding")]
    if packets:
        console.print(_forwarding(packets))
    if not measured and not packets and not any("node" in row for result in results for row in result.get("rows", ())):
        console.print("No node was measured (--without-node): there is nothing to compare with the floor.")


def _latencies(variant: str, rows: Sequence[Row]) -> Table:
    table = Table(title=f"{variant}: ADD and DEL from exec to result, milliseconds (median of repetitions)")
    table.add_column("scenario", no_wrap=True)
    headings = ["node p50", "p99", "pods/s", "CPU", "floor p50", "p99", "pods/s", "CPU", "p50/floor", "by pods/s"]
    for heading in (*headings, "by CPU", "DEL p50", "p99", "CPU"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        node, floor = row.get("node", {}), row["floor"]
        table.add_row(
            row["scenario"],
            *(_number(node.get(key)) for key in ("p50_ms", "p99_ms")),
            _number(node.get("pods_per_s"), 0),
            _number(node.get("cpu_ms")),
            *(_number(floor[key]) for key in ("p50_ms", "p99_ms")),
            _number(floor["pods_per_s"], 0),
            _number(floor["cpu_ms"]),
            *(_number(row.get(key), 1, "x") for key in ("p50_to_floor", "throughput_to_floor", "cpu_to_floor")),
            *(_number(node.get(key)) for key in ("del_p50_ms", "del_p99_ms", "del_cpu_ms")),
        )
    return table


def _shares(variant: str, rows: Sequence[Row]) -> Table:
    table = Table(title=f"{variant}: share of relay, daemon and kernel in the p50 of one ADD")
    table.add_column("scenario")
    for part in ("relay", "daemon", "kernel"):
        table.add_column(part, justify="right")
    for row in rows:
        parts = [row["shares"][part] for part in ("relay", "daemon", "kernel")]
        table.add_row(row["scenario"], *(f"{part['ms']:.2f} ms  {part['of_p50']:4.0%}" for part in parts))
    return table


def _flatness(results: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(title="An ADD with 700 pods present, as a multiple of one with 10 (p50); and of ipv4's with 10")
    table.add_column("variant")
    callers = ("one at a time", "16 at once")
    for heading in (*callers, *(f"floor, {how}" for how in callers), "of ipv4, one at a time"):
        table.add_column(heading, justify="right")
    base = next((_alone(result) for result in results if result["variant"] == "ipv4"), None)
    for result in results:
        own = _alone(result)
        ratio = own / base if own and base else None
        grown = [result[key].get(how) for key in ("flatness", "floor_flatness") for how in callers]
        table.add_row(result["variant"], *(_number(figure, 2, "x") for figure in (*grown, ratio)))
    return table


def _alone(result: Mapping[str, Any]) -> float | None:
    """The p50 of the node for one ADD at a time with 10 pods present."""
    rows = [row for row in result["rows"] if (row["present"], row["callers"]) == (10, 1)]
    return float(rows[0]["node"]["p50_ms"]) if rows else None


def _forwarding(results: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(title="Packets through the node, from the newest pod; cost with many pods as a multiple of few")
    for heading in ("variant", "to", "what"):
        table.add_column(heading, no_wrap=True)
    for heading in ("few pods", "per second", "many pods", "per second", "cost"):
        table.add_column(heading, justify="right", no_wrap=True)
    for result in results:
        for row in result["forwarding"]:
            rates = (_number(row["few_per_s"], 0), str(row["many"]), _number(row["many_per_s"], 0))
            cost = _number(row["cost_ratio"], 2, "x")
            table.add_row(result["variant"], _PLACES[row["to"]], _KINDS[row["kind"]], str(row["few"]), *rates, cost)
    return table


def _number(value: float | None, digits: int = 2, unit: str = "") -> str:
    return "-" if value is None else f"{value:.{digits}f}{unit}"
