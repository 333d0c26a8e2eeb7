# SPDX-License-Identifier: Apache-2.0
"""The node that this process runs on, as `core.walk` sees it: its own kernel, its pods, and what its ENIs own.

Knows the daemon's introspection document and that a pod is a named namespace whose veth ends on the node. Must never
suppose anything about the rest of the VPC: packets that leave the node are out of view. `lab.scene` uses it when no lab
is up.
"""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path
from typing import Any, Literal

from vpccni.core.conventions import TABLE_MAIN, host_network, is_main, parse_alias
from vpccni.core.walk.values import Port, Stack, Vpc, World
from vpccni.errors import DaemonNotReady, HostError
from vpccni.lab.probe import Endpoint
from vpccni.lab.sockets import NamespaceHttp
from vpccni.lab.world import LabWorld, cable, read_stack
from vpccni.netlink import namespace
from vpccni.netlink.namespace import NETNS_DIR

INTROSPECTION = ("127.0.0.1", 61679)
_OWN_NETWORK = Path("/proc/self/ns/net")


def observe() -> LabWorld:
    """Read this node; DaemonNotReady when no daemon tells what its ENIs own."""
    name = f"node {socket.gethostname()}"
    node = read_stack(name, _OWN_NETWORK, firewall=True)
    ports = tuple(_port(node, eni) for card in _ask("/v1/enis").values() for eni in card["ENIs"].values())
    enis = {port.device for port in ports}
    stacks: dict[str, Stack] = {}
    places = {name: _OWN_NETWORK}
    for each in namespace.names():
        with suppress(HostError):  # gone meanwhile
            read = read_stack(each, NETNS_DIR / each, firewall=False)
            found, _ = cable(read, node)
            if _is_pod(found, node, enis):
                label = f"pod {_label(found, node)}"
                stacks[label], node = cable(replace(read, name=label), node)
                places[label] = NETNS_DIR / each
    return LabWorld(World({**stacks, name: node}, Vpc((), ports, complete=False)), places)


def endpoints(seen: LabWorld) -> list[Endpoint]:
    """The pods of a node and the node itself, as the command line names them."""
    found = []
    for place, stack in seen.world.stacks.items():
        kind, _, name = place.partition(" ")
        addresses = [str(each.interface.ip) for each in stack.addresses if each.scope == "global"]
        if addresses:
            known: Literal["pod", "node"] = "pod" if kind == "pod" else "node"
            found.append(Endpoint(known, name, seen.namespaces[place], addresses[0], tuple(addresses[1:])))
    return found


def _is_pod(found: Stack, node: Stack, enis: Collection[str]) -> bool:
    """Whether a namespace is one of this node's pods: interface numbers of strangers may fit together by chance."""
    if not found.cables:
        return False
    _, device = next(iter(found.cables.values()))
    mac = next(link.mac for link in node.links if link.name == device)
    own = {each.interface.ip for each in found.addresses}
    routed = any(node.device(route.index) == device and route.dst.network_address in own for route in node.routes)
    return device not in enis and (routed or any(each.permanent and each.mac == mac for each in found.neighbours))


def _label(pod: Stack, node: Stack) -> str:
    """`name` or `namespace/name` by the alias of the veth; without one, the namespace's own name."""
    device = next(iter(pod.cables.values()))[1]
    alias = parse_alias(next(link.alias for link in node.links if link.name == device))
    if alias is None or not alias.pod:
        return pod.name
    return alias.pod if alias.namespace == "default" else f"{alias.namespace}/{alias.pod}"


def _port(node: Stack, eni: Mapping[str, Any]) -> Port:
    """An ENI: its device is where its table's default route leads, and it owns that device's addresses as well."""
    table = TABLE_MAIN if is_main(eni["RouteTableID"]) else eni["RouteTableID"]
    default = next((route for route in node.routes if route.table == table and not route.dst.prefixlen), None)
    device = node.device(default.index) if default is not None else ""
    own = [each.interface.ip for each in node.addresses if node.device(each.index) == device]
    granted = (*eni["AvailableIPv4Cidrs"], *eni["IPv6Cidrs"])
    owned = (*map(host_network, own), *map(ip_network, granted))
    return Port(eni["ID"], node.name, device, "", owned)


def _ask(path: str) -> Any:
    connection = NamespaceHttp(_OWN_NETWORK, *INTROSPECTION)
    try:
        connection.request("GET", path)
        return json.loads(connection.getresponse().read())
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise DaemonNotReady(
            "look at this node", f"its daemon does not answer on {':'.join(map(str, INTROSPECTION))}: {error}",
            hint="on a machine that is no node: vpccni lab up",
        ) from error  # fmt: skip
    finally:
        connection.close()
