# SPDX-License-Identifier: Apache-2.0
"""Real TCP over IPv6: pods of a /80 on both kinds of ENI, the VPC and a server outside; and what each object is for.

The router delivers a /80 to the ENI that holds it and drops what does not come from the ENI's own addresses, as a VPC
does. Nothing is translated: everybody sees the pod's own address.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv6Address, IPv6Interface, ip_address, ip_network
from pathlib import Path

import pytest
from connections import source_seen

from vpccni.core.conventions import host_link_name
from vpccni.core.nodenet import EniNet, NodeNet
from vpccni.core.podnet import PodAddress, PodAttachment, PodLinkPlan, PodWiring, wiring
from vpccni.host import podcheck
from vpccni.host.kernel import NodeKernel
from vpccni.host.node import Pods, converge
from vpccni.netlink.namespace import inside
from vpccni.netlink.socket import RouteSocket
from vpccni.netlink.values import Link, add

pytestmark = pytest.mark.netns

GOLDEN = Path(__file__).parent / "golden"
NODE, PEER, OUTSIDE = "2600:1f13:aaaa:bb00::10", "2600:1f13:aaaa:bb00::50", "2001:db8:ffff::10"
ON_PRIMARY, ON_SECOND = "2600:1f13:aaaa:bb00:1::", "2600:1f13:aaaa:bb00:2::"  # /80 each
POD_A, POD_B = f"{ON_PRIMARY}5", ON_SECOND  # the first address of a /80 is an address like any other
V4 = "192.168.0.201"
GATEWAY = "fe80:ec2::1"
MACS = {"r0": "02:00:00:00:00:10", "r1": "02:00:00:00:00:20", "r2": "02:00:00:00:00:50", "r3": "02:00:00:00:00:99"}
PORT = 8080


def link_local(mac: str) -> str:
    """The address that a link makes of its MAC."""
    octets = bytearray.fromhex(mac.replace(":", ""))
    octets[0] ^= 2
    return str(IPv6Address(b"\xfe\x80" + bytes(6) + octets[:3] + b"\xff\xfe" + octets[3:]))


@dataclass
class World:
    """One node with two pods, a host of the VPC and a server outside."""

    node: object
    places: dict[str, object]  # address -> namespace that owns it
    kernel: NodeKernel
    setup: NodeNet
    wirings: dict[str, PodWiring] = field(default_factory=dict)

    def wire(self, name: str, addresses: list[str], table: int, index: int) -> None:
        """An ADD."""
        places = tuple(PodAddress(ip_address(address), table) for address in addresses)
        attachment = PodAttachment("aws-cni", f"c-{name}", "eth0", "default", name, places)
        plan = PodLinkPlan(index, f"0a:58:00:00:00:{index & 255:02x}", mtu=1500)
        self.wirings[name] = wiring(attachment, plan)
        self.kernel.wire(self.wirings[name], self.places[addresses[-1]].fd)

    def seen(self, source: str, target: str, timeout_s: float = 2.0) -> str:
        """The address that the listener sees when `source` connects to `target`; "" when the connection fails."""
        at = (target, PORT)
        return source_seen(self.places[source].fd, at, self.places[target].fd, at, timeout_s)

    def fails(self, source: str, target: str) -> bool:
        return self.seen(source, target, timeout_s=0.4) == ""


def cable(near, mac: str, near_name: str, far, far_name: str) -> None:
    """A veth between two namespaces; nobody else can hold its addresses, so nothing waits for a proof of that."""
    with RouteSocket(near.fd) as route:
        route.run(add(Link(near_name, kind="veth", mac=mac, peer=Link(far_name, netns_fd=far.fd))))
    for space, name in ((near, near_name), (far, far_name)):
        space.run("sysctl", "-q", "-w", f"net.ipv6.conf.{name}.accept_dad=0")
        space.ip(f"link set {name} up")


def vpc(router, node, peer, outside) -> None:
    """The router's side: one port per ENI, which accepts its own addresses only and delivers to their owner."""
    for space, mac, name, port in (
        (node, MACS["r0"], "eth0", "r0"),
        (node, MACS["r1"], "eth1", "r1"),
        (peer, MACS["r2"], "eth0", "r2"),
        (outside, MACS["r3"], "eth0", "r3"),
    ):
        cable(space, mac, name, router, port)
    router.run("sysctl", "-q", "-w", "net.ipv6.conf.all.forwarding=1")
    owners = {"r0": [f"{NODE}/128", f"{ON_PRIMARY}/80"], "r1": [f"{ON_SECOND}/80"], "r2": [PEER], "r3": [OUTSIDE]}
    for port, networks in owners.items():
        router.ip(f"addr add {GATEWAY}/64 dev {port} nodad")
        router.ip(f"neigh replace {link_local(MACS[port])} lladdr {MACS[port]} dev {port} nud permanent")
        rule = ("ip6tables", "-t", "raw", "-A", "PREROUTING", "-i", port)
        for network in networks:
            router.ip(f"route add {network} via {link_local(MACS[port])} dev {port}")
            router.run(*rule, "-s", network, "-j", "ACCEPT")
        router.run(*rule, "-s", "fe80::/10", "-j", "ACCEPT")
        router.run(*rule, "-j", "DROP")
    for host, address in ((peer, PEER), (outside, OUTSIDE), (node, NODE)):
        host.ip(f"addr add {address}/128 dev eth0 nodad")
        host.ip(f"route add default via {GATEWAY} dev eth0")


@pytest.fixture
def world(spaces) -> Iterator[World]:
    node, router, peer, outside, pod_a, pod_b = (
        spaces(role) for role in ("node", "router", "peer", "outside", "pod-a", "pod-b")
    )
    vpc(router, node, peer, outside)
    places = {NODE: node, PEER: peer, OUTSIDE: outside, POD_A: pod_a, POD_B: pod_b, V4: pod_b}
    with NodeKernel(node.fd) as kernel:
        links = kernel.links_by_mac()
        enis = (
            EniNet(links[MACS["r0"]], (IPv6Interface(f"{NODE}/64"),), 254, primary=True),
            EniNet(links[MACS["r1"]], (), 2),
        )
        made = World(node, places, kernel, NodeNet(enis, mtu=1500, versions=(6,)))
        converge(kernel, made.setup)
        made.wire("web-0", [POD_A], 254, 1025)
        made.wire("web-1", [POD_B], 2, 1026)
        yield made


@pytest.mark.parametrize("layout", ["per-pod", "shared"])
def test_everybody_reaches_everybody_at_once_and_sees_who_it_is(world, layout):
    pairs = [
        (POD_A, POD_B), (POD_B, POD_A), (POD_A, PEER), (POD_B, PEER), (PEER, POD_A), (PEER, POD_B), (POD_A, OUTSIDE),
        (POD_B, OUTSIDE), (OUTSIDE, POD_B), (NODE, POD_A), (NODE, POD_B), (POD_A, NODE), (POD_B, NODE), (NODE, OUTSIDE),
    ]  # fmt: skip
    (own,) = [line for line in world.places[POD_A].ip("-6 addr show dev eth0") if POD_A in line]
    assert "nodad" in own and "tentative" not in own
    veth = host_link_name("eni", "default", "web-0")
    (asking,) = [line for line in world.node.ip(f"-6 addr show dev {veth}") if line.startswith("inet6")]
    assert asking.startswith("inet6 fe80:") and "nodad" in asking and "tentative" not in asking
    assert not [line for line in world.node.ip("-6 route") if line.startswith("fe80::/64") and veth in line]
    if layout == "shared":
        pods = Pods([wired.attachment for wired in world.wirings.values()])
        sources = {ip_network(f"{ON_PRIMARY}/80"): 254, ip_network(f"{ON_SECOND}/80"): 2}
        converge(world.kernel, replace(world.setup, layout="shared", sources=sources), pods)
        assert not [line for line in world.node.ip("-6 rule") if POD_A in line or line.endswith(f"{POD_B} lookup 2")]
    assert {pair: world.seen(*pair) for pair in pairs} == {pair: pair[0] for pair in pairs}


def test_without_its_1536_rule_a_pod_leaves_by_the_wrong_eni(world):
    world.node.ip(f"-6 rule del pref 1536 from {POD_B}")
    assert world.fails(POD_B, PEER)
    assert world.seen(POD_A, PEER) == POD_A
    world.wire("web-1", [POD_B], 2, 1026)  # a repeated ADD repairs it
    assert world.seen(POD_B, PEER) == POD_B


@pytest.mark.parametrize(
    ("missing", "repair"),
    [
        ("ip -6 route del default table 2", "ip -6 route replace default via fe80:ec2::1 dev eth1 table 2 metric 1024"),
        ("sysctl -q -w net.ipv6.conf.all.forwarding=0", "sysctl -w net.ipv6.conf.all.forwarding=1"),
    ],
)
def test_the_nodes_own_objects_are_needed_and_repaired(world, missing, repair):
    world.node.run(*missing.split())
    assert world.fails(POD_B, PEER)
    (done,) = converge(world.kernel, world.setup)
    assert done.replace(" proto 91", "") == repair
    assert world.seen(POD_B, PEER) == POD_B


def test_a_pod_that_loses_its_gateways_neighbour_is_found_by_check(world):
    with inside(world.node.fd):
        assert podcheck.check(world.wirings["web-0"], world.places[POD_A].fd) == []
        world.places[POD_A].ip("-6 neigh del fe80::1 dev eth0")
        (problem,) = podcheck.check(world.wirings["web-0"], world.places[POD_A].fd)
    assert "fe80::1" in problem
    assert world.seen(POD_B, PEER) == POD_B


def test_an_unwired_pod_is_out_of_reach_and_its_neighbour_is_not(world):
    assert world.seen(PEER, POD_B) == PEER
    world.kernel.unwire((PodAddress(ip_address(POD_B), 2),), host_link_name("eni", "default", "web-1"), "c-web-1")
    assert world.fails(PEER, POD_B)
    assert world.seen(PEER, POD_A) == PEER
    assert [pod.addresses[0].address for pod in world.kernel.pods() if pod.addresses] == [ip_address(POD_A)]


def test_a_dual_stack_pod_speaks_both_families_over_one_interface(world):
    world.node.run("sysctl", "-q", "-w", "net.ipv4.ip_forward=1")
    world.node.ip("addr add 192.168.0.10/32 dev eth0")
    world.places["192.168.0.10"] = world.node
    world.wire("web-1", [V4, POD_B], 2, 1026)
    assert world.seen("192.168.0.10", V4) == "192.168.0.10"
    assert world.seen(V4, "192.168.0.10") == V4
    assert world.seen(POD_B, PEER) == POD_B
    (pod,) = [pod for pod in world.kernel.pods() if pod.alias and pod.alias.pod == "web-1"]
    assert [(at.address, at.table) for at in pod.addresses] == [(IPv4Address(V4), 2), (IPv6Address(POD_B), 2)]


def shown(lines: list[str]) -> str:
    """ip(8)'s output without what differs from machine to machine and without our mark of ownership."""
    return "".join(re.sub(r" proto 91\b| extern_learn", "", line).strip() + "\n" for line in lines)


def test_the_objects_are_those_of_the_golden_files(world):
    pod, node = world.places[POD_A], world.node
    veth = host_link_name("eni", "default", "web-0")
    outputs = {
        "v6-node-rules": [line for line in node.ip("-6 rule") if POD_B not in line],
        "v6-node-pod-route": node.ip(f"-6 route show {POD_A}"),
        "v6-node-eni-table": node.ip("-6 route show table 2"),
        "v6-pod-routes": pod.ip("-6 route"),
        "v6-pod-neighbours": pod.ip("-6 neigh show nud permanent"),
    }
    assert veth == "eni0d7763386da"
    assert {name: shown(lines) for name, lines in outputs.items()} == {
        name: (GOLDEN / f"{name}.txt").read_text() for name in outputs
    }
