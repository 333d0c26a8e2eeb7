# SPDX-License-Identifier: Apache-2.0
"""Wiring pods in a real kernel: what is there afterwards, and what is there after a failure at every step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address

import pytest
from failing import Failing

from vpccni.core import conventions as c
from vpccni.core.podnet import PodAddress, PodAttachment, PodLinkPlan, PodWiring, wiring
from vpccni.errors import HostError
from vpccni.host.kernel import NodeKernel
from vpccni.netlink.errors import NetlinkError
from vpccni.netlink.socket import RouteSocket
from vpccni.netlink.values import Route, add, delete

pytestmark = pytest.mark.netns


def wiring_of(
    pod: str = "web-1", address: str = "192.168.0.201", table: int = 2, container: str = "c1", index: int = 1005, **plan
) -> PodWiring:
    device = c.place_of_table(table)[1]
    addresses = (PodAddress(IPv4Address(address), table, device=device),)
    attachment = PodAttachment("aws-cni", container, "eth0", "default", pod, addresses)
    return wiring(attachment, PodLinkPlan(index, plan.pop("mac", "0a:58:00:00:00:03"), **plan))


def untagged(lines: Sequence[str]) -> list[str]:
    """ip(8)'s lines as upstream leaves them: without our protocol number."""
    return [line.replace(f" proto {c.PROTOCOL}", "") for line in lines]


def test_wired_pods_look_like_those_of_the_worked_example(spaces):
    node, pods = spaces(), [spaces("pod") for _ in range(3)]
    with NodeKernel(node.fd) as kernel:
        kernel.wire(wiring_of("web-0", "192.168.0.101", 254, "c0", 1003, mac="0a:58:00:00:00:01"), pods[0].fd)
        kernel.wire(wiring_of(pod_mac="0a:58:00:00:00:04"), pods[1].fd)
        kernel.wire(wiring_of("web-2", "192.168.0.202", 2, "c2", 1007, mac="0a:58:00:00:00:05"), pods[2].fd)
    assert untagged(node.ip("rule")) == [
        "0: from all lookup local",
        "512: from all to 192.168.0.101 lookup main",
        "512: from all to 192.168.0.201 lookup main",
        "512: from all to 192.168.0.202 lookup main",
        "1536: from 192.168.0.201 lookup 2",
        "1536: from 192.168.0.202 lookup 2",
        "32766: from all lookup main",
        "32767: from all lookup default",
    ]
    assert untagged(node.ip("route")) == [
        "192.168.0.101 dev eni0d7763386da scope link",
        "192.168.0.201 dev eni0761ccbeace scope link",
        "192.168.0.202 dev eni9fb0db7f13e scope link",
    ]
    assert any(f"proto {c.PROTOCOL}" in line for line in node.ip("route"))
    host_end = " ".join(node.ip("link", "show", "eni0761ccbeace"))
    assert "mtu 9001 qdisc noqueue state UP" in host_end and "0a:58:00:00:00:03" in host_end
    assert "qlen" not in host_end
    assert not [line for line in node.ip("-4", "addr", "show", "eni0761ccbeace") if "inet " in line]
    pod = pods[1]
    assert pod.ip("route") == ["default via 169.254.1.1 dev eth0", "169.254.1.1 dev eth0 scope link"]
    assert pod.ip("neigh") == ["169.254.1.1 dev eth0 lladdr 0a:58:00:00:00:03 PERMANENT"]
    assert len(pod.ip("rule")) == 3
    shown = pod.ip("addr", "show", "dev", "eth0")
    assert shown[0].startswith("2: eth0@if1005: <BROADCAST,MULTICAST,UP,LOWER_UP> mtu 9001 qdisc noqueue state UP")
    assert shown[1].startswith("link/ether 0a:58:00:00:00:04 brd ff:ff:ff:ff:ff:ff")
    assert "inet 192.168.0.201/32 scope global eth0" in shown


def test_host_sysctls_are_set_and_one_queue_is_made(spaces):
    node, pod = spaces(), spaces("pod")
    with NodeKernel(node.fd) as kernel:
        kernel.wire(wiring_of(), pod.fd)
    assert node.run("cat", "/proc/sys/net/ipv6/conf/eni0761ccbeace/disable_ipv6").strip() == "1"
    assert node.ip("-6", "addr", "show", "dev", "eni0761ccbeace") == []
    assert "numtxqueues 1 numrxqueues 1" in " ".join(node.ip("-d", "link", "show", "eni0761ccbeace"))


def test_nothing_is_listed_while_a_pod_is_wired(spaces):
    class Deaf(RouteSocket):
        """A real socket that can act but not look."""

        def links(self, *_arguments, **_options):
            raise AssertionError("dump on the hot path")

        link = link_by_index = routes = rules = addresses = neighbours = links

    node, pod = spaces(), spaces("pod")
    with NodeKernel(node.fd, Deaf) as kernel:
        kernel.wire(wiring_of(), pod.fd)
        with pytest.raises(AssertionError, match="hot path"):  # the guard works: a repeated ADD has to look
            kernel.wire(wiring_of(), pod.fd)


STEPS = [
    "link",
    "alias",
    "rule 512",
    "rule 1536",
    "up",
    "address",
    "pod's up",
    "gateway",
    "default",
    "neighbour",
    "route",
]


@pytest.mark.parametrize("step", range(len(STEPS)), ids=STEPS)
def test_a_failure_at_any_step_leaves_the_kernel_as_it_was(spaces, step):
    node, pod = spaces(), spaces("pod")
    with NodeKernel(node.fd) as kernel:
        kernel.wire(wiring_of("web-2", "192.168.0.202", 2, "c2", 1007), spaces("pod").fd)  # a neighbour to spare
    before = node.state(), pod.state()
    Failing.budget = step
    with NodeKernel(node.fd, Failing) as kernel, pytest.raises(NetlinkError) as caught:
        kernel.wire(wiring_of(), pod.fd)
    assert caught.value.errno == 19  # ENODEV: the spoiled request, not a later one
    assert (node.state(), pod.state()) == before
    Failing.budget = len(STEPS) + 1
    with NodeKernel(node.fd, Failing) as kernel:
        kernel.wire(wiring_of(), pod.fd)
    assert "default via 169.254.1.1 dev eth0" in pod.ip("route")


def test_a_refused_sysctl_takes_the_link_back(spaces):
    node, pod = spaces(), spaces("pod")
    before = node.state(), pod.state()
    bad = replace(wiring_of(), sysctls=(("net/ipv6/conf/eni0761ccbeace/accept_ra", "nonsense"),))
    with NodeKernel(node.fd) as kernel, pytest.raises(HostError, match=r"net\.ipv6\.conf\.eni0761ccbeace\.accept_ra"):
        kernel.wire(bad, pod.fd)
    assert (node.state(), pod.state()) == before


def test_a_missing_sysctl_is_no_failure(spaces):
    node, pod = spaces(), spaces("pod")
    without_ipv6 = replace(wiring_of(), sysctls=(("net/ipv6/conf/no-such-device/accept_ra", "0"),))
    with NodeKernel(node.fd) as kernel:
        kernel.wire(without_ipv6, pod.fd)
    assert "192.168.0.201 dev eni0761ccbeace scope link" in untagged(node.ip("route"))


def test_a_failure_of_the_second_interface_takes_the_first_one_back(spaces):
    node, pod = spaces(), spaces("pod")
    addresses = (
        PodAddress(IPv4Address("192.168.0.201"), 2, 1),
        PodAddress(IPv4Address("192.168.0.231"), 10101, 1, 1, 1),
    )
    attachment = PodAttachment("aws-cni", "c1", "eth0", "default", "web-1", addresses)
    both = [
        wiring(attachment, PodLinkPlan(1005, "0a:58:00:00:00:03")),
        wiring(attachment, PodLinkPlan(1006, "0a:58:00:00:00:04", pod_index=3, nic=1)),
    ]
    before = node.state(), pod.state()
    Failing.budget = len(STEPS) + 3
    with NodeKernel(node.fd, Failing) as kernel, pytest.raises(NetlinkError):
        kernel.wire_all(both, pod.fd)
    assert (node.state(), pod.state()) == before
    with NodeKernel(node.fd) as kernel:
        kernel.wire_all(both, pod.fd)
        # Golden 8.7, pod part.
        assert pod.ip("rule")[1] == "1: from 192.168.0.231 lookup 1"
        table = ["default via 169.254.1.2 dev mNicIf1", "169.254.1.2 dev mNicIf1 scope link"]
        assert pod.ip("route", "show", "table", "1") == table
        assert "1536: from 192.168.0.231 lookup 10101" in untagged(node.ip("rule"))


def test_an_ipv6_pod_is_wired_without_waiting_for_duplicate_detection(spaces):
    node, pod = spaces(), spaces("pod")
    address = PodAddress(IPv6Address("2600:1f13:aaaa:bb00:1::5"))
    attachment = PodAttachment("aws-cni", "c1", "eth0", "default", "web-0", (address,))
    with NodeKernel(node.fd) as kernel:
        kernel.wire(wiring(attachment, PodLinkPlan(1003, "0a:58:00:00:00:01")), pod.fd)
    assert not [line for line in pod.ip("-6", "addr") if "tentative" in line and "2600" in line]
    assert "default via fe80::1 dev eth0 metric 1024 pref medium" in pod.ip("-6", "route")
    assert "fe80::1 dev eth0 lladdr 0a:58:00:00:00:01 PERMANENT" in pod.ip("-6", "neigh")
    assert "512: from all to 2600:1f13:aaaa:bb00:1::5 lookup main" in untagged(node.ip("-6", "rule"))
    route = "2600:1f13:aaaa:bb00:1::5 dev eni0d7763386da metric 1024 pref medium"
    assert route in untagged(node.ip("-6", "route"))


@pytest.mark.parametrize(
    ("space", "missing"),
    [
        ("pod", ["route", "del", "default"]),
        ("pod", ["neigh", "del", "169.254.1.1", "dev", "eth0"]),
        ("pod", ["addr", "del", "192.168.0.201/32", "dev", "eth0"]),
        ("pod", ["link", "set", "eth0", "down"]),
        ("node", ["rule", "del", "pref", "512"]),
        ("node", ["rule", "del", "pref", "1536"]),
        ("node", ["route", "del", "192.168.0.201"]),
        ("node", ["link", "set", "eni0761ccbeace", "alias", ""]),
        ("node", ["link", "set", "eni0761ccbeace", "mtu", "1500"]),
        ("node", ["link", "set", "eni0761ccbeace", "down"]),
        ("node", ["link", "show"]),  # nothing is missing at all
    ],
)
def test_a_repeated_add_completes_what_is_missing(spaces, space, missing):
    node, pod = spaces(), spaces("pod")
    with NodeKernel(node.fd) as kernel:
        kernel.wire(wiring_of(), pod.fd)
        right = node.state(), pod.state()
        (node if space == "node" else pod).ip(*missing)
        kernel.wire(wiring_of(index=1234, mac="0a:58:00:00:00:99"), pod.fd)  # other choices: those of the link hold
        assert set(node.state()) ^ set(right[0]) == set()
        assert set(pod.state()) ^ set(right[1]) == set()


def test_a_failed_repetition_takes_back_only_what_it_did_itself(spaces):
    node, pod = spaces(), spaces("pod")
    with NodeKernel(node.fd) as kernel:
        kernel.wire(wiring_of(), pod.fd)
    pod.ip("route", "del", "default")
    node.ip("rule", "del", "pref", "512")
    node.ip("rule", "del", "pref", "1536")
    before = node.state(), pod.state()
    Failing.budget = 3  # creation (refused anyway), default route, rule 512; then rule 1536 fails
    with NodeKernel(node.fd, Failing) as kernel, pytest.raises(NetlinkError) as caught:
        kernel.wire(wiring_of(), pod.fd)
    assert caught.value.errno == 19
    assert (node.state(), pod.state()) == before


@pytest.mark.parametrize("alias_set", [True, False], ids=["named", "interrupted before it was named"])
def test_the_veth_of_an_older_sandbox_makes_way(spaces, alias_set):
    node, old, new = spaces(), spaces("old"), spaces("new")
    with NodeKernel(node.fd) as kernel:
        kernel.wire(wiring_of(address="192.168.0.77", container="older", index=900), old.fd)
        if not alias_set:
            node.ip("link", "set", "eni0761ccbeace", "alias", "")
        kernel.wire(wiring_of(), new.fd)
        (pod,) = kernel.pods()
    assert pod.alias is not None and pod.alias.container_id == "c1" and pod.link.index == 1005
    assert not [line for line in old.ip("link") if "eth0" in line]
    assert "192.168.0.201" in " ".join(new.ip("addr"))


def test_a_foreign_link_of_the_same_name_is_refused_and_kept(spaces):
    node, pod = spaces(), spaces("pod")
    node.ip("link", "add", "eni0761ccbeace", "type", "bridge")
    before = node.state(), pod.state()
    with NodeKernel(node.fd) as kernel, pytest.raises(HostError) as caught:
        kernel.wire(wiring_of(), pod.fd)
    assert caught.value.error_code == "link-name-taken" and "eni0761ccbeace" in caught.value.hint
    assert (node.state(), pod.state()) == before


def test_the_link_of_another_pod_whose_name_collides_is_refused_and_kept(spaces):
    node, pod = spaces(), spaces("pod")
    with NodeKernel(node.fd) as kernel:
        kernel.wire(wiring_of(), spaces("pod").fd)
        node.ip("link", "set", "eni0761ccbeace", "alias", c.pod_alias("aws-cni", "c9", "eth0", "prod", "db-0"))
        before = node.state()
        with pytest.raises(HostError, match="belongs to prod/db-0"):
            kernel.wire(wiring_of(), pod.fd)
        assert node.state() == before


def test_a_pod_that_has_such_an_interface_already_is_refused(spaces):
    node, pod = spaces(), spaces("pod")
    pod.dummy("eth0")
    before = node.state(), pod.state()
    with NodeKernel(node.fd) as kernel, pytest.raises(HostError) as caught:
        kernel.wire(wiring_of(), pod.fd)
    assert caught.value.error_code == "pod-interface-exists"
    assert (node.state(), pod.state()) == before


@pytest.mark.parametrize("taken", ["host", "pod", "both"])
def test_taken_indexes_are_replaced_by_the_kernels_choice(spaces, taken):
    node, pod = spaces(), spaces("pod")
    if taken != "pod":
        node.dummy("other0", index=1005)
    if taken != "host":
        pod.dummy("tunl0", index=2)
    with NodeKernel(node.fd) as kernel:
        kernel.wire(wiring_of(), pod.fd)
        (seen,) = kernel.pods()
    assert [str(each.address) for each in seen.addresses] == ["192.168.0.201"]
    assert "default via 169.254.1.1 dev eth0" in pod.ip("route")


def test_a_leftover_route_and_rules_of_an_earlier_holder_are_replaced(spaces):
    node, pod = spaces(), spaces("pod")
    stale = node.dummy("enistale")
    node.ip("link", "set", "enistale", "up")
    with RouteSocket(node.fd) as socket:
        network = c.host_network(IPv4Address("192.168.0.201"))
        socket.run(add(Route(network, stale.index, scope="link", protocol=c.PROTOCOL)))
    own = ["protocol", str(c.PROTOCOL)]
    node.ip("rule", "add", "pref", "512", "to", "192.168.0.201", "lookup", "main", *own)
    node.ip("rule", "add", "pref", "1536", "from", "192.168.0.201", "lookup", "3", *own)
    with NodeKernel(node.fd) as kernel:
        kernel.wire(wiring_of(), pod.fd)
    assert untagged(node.ip("route")) == ["192.168.0.201 dev eni0761ccbeace scope link"]
    assert [line for line in untagged(node.ip("rule")) if "192.168.0.201" in line] == [
        "512: from all to 192.168.0.201 lookup main",
        "1536: from 192.168.0.201 lookup 2",
    ]


def test_a_foreign_route_to_the_address_is_refused_and_kept(spaces):
    node, pod = spaces(), spaces("pod")
    node.dummy("eth9")
    node.ip("link", "set", "eth9", "up")
    node.ip("route", "add", "192.168.0.201", "dev", "eth9", "proto", "static", "scope", "link")
    before = node.state(), pod.state()
    with NodeKernel(node.fd) as kernel, pytest.raises(HostError) as caught:
        kernel.wire(wiring_of(), pod.fd)
    assert caught.value.error_code == "route-taken"
    assert (node.state(), pod.state()) == before


def test_a_namespace_that_vanished_is_a_clear_error(spaces):
    node = spaces()
    with NodeKernel(node.fd) as kernel, pytest.raises((HostError, OSError)):
        kernel.wire(wiring_of(), 999)
    assert [line for line in node.ip("link") if "eni" in line] == []


def test_deletions_of_a_group_of_links_go_together(spaces):
    node = spaces()
    links = [node.dummy(f"eni{number:09x}") for number in range(8)]
    spared = node.dummy("eth9")
    with NodeKernel(node.fd) as kernel:
        kernel.delete_links([link.index for link in links] + [54321])
        with RouteSocket(node.fd) as socket:
            left = {link.name for link in socket.links()}
        assert left == {"lo", "eth9", "far9"} and spared.index
        kernel.delete_links([])
        with RouteSocket(node.fd) as socket:
            socket.run(delete(spared))
