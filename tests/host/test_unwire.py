# SPDX-License-Identifier: Apache-2.0
"""DEL in a real kernel, and what the kernel alone says about wired pods."""

from __future__ import annotations

from ipaddress import IPv4Address

import pytest

from vpccni.core import conventions as c
from vpccni.core.podnet import PodAddress, PodAttachment, PodLinkPlan, wiring
from vpccni.core.podseen import repairs
from vpccni.host.kernel import NodeKernel

pytestmark = pytest.mark.netns

WEB = PodAddress(IPv4Address("192.168.0.201"), 2, device=1)
LINK = "eni0761ccbeace"


def attach(kernel, space, address=WEB, container="c1", pod="web-1", index=1005):
    attachment = PodAttachment("aws-cni", container, "eth0", "default", pod, (address,))
    kernel.wire(wiring(attachment, PodLinkPlan(index, f"0a:58:00:00:{index >> 8:02x}:{index & 255:02x}")), space.fd)


def about(node, address):
    """Lines of rules and main routes that mention an address."""
    return [line for line in (*node.ip("rule"), *node.ip("route")) if f"{address} " in line]


def test_del_removes_rules_and_route_and_leaves_the_link(spaces):
    node, pod = spaces(), spaces("pod")
    before = node.ip("rule"), node.ip("route")
    with NodeKernel(node.fd) as kernel:
        attach(kernel, pod)
        assert len(about(node, WEB.address)) == 3
        assert len(kernel.unwire((WEB,), LINK, "c1")) == 3
        assert (node.ip("rule"), node.ip("route")) == before
        assert LINK in " ".join(node.ip("link"))
        assert kernel.unwire((WEB,), LINK, "c1") == []  # a second DEL


@pytest.mark.parametrize("gone", ["link", "route", "rules", "everything"])
def test_del_succeeds_when_something_is_gone_already(spaces, gone):
    node, pod = spaces(), spaces("pod")
    before = node.ip("rule"), node.ip("route")
    with NodeKernel(node.fd) as kernel:
        attach(kernel, pod)
        if gone in ("rules", "everything"):
            node.ip("rule", "del", "pref", "512")
            node.ip("rule", "del", "pref", "1536")
        if gone == "route":
            node.ip("route", "del", str(WEB.address))
        if gone in ("link", "everything"):
            node.ip("link", "del", LINK)
        kernel.unwire((WEB,), LINK, "c1")
        assert (node.ip("rule"), node.ip("route")) == before


def test_del_removes_untagged_objects_of_the_go_implementation(spaces):
    node, pod = spaces(), spaces("pod")
    with NodeKernel(node.fd) as kernel:
        attach(kernel, pod)
        for line in ("route del 192.168.0.201", "rule del pref 512", "rule del pref 1536"):
            node.ip(line)
        node.ip(f"route add 192.168.0.201 dev {LINK} scope link")
        node.ip("rule add pref 512 to 192.168.0.201 lookup main")
        node.ip("rule add pref 1536 from 192.168.0.201 lookup 2")
        kernel.unwire((WEB,), LINK)
        assert about(node, WEB.address) == []


@pytest.mark.parametrize("same_pod", [True, False], ids=["a newer sandbox of the pod", "another pod"])
def test_del_spares_an_address_that_belongs_to_a_newer_sandbox(spaces, same_pod):
    node, pod = spaces(), spaces("new")
    with NodeKernel(node.fd) as kernel:
        attach(kernel, pod, container="newer", pod="web-1" if same_pod else "web-2")
        right = about(node, WEB.address)
        assert kernel.unwire((WEB,), LINK, "older") == []
        assert about(node, WEB.address) == right and len(right) == 3
        # And the negative: the same call by its owner does remove them.
        assert (
            len(kernel.unwire((WEB,), c.host_link_name("eni", "default", "web-1" if same_pod else "web-2"), "newer"))
            == 3
        )


def test_del_finds_the_veth_by_its_alias_when_it_has_another_name(spaces):
    node, pod = spaces(), spaces("pod")
    with NodeKernel(node.fd) as kernel:
        attach(kernel, pod)
        kernel.unwire((WEB,), "old0761ccbeace", "c1")  # AWS_VPC_K8S_CNI_VETHPREFIX has been changed
        assert about(node, WEB.address) == []


def test_del_of_one_pod_leaves_the_others_alone(spaces):
    node = spaces()
    with NodeKernel(node.fd) as kernel:
        for number in range(4):
            address = PodAddress(IPv4Address(f"192.168.0.{number + 10}"), 2 + number % 2)
            attach(kernel, spaces("pod"), address, f"c{number}", f"web-{number}", 1100 + number)
        state = (node.ip("rule"), node.ip("route"))
        kernel.unwire((PodAddress(IPv4Address("192.168.0.11"), 3),), c.host_link_name("eni", "default", "web-1"), "c1")
        left = tuple([line for line in lines if "192.168.0.11 " not in line] for lines in state)
        assert (node.ip("rule"), node.ip("route")) == left


def test_the_kernel_alone_says_which_pods_are_wired(spaces):
    node = spaces()
    addresses = [
        PodAddress(IPv4Address("192.168.0.101"), 254),
        WEB,
        PodAddress(IPv4Address("192.168.0.9"), 10203, 3, 2),
    ]
    with NodeKernel(node.fd) as kernel:
        for number, address in enumerate(addresses):
            attach(kernel, spaces("pod"), address, f"c{number}", f"web-{number}", 1100 + number)
        node.dummy("eth1")
        seen = {pod.alias.pod: pod for pod in kernel.pods() if pod.alias}
        assert [seen[f"web-{number}"].addresses for number in range(3)] == [(address,) for address in addresses]
        assert {pod.alias.container_id for pod in seen.values()} == {"c0", "c1", "c2"}
        found = kernel.pod_of("c1", "eth0")
        assert found is not None and found.addresses == (WEB,) and kernel.pod_of("c1", "net1") is None


def test_pods_of_the_go_implementation_are_seen_without_a_key(spaces):
    node, pod = spaces(), spaces("pod")
    with NodeKernel(node.fd) as kernel:
        attach(kernel, pod)
        node.ip("link", "set", LINK, "alias", "")
        (seen,) = kernel.pods()
    assert seen.alias is None and seen.link.name == LINK and seen.addresses == (WEB,)


def test_leaked_pod_objects_are_found_and_removed_and_missing_ones_restored(spaces):
    node, pod = spaces(), spaces("pod")
    with NodeKernel(node.fd) as kernel:
        attach(kernel, pod)
        right = node.ip("rule"), node.ip("route")
        live = {each: seen.link for seen in kernel.pods() for each in seen.addresses}
        assert repairs(kernel.observe(), live) == []
        node.ip("rule del pref 512")
        node.ip("rule add pref 512 to 192.168.0.77 lookup main protocol 91")
        node.ip("rule add pref 1536 from 192.168.0.77 lookup 3")
        node.ip("rule add pref 1536 from 192.168.0.201 lookup 3")  # shadows nothing yet, but is wrong
        node.ip(f"route add 192.168.0.78 dev {LINK} scope link proto 91")
        node.ip(f"route add 10.9.9.9 dev {LINK} proto static")
        node.ip("rule add pref 700 from 192.168.0.77 lookup 9")
        kernel.apply(repairs(kernel.observe(), live))
        left = (
            [line for line in node.ip("rule") if "lookup 9" not in line],
            [line for line in node.ip("route") if "10.9.9.9" not in line],
        )
        assert left == right
        assert len(node.ip("rule")) == len(right[0]) + 1 and len(node.ip("route")) == len(right[1]) + 1
        assert repairs(kernel.observe(), live) == []
