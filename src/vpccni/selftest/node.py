# SPDX-License-Identifier: Apache-2.0
"""The node under test: where it is, what its daemon says about itself, and how its ENIs are called.

Knows both kinds: a node of the lab, and the machine that this runs on. Must never change anything. Everything is asked
from the running daemon and the kernel, so that a node of either kind is read in the same way.
"""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path
from typing import Any

from vpccni import paths
from vpccni.core.conventions import TABLE_MAIN
from vpccni.errors import DaemonNotReady, HostError
from vpccni.lab.kubeproxy.values import KUBE_PROXY, Names
from vpccni.lab.launch import Place, node_place
from vpccni.lab.sockets import NamespaceHttp, namespace_handle
from vpccni.lab.state import LabState
from vpccni.netlink.namespace import NETNS_DIR
from vpccni.netlink.socket import RouteSocket
from vpccni.netlink.values import IPAddress, IPNetwork
from vpccni.selftest.expect import Policy
from vpccni.selftest.service import OWN

INTROSPECTION = ("127.0.0.1", 61679)
_RANDOMIZE = {0: "none", 1: "hashrandom", 2: "prng"}
_OWN_NETWORK = Path("/proc/self/ns/net")


@dataclass(frozen=True, slots=True)
class Node:
    """Where a node's things lie, as this process sees them; `place` is the view of a program on the node."""

    name: str
    netns: Path
    place: Place
    run_dir: Path
    conf_dir: Path
    bin_dir: Path
    pod_prefix: str  # of the names of its test pods' namespaces
    names: Names  # of the test's Services, when nothing stands under them

    def ask(self, path: str) -> Any:
        """A document of the daemon's introspection API; DaemonNotReady when it does not answer."""
        connection = NamespaceHttp(self.netns, *INTROSPECTION)
        try:
            connection.request("GET", path)
            return json.loads(connection.getresponse().read())
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise DaemonNotReady(
                f"test node {self.name}", f"its daemon does not answer on {':'.join(map(str, INTROSPECTION))}: {error}",
                hint="start the daemon, with introspection switched on; the test pods are made through it",
            ) from error  # fmt: skip
        finally:
            connection.close()


def of_lab(state: LabState, name: str) -> Node:
    """A node of a lab that is up."""
    directory = state.node_dir(name)
    netns = NETNS_DIR / state.node_namespace(name)
    prefix = state.pod_namespace("selftest", "")
    return Node(
        name, netns, node_place(state, name), directory / "run", directory / "netd", directory / "bin", prefix,
        KUBE_PROXY,
    )  # fmt: skip


def this_machine() -> Node:
    """The machine that this process runs on. A kube-proxy may come at any time: its names are never taken."""
    place = Place(_OWN_NETWORK)
    return Node(
        socket.gethostname(), _OWN_NETWORK, place, paths.RUN_DIR, paths.CNI_CONF_DIR, paths.CNI_BIN_DIR,
        "vpccni-selftest-", OWN,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Eni:
    """A managed ENI of the node, as the kernel has it."""

    device: int
    link: str
    addresses: tuple[IPAddress, ...]


@dataclass(frozen=True, slots=True)
class Facts:
    """What the daemon and the kernel say about the node now."""

    policy: Policy
    enis: Mapping[int, Eni]  # by device index
    pods_on: tuple[bool, bool] = (True, True)  # whether pods may get addresses of the primary and of secondary ENIs

    @property
    def primary(self) -> Eni:
        """The ENI of device index 0."""
        return self.enis[0]


def policy(document: Mapping[str, Any]) -> Policy:
    """The settings from `/v1/networkutils-env-settings`."""
    return Policy(
        bool(document["AWS_VPC_K8S_CNI_EXTERNALSNAT"]),
        bool(document["AWS_VPC_CNI_NODE_PORT_SUPPORT"]),
        _networks(document["AWS_VPC_K8S_CNI_EXCLUDE_SNAT_CIDRS"]),
        _networks(document["AWS_EXTERNAL_SERVICE_CIDRS"]),
        _RANDOMIZE[document["AWS_VPC_K8S_CNI_RANDOMIZESNAT"]],
        document["AWS_VPC_K8S_CNI_VETHPREFIX"],
    )


def observe(node: Node) -> Facts:
    """Ask the daemon which ENIs there are, and the kernel what they are called: a table's default route names one."""
    rows = [eni for card in node.ask("/v1/enis").values() for eni in card["ENIs"].values()]
    tables = {int(row["DeviceNumber"]): int(row["RouteTableID"]) for row in rows}
    with namespace_handle(node.netns) as handle, RouteSocket(handle) as kernel:
        names = kernel.link_names()
        routes = [route for version in (4, 6) for route in kernel.routes(version)]
        addresses = kernel.addresses()
    gateways = {route.table: names.get(route.index, "") for route in routes if not route.dst.prefixlen}
    enis = {}
    for device, table in tables.items():
        link = gateways.get(table if device else TABLE_MAIN, "")
        own = (each.interface.ip for each in addresses if names.get(each.index) == link and each.scope == "global")
        if link:
            enis[device] = Eni(device, link, tuple(own))
    if 0 not in enis:
        raise HostError(f"test node {node.name}", "it has no default route by its primary ENI", code="no-primary-eni")
    on_primary = any(row["IsPrimary"] and not row["IsExcludedForPodIPs"] for row in rows)
    # A /80 never runs out, so that with IPv6 alone nothing takes pods to a second ENI.
    on_secondary = any(row["AvailableIPv4Cidrs"] for row in rows)
    return Facts(policy(node.ask("/v1/networkutils-env-settings")), enis, (on_primary, on_secondary))


def _networks(texts: list[str] | None) -> tuple[IPNetwork, ...]:
    return tuple(ip_network(text) for text in texts or ())
