# SPDX-License-Identifier: Apache-2.0
"""The lab as `core.walk` sees it: every kernel as it is now, and who owns what according to EC2.

Knows which namespaces belong to which pod and node, and how to read them. Must never change anything or predict. The
trace and the capture command use it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

from vpccni.core.firewall.chains import Tables, parse_save
from vpccni.core.walk.groups import Group, Permit
from vpccni.core.walk.nftread import NftTable, told_by_iptables
from vpccni.core.walk.nftread import parse as parse_nft
from vpccni.core.walk.values import Outside, Port, Stack, Vpc, World
from vpccni.errors import HostError
from vpccni.host import sysctl
from vpccni.host.firewall import Firewall
from vpccni.host.programs import run_program
from vpccni.lab.cloud import grouprules
from vpccni.lab.router import SERVICE_ADDRESSES
from vpccni.lab.sockets import namespace_handle
from vpccni.lab.state import LabState, PodRecord
from vpccni.netlink.namespace import NETNS_DIR, inside
from vpccni.netlink.socket import RouteSocket
from vpccni.netlink.values import IPNetwork

VERSIONS = (4, 6)
_POLICY = re.compile(r"^:(\w+) (DROP)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class LabWorld:
    """The world, and in which namespace each of its places can be watched."""

    world: World
    namespaces: Mapping[str, Path]


def observe(
    state: LabState, inventory: Mapping[str, Any], groups: Sequence[Mapping[str, Any]], pods: Iterable[PodRecord]
) -> LabWorld:
    """Read all nodes and pods. `inventory` and `groups` are what the lab daemon answers about itself."""
    pods = [pod for pod in pods if pod.addresses]
    nodes = {f"node {node['name']}": NETNS_DIR / state.node_namespace(node["name"]) for node in inventory["nodes"]}
    paths = {**nodes, **{f"pod {pod.label}": Path(pod.netns) for pod in pods}}
    stacks = {name: read_stack(name, path, firewall=name in nodes) for name, path in paths.items()}
    for pod in pods:
        inner, outer = f"pod {pod.label}", f"node {pod.node}"
        stacks[inner], stacks[outer] = cable(stacks[inner], stacks[outer])
    places = {
        "vpc": NETNS_DIR / state.fabric_namespace,
        "internet": NETNS_DIR / state.internet_namespace,
        "site": NETNS_DIR / state.site_namespace,
    }
    return LabWorld(World(stacks, vpc(inventory, groups)), {**paths, **{name: path for name, path in places.items()
                                                                  if path.exists()}})  # fmt: skip


def read_stack(name: str, netns: Path, *, firewall: bool) -> Stack:
    """A namespace's links, addresses, routes, rules, neighbours and, on request, its firewall and rp_filter."""
    with namespace_handle(netns) as handle:
        with RouteSocket(handle) as kernel:
            stack = Stack(
                name,
                tuple(kernel.links()),
                tuple(kernel.addresses()),
                tuple(route for version in VERSIONS for route in kernel.routes(version)),
                tuple(rule for version in VERSIONS for rule in kernel.rules(version)),
                tuple(kernel.neighbours()),
            )
        with inside(handle):
            stack = replace(stack, unforwarded=frozenset(_unforwarded(stack)))
        if not firewall:
            return stack
        with inside(handle):
            filters = {link.name: _reverse_filter(link.name) for link in stack.links}
            return with_firewall(replace(stack, reverse_filter=filters))


def with_firewall(stack: Stack) -> Stack:
    """The stack with the rules of the calling thread's namespace: iptables of both variants, and nftables."""
    texts = {version: _saved(version) for version in VERSIONS}
    tables: dict[int, Tables] = {version: parse_save(text) for version, text in texts.items()}
    policies = {version: _policies(text) for version, text in texts.items()}
    return replace(stack, tables=tables, policies=policies, nft=read_nftables(texts))


def cable(pod: Stack, node: Stack) -> tuple[Stack, Stack]:
    """Both with the veths between them, as the indexes of their ends say."""
    inner, outer = dict(pod.cables), dict(node.cables)
    for link in pod.links:
        far = node.device(link.link_index) if link.kind == "veth" else ""
        back = next((each.link_index for each in node.links if each.name == far), 0)
        if far and back == link.index:
            inner[link.name], outer[far] = (node.name, far), (pod.name, link.name)
    return replace(pod, cables=inner), replace(node, cables=outer)


def vpc(inventory: Mapping[str, Any], groups: Sequence[Mapping[str, Any]]) -> Vpc:
    """The VPC's side of an inventory."""
    ports, public = [], {}
    for node in inventory["nodes"]:
        if node["public_address"]:
            public[ip_address(node["private_address"])] = ip_address(node["public_address"])
        ports += [_port(node["name"], eni) for eni in node["enis"] if eni["port"]]
    cidrs = (*inventory["vpc_cidrs"], *inventory["vpc_ipv6_cidrs"])
    hosts = []
    for row in inventory["hosts"]:
        addresses = (row["address"], row.get("ipv6_address"))
        place = "internet" if row["via"] == "internet" else "site"
        hosts.append(Outside(row["name"], place, tuple(ip_address(each) for each in addresses if each), row["via"]))
    ports = _grouped(ports, groups)
    return Vpc(tuple(map(ip_network, cidrs)), tuple(ports), tuple(hosts), public, SERVICE_ADDRESSES)


def _port(node: str, eni: Mapping[str, Any]) -> Port:
    texts = (eni["primary_address"], *eni["addresses"], *eni["prefixes"], *eni["ipv6_addresses"], *eni["ipv6_prefixes"])
    owned: tuple[IPNetwork, ...] = tuple(map(ip_network, texts))
    return Port(eni["eni_id"], f"node {node}", eni["device"], eni["port"], owned, eni["source_dest_check"])


def _grouped(ports: Sequence[Port], groups: Sequence[Mapping[str, Any]]) -> list[Port]:
    """The ports with their security groups, whose peers become the addresses that their members own."""
    owned = {port.eni_id: port.owned for port in ports}
    members = {group["name"]: [one["eni_id"] for one in group["members"]] for group in groups}
    names = {name: name for name in members}
    made = {}
    for group in groups:
        permits = []
        for row in group["rules"]:
            for rule in grouprules.parse(row["rule"], names):
                peers = (rule.peer,) if not isinstance(rule.peer, str) else tuple(
                    network for eni in members[rule.peer] for network in owned.get(eni, ())
                )  # fmt: skip
                permits.append(Permit(row["rule"], rule.egress, rule.protocol, peers, rule.first, rule.last))
        made[group["name"]] = Group(group["name"], tuple(permits))
    return [
        replace(port, groups=tuple(made[name] for name, enis in members.items() if port.eni_id in enis))
        for port in ports
    ]


def _unforwarded(stack: Stack) -> Iterator[tuple[int, str]]:
    """IPv4 is forwarded by device, IPv6 by all devices or none (ip6_forward)."""
    all_of_6 = sysctl.read("net/ipv6/conf/all/forwarding") == "1"
    for link in stack.links:
        if sysctl.read(f"net/ipv4/conf/{link.name}/forwarding") == "0":
            yield 4, link.name
        if not all_of_6:
            yield 6, link.name


def _reverse_filter(device: str) -> int:
    """What is in force: the greater of the device's and of everybody's."""
    values = [sysctl.read(f"net/ipv4/conf/{name}/rp_filter") for name in ("all", device)]
    return max(int(value or 0) for value in values)


def read_nftables(iptables: Mapping[int, str] | None = None) -> tuple[NftTable, ...]:
    """All tables of nftables in the calling thread's namespace; those that `iptables` (by IP version what iptables-save
    and ip6tables-save print) tells already are not listed, because they may hold tens of thousands of rules.

    Each is read twice, because JSON has no text of a rule; one that changes in between is called by its handle.
    """
    texts = iptables or {}
    try:
        rows = _listed_rows("tables")
        own = [row["table"] for row in rows if "table" in row and not told_by_iptables(row["table"], texts)]
        listing = ""
        for table in own:
            words = "table", table["family"], table["name"]
            rows += [row for row in _listed_rows(*words) if "table" not in row]
            listing += run_program("list the firewall", "nft", "-a", "list", *words)
    except (HostError, ValueError):  # a machine without the program, or a table that has gone meanwhile
        return ()
    return parse_nft({"nftables": rows}, listing, texts)


def _listed_rows(*words: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(run_program("list the firewall", "nft", "-j", "list", *words))["nftables"]
    return rows


def _saved(version: int) -> str:
    with suppress(HostError):  # a machine without ip6tables has no such rules
        return Firewall().saved(version)
    return ""


def _policies(text: str) -> dict[str, str]:
    """Built-in chains that drop what no rule accepts, as "table CHAIN"."""
    found, table = {}, ""
    for line in text.splitlines():
        if line.startswith("*"):
            table = line[1:].strip()
        elif match := _POLICY.match(line):
            found[f"{table} {match[1]}"] = match[2]
    return found
