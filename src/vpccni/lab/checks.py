# SPDX-License-Identifier: Apache-2.0
"""A list of claims and what was observed, printed as it grows and as a table at the end.

Knows claims, evidence and time. Must never know what is claimed. The demo keeps one.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from rich.console import Console
from rich.markup import escape
from rich.table import Table


@dataclass(frozen=True, slots=True)
class Row:
    """One claim, whether it held, and what was seen."""

    chapter: str
    claim: str
    held: bool
    evidence: str


@dataclass
class Checklist:
    """The claims so far."""

    rows: list[Row] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._started = time.monotonic()
        self._chapter = ""
        console = Console()
        self._console = console if console.is_terminal else Console(width=max(console.width, 140))

    def chapter(self, title: str) -> None:
        """What follows is about this."""
        self._chapter = title
        self._console.print(f"\n[bold]{self._elapsed()}  {escape(title)}[/]")

    def note(self, text: str) -> None:
        """Progress without a claim."""
        self._console.print(f"{self._elapsed()}  [dim]{escape(text)}[/]")

    def check(self, claim: str, held: bool, evidence: str) -> None:
        """A claim and whether it held."""
        self.rows.append(Row(self._chapter, claim, held, evidence))
        mark = "[green]ok[/]  " if held else "[bold red]FAIL[/]"
        self._console.print(f"{self._elapsed()}  {mark} {escape(claim)}: {escape(evidence)}")

    def fail(self, claim: str, evidence: str) -> None:
        """A claim that did not hold."""
        self.check(claim, held=False, evidence=evidence)

    def report(self) -> int:
        """Print the table; 0 when every claim held, else 1."""
        failed = [row for row in self.rows if not row.held]
        table = Table(title=f"\nwhat was checked, in {self._elapsed().strip()}", title_justify="left", show_edge=False)
        for column in ("", "claim", "observed"):
            table.add_column(column, overflow="fold")
        for row in self.rows:
            mark = "[green]ok[/]" if row.held else "[bold red]FAIL[/]"
            table.add_row(mark, escape(row.claim), escape(row.evidence))
        self._console.print(table)
        if failed:
            self._console.print(f"\n[bold red]{len(failed)} of {len(self.rows)} claims did not hold[/]")
        else:
            self._console.print(f"\n[bold green]all {len(self.rows)} claims held[/]")
        return 1 if failed or not self.rows else 0

    def _elapsed(self) -> str:
        return f"{time.monotonic() - self._started:5.1f} s"
