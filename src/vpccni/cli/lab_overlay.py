# SPDX-License-Identifier: Apache-2.0
"""`vpccni lab compare-overlay`: what encapsulation would cost the same pods.

Knows arguments and how the comparison is printed. Must never measure anything itself: `vpccni.lab.comparison` does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vpccni.cli.output import Format, OutputOption, emit, say, session, table

if TYPE_CHECKING:
    from vpccni.lab.comparison import Figures


def compare_overlay(
    ctx: typer.Context,
    seconds: Annotated[float, typer.Option(min=0.1, max=60, help="of each measurement")] = 1.0,
    repetitions: Annotated[int, typer.Option(min=1, max=50, help="medians are taken over these")] = 5,
    output: OutputOption = Format.TABLE,
) -> None:
    """Compare VPC addresses with a VXLAN overlay: MTU, headers, round trips, bandwidth, max pods, sources seen."""
    from vpccni.lab import control, nodes
    from vpccni.lab.comparison import compare

    state = session(ctx).state
    nodes.load_topology(state)
    found = compare(state, control.ask(state, "GET", "/status"), seconds, repetitions, say)
    if output is Format.JSON:
        emit([asdict(each) for each in found])
    else:
        _print(found)


def _print(found: Sequence[Figures]) -> None:
    """One column for each path, one row for each question."""
    rows: list[tuple[str, Callable[[Figures], Any]]] = [
        ("MTU of a pod", lambda each: each.mtu),
        ("headers on the wire", lambda each: each.headers),
        ("a datagram of 100 bytes on the wire", lambda each: f"{each.frame_bytes} bytes"),
        ("TCP round trips a second", lambda each: f"{each.round_trips_per_s:,.0f} ({each.round_trips_share:.2f}x)"),
        ("one round trip, p50 / p99", lambda each: f"{each.round_trip_p50_us:.0f} / {each.round_trip_p99_us:.0f} µs"),
        ("one TCP stream", lambda each: f"{each.bits_per_s / 1e9:.1f} Gbit/s ({each.bandwidth_share:.2f}x)"),
        ("max pods of the node", lambda each: f"{each.max_pods} ({each.max_pods_by})" if each.max_pods else None),
        ("seen by another node as", lambda each: each.seen_by_node),
        ("seen by the internet as", lambda each: each.seen_by_internet),
    ]
    table(["", *(each.path for each in found)], [[name, *(cell(each) for each in found)] for name, cell in rows])
