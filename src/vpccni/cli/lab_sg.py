# SPDX-License-Identifier: Apache-2.0
"""`vpccni lab sg`: the security groups of the box, changed while it runs.

Knows arguments and how answers are printed. Must never know what a rule does: `lab.cloud.grouprules` has the words,
the lab daemon does the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from vpccni.cli.output import Format, OutputOption, emit, session, table

app = typer.Typer(
    help="Security groups: who may send what to whom. A rule is PROTOCOL [PORTS] from|to CIDR|GROUP|anywhere.",
    no_args_is_help=True,
)
GroupArgument = Annotated[str, typer.Argument(metavar="GROUP", help="name or id")]
RuleArgument = Annotated[
    list[str],
    typer.Argument(metavar="RULE...", help="such as: tcp 80 from 10.0.0.0/8, icmp 8 from db, all to anywhere"),
]


@app.command("list")
def list_command(ctx: typer.Context, output: OutputOption = Format.TABLE) -> None:
    """Show every group: its rules, and the interfaces that have it."""
    _show(_order(ctx, None), output)


@app.command()
def allow(ctx: typer.Context, group: GroupArgument, rule: RuleArgument, output: OutputOption = Format.TABLE) -> None:
    """Add a rule to a group: vpccni lab sg allow web tcp 80 from anywhere."""
    _show(_order(ctx, {"verb": "allow", "group": group, "rule": " ".join(rule)}), output)


@app.command()
def revoke(ctx: typer.Context, group: GroupArgument, rule: RuleArgument, output: OutputOption = Format.TABLE) -> None:
    """Take a rule from a group. Flows that it let in and that are tracked go on, new ones do not begin."""
    _show(_order(ctx, {"verb": "revoke", "group": group, "rule": " ".join(rule)}), output)


@app.command()
def attach(
    ctx: typer.Context,
    target: Annotated[str, typer.Argument(metavar="NODE|ENI", help="a node: all of its interfaces")],
    groups: Annotated[list[str], typer.Argument(metavar="GROUP...", help="all that it has from now on")],
    output: OutputOption = Format.TABLE,
) -> None:
    """Give a node or an interface exactly these groups."""
    _show(_order(ctx, {"verb": "attach", "target": target, "groups": groups}), output)


def _order(ctx: typer.Context, order: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    from vpccni.lab import control, nodes

    state = session(ctx).state
    nodes.load_topology(state)
    found: list[dict[str, Any]] = control.ask(state, "GET" if order is None else "PUT", "/groups", order)
    return found


def _show(groups: list[dict[str, Any]], output: Format) -> None:
    if output is Format.JSON:
        emit(groups)
        return
    rows = []
    for group in groups:
        members = "\n".join(
            f"node {one['node']}, {one['address']}" if one["node"] else one["eni_id"] for one in group["members"]
        )
        rules = "\n".join(rule["rule"] for rule in group["rules"])
        rows.append((group["name"], group["group_id"], rules, members))
    table(["group", "id", "rules", "interfaces"], rows)
