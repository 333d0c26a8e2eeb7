# SPDX-License-Identifier: Apache-2.0
"""`vpccni lab service`: Services on the nodes of the lab, in kube-proxy's own rules.

Knows arguments and how answers are printed. Must never know a rule: `vpccni.lab.services` does the work.
"""

from __future__ import annotations

from dataclasses import asdict
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vpccni.cli.lab_pod import NamespaceOption
from vpccni.cli.output import Format, OutputOption, session, show

if TYPE_CHECKING:  # what a command needs is imported by the command
    from vpccni.lab.services import LabService

_PROTOCOLS = {"tcp": "tcp", "udp": "udp", "both": "tcp+udp"}
app = typer.Typer(
    help="Services: a ClusterIP, on request a port of every node, and the rules that kube-proxy would write for them.",
    no_args_is_help=True,
)


class Mode(str, Enum):  # noqa: UP042  # typer reads the members' values
    """What `--mode` accepts."""

    IPTABLES = "iptables"
    NFTABLES = "nftables"


class Policy(str, Enum):  # noqa: UP042  # as above
    """What `--policy` accepts."""

    CLUSTER = "cluster"
    LOCAL = "local"


class Protocol(str, Enum):  # noqa: UP042  # as above
    """What `--protocol` accepts."""

    TCP = "tcp"
    UDP = "udp"
    BOTH = "both"


@app.command()
def add(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME")],
    port: Annotated[int, typer.Option(min=1, max=65535, help="of the ClusterIP")],
    to: Annotated[str, typer.Option(metavar="POD[,POD...]", help="the endpoints: pods, or addresses of others")],
    target_port: Annotated[int, typer.Option(min=1, max=65535, help="of the endpoints")] = 80,
    node_port: Annotated[int, typer.Option(metavar="N", help="of every node, 30000 to 32767 [default: none]")] = 0,
    policy: Annotated[Policy, typer.Option(help="whether the node port leads to pods of other nodes")] = Policy.CLUSTER,
    mode: Annotated[
        Mode | None,
        typer.Option(help="of all kube-proxies, chosen with the first Service [default: iptables]", show_default=False),
    ] = None,
    protocol: Protocol = Protocol.TCP,
    namespace: NamespaceOption = "default",
    output: OutputOption = Format.TABLE,
) -> None:
    """Give every node a Service and print its ClusterIP."""
    from vpccni.lab import nodes, services

    state = session(ctx).state
    nodes.load_topology(state)
    targets = tuple(filter(None, (each.strip() for each in to.split(","))))
    wanted = services.LabService(
        name, namespace, port, targets, target_port, protocol.value, node_port, policy is Policy.LOCAL
    )
    _show([services.add(state, wanted, mode.value if mode else None)], services.load(state).mode, output)


@app.command()
def rm(
    ctx: typer.Context,
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="NAME or NAMESPACE/NAME")],
) -> None:
    """Take Services from every node; with the last one kube-proxy's chains or table go."""
    from vpccni.lab import nodes, services

    state = session(ctx).state
    nodes.load_topology(state)
    services.remove(state, [name.removeprefix("default/") for name in names])


@app.command("list")
def list_command(ctx: typer.Context, output: OutputOption = Format.TABLE) -> None:
    """List the Services with their ClusterIPs and where they lead."""
    from vpccni.lab import nodes, services

    state = session(ctx).state
    nodes.load_topology(state)
    book = services.load(state)
    _show(list(book.services), book.mode, output)


def _show(found: list[LabService], mode: str, output: Format) -> None:
    rows: list[dict[str, Any]] = [
        {**asdict(each), "policy": "local" if each.local_policy else "cluster", "mode": mode} for each in found
    ]
    columns = ["namespace", "service", "cluster IP", "port", "node port", "policy", "to", "kube-proxy"]
    shown = [
        (
            each.namespace, each.name, each.cluster_ip, f"{each.port}/{_PROTOCOLS[each.protocol]}",
            each.node_port or "",
            row["policy"] if each.node_port else "", ", ".join(f"{one}:{each.target_port}" for one in each.to), mode,
        )
        for each, row in zip(found, rows, strict=True)
    ]  # fmt: skip
    show(output, rows, columns, shown)
