# SPDX-License-Identifier: Apache-2.0
"""The HTML report of one or several runs: figures, plots and tables in one file that needs nothing else.

Knows the page. Must never compute a figure that the results do not hold. `cli.sim` writes what `render` returns; the
same results give the same page, byte for byte.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from typing import Any

from vpccni.sim import figures, svg
from vpccni.sim.result import Result
from vpccni.sim.svg import Curve

SHOWN_ACTIONS = 6
STYLE = """
:root { color-scheme: light dark; --paper: #fbfbfa; --card: #ffffff; --ink: #1d232b; --soft: #667080; --rule: #e3e6ea;
  --c0: #2563c9; --c1: #c2570c; --c2: #1a7f5a; --c3: #9333a8; --c4: #a0740a; --c5: #c02a52; --c6: #0e7c93;
  --c7: #6b7280 }
@media (prefers-color-scheme: dark) { :root { --paper: #14181d; --card: #1b2027; --ink: #e6e9ed; --soft: #98a2b0;
  --rule: #2d343d; --c0: #6ea8ff; --c1: #ff9b57; --c2: #4cc99a; --c3: #d18be3; --c4: #dcb245; --c5: #ff7d9c;
  --c6: #52c7de; --c7: #a5adb8 } }
* { box-sizing: border-box }
body { margin: 0; background: var(--paper); color: var(--ink); font: 15px/1.5 system-ui, sans-serif }
main { max-width: 940px; margin: 0 auto; padding: 32px 20px 64px }
h1 { font-size: 24px; margin: 0 0 4px } h2 { font-size: 16px; margin: 0 0 8px }
p.sub { color: var(--soft); margin: 0 0 24px }
section { background: var(--card); border: 1px solid var(--rule); border-radius: 8px; padding: 16px 18px;
  margin: 0 0 18px; overflow-x: auto }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
th, td { text-align: right; padding: 4px 10px; border-top: 1px solid var(--rule); vertical-align: top }
th:first-child, td:first-child { text-align: left; padding-left: 0 } thead th { border-top: 0; color: var(--soft) }
.plot { width: 100%; height: auto; display: block } .grid { stroke: var(--rule) }
.tick, .unit { fill: var(--soft); font-size: 11px } .line { fill: none; stroke-width: 1.8; stroke-linejoin: round }
.area { stroke: none; opacity: .85 }
.legend { list-style: none; display: flex; flex-wrap: wrap; gap: 4px 18px; padding: 0; margin: 6px 0 0;
  color: var(--soft); font-size: 13px }
.key { width: 22px; height: 8px; margin-right: 6px }
"""
COLOURS = "".join(f".c{n} {{ stroke: var(--c{n}) }} .a{n} {{ fill: var(--c{n}) }}\n" for n in range(8))


def render(results: Sequence[Result], load: str) -> str:
    """The whole page."""
    first = results[0]
    title = f"{first['nodes']:,} nodes of {first['instance_type']}, {load}"
    length = first["simulated_s"] / 3600
    sub = f"{length:.3g} h simulated, seed {first['seed']}; {' against '.join(each['label'] for each in results)}"
    parts = [
        _section("Figures", _table(["", *(each["label"] for each in results)], figures.rows(results))),
        _section("Addresses held and used", _addresses(results)),
        _section("Addresses wasted: held by nodes, used by no pod", _wasted(results)),
        _section("Time to address", _waits(results)),
        *(_section(f"EC2 calls: {each['label']}", _calls(each)) for each in results),
        _section("EC2 calls and throttles by action", _actions(results)),
        _section("ENIs", _plot(results, "ENIs", lambda each: each["series"]["enis"])),
        _section("Pods without an address to the end, by cause", _codes(results, "failed_by_code")),
        _section("Refused ADDs by cause; the runtime tries again", _codes(results, "refusals_by_code")),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}{COLOURS}</style></head><body><main>"
        f'<h1>{escape(title)}</h1><p class="sub">{escape(sub)}</p>{"".join(parts)}</main></body></html>\n'
    )


def _section(title: str, body: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{body}</section>\n"


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    top = "".join(f"<th>{escape(each)}</th>" for each in head)
    body = "".join(f"<tr>{''.join(f'<td>{escape(str(cell))}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


def _times(results: Sequence[Result]) -> list[float]:
    """The times of the longest run: one that ended early stops where it ended."""
    return max((each["series"]["t"] for each in results), key=len)


def _plot(results: Sequence[Result], unit: str, values: Callable[[Result], list[Any]]) -> str:
    curves = [Curve(each["label"], values(each), number % 8) for number, each in enumerate(results)]
    return svg.lines(_times(results), curves, unit)


def _addresses(results: Sequence[Result]) -> str:
    curves = []
    for number, each in enumerate(results):
        curves.append(Curve(f"held, {each['label']}", each["series"]["held"], number % 8))
        curves.append(Curve(f"used, {each['label']}", each["series"]["used"], number % 8, dashed=True))
    return svg.lines(_times(results), curves, "addresses")


def _wasted(results: Sequence[Result]) -> str:
    def wasted(each: Result) -> list[int]:
        series = each["series"]
        return [held - used for held, used in zip(series["held"], series["used"], strict=True)]

    return _plot(results, "addresses", wasted)


def _waits(results: Sequence[Result]) -> str:
    curves = []
    for number, each in enumerate(results):
        curves.append(Curve(f"p99, {each['label']}", each["series"]["wait_p99"], number % 8))
        curves.append(Curve(f"worst, {each['label']}", each["series"]["wait_worst"], number % 8, dashed=True))
    rows = []
    for name in ("p50", "p99", "worst", "mean"):
        shown = [each["time_to_address_s"][name] for each in results]
        rows.append([name, *("-" if value is None else f"{value:,.3f} s" for value in shown)])
    points = [number * results[0]["series"]["step_s"] for number in range(len(results[0]["series"]["wait_p99"]))]
    plot = svg.lines(points, curves, "seconds, by the time of the address")
    return plot + _table(["", *(each["label"] for each in results)], rows)


def _calls(found: Result) -> str:
    series = found["series"]
    ordered = sorted(series["calls"], key=lambda action: -sum(series["calls"][action]))
    curves = [Curve(action, series["calls"][action], number) for number, action in enumerate(ordered[:SHOWN_ACTIONS])]
    rest = ordered[SHOWN_ACTIONS:]
    if rest:
        values = [sum(series["calls"][action][point] for action in rest) for point in range(len(series["throttled"]))]
        curves.append(Curve("others", values, 7))
    points = [number * series["step_s"] for number in range(len(series["throttled"]))]
    unit = f"calls in {series['step_s']:g} s"
    throttled = Curve("throttled", series["throttled"], 5)
    plots = svg.stacked(points, curves, unit) if curves else "<p>none</p>"
    return plots + svg.lines(points, [throttled], f"throttled {unit}")


def _actions(results: Sequence[Result]) -> str:
    actions = sorted({action for each in results for action in each["calls_by_action"]})
    rows = []
    for action in actions:
        cells = []
        for each in results:
            calls, throttled = each["calls_by_action"].get(action, 0), each["throttled_by_action"].get(action, 0)
            cells.append(f"{calls:,}" + (f" ({throttled:,} throttled)" if throttled else ""))
        rows.append([action, *cells])
    return _table(["action", *(each["label"] for each in results)], rows)


def _codes(results: Sequence[Result], name: str) -> str:
    codes = sorted({code for each in results for code in each[name]})
    if not codes:
        return "<p>none</p>"
    rows = [[code, *(f"{each[name].get(code, 0):,}" for each in results)] for code in codes]
    return _table(["code", *(each["label"] for each in results)], rows)
