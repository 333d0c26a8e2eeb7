# SPDX-License-Identifier: Apache-2.0
"""Real TCP between pods on both kinds of ENI, the VPC, and a server outside; and each rule proves that it is needed.

The router delivers by owned address and drops what does not come from an address of the ENI, as a VPC does.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

import pytest
from connections import source_seen

from vpccni.core.conventions import host_link_name
from vpccni.core.firewall.nftmarks import table
from vpccni.core.firewall.snat import SnatPolicy, rules
from vpccni.core.nodenet import EniNet, NodeNet
from vpccni.core.podnet import PodAddress, PodAttachment, PodLinkPlan, wiring
from vpccni.host.firewall import Firewall
from vpccni.host.kernel import NodeKernel
from vpccni.host.node import converge
from vpccni.netlink.namespace import inside
from vpccni.netlink.socket import RouteSocket
from vpccni.netlink.values import Link, add

pytestmark = pytest.mark.netns

NODE, ENI1, POD_A, POD_B = "192.168.0.10", "192.168.0.20", "192.168.0.101", "192.168.0.201"
PEER, OUTSIDE = "192.168.1.50", "203.0.113.10"
POLICY = SnatPolicy("eth0", IPv4Address(NODE), (IPv4Network("192.168.0.0/16"), IPv4Network("100.64.0.0/16")))
PORT = 8080


@dataclass
class World:
    """One node with two pods, a host of the VPC and a server outside."""

    node: object
    router: object
    places: dict[str, object]  # address -> namespace that owns it
    kernel: NodeKernel
    setup: NodeNet

    def wire(self, name: str, address: str, table: int, index: int) -> None:
        attachment = PodAttachment(
            "aws-cni", f"c-{name}", "eth0", "default", name, (PodAddress(IPv4Address(address), table),)
        )
        self.kernel.wire(
            wiring(attachment, PodLinkPlan(index, f"0a:58:00:00:00:{index & 255:02x}")), self.places[address].fd
        )

    def firewall(self, policy: SnatPolicy = POLICY) -> None:
        with inside(self.node.fd):
            Firewall().apply(rules(policy))
            Firewall().nft.apply({"ip": table(policy)})

    def seen(self, source: str, target: str, port: int = PORT, listener: str = "", timeout_s: float = 2.0) -> str:
        """The address that the listener sees when `source` connects to `target`; "" when the connection fails."""
        there = self.places[listener or target].fd
        return source_seen(self.places[source].fd, (target, port), there, ("0.0.0.0", PORT), timeout_s)

    def fails(self, source: str, target: str, **options) -> bool:
        return self.seen(source, target, timeout_s=0.4, **options) == ""


def cable(near, near_name: str, mac: str, far, far_name: str) -> None:
    """A veth between two namespaces."""
    with RouteSocket(near.fd) as route:
        route.run(add(Link(near_name, kind="veth", mac=mac, peer=Link(far_name, netns_fd=far.fd))))
    near.ip(f"link set {near_name} up")
    far.ip(f"link set {far_name} up")


def vpc(router, node, peer, outside) -> None:
    """The router's side: one port per ENI, which accepts its own addresses only and delivers to their owner."""
    cable(node, "eth0", "02:00:00:00:00:10", router, "r0")
    cable(node, "eth1", "02:00:00:00:00:20", router, "r1")
    cable(peer, "eth0", "02:00:00:00:00:50", router, "r2")
    cable(outside, "eth0", "02:00:00:00:00:99", router, "r3")
    owners = {"r0": [NODE, POD_A], "r1": [ENI1, POD_B], "r2": [PEER], "r3": [OUTSIDE]}
    macs = {"r0": "02:00:00:00:00:10", "r1": "02:00:00:00:00:20", "r2": "02:00:00:00:00:50", "r3": "02:00:00:00:00:99"}
    router.run("sysctl", "-q", "-w", "net.ipv4.ip_forward=1")
    for port, addresses in owners.items():
        router.ip(f"addr add {'203.0.113.1' if port == 'r3' else '192.168.0.1'}/32 dev {port}")
        for key in (f"conf.{port}.proxy_arp=1", f"neigh.{port}.proxy_delay=0", f"conf.{port}.rp_filter=0"):
            router.run("sysctl", "-q", "-w", f"net.ipv4.{key}")
        for address in addresses:
            router.ip(f"route add {address} dev {port} scope link")
            # A VPC knows where an address lives and asks no instance: a node does not answer ARP for its pods.
            router.ip(f"neigh add {address} lladdr {macs[port]} dev {port} nud permanent")
            router.run("iptables", "-t", "raw", "-A", "PREROUTING", "-i", port, "-s", address, "-j", "ACCEPT")
        router.run("iptables", "-t", "raw", "-A", "PREROUTING", "-i", port, "-j", "DROP")
    for host, address, gateway in ((peer, PEER, "192.168.0.1"), (outside, OUTSIDE, "203.0.113.1")):
        host.ip(f"addr add {address}/32 dev eth0")
        host.ip(f"route add {gateway} dev eth0 scope link")
        host.ip(f"route add default via {gateway} dev eth0")
    node.ip(f"addr add {NODE}/19 brd 192.168.31.255 dev eth0")
    node.ip("route add default via 192.168.0.1 dev eth0")


@contextmanager
def built(spaces) -> Iterator[World]:
    """The world of this folder's packets, with the iptables rules in force."""
    node, router, peer, outside, pod_a, pod_b = (
        spaces(role) for role in ("node", "router", "peer", "outside", "pod-a", "pod-b")
    )
    vpc(router, node, peer, outside)
    places = {NODE: node, ENI1: node, PEER: peer, OUTSIDE: outside, POD_A: pod_a, POD_B: pod_b}
    with NodeKernel(node.fd) as kernel:
        links = kernel.links_by_mac()
        enis = (
            EniNet(links["02:00:00:00:00:10"], (IPv4Interface(f"{NODE}/19"),), 254, primary=True),
            EniNet(links["02:00:00:00:00:20"], (IPv4Interface(f"{ENI1}/19"),), 2),
        )
        made = World(node, router, places, kernel, NodeNet(enis, mtu=1500))
        node.run("sysctl", "-q", "-w", "net.ipv4.ip_forward=0")  # whatever new namespaces start with
        converge(kernel, made.setup)
        made.firewall()
        made.wire("web-0", POD_A, 254, 1003)
        made.wire("web-1", POD_B, 2, 1005)
        yield made


@pytest.fixture
def world(spaces) -> Iterator[World]:
    with built(spaces) as made:
        yield made


def test_everybody_reaches_everybody_and_is_seen_as_documented(world):
    expected = {
        (POD_A, POD_B): POD_A,
        (POD_B, POD_A): POD_B,
        (POD_A, PEER): POD_A,
        (POD_B, PEER): POD_B,
        (PEER, POD_A): PEER,
        (PEER, POD_B): PEER,
        (POD_A, OUTSIDE): NODE,
        (POD_B, OUTSIDE): NODE,
        (NODE, POD_A): NODE,
        (NODE, POD_B): NODE,
        (POD_A, NODE): POD_A,
        (POD_B, NODE): POD_B,
        (POD_B, ENI1): POD_B,
        (NODE, OUTSIDE): NODE,
    }
    assert {pair: world.seen(*pair) for pair in expected} == expected


def test_with_external_snat_pods_are_seen_as_themselves(world):
    world.firewall(replace(POLICY, external_snat=True))
    assert world.seen(POD_A, OUTSIDE) == POD_A
    assert world.seen(POD_B, OUTSIDE) == POD_B
    assert world.seen(POD_B, PEER) == POD_B


def test_an_excluded_destination_is_reached_without_translation(world):
    world.firewall(replace(POLICY, excluded=(IPv4Network("203.0.113.0/24"),)))
    assert world.seen(POD_B, OUTSIDE) == POD_B


def test_without_its_1536_rule_a_pod_leaves_by_the_wrong_eni(world):
    world.node.ip(f"rule del pref 1536 from {POD_B}")
    assert world.fails(POD_B, PEER)
    assert world.seen(POD_A, PEER) == POD_A
    world.wire("web-1", POD_B, 2, 1005)  # a repeated ADD repairs it
    assert world.seen(POD_B, PEER) == POD_B


@pytest.mark.parametrize(
    "missing",
    ["iptables -t nat -F AWS-SNAT-CHAIN-0", "iptables -t nat -F AWS-CONNMARK-CHAIN-0", "ip rule del pref 1024"],
    ids=["SNAT rule", "connection mark", "rule 1024"],
)
def test_without_translation_mark_or_mark_rule_the_internet_is_out_of_reach(world, missing):
    world.node.run(*missing.split())
    assert world.fails(POD_B, OUTSIDE)
    world.firewall()
    converge(world.kernel, world.setup)
    assert world.seen(POD_B, OUTSIDE) == NODE


def test_without_loose_reverse_path_filtering_replies_are_dropped(world):
    world.node.run("sysctl", "-q", "-w", "net.ipv4.conf.eth0.rp_filter=1")
    assert world.fails(POD_B, OUTSIDE)
    assert converge(world.kernel, world.setup) == ["sysctl -w net.ipv4.conf.eth0.rp_filter=2"]
    assert world.seen(POD_B, OUTSIDE) == NODE


def test_a_node_port_leads_to_a_pod_on_a_secondary_eni_thanks_to_the_mark(world):
    dnat = f"-p tcp -d {NODE} --dport 30080 -j DNAT --to-destination {POD_B}:{PORT}"
    world.node.run("iptables", "-t", "nat", "-I", "PREROUTING", *dnat.split())
    assert world.seen(OUTSIDE, NODE, port=30080, listener=POD_B) == OUTSIDE
    world.firewall(replace(POLICY, node_port_support=False))
    assert world.fails(OUTSIDE, NODE, port=30080, listener=POD_B)
    world.firewall()
    assert world.seen(OUTSIDE, NODE, port=30080, listener=POD_B) == OUTSIDE


def test_a_new_vpc_cidr_takes_effect_for_new_connections(world):
    world.firewall(replace(POLICY, vpc_cidrs=(*POLICY.vpc_cidrs, IPv4Network("203.0.113.0/24"))))
    assert world.seen(POD_B, OUTSIDE) == POD_B


def test_an_unwired_pod_is_out_of_reach_and_its_neighbour_is_not(world):
    assert world.seen(PEER, POD_B) == PEER
    world.kernel.unwire((PodAddress(IPv4Address(POD_B), 2),), host_link_name("eni", "default", "web-1"), "c-web-1")
    assert world.fails(PEER, POD_B)
    assert world.seen(PEER, POD_A) == PEER
