# SPDX-License-Identifier: Apache-2.0
"""New flows all the time while the firewall changes: none escapes translation, because one that does never recovers.

A pod on the secondary ENI sends a datagram from a new port every millisecond and opens a connection every few, directly
and through a service. The VPC of `test_packets` drops whatever is not translated.
"""

from __future__ import annotations

import shutil
import socket
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Network

import pytest
from kube_services import CLUSTER_IP, CLUSTER_PORT, serve, service
from restarts import restart
from test_packets import NODE, OUTSIDE, POD_B, POLICY, PORT, World, world

from vpccni.core.firewall.backend import form
from vpccni.core.firewall.nftmarks import table
from vpccni.core.firewall.snat import SnatPolicy, rules
from vpccni.host.firewall import Firewall
from vpccni.netlink.namespace import inside

pytestmark = pytest.mark.netns
__all__ = ["world"]

SERVICE = (CLUSTER_IP, CLUSTER_PORT)
TARGETS = ((OUTSIDE, PORT), SERVICE)
CONNECTION_EVERY = 8  # datagrams
SETTLE_S = 0.5


@dataclass
class Flows:
    """What the pod has begun, and what arrived outside and from whom."""

    begun: int = 0
    received: set[int] = field(default_factory=set)
    connections: int = 0
    connected: int = 0
    sources: set[str] = field(default_factory=set)

    @property
    def lost(self) -> int:
        """Flows of either kind that did not get through."""
        return self.begun - len(self.received) + self.connections - self.connected


def flows_during(world: World, change: Callable[[], None]) -> Flows:
    """Begin flows from the pod while `change` runs, and a little before and after."""
    flows, done = Flows(), threading.Event()
    with ExitStack() as stack:
        with inside(world.places[OUTSIDE].fd):
            datagrams = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            listener = stack.enter_context(socket.create_server(("0.0.0.0", PORT), backlog=4096))
        datagrams.bind(("0.0.0.0", PORT))
        datagrams.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        datagrams.settimeout(SETTLE_S)
        listener.settimeout(SETTLE_S)

        def receive() -> None:
            try:
                while True:
                    number, (source, _) = datagrams.recvfrom(64)
                    flows.received.add(int(number))
                    flows.sources.add(source)
            except TimeoutError:
                return

        def send() -> None:
            with inside(world.places[POD_B].fd):
                while not done.is_set():
                    target = TARGETS[flows.begun % 2]
                    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
                        one.sendto(str(flows.begun).encode(), target)
                    if flows.begun % CONNECTION_EVERY < 2:
                        connection = stack.enter_context(socket.socket())
                        connection.setblocking(False)
                        connection.connect_ex(target)
                        flows.connections += 1
                    flows.begun += 1
                    time.sleep(0.001)

        threads = [threading.Thread(target=work) for work in (receive, send)]
        for thread in threads:
            thread.start()
        time.sleep(0.1)
        with inside(world.node.fd):
            change()
        time.sleep(0.1)
        done.set()
        for thread in threads:
            thread.join()
        try:
            while True:
                connection, (source, _) = listener.accept()
                connection.close()
                flows.connected += 1
                flows.sources.add(source)
        except TimeoutError:
            return flows


def apply(policy: SnatPolicy) -> None:
    """As a daemon that has just been started."""
    Firewall().apply(rules(policy))
    Firewall().nft.apply({"ip": table(policy)})
    Firewall().nft.remove_upstream()


@pytest.fixture
def served(world) -> World:
    """The world with a service that leads outside."""
    serve(world, "iptables", *(service(OUTSIDE, protocol=protocol) for protocol in ("udp", "tcp")))
    return world


def test_no_flow_escapes_while_the_firewall_is_applied_again_and_changed(served):
    longer = replace(POLICY, vpc_cidrs=(*POLICY.vpc_cidrs, IPv4Network("10.77.0.0/16")))
    excluding = replace(longer, excluded=(IPv4Network("10.78.0.0/16"), IPv4Network("10.1.1.1/32")))
    policies = (POLICY, longer, excluding, replace(excluding, randomize="none", node_port_support=False), POLICY)

    def change() -> None:
        served.node.run("nft", "add", "table", "ip", "aws-cni")  # of the Go implementation, taken over
        for policy in policies:
            apply(policy)
            apply(policy)

    flows = flows_during(served, change)
    assert flows.begun > 100 and flows.connections > 20
    assert flows.lost == 0, flows
    assert flows.sources == {NODE}


def test_rules_that_are_flushed_and_added_again_lose_flows(served):
    def flush() -> None:
        served.node.run("iptables", "-t", "nat", "-F", "AWS-SNAT-CHAIN-0")
        apply(POLICY)

    assert flows_during(served, flush).lost > 0


def test_a_table_that_is_removed_and_added_again_loses_flows(served):
    def remove() -> None:
        Firewall().nft.apply({})
        apply(POLICY)

    assert flows_during(served, remove).lost > 0


ROUND = ("iptables-nft", "nftables", "iptables-legacy", "nftables", "iptables-nft", "iptables-legacy", "iptables-nft")
EXCLUDING = {"AWS_VPC_K8S_CNI_EXCLUDE_SNAT_CIDRS": "10.78.0.0/16,10.1.1.1/32"}


@pytest.mark.skipif(shutil.which("iptables-legacy-save", path="/usr/sbin") is None, reason="needs both variants")
def test_no_flow_escapes_while_restarts_go_from_one_backend_to_another(served):
    def change() -> None:
        for backend in ROUND:
            restart(backend)
            ours = served.node.run("nft", "list", "ruleset"), served.node.run("iptables-nft-save")
            assert ("AWS, SNAT" in ours[0] + ours[1]) == (backend != "iptables-legacy")

    flows = flows_during(served, change)
    assert flows.begun > 300 and flows.connections > 60
    assert flows.lost == 0, flows
    assert flows.sources == {NODE}


@pytest.mark.long
def test_no_flow_escapes_while_the_native_backend_is_applied_again_and_changed(served):
    with inside(served.node.fd):
        restart("nftables")

    def change() -> None:
        for environ in (EXCLUDING, {"AWS_VPC_K8S_CNI_RANDOMIZESNAT": "none"}, {}):
            assert len(restart("nftables", environ)) == 1
            assert restart("nftables", environ) == []
        served.node.run("nft", "flush chain ip vpccni inbound")  # what the pod's flows do not need
        assert len(restart("nftables")) == 1

    flows = flows_during(served, change)
    assert flows.begun > 100 and flows.connections > 20
    assert flows.lost == 0, flows
    assert flows.sources == {NODE}


@pytest.mark.parametrize(
    ("old", "new"), [("iptables-nft", "nftables"), pytest.param("nftables", "iptables-nft", marks=pytest.mark.long)]
)
def test_an_old_backend_that_goes_before_the_new_one_is_in_force_loses_flows(served, old, new):
    def change() -> None:
        Firewall().nft.apply({})
        Firewall(variant="nft").remove()
        restart(new)

    with inside(served.node.fd):
        restart(old)
    assert flows_during(served, change).lost > 0


def ports_changed_during(world: World, change: Callable[[], None]) -> tuple[int, int]:
    """How many datagrams of the node itself, each from a port of its own, arrived outside while `change` ran; and how
    many of them from another port."""
    arrived: list[bool] = []
    done = threading.Event()
    with inside(world.places[OUTSIDE].fd):
        listener = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        listener.bind(("0.0.0.0", PORT))
    listener.settimeout(SETTLE_S)

    def receive() -> None:
        with listener:
            try:
                while True:
                    said, (_, port) = listener.recvfrom(64)
                    arrived.append(int(said) == port)
            except TimeoutError:
                return

    def send() -> None:
        port = 20000
        with inside(world.node.fd):
            while not done.is_set():
                port += 1
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
                    one.bind(("0.0.0.0", port))
                    one.sendto(str(port).encode(), (OUTSIDE, PORT))
                time.sleep(0.001)

    threads = [threading.Thread(target=work) for work in (receive, send)]
    for thread in threads:
        thread.start()
    time.sleep(0.05)
    with inside(world.node.fd):
        change()
    time.sleep(0.05)
    done.set()
    for thread in threads:
        thread.join()
    return len(arrived), arrived.count(False)


def test_flows_of_the_node_keep_their_port_from_one_backend_to_another(world):
    def change() -> None:
        for backend in ROUND[:3]:
            restart(backend)

    arrived, changed = ports_changed_during(world, change)
    assert arrived > 100 and changed == 0


def test_without_what_bridges_two_backends_they_do_not(world):
    def change() -> None:
        Firewall().nft.apply(form(native=True, policy=POLICY, egress_from=None, randomize="prng").nftables)
        time.sleep(0.05)  # the rule of iptables is there, and nothing before it
        Firewall(variant="nft").remove()

    arrived, changed = ports_changed_during(world, change)
    assert arrived > 50 and 0 < changed < arrived
