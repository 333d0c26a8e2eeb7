# SPDX-License-Identifier: Apache-2.0
"""Real TCP through kube-proxy's rules beside ours, whichever of the two was there first.

Chains of one hook and one priority run in the reverse order of their making, so with kube-proxy in its nftables mode,
or in the other variant of iptables, the order of two daemons' starts decides which nat chain sees a flow first.
"""

from __future__ import annotations

import socket
from contextlib import ExitStack, suppress

import pytest
from kube_services import BACKENDS, CLUSTER_IP, CLUSTER_PORT, NODE_PORT, apply, serve, service, wanted
from test_packets import NODE, OUTSIDE, PEER, POD_A, POD_B, PORT, World, world

from vpccni.host.firewall import Firewall
from vpccni.lab.kubeproxy.values import MODES
from vpccni.netlink.namespace import inside

pytestmark = pytest.mark.netns
__all__ = ["world"]


def bare(world: World) -> None:
    """The node before any of the two has been there."""
    with inside(world.node.fd):
        Firewall().remove()
        Firewall().nft.apply({})
    for name in ("nat", "mangle"):  # the tables of iptables-nft, with their places among the hooks
        world.node.run("nft", "delete", "table", "ip", name)


def ours(world: World, backend: str) -> None:
    with inside(world.node.fd):
        apply(backend)


def through(world: World, listener: str, *, source: str = POD_B, timeout_s: float = 1.0) -> str:
    return world.seen(source, CLUSTER_IP, port=CLUSTER_PORT, listener=listener, timeout_s=timeout_s)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("first", ["cni", "kube-proxy"])
def test_who_came_first_makes_no_difference(world, mode, first, backend):
    bare(world)
    if first == "cni":
        ours(world, backend)
    serve(world, mode, service(PEER))
    if first == "kube-proxy":
        ours(world, backend)
    seen = {}
    for name, endpoint in (("in the VPC", PEER), ("outside", OUTSIDE), ("the pod itself", POD_B)):
        serve(world, mode, service(endpoint, local=endpoint == POD_B, node_port=NODE_PORT))
        seen[name] = through(world, endpoint)
    seen["node port"] = world.seen(PEER, NODE, port=NODE_PORT, listener=POD_B)
    assert seen == {"in the VPC": POD_B, "outside": NODE, "the pod itself": NODE, "node port": NODE}


def test_without_the_rule_that_takes_the_mark_back_a_service_in_the_vpc_fails_behind_an_older_kube_proxy(world):
    bare(world)
    serve(world, "nftables", service(PEER))
    ours(world, "nft")
    assert through(world, PEER) == POD_B
    with inside(world.node.fd):
        text = wanted("nft").nftables["ip"]
        kept = "\n".join(line for line in text.splitlines() if "ct mark set ct mark &" not in line)
        assert kept != text
        Firewall().nft.apply({"ip": kept})
    assert through(world, PEER, timeout_s=0.4) == "", "marked for the ClusterIP, it leaves by the primary ENI"


def shares(world: World, *endpoints: str, connections: int = 40) -> list[int]:
    """How many of the node's connections to the Service each endpoint got."""
    with ExitStack() as stack:
        servers = []
        for address in endpoints:
            with inside(world.places[address].fd):
                servers.append(stack.enter_context(socket.create_server(("0.0.0.0", PORT), backlog=64)))
        for _ in range(connections):
            with inside(world.node.fd):
                client = stack.enter_context(socket.create_connection((CLUSTER_IP, CLUSTER_PORT), timeout=1.0))
            assert client
        counts = []
        for server in servers:
            server.setblocking(False)
            accepted = 0
            with suppress(BlockingIOError):
                while True:
                    server.accept()[0].close()
                    accepted += 1
            counts.append(accepted)
        return counts


@pytest.mark.parametrize("mode", MODES)
def test_several_endpoints_share_the_connections(world, mode):
    serve(world, mode, service(POD_A, POD_B, local=True))
    counts = shares(world, POD_A, POD_B)
    assert sum(counts) == 40 and min(counts) > 4
    serve(world, mode, service(POD_A, local=True))
    assert shares(world, POD_A, POD_B) == [40, 0]
    serve(world, mode, service())
    with pytest.raises(ConnectionRefusedError):
        shares(world)


@pytest.mark.parametrize("mode", MODES)
def test_the_policy_local_keeps_the_clients_address_and_drops_where_no_pod_is(world, mode):
    options = {"node_port": NODE_PORT, "local_policy": True}
    serve(world, mode, service(POD_B, local=True, **options))
    assert world.seen(PEER, NODE, port=NODE_PORT, listener=POD_B) == PEER
    serve(world, mode, service(POD_B, local=True, node_port=NODE_PORT))
    assert world.seen(PEER, NODE, port=NODE_PORT, listener=POD_B) == NODE
    serve(world, mode, service(OUTSIDE, **options))
    assert world.seen(PEER, NODE, port=NODE_PORT, listener=OUTSIDE, timeout_s=0.4) == ""
