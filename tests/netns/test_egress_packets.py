# SPDX-License-Identifier: Apache-2.0
"""Real TCP out of the other family: IPv4 for pods that have IPv6, IPv6 for pods that have IPv4; each rule is needed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address

import pytest
from connections import source_seen
from failing import Failing

from vpccni.core import conventions as c
from vpccni.core import egress
from vpccni.core.podnet import PodAddress, PodAttachment, PodLinkPlan, PodWiring, wiring
from vpccni.host.firewall import Firewall
from vpccni.host.kernel import NodeKernel
from vpccni.host.podcheck import check
from vpccni.netlink.errors import NetlinkError
from vpccni.netlink.namespace import inside
from vpccni.netlink.socket import RouteSocket
from vpccni.netlink.values import Link, add

pytestmark = pytest.mark.netns

PORT = 8080


@dataclass(frozen=True)
class Family:
    """The family of egress: the node's address in it, a server outside, the pods' own and local addresses."""

    version: int
    node: str
    outside: str
    pods: tuple[str, ...]
    local: tuple[str, ...]
    gateway: str


FAMILIES = [
    Family(
        version=4,
        node="192.0.2.10",
        outside="203.0.113.10",
        pods=("2001:db8::a", "2001:db8::b", "2001:db8::c"),
        local=("169.254.172.2", "169.254.172.3", "169.254.172.4"),
        gateway="192.0.2.1",
    ),
    Family(
        version=6,
        node="2001:db8:1::10",
        outside="2001:db8:2::10",
        pods=("10.0.0.101", "10.0.0.102", "10.0.0.103"),
        local=("fd00::ac:2", "fd00::ac:3", "fd00::ac:4"),
        gateway="2001:db8:1::1",
    ),
]


@dataclass
class World:
    """A node with two pods, and a server outside that has a route to the node's address and to nothing else."""

    family: Family
    node: object
    outside: object
    pods: list[object]
    kernel: NodeKernel
    wirings: list[list[PodWiring]]

    def seen(self, source, target, address: str, timeout_s: float = 2.0) -> str:
        """The address that a server at `address` in `target` sees when `source` connects; "" when that fails."""
        return source_seen(source.fd, (address, PORT), target.fd, ("", PORT), timeout_s)

    def out(self, pod: int, **options) -> str:
        return self.seen(self.pods[pod], self.outside, self.family.outside, **options)

    def iptables(self, *argv: str) -> str:
        return self.node.run("iptables" if self.family.version == 4 else "ip6tables", *argv)


def uplink(node, outside, family: Family) -> None:
    flag = "-6" if family.version == 6 else "-4"
    length, nodad = (64, " nodad") if family.version == 6 else (24, "")
    with RouteSocket(node.fd) as route:
        route.run(add(Link("eth0", kind="veth", peer=Link("eth0", netns_fd=outside.fd))))
    node.ip(f"addr add {family.node}/{length} dev eth0{nodad}")
    outside.ip(f"addr add {family.gateway}/{length} dev eth0{nodad}")
    outside.ip(f"addr add {family.outside}/{128 if family.version == 6 else 32} dev eth0{nodad}")
    node.ip("link set eth0 up")
    outside.ip("link set eth0 up")
    node.ip(f"{flag} route add default via {family.gateway}")
    key = "net.ipv6.conf.all.forwarding" if family.version == 6 else "net.ipv4.ip_forward"
    node.run("sysctl", "-q", "-w", f"{key}=1")


def pod_wirings(family: Family, number: int) -> list[PodWiring]:
    places = (
        PodAddress(ip_address(family.pods[number])),
        PodAddress(ip_address(family.local[number]), nic=c.EGRESS_NIC),
    )
    pod = PodAttachment("aws-cni", f"c{number}", "eth0", "default", f"web-{number}", places)
    return [
        wiring(pod, PodLinkPlan(1000 + 10 * number + n, f"0a:58:00:00:0{number}:0{n}", 1500, pod_index=2 + n, nic=nic))
        for n, nic in enumerate(pod.nics)
    ]


@pytest.fixture(params=FAMILIES, ids=["v4if0", "v6if0"])
def world(request, spaces) -> Iterator[World]:
    family = request.param
    node, outside, *pods = (spaces(role) for role in ("node", "outside", "pod-a", "pod-b"))
    uplink(node, outside, family)
    with NodeKernel(node.fd) as kernel:
        wirings = [pod_wirings(family, number) for number in (0, 1)]
        for each, pod in zip(wirings, pods, strict=True):
            kernel.wire_all(each, pod.fd, fresh=True)
        with inside(node.fd):
            Firewall().apply(egress.rules(ip_address(family.node)))
        yield World(family, node, outside, pods, kernel, wirings)


def test_pods_leave_as_the_node_and_only_by_the_rule(world):
    assert world.out(0) == world.family.node
    assert world.out(1) == world.family.node
    assert world.seen(world.pods[0], world.node, world.family.node) == world.family.local[0], (
        "the node itself is no way out"
    )
    with inside(world.node.fd):
        assert Firewall().apply(egress.rules(ip_address(world.family.node))) == "", "the second pass changes nothing"
    world.iptables("-t", "nat", "-F", "POSTROUTING")
    assert world.out(0, timeout_s=0.4) == "", "untranslated, no answer finds its way back"


def test_nobody_reaches_a_pod_by_its_local_address_and_only_the_refusal_keeps_them(world):
    family, target = world.family, world.family.local[1]
    world.outside.ip(f"-{family.version} route add {c.EGRESS_RANGES[family.version]} via {family.node}")
    # IPv6 pods take each other for neighbours on their own link, where nobody answers.
    sources = [world.outside, world.pods[0]] if family.version == 4 else [world.outside]
    assert [world.seen(source, world.pods[1], target, timeout_s=0.4) for source in sources] == [""] * len(sources)
    world.iptables("-D", "FORWARD", "1")
    assert all(world.seen(source, world.pods[1], target) for source in sources), "without the refusal they would"


def test_chains_that_the_go_plugin_made_for_pods_go_and_others_stay(world):
    family, prefix = world.family, f"CNI-E{world.family.version}-"
    for chain in (prefix + "5740307710ebfd5fb24f5", "CNI-0123456789abcdef01234567", prefix + "short"):
        comment = ("-m", "comment", "--comment", f'name: "aws-cni" id: "{chain}"')
        world.iptables("-t", "nat", "-N", chain)
        world.iptables("-t", "nat", "-A", chain, *comment, "-j", "SNAT", "--to-source", family.node)
        world.iptables("-t", "nat", "-I", "POSTROUTING", "-s", family.local[0], *comment, "-j", chain)
    with inside(world.node.fd):
        Firewall().apply(egress.rules(ip_address(family.node)))
    left = world.iptables("-t", "nat", "-S")
    assert "5740307710ebfd5fb24f5" not in left
    assert f"-N {prefix}short" in left and left.count("-j CNI-0123456789abcdef01234567") == 1
    assert world.out(0) == family.node


def test_the_pod_looks_like_the_worked_example(world):
    family, pod = world.family, world.pods[0]
    name = c.EGRESS_INTERFACES[family.version]
    if family.version == 4:
        assert pod.ip("-4", "route") == [
            "default via 169.254.172.1 dev v4if0",
            "169.254.172.0/22 via 169.254.172.1 dev v4if0 src 169.254.172.2",
            "169.254.172.1 dev v4if0 scope link src 169.254.172.2",
        ]
        host = world.wirings[0][1].link.name
        assert [line for line in world.node.ip("-4", "addr", "show", host) if "inet" in line] == [
            f"inet 169.254.172.1/32 scope link {host}"
        ]
        assert f"169.254.172.2 dev {host} proto 91 scope link" in world.node.ip("-4", "route")
    else:
        routes = [line.removesuffix(" pref medium") for line in pod.ip("-6", "route") if not line.startswith("fe80")]
        gateway = egress.link_local(world.wirings[0][1].plan.host_mac)
        assert routes == [
            "fd00::ac:0/118 dev v6if0 proto kernel metric 256",
            f"default via {gateway} dev v6if0 metric 1024",
        ]
        assert not [line for line in pod.ip("-6", "addr", "show", "eth0") if "inet6" in line]
        own = [line for line in world.node.ip("-6", "addr", "show", world.wirings[0][1].link.name) if "inet6" in line]
        assert own[0].startswith(f"inet6 {gateway}/64") and "tentative" not in own[0], "nobody waits for detection"
    assert pod.ip("link", "show", name)[0].startswith("3: ")


def test_a_failure_at_any_step_of_either_interface_leaves_the_kernel_as_it_was(world, spaces):
    pod, wirings = spaces("pod-c"), pod_wirings(world.family, 2)
    steps = sum(1 + len(each.link_requests + each.pod_requests + each.host_requests) for each in wirings)
    before = world.node.state(), pod.state()
    for step in range(steps):
        Failing.budget = step
        with NodeKernel(world.node.fd, Failing) as kernel, pytest.raises(NetlinkError):
            kernel.wire_all(wirings, pod.fd, fresh=True)
        assert (world.node.state(), pod.state()) == before, f"step {step} of {steps}"
    Failing.budget = steps
    with NodeKernel(world.node.fd, Failing) as kernel:
        kernel.wire_all(wirings, pod.fd, fresh=True)
    world.pods.append(pod)
    assert world.out(2) == world.family.node


def test_a_repeated_add_and_check_see_both_interfaces_and_a_failure_takes_both_back(world):
    pod, wirings = world.pods[0], world.wirings[0]
    with inside(world.node.fd):
        assert [problem for each in wirings for problem in check(each, pod.fd)] == []
    before = world.node.state(), pod.state()
    world.kernel.wire_all(wirings, pod.fd)
    assert (world.node.state(), pod.state()) == before
    flag = f"-{world.family.version}"
    world.node.ip(f"{flag} route del {world.family.local[0]}")
    with inside(world.node.fd):
        assert [problem for each in wirings for problem in check(each, pod.fd)] != []
    assert world.out(0, timeout_s=0.4) == ""
    world.kernel.wire_all(wirings, pod.fd)
    assert world.out(0) == world.family.node
    assert (world.node.state(), pod.state()) == before
