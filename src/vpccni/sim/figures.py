# SPDX-License-Identifier: Apache-2.0
"""The figures of runs side by side, as rows of text: one list for the terminal and the report.

Knows which figures matter, their names and units. Must never compute one that the result does not hold.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from vpccni.sim.result import Result

Figure = tuple[str, Callable[[Result], object]]


def rows(results: Sequence[Result]) -> list[list[object]]:
    """Name, then one value per run."""
    return [[name, *(value(each) for each in results)] for name, value in FIGURES]


def _count(value: float) -> str:
    return f"{value:,.0f}"


def _time(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value * 1000:.0f} ms" if value < 1 else f"{value:,.1f} s"


def _failed(found: Result) -> str:
    return _by_code(found["failed_by_code"])


def _by_code(codes: dict[str, int]) -> str:
    listed = ", ".join(f"{code} {_count(number)}" for code, number in codes.items())
    return f"{_count(sum(codes.values()))} ({listed})" if listed else "0"


def _last_ready(found: Result) -> str:
    if "ready_nodes" not in found:
        return "- (before time 0)"
    if found["last_ready_s"] is None:
        return f"- ({found['ready_nodes']:,} of {found['nodes']:,} became ready)"
    ratio = found["last_ready_over_floor"]
    return f"{found['last_ready_s']:,.1f} s" + (f" ({ratio:.2f} x of what attaching permits)" if ratio else "")


FIGURES: tuple[Figure, ...] = (
    ("pods", lambda r: _count(r["pods"]["arrived"])),
    ("pods without an address to the end", _failed),
    ("refused ADDs", lambda r: _by_code(r["refusals_by_code"])),
    ("pods that found every node full", lambda r: _count(r["pods"]["unschedulable"])),
    ("time to address, median", lambda r: _time(r["time_to_address_s"]["p50"])),
    ("time to address, p99", lambda r: _time(r["time_to_address_s"]["p99"])),
    ("time to address, worst", lambda r: _time(r["time_to_address_s"]["worst"])),
    ("pods that waited more than 15 s", lambda r: _count(r["time_to_address_s"]["longer_than"].get("15", 0))),
    ("addresses held at most", lambda r: _count(r["addresses"]["held_peak"])),
    ("addresses used at most", lambda r: _count(r["addresses"]["used_peak"])),
    ("address-hours held", lambda r: _count(r["addresses"]["held_hours"])),
    ("address-hours wasted", lambda r: _count(r["addresses"]["wasted_hours"])),
    ("ENIs at most", lambda r: _count(r["enis"]["peak"])),
    ("ENIs created, freed", lambda r: f"{_count(r['enis']['created'])}, {_count(r['enis']['freed'])}"),
    ("EC2 calls", lambda r: _count(r["ec2_calls"])),
    ("EC2 calls throttled", lambda r: f"{_count(r['throttled_calls'])} ({r['throttled_per_node']:.2f} per node)"),
    ("last node ready", _last_ready),
)
