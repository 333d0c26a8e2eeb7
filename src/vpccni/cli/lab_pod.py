# SPDX-License-Identifier: Apache-2.0
"""`vpccni lab pod`: pods of the lab.

Knows arguments and how answers are printed. Must never run a plugin itself: `vpccni.lab.pods` does.
"""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from vpccni.cli.output import EXIT_FAILURE, Format, OutputOption, emit, refuse, session, show
from vpccni.errors import InputError, VpcCniError
from vpccni.lab.state import PodRecord

app = typer.Typer(help="Pods: a namespace, a VPC address, a small server on port 80.", no_args_is_help=True)

NamespaceOption = Annotated[str, typer.Option("--namespace", "-n", metavar="NS", help="the Kubernetes namespace")]


@app.command()
def add(
    ctx: typer.Context,
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="one or more; they are added 16 at a time")],
    node: Annotated[
        str | None, typer.Option(help="[default: the node with the fewest pods]", show_default=False)
    ] = None,
    namespace: NamespaceOption = "default",
    retry: Annotated[
        float, typer.Option(metavar="SECONDS", help="how long to retry while the node says: later")
    ] = 10.0,
    annotation: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE", help="a pod annotation, such as k8s.amazonaws.com/nicConfig=... (repeatable)"
        ),
    ] = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Start a pod and print its address."""
    from vpccni.lab import services
    from vpccni.lab.pods import Pods

    pods = Pods(session(ctx).state)
    if len(set(names)) != len(names):
        raise InputError("add pods", "a name occurs twice")
    annotations = _pairs(annotation or [])
    if len(names) == 1:
        outcomes: list[PodRecord | VpcCniError] = [pods.add(names[0], namespace, node, retry, annotations)]
    else:
        outcomes = pods.add_many(names, namespace, node, retry, annotations)
    made = [outcome for outcome in outcomes if isinstance(outcome, PodRecord)]
    failed = [outcome for outcome in outcomes if isinstance(outcome, VpcCniError)]
    services.follow(session(ctx).state)  # that select one of these names
    if output is Format.JSON:
        rows = [_row(pod) for pod in made]
        emit(rows[0] if len(names) == 1 else rows)
    else:
        for pod in made:
            sys.stdout.write((f"{pod.label} " if len(names) > 1 else "") + ", ".join(pod.addresses) + "\n")
    codes = [refuse(error) for error in failed]
    if codes:
        raise typer.Exit(max(codes))


@app.command()
def rm(
    ctx: typer.Context,
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="NAME or NAMESPACE/NAME")],
    namespace: NamespaceOption = "default",
) -> None:
    """Stop pods; their addresses go back to the pool."""
    from vpccni.lab import services
    from vpccni.lab.pods import Pods

    pods = Pods(session(ctx).state)
    errors = pods.remove_many([pods.find(name, namespace) for name in names])
    services.follow(session(ctx).state)
    for error in errors:
        refuse(error)
    if errors:
        raise typer.Exit(EXIT_FAILURE)


@app.command("list")
def list_command(ctx: typer.Context, output: OutputOption = Format.TABLE) -> None:
    """List the pods with node and address."""
    from vpccni.lab.pods import Pods

    found = Pods(session(ctx).state).all()
    rows = [(pod.namespace, pod.name, pod.node, ", ".join(pod.addresses), pod.netns) for pod in found]
    show(output, [_row(pod) for pod in found], ["namespace", "pod", "node", "address", "network namespace"], rows)


def _pairs(words: list[str]) -> dict[str, str]:
    wrong = [word for word in words if not word.partition("=")[0] or "=" not in word]
    if wrong:
        raise InputError("annotate the pod", f"{wrong[0]!r} is not KEY=VALUE")
    return dict(word.split("=", 1) for word in words)


def _row(pod: PodRecord) -> dict[str, Any]:
    return {
        "namespace": pod.namespace,
        "name": pod.name,
        "node": pod.node,
        "address": pod.addresses[0] if pod.addresses else None,
        "addresses": list(pod.addresses),
        "netns": pod.netns,
        "container_id": pod.container_id,
    }
