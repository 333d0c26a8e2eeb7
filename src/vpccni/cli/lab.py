# SPDX-License-Identifier: Apache-2.0
"""`vpccni lab`: a VPC in a box on this machine.

Knows arguments and how answers are printed. Must never make or remove anything itself: `vpccni.lab` does. One function
per command, each imports what it needs, so that a cheap command starts fast.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from vpccni.cli import lab_fault, lab_pod, lab_service, lab_sg
from vpccni.cli.lab_calls import calls
from vpccni.cli.lab_overlay import compare_overlay
from vpccni.cli.lab_probe import probe
from vpccni.cli.lab_subnet import subnet
from vpccni.cli.output import Format, Marked, OutputOption, assignments, emit, say, session, show, table
from vpccni.errors import HostError, InputError

app = typer.Typer(
    help="A VPC in a box: real nodes, ENIs and packets on this machine, no account.", no_args_is_help=True
)
app.add_typer(lab_pod.app, name="pod")
app.add_typer(lab_service.app, name="service")
app.add_typer(lab_fault.app, name="fault")
app.add_typer(lab_sg.app, name="sg")
restart = typer.Typer(help="Restart a program of a node.", no_args_is_help=True)
app.add_typer(restart, name="restart")
app.command()(probe)
app.command()(calls)
app.command()(compare_overlay)
app.command()(subnet)

EnvOption = Annotated[
    list[str] | None, typer.Option("--env", metavar="NAME=VALUE", help="a setting of the node daemons")
]


@app.command()
def up(
    ctx: typer.Context,
    nodes: Annotated[int | None, typer.Option(help="number of nodes [default: 2]", show_default=False)] = None,
    instance_type: Annotated[
        str | None, typer.Option(help="EC2 instance type of the nodes [default: m5.large]", show_default=False)
    ] = None,
    ipv6: Annotated[bool, typer.Option("--ipv6", help="give VPC, nodes and hosts outside IPv6 as well")] = False,
    topology: Annotated[
        Path | None, typer.Option(metavar="FILE", help="a TOML file instead of the default VPC")
    ] = None,
    env: EnvOption = None,
    profile: Annotated[
        str | None, typer.Option(metavar="NAME", help="how EC2's day goes: calm, busy, bad-day", show_default=False)
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="of ids, MACs and addresses [default: 1]", show_default=False)
    ] = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Bring up a VPC with nodes that take pods."""
    from vpccni.lab import control
    from vpccni.lab import topology as topologies
    from vpccni.lab.up import bring_up

    if topology is not None and (nodes is not None or instance_type is not None or ipv6):
        raise InputError(
            "bring a lab up",
            "--topology says nodes, types and address ranges; leave --nodes, --instance-type and --ipv6 out",
        )
    settings = assignments(env or [])
    if topology is not None:
        plan = topologies.load(topology, settings, seed)
    else:
        wanted = 2 if nodes is None else nodes
        seed = 1 if seed is None else seed
        plan = topologies.default(wanted, instance_type or "m5.large", settings, seed, ipv6=ipv6)
    if profile is not None:
        plan = topologies.with_profile(plan, profile)
    state = session(ctx).state
    took_s = bring_up(state, plan, session(ctx).environ, lambda line: say(f"  {line}"))
    inventory = control.ask(state, "GET", "/status")
    say(f"up in {took_s:.1f} s")
    if output is Format.JSON:
        emit({"took_s": round(took_s, 3), "nodes": _nodes(state, inventory)})
    else:
        _print_nodes(_nodes(state, inventory))
        say("next: vpccni lab pod add NAME; vpccni lab probe; vpccni lab down")


@app.command()
def status(ctx: typer.Context, output: OutputOption = Format.TABLE) -> None:
    """Show what runs: daemons, nodes, pods, and what the fabric has dropped."""
    from vpccni.lab import control, nodes
    from vpccni.lab.ruleset import COUNTERS

    state = session(ctx).state
    nodes.load_topology(state)
    inventory = control.ask(state, "GET", "/status")
    pods = [pod.label for pod in state.pods()]
    processes = [{"role": p.role, "pid": p.pid, "alive": p.alive()} for p in state.processes()]
    if output is Format.JSON:
        emit({**inventory, "pods": pods, "processes": processes, "state": str(state.root)})
        return
    table(["process", "pid", "state"], [(p["role"], p["pid"], _alive(bool(p["alive"]))) for p in processes])
    sys.stdout.write("\n")
    _print_nodes(_nodes(state, inventory))
    sys.stdout.write("\n")
    table(["dropped by the fabric", "packets"], [(COUNTERS[name], n) for name, n in inventory["dropped"].items()])
    if inventory["refused"]:
        sys.stdout.write("\n")
        rows = [(row.get("node"), row.get("device"), row["direction"], row["packets"]) for row in inventory["refused"]]
        table(["node refusing by security group", "device", "direction", "packets"], rows)
    sys.stdout.write(f"\n{len(pods)} pods; EC2 API at {inventory['api_url']} (vpccni lab env)\n")
    for problem in inventory["problems"]:
        say(f"problem: {problem}")


@app.command("nodes")
def nodes_command(ctx: typer.Context, output: OutputOption = Format.TABLE) -> None:
    """List the nodes: instance, addresses, namespace, directories, introspection."""
    from vpccni.lab import control, nodes

    state = session(ctx).state
    nodes.load_topology(state)
    rows = _nodes(state, control.ask(state, "GET", "/status"))
    if output is Format.JSON:
        emit(rows)
    else:
        _print_nodes(rows)


@app.command()
def env(ctx: typer.Context, output: OutputOption = Format.TABLE) -> None:
    """Print the variables with which boto3 and the AWS CLI talk to the lab: eval "$(vpccni lab env)"."""
    from vpccni.lab import control, nodes

    state = session(ctx).state
    region = nodes.load_topology(state).region
    url = control.ask(state, "GET", "/status")["api_url"]
    variables = {"AWS_ENDPOINT_URL_EC2": url, "AWS_REGION": region, "AWS_DEFAULT_REGION": region, **nodes.CREDENTIALS}
    if output is Format.JSON:
        emit(variables)
        return
    for name, value in variables.items():
        sys.stdout.write(f"export {name}={value}\n")


@app.command(
    "exec",
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "allow_interspersed_args": False},
)
def exec_command(
    ctx: typer.Context,
    target: Annotated[str, typer.Argument(metavar="POD|NODE", help="also node/NAME, pod/NAME, a host, or fabric")],
) -> None:
    """Run a command inside a pod, a node or the fabric: vpccni lab exec 1 -- ip route."""
    from vpccni.lab import launch
    from vpccni.lab.targets import place_of

    argv = ctx.args[1:] if ctx.args[:1] == ["--"] else ctx.args
    if not argv:
        raise InputError("run a command", "none was given", hint=f"vpccni lab exec {target} -- ip addr")
    environ = session(ctx).environ
    passed = {name: environ[name] for name in ("TERM", "COLUMNS", "LINES") if name in environ}
    place = place_of(session(ctx).state, target)
    raise typer.Exit(launch.attach(place, argv, launch.program_environ(passed)))


@restart.command("ipamd")
def restart_ipamd(
    ctx: typer.Context,
    node: Annotated[str, typer.Option("--node", help="the node's name")],
    env: EnvOption = None,
    kill: Annotated[bool, typer.Option("--kill", help="end it with SIGKILL, as a crash would")] = False,
) -> None:
    """Restart a node's daemon under its running pods, optionally with changed settings."""
    import signal

    from vpccni.lab import nodes
    from vpccni.lab.up import NODE_WITHIN_S

    state = session(ctx).state
    name = nodes.require_node(state, node)
    settings = assignments(env or [])
    nodes.check_overrides(state, name, settings)
    nodes.stop(state, name, signal.SIGKILL if kill else signal.SIGTERM)
    nodes.conflist(state, name).unlink(missing_ok=True)
    nodes.start(state, name, settings)
    waited_s = nodes.wait_ready(state, name, NODE_WITHIN_S)
    say(f"ipamd of node {name} restarted, the node takes pods again after {waited_s:.1f} s")


@app.command()
def down(ctx: typer.Context, output: OutputOption = Format.TABLE) -> None:
    """Remove the lab and check that nothing of it is left."""
    from vpccni.lab import machine
    from vpccni.lab.down import take_down

    machine.require_root()
    checks = take_down(session(ctx).state)
    left = [f"{check.what}: {', '.join(check.left)}" for check in checks if check.left]
    if output is Format.JSON:
        emit([{"what": check.what, "removed": check.removed, "left": list(check.left)} for check in checks])
    else:
        table(
            ["checked", "removed", "left"],
            [(check.what, check.removed, ", ".join(check.left) or Marked("[green]none[/]")) for check in checks],
        )
    if left:
        raise HostError("take the lab down", "; ".join(left), hint="run `vpccni lab down` again", code="lab-left")
    say("nothing of the lab is left")


@app.command()
def demo(ctx: typer.Context) -> None:
    """Show the whole story in half a minute: pods with VPC addresses, three ENIs, SNAT, a restart, and nothing left."""
    from vpccni.lab.demo import run

    raise typer.Exit(run(session(ctx).state, session(ctx).environ))


def _nodes(state: Any, inventory: dict[str, Any]) -> list[dict[str, Any]]:
    """What `nodes -o json` promises, per node."""
    from vpccni.lab import nodes
    from vpccni.netlink.namespace import NETNS_DIR

    rows = []
    for node in inventory["nodes"]:
        name, record = node["name"], state.process(f"ipamd-{node['name']}")
        alive = record is not None and record.alive()
        rows.append(
            {
                "name": name,
                "instance_id": node["instance_id"],
                "instance_type": node["instance_type"],
                "zone": node["zone"],
                "private_address": node["private_address"],
                "public_address": node["public_address"],
                "ipv6_address": node["ipv6_address"],
                "ready": alive and nodes.conflist(state, name).exists(),
                "ipamd_pid": record.pid if record and alive else None,
                "namespace": state.node_namespace(name),
                "netns": str(NETNS_DIR / state.node_namespace(name)),
                "run_dir": str(state.node_dir(name) / "run"),
                "cni_conf_dir": str(state.node_dir(name) / "netd"),
                "cni_bin_dir": str(state.node_dir(name) / "bin"),
                "log_dir": str(state.node_dir(name) / "log"),
                "introspection_url": nodes.INTROSPECTION_URL,
                "enis": node["enis"],
                "pods": sum(pod.node == name for pod in state.pods()),
            }
        )
    return rows


def _print_nodes(rows: list[dict[str, Any]]) -> None:
    show(
        Format.TABLE,
        rows,
        ["node", "instance", "type", "zone", "address", "public", "namespace", "ENIs", "pods", "state"],
        [
            (
                row["name"], row["instance_id"], row["instance_type"], row["zone"],
                " ".join(filter(None, (row["private_address"], row["ipv6_address"]))),
                row["public_address"], row["namespace"], len(row["enis"]), row["pods"], _ready(row),
            )
            for row in rows
        ],
    )  # fmt: skip


def _ready(row: dict[str, Any]) -> Marked:
    if row["ipamd_pid"] is None:
        return Marked("[red]ipamd is down[/]")
    return Marked("[green]ready[/]") if row["ready"] else Marked("[yellow]not ready[/]")


def _alive(alive: bool) -> Marked:
    return Marked("[green]running[/]") if alive else Marked("[red]gone[/]")
