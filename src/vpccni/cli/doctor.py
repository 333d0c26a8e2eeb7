# SPDX-License-Identifier: Apache-2.0
"""`vpccni doctor`: a node's desired state against its actual one, object by object, and what around it will hurt.

Knows whom to ask and how the answer is printed. Must never compare nor repair itself: the daemon does both and is asked
over its introspection API. When it does not answer, `cli.doctor_offline` tells what files and kernel tell.
Exit codes: 0 all is as it should be, 1 something is not or could not be found out, 2 bad usage.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated, Any

import typer

from vpccni.cli.output import Format, OutputOption, emit, say, session, table
from vpccni.cli.why_sources import ask, where
from vpccni.errors import HostError

GROUPS = ("rules", "routes", "addresses", "links", "sysctls", "firewall", "pods")


def doctor(
    ctx: typer.Context,
    node: Annotated[str | None, typer.Option("--node", help="a node of the lab", show_default=False)] = None,
    fix: Annotated[bool, typer.Option("--fix", help="put right what differs, and say what was done")] = False,
    introspection: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="where the daemon answers", show_default=False)
    ] = "",
    output: OutputOption = Format.TABLE,
) -> None:
    """Compare what the node should have in the kernel with what it has, and say why each object is there."""
    if node is not None:
        raise typer.Exit(_inside(ctx, node, fix, introspection, output))
    examined = _examined(ctx, fix, introspection)
    examined["remarks"] = [asdict(remark) for remark in _remarks(session(ctx).environ)]
    if output is Format.JSON:
        emit(examined)
    else:
        _print(examined)
    if any(each["state"] != "ok" for each in examined["objects"]):
        raise typer.Exit(1)


def _inside(ctx: typer.Context, node: str, fix: bool, introspection: str, output: Format) -> int:
    """The same command where the node is: its kernel and its daemon answer nobody outside."""
    from vpccni.lab import launch, nodes

    state = session(ctx).state
    place = launch.node_place(state, nodes.require_node(state, node), own_sysfs=True)
    argv = [sys.executable, "-m", "vpccni", "doctor", "-o", output.value, *(["--fix"] if fix else [])]
    argv += ["--introspection", introspection] if introspection else []
    environ = session(ctx).environ
    passed = {name: environ[name] for name in ("TERM", "COLUMNS", "LINES") if name in environ}
    return launch.attach(place, argv, launch.program_environ(passed))


def _examined(ctx: typer.Context, fix: bool, introspection: str) -> dict[str, Any]:
    """The daemon's answer, or what can be told without it."""
    listen = where(session(ctx), introspection)
    try:
        answer = ask(listen, "/v1/repair", "POST") if fix else ask(listen, "/v1/desired")
    except HostError as error:
        from vpccni.cli import doctor_offline

        if fix:
            raise
        return doctor_offline.examined(session(ctx).environ, error)
    if "error" in answer or "objects" not in answer:
        raise HostError(
            f"ask the daemon at {listen}",
            answer.get("error", "it knows nothing of desired state: it is another program, or an older release"),
            code="daemon-silent",
            hint="wait until it is ready; its log says what it waits for",
        )
    return {"daemon": True, "told_by": "the daemon", "done": [], **answer}


def _remarks(environ: Mapping[str, str]) -> list[Any]:
    from vpccni.core.environment import remarks
    from vpccni.host.environment import look
    from vpccni.settings import parse

    names = ("ENABLE_POD_ENI", "POD_SECURITY_GROUP_ENFORCING_MODE")
    settings = parse({name: environ[name] for name in names if name in environ})
    strict = settings.enable_pod_eni and settings.pod_sg_enforcing_mode == "strict"
    return remarks(look(strict_branch_pods=strict))


def _print(examined: dict[str, Any]) -> None:
    for group in GROUPS:
        rows = [each for each in examined["objects"] if each["group"] == group]
        if rows:
            shown = [(each["state"], each["subject"], each["why"]) for each in rows]
            table([group, "object", "why"], shown)
            sys.stdout.write("\n")
    for command in examined["done"]:
        sys.stdout.write(f"done: {command}\n")
    for fight in examined.get("fights", ()):
        sys.stdout.write(
            f"fight: {fight['subject']} was put right {fight['times']} times and comes back wrong; find who does it "
            "(ip monitor, auditctl), it is left alone for a while\n"
        )
    for remark in examined["remarks"]:
        sys.stdout.write(f"warning: {remark['found']}: {remark['effect']}\n  next: {remark['way_out']}\n")
    wrong = [each for each in examined["objects"] if each["state"] != "ok"]
    total = len(examined["objects"])
    verdict = f"{len(wrong)} of {total} objects differ" if wrong else f"all {total} objects are as they should be"
    made = sum(examined.get("repairs", {}).values())
    if made:
        verdict += f"; {made} were put right since the daemon's start"
    sys.stdout.write(f"{verdict}, says {examined['told_by']}\n")
    if wrong and not examined["done"] and examined["daemon"]:
        say("next: vpccni doctor --fix")
