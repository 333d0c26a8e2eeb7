# SPDX-License-Identifier: Apache-2.0
"""Services for tests with packets, as kube-proxy writes them, and our rules in every backend, in a namespace.

Knows the world of `test_packets`. Must never write a rule of its own: what tests meet is what the lab and the selftest
put on nodes.
"""

from __future__ import annotations

from ipaddress import IPv4Address
from typing import Any

from test_packets import NODE, POLICY, PORT

from vpccni.core.firewall.backend import FirewallForm, form
from vpccni.host.firewall import Firewall
from vpccni.lab.kubeproxy.sync import sync
from vpccni.lab.kubeproxy.values import KUBE_PROXY, Endpoint, ServicePort
from vpccni.netlink.namespace import inside

BACKENDS = ("nft", "legacy", "nftables")
CLUSTER_IP, CLUSTER_PORT, NODE_PORT = "172.20.0.11", 80, 31000


def service(*endpoints: str, protocol: str = "tcp", local: bool = False, **options: Any) -> ServicePort:
    """A Service that leads to these addresses; `local`: they are pods of the node."""
    to = tuple(Endpoint(IPv4Address(each), PORT, local) for each in endpoints)
    address = IPv4Address(CLUSTER_IP)
    return ServicePort("default", "web", protocol, protocol, address, CLUSTER_PORT, to, **options)


def serve(world: Any, mode: str, *services: ServicePort) -> None:
    """A full sync of the node's kube-proxy."""
    with inside(world.node.fd):
        sync(mode, services, KUBE_PROXY, [IPv4Address(NODE)])


def wanted(backend: str) -> FirewallForm:
    """What the node of `test_packets` should hold."""
    return form(native=backend == "nftables", policy=POLICY, egress_from=None, randomize="prng")


def apply(backend: str) -> str:
    """Our rules, in the calling thread's namespace; what had to be changed."""
    firewall = Firewall(variant=backend if backend != "nftables" else "")
    changed = "".join(firewall.apply(rules) for rules in wanted(backend).iptables)
    return changed + firewall.nft.apply(wanted(backend).nftables)
