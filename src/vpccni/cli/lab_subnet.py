# SPDX-License-Identifier: Apache-2.0
"""`vpccni lab subnet`: a subnet drawn in /28s, and what keeps each from becoming a prefix.

Knows letters and colours, and which addresses the nodes' daemons say are cooling. Must never work out a block's state:
the lab daemon's map has it.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping
from ipaddress import IPv4Address, IPv4Network
from itertools import groupby
from typing import Annotated, Any
from urllib.parse import quote

import typer

from vpccni.cli.output import Format, OutputOption, emit, say, session, table
from vpccni.errors import VpcCniError
from vpccni.lab.state import LabState

ROW = 16  # blocks: a line is a /24
LISTED = 40
LETTERS = {"free": ".", "prefix": "P", "full": "#", "edge": "E", "reserved": "r"}
COLOURS = {
    "free": "green", "prefix": "blue", "full": "red", "edge": "dim", "reserved": "cyan", "blocked": "yellow",
    "cooling": "magenta",
}  # fmt: skip
LEGEND = (
    ("free", ". free"), ("prefix", "P prefix"), ("cooling", "C prefix in which an address is cooling"),
    ("blocked", "1-9a-f blocked by that many single addresses"), ("full", "# full"), ("reserved", "r reserved"),
    ("edge", "E EC2's own"),
)  # fmt: skip


def subnet(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="SUBNET", help="its name in the topology, or its id")],
    everything: Annotated[bool, typer.Option("--all", help=f"list every blocked block, not only {LISTED}")] = False,
    output: OutputOption = Format.TABLE,
) -> None:
    """Draw a subnet in /28s: free, used, cooling, reserved, blocked, and by what."""
    from vpccni.lab import control, nodes

    state = session(ctx).state
    nodes.load_topology(state)
    drawn = control.ask(state, "GET", f"/subnets/{quote(name, safe='')}")
    cooling, silent = _cooling(state)
    pods = {address: pod.label for pod in state.pods() for address in pod.addresses}
    for block in drawn["blocks"]:
        _add_life(block, cooling, pods)
    drawn["cooling"] = sorted(str(address) for address in cooling if address in IPv4Network(drawn["cidr"]))
    drawn["nodes_not_asked"] = silent
    if output is Format.JSON:
        emit(drawn)
        return
    _draw(drawn)
    _list_blocked(drawn, everything)
    for node in silent:
        say(f"node {node} does not answer: its cooling addresses are not shown")


def _cooling(state: LabState) -> tuple[set[IPv4Address], list[str]]:
    """What the daemons keep back for now, and the nodes whose daemon does not answer."""
    from vpccni.lab import nodes

    found: set[IPv4Address] = set()
    silent = []
    for node in nodes.node_names(state):
        try:
            document = nodes.introspect(state, node, "/v1/enis")
        except VpcCniError:
            silent.append(node)
            continue
        for card in document.values():
            for eni in card["ENIs"].values():
                for cidr in eni["AvailableIPv4Cidrs"].values():
                    found |= {
                        IPv4Address(entry["Address"])
                        for entry in cidr["IPAddresses"].values()
                        if not entry["IPAMKey"]["networkName"] and not entry["UnassignedTime"].startswith("0001-")
                    }
    return found, silent


def _add_life(block: dict[str, Any], cooling: set[IPv4Address], pods: Mapping[str, str]) -> None:
    """What the nodes do with the block's addresses: pods, and those that are cooling."""
    inside = [str(address) for address in IPv4Network(block["cidr"])]
    block["cooling"] = [address for address in inside if IPv4Address(address) in cooling]
    block["pods"] = {address: pods[address] for address in inside if address in pods}


def _letter(block: Mapping[str, Any]) -> tuple[str, str]:
    state = block["state"]
    if state == "blocked":
        return f"{len(block['occupants']):x}", COLOURS["blocked"]
    if state == "prefix" and block["cooling"]:
        return "C", COLOURS["cooling"]
    return LETTERS[state], COLOURS[state]


def _is_empty(row: list[dict[str, Any]]) -> bool:
    return all(block["state"] == "free" for block in row)


def _draw(drawn: Mapping[str, Any]) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console()
    title = f"{drawn['name'] or '-'}  {drawn['subnet_id']}  {drawn['cidr']}  {drawn['zone']}"
    console.print(Text(f"{title}  {drawn['free_addresses']} free addresses", style="bold"))
    blocks = drawn["blocks"]
    rows = [blocks[start : start + ROW] for start in range(0, len(blocks), ROW)]
    for empty, run in groupby(rows, key=_is_empty):
        alike = list(run)
        first = alike[0][0]["cidr"].split("/")[0]
        if empty and len(alike) > 2:
            console.print(Text(f"{first:<16}. . .  free, {len(alike)} lines like this", style=COLOURS["free"]))
            continue
        for row in alike:
            line = Text(f"{row[0]['cidr'].split('/')[0]:<16}")
            for block in row:
                letter, colour = _letter(block)
                line.append(f"{letter} ", style=colour)
            console.print(line)
    legend = Text()
    for state, text in LEGEND:
        legend.append(f"{text}   ", style=COLOURS[state])
    console.print(legend)
    counts = ", ".join(f"{number} {state}" for state, number in drawn["blocks_by_state"].items() if number)
    console.print(f"{len(blocks)} blocks of 16: {counts}; {len(drawn['cooling'])} addresses are cooling")


def _list_blocked(drawn: Mapping[str, Any], everything: bool) -> None:
    blocked = [block for block in drawn["blocks"] if block["state"] in ("blocked", "full")]
    if not blocked:
        return
    sys.stdout.write("\n")
    shown = blocked if everything else blocked[:LISTED]
    table(["block", "free", "what keeps it from being a prefix"], [_why(block) for block in shown])
    if len(shown) < len(blocked):
        say(f"{len(blocked) - len(shown)} more: --all")
    holders = Counter(one["holder"].split(":")[0].split(",")[0] for block in blocked for one in block["occupants"])
    say("blocked by addresses of " + ", ".join(f"{holder} {number}" for holder, number in holders.most_common()))


def _why(block: Mapping[str, Any]) -> tuple[str, int, str]:
    lines = []
    for one in block["occupants"]:
        pod = block["pods"].get(one["address"])
        life = f", pod {pod}" if pod else ", cooling" if one["address"] in block["cooling"] else ""
        lines.append(f"{one['address']} {one['role']} of {one['eni_id']} ({one['holder']}{life})")
    return block["cidr"], block["free"], "\n".join(lines)
