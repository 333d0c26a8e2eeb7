# SPDX-License-Identifier: Apache-2.0
"""How every command prints: tables for people, JSON for programs, errors with evidence and a next step.

Knows rich and the shape of our errors. Must never know what is printed. All commands use it, so that `-o json` means
the same everywhere: one JSON value on standard output and nothing else there.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Annotated, Any

import typer

from vpccni.errors import InputError, SettingsError, VpcCniError
from vpccni.lab.state import LabState

EXIT_FAILURE, EXIT_BAD_INPUT = 1, 2


class Format(str, Enum):  # noqa: UP042  # typer reads the members' values
    """What `-o` accepts."""

    TABLE = "table"
    JSON = "json"


OutputOption = Annotated[Format, typer.Option("-o", "--output", help="table for people, json for programs")]


@dataclass(frozen=True, slots=True)
class Session:
    """What every command gets from the entry point."""

    environ: Mapping[str, str]

    @property
    def state(self) -> LabState:
        """The lab that this command is about."""
        return LabState.from_environ(self.environ)


def session(ctx: typer.Context) -> Session:
    """The session of a running command."""
    found = ctx.find_object(Session)
    assert found is not None  # app.main puts it there
    return found


def say(text: str) -> None:
    """Progress and remarks, on standard error so that standard output stays clean."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def emit(value: object) -> None:
    """A JSON value on standard output."""
    sys.stdout.write(json.dumps(value, indent=2, default=str) + "\n")


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], title: str = "") -> None:
    """A table on standard output, as wide as it needs when nobody's terminal limits it."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    made = Table(title=title or None, title_justify="left", show_edge=False, pad_edge=False, header_style="bold")
    for column in columns:
        made.add_column(column, overflow="fold")
    for row in rows:
        made.add_row(*(Text.from_markup(str(cell)) if isinstance(cell, Marked) else Text(_plain(cell)) for cell in row))
    console = Console()
    Console(width=max(console.width, 160) if not console.is_terminal else None).print(made)


class Marked(str):
    """Text with rich markup in it; everything else is printed as it is."""

    __slots__ = ()


def show(form: Format, value: Any, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """The value as JSON or the rows as a table."""
    if form is Format.JSON:
        emit(value)
    else:
        table(columns, rows)


def refuse(error: VpcCniError) -> int:
    """Print message, evidence and next step on standard error; the exit code that goes with it."""
    say(f"vpccni: {error.message}")
    for name, value in error.evidence.items():
        say(f"  {name}: {value}")
    if error.hint:
        say(f"  next: {error.hint}")
    return EXIT_BAD_INPUT if isinstance(error, InputError) else EXIT_FAILURE


def assignments(pairs: Sequence[str]) -> dict[str, str]:
    """`--env NAME=VALUE ...` as a mapping; SettingsError names every argument that is none."""
    wrong = [pair for pair in pairs if "=" not in pair or not pair.split("=", 1)[0].isidentifier()]
    if wrong:
        raise SettingsError("read --env", f"not NAME=VALUE: {', '.join(map(repr, wrong))}")
    return dict(pair.split("=", 1) for pair in pairs)


def _plain(cell: object) -> str:
    return "-" if cell is None or cell == "" else str(cell)
