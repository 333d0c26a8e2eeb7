# SPDX-License-Identifier: Apache-2.0
"""`vpccni settings`: the table of all settings, and what is wrong with some.

Knows where settings can stand (an environment file, a DaemonSet manifest, arguments) and how findings are printed. Must
never judge a setting: `vpccni.settings` and `core.settings_lint` do, for the daemon as well.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from vpccni.cli.maxpods import known_type
from vpccni.cli.output import (
    EXIT_BAD_INPUT,
    EXIT_FAILURE,
    Format,
    OutputOption,
    assignments,
    emit,
    say,
    session,
    show,
)
from vpccni.cli.settings_file import Stated, read
from vpccni.core import limits as types
from vpccni.core.findings import Finding
from vpccni.core.settings_fit import for_subnet, for_type
from vpccni.core.settings_lint import contradictions
from vpccni.errors import InputError, SettingsError
from vpccni.settings import explain, parse

app = typer.Typer(help="The settings of the node daemon: list them, check them.", no_args_is_help=True)

SMALLEST, LARGEST = 28, 16  # prefix lengths of EC2's subnets


@app.command("list")
def list_command(output: OutputOption = Format.TABLE) -> None:
    """List every setting with its default, what it accepts, and its purpose."""
    rows = explain()
    cells = [
        (row.variable + "".join(f"\n({alias})" for alias in row.aliases), row.default, row.accepts, row.purpose)
        for row in rows
    ]
    show(output, [asdict(row) for row in rows], ["variable", "default", "accepts", "purpose"], cells)


@app.command()
def lint(
    ctx: typer.Context,
    file: Annotated[
        Path | None,
        typer.Argument(metavar="[FILE]", help="NAME=VALUE lines, or a DaemonSet in YAML or JSON; - is standard input"),
    ] = None,
    env: Annotated[
        list[str] | None, typer.Option("--env", metavar="NAME=VALUE", help="a setting; goes before FILE's")
    ] = None,
    instance_type: Annotated[
        str | None, typer.Option(metavar="TYPE", help="also check what this type can follow", show_default=False)
    ] = None,
    subnet_size: Annotated[
        str | None, typer.Option(metavar="/N", help="prefix length of the subnet, 16 to 28", show_default=False)
    ] = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Say what the daemon would refuse, and which settings contradict each other, the instance type or the subnet.

    Without FILE and --env the environment of this command is checked. Exit code 0: nothing found; 1: contradictions or
    warnings; 2: the daemon would not start, or no pod would get an address.
    """
    stated = _stated(ctx, file, env)
    limits = known_type(instance_type) if instance_type else None
    length = _prefix_length(subnet_size) if subnet_size else 0
    if length and limits is None:
        raise InputError("judge the subnet", "what a node takes depends on its type", hint="add --instance-type TYPE")
    try:
        settings = parse(stated.values)
    except SettingsError as error:
        _refused(error, output)
        raise typer.Exit(EXIT_BAD_INPUT) from None
    found = contradictions(settings, stated.chosen)
    if limits is not None:
        branches = types.branches(limits.instance_type)
        found += for_type(settings, stated.chosen, limits, branches)
        found += for_subnet(settings, limits, branches, length) if length else []
    _print(found, stated.values, output)
    if found:
        raise typer.Exit(EXIT_BAD_INPUT if _unusable(found) else EXIT_FAILURE)


def _stated(ctx: typer.Context, file: Path | None, env: list[str] | None) -> Stated:
    extra = assignments(env or [])
    if file is None and not extra:
        environ = dict(session(ctx).environ)
        return Stated(environ, environ)
    if file is None:
        return Stated(extra, extra)
    base = read(file)
    return Stated({**base.values, **extra}, {**base.chosen, **extra})


def _prefix_length(text: str) -> int:
    word = text.rpartition("/")[2]
    if not word.isascii() or not word.isdigit() or not LARGEST <= int(word) <= SMALLEST:
        raise InputError(
            "use the subnet's size", f"{text!r} is no prefix length from {LARGEST} to {SMALLEST}", hint="such as /24"
        )
    return int(word)


def _refused(error: SettingsError, output: Format) -> None:
    problems = error.why.split("; ")
    if output is Format.JSON:
        emit({"usable": False, "problems": problems, "findings": []})
        return
    for problem in problems:
        sys.stdout.write(f"unusable: {problem}\n")
    say(f"next: {error.hint}")


def _print(found: list[Finding], values: Mapping[str, str], output: Format) -> None:
    if output is Format.JSON:
        findings = [asdict(finding) for finding in found]
        emit({"usable": not _unusable(found), "problems": [], "findings": findings})
        return
    for finding in found:
        sys.stdout.write(f"{finding.severity}: {finding.code}\n  {finding.what}: {finding.why}\n")
        sys.stdout.write(f"  next: {finding.next_step}\n")
    known = {name for row in explain() for name in (row.variable, *row.aliases)}
    say(f"{len(known & set(values))} settings checked: {_summary(found)}")


def _summary(found: list[Finding]) -> str:
    counts: Mapping[str, int] = {
        name: sum(finding.severity == name for finding in found) for name in ("unusable", "contradiction", "warning")
    }
    return ", ".join(f"{count} {name}" for name, count in counts.items() if count) or "nothing to say"


def _unusable(found: list[Finding]) -> bool:
    return any(finding.severity == "unusable" for finding in found)
