# SPDX-License-Identifier: Apache-2.0
"""The matrix in words: what `vpccni selftest --list` prints and docs/flows.md shows.

Knows the rows. Must never know a node. A test compares the document with `markdown`.
"""

from __future__ import annotations

from collections.abc import Iterable

from vpccni.selftest.matrix import Case, Leaves, Row, Seen, Way

COLUMNS = ("#", "flow", "from", "to", "when", "seen as", "leaves by", "answers by", "fails without")


def lines(row: Row) -> list[tuple[str, ...]]:
    """One line of cells for each case of a row; the first line names the row."""
    target = row.target.value if row.way is Way.DIRECT else f"{row.way.value} of {row.target.value}"
    families = "" if row.versions == (4,) else " (" + ", ".join(f"IPv{version}" for version in row.versions) + ")"
    head = (str(row.number), f"{row.name}{families}", row.source.value, target)
    made = [(*head, *_case(case)) for case in row.cases]
    return [made[0], *(("", "", "", "", *line[4:]) for line in made[1:])]


def markdown(rows: Iterable[Row]) -> str:
    """The whole matrix as a Markdown table."""
    table = [COLUMNS, tuple("---" for _ in COLUMNS), *(line for row in rows for line in lines(row))]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in table)


def plain(row: Row) -> dict[str, object]:
    """A row as JSON has it."""
    return {
        "row": row.number,
        "name": row.name,
        "from": row.source.value,
        "to": row.target.value,
        "way": row.way.value or "direct",
        "protocols": list(row.protocols),
        "versions": list(row.versions),
        "cases": [dict(zip(COLUMNS[4:], _case(case), strict=True)) for case in row.cases],
    }


def _case(case: Case) -> tuple[str, ...]:
    when = str(case.when)
    if case.seen is Seen.NOBODY:
        return when, f"not reached: {case.why}", "", "", ""
    seen = case.seen.value + (", port by RANDOMIZESNAT" if case.translated else "")
    reply = "" if case.reply is Leaves.ANY else case.reply.value
    breaks = "; ".join(map(str, case.breaks)) or f"({case.why})"
    return when, seen, case.leaves.value, reply, breaks
