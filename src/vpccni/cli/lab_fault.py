# SPDX-License-Identifier: Apache-2.0
"""`vpccni lab fault`: what goes wrong in the box's EC2, changed while it runs.

Knows arguments and how answers are printed. Must never know how a fault works: `lab.cloud.faults` has the words, the
lab daemon does the rest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from vpccni.cli.output import Format, Marked, OutputOption, emit, say, session, table
from vpccni.errors import InputError

app = typer.Typer(
    help="What goes wrong in EC2: throttling, denials, lost replies, stale answers, other tenants.",
    no_args_is_help=True,
)
PROFILE = "profile"


@app.command("list")
def list_command(ctx: typer.Context, output: OutputOption = Format.TABLE) -> None:
    """Show every fault: its value now, what it accepts, what it does."""
    _show(_order(ctx, "GET", None), output)


@app.command("set")
def set_command(
    ctx: typer.Context,
    settings: Annotated[
        list[str],
        typer.Argument(metavar="NAME=VALUE...", help="such as throttle=on, deny=CreateTags, profile=bad-day"),
    ],
    output: OutputOption = Format.TABLE,
) -> None:
    """Change faults; each replaces its former value. NAME=off ends one, profile=NAME replaces all of them.

    lab fault set throttle=0.2 lost-reply=CreateNetworkInterface:0.1 error=AttachNetworkInterface:InternalError:#3
    """
    wanted = _pairs(settings)
    order: dict[str, Any] = {PROFILE: wanted.pop(PROFILE)} if PROFILE in wanted else {}
    _check(wanted, order.get(PROFILE))
    _show(_order(ctx, "PUT", {**order, "set": wanted}), output)


@app.command()
def clear(
    ctx: typer.Context,
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME...]", help="[default: all]")] = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """End faults. Without names all of them, and other tenants give their addresses back."""
    chosen = names or []
    _check(dict.fromkeys(chosen, "off"))
    _show(_order(ctx, "PUT", {"clear": chosen}), output)


def _pairs(settings: Sequence[str]) -> dict[str, str]:
    from vpccni.lab.cloud.faults import SETTINGS

    wrong = [text for text in settings if "=" not in text]
    if wrong:
        names = ", ".join([*SETTINGS, PROFILE])
        raise InputError("change the faults", f"not NAME=VALUE: {', '.join(map(repr, wrong))}; names are {names}")
    return dict(text.split("=", 1) for text in settings)


def _check(wanted: Mapping[str, str], day: str | None = None) -> None:
    """Refuse what cannot be, before anybody is asked."""
    from vpccni.lab.cloud import profile
    from vpccni.lab.cloud.faults import NO_FAULTS, change

    try:
        change(NO_FAULTS, wanted)
    except ValueError as error:
        raise InputError("change the faults", str(error), hint="vpccni lab fault list") from error
    if day is not None and day not in profile.names():
        known = ", ".join(profile.names())
        raise InputError("change the faults", f"{PROFILE}={day}: no such profile; accepted is {known}")


def _order(ctx: typer.Context, method: str, body: Mapping[str, Any] | None) -> Any:
    from vpccni.lab import control, nodes

    state = session(ctx).state
    nodes.load_topology(state)
    return control.ask(state, method, "/faults", body)


def _show(answer: Mapping[str, Any], output: Format) -> None:
    from vpccni.lab.cloud.faults import SETTINGS

    if output is Format.JSON:
        emit(answer)
        return
    rows = []
    for name, setting in SETTINGS.items():
        value = answer["faults"][name]
        quiet = value == "off" or (name == "latency" and value == "1")
        rows.append((name, value if quiet else Marked(f"[yellow]{value}[/]"), setting.does, setting.accepts))
    table(["fault", "now", "what it does", "accepts off, or"], rows)
    say(f"profile {answer['profile']}; {answer['tenant_interfaces']} interfaces of other tenants")
