# SPDX-License-Identifier: Apache-2.0
"""The native backend with real packets: every flow of the iptables form, beside kube-proxy in both of its modes.

The world is that of `test_packets`: two pods on two ENIs, and a VPC that drops what is not the ENI's own. Each rule
proves that it is needed.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from kube_services import CLUSTER_IP, NODE_PORT, serve, service
from restarts import CIDRS, restart
from test_packets import ENI1, NODE, OUTSIDE, PEER, POD_A, POD_B, World, built
from test_services_outside import port_outside

from vpccni.lab.kubeproxy.values import MODES
from vpccni.netlink.namespace import inside

pytestmark = pytest.mark.netns


def start(world: World, cidrs=CIDRS, **environ: str) -> None:
    with inside(world.node.fd):
        restart("nftables", environ, cidrs)


@pytest.fixture(scope="module")
def world(lasting_spaces) -> Iterator[World]:
    with built(lasting_spaces) as made:
        yield made


@pytest.fixture
def native(world) -> World:
    """The world with a node on which no rule is in iptables, and nothing of an earlier test."""
    world.node.run("nft", "flush ruleset")
    start(world)
    return world


def nft(world: World, command: str) -> None:
    world.node.run("nft", command)


def without(world: World, chain: str, comment: str) -> None:
    """Delete the rules of a chain that carry this comment."""
    found = [line for line in world.node.run("nft", "-a", "list", "chain", "ip", "vpccni", chain).splitlines()
             if f'comment "{comment}"' in line]  # fmt: skip
    assert found
    for line in found:
        nft(world, f"delete rule ip vpccni {chain} handle {line.rsplit(maxsplit=1)[1]}")


def test_everybody_reaches_everybody_and_is_seen_as_documented(native):
    expected = {
        (POD_A, POD_B): POD_A, (POD_B, POD_A): POD_B, (POD_A, PEER): POD_A, (POD_B, PEER): POD_B,
        (PEER, POD_A): PEER, (PEER, POD_B): PEER, (POD_A, OUTSIDE): NODE, (POD_B, OUTSIDE): NODE,
        (NODE, POD_A): NODE, (NODE, POD_B): NODE, (POD_A, NODE): POD_A, (POD_B, NODE): POD_B, (POD_B, ENI1): POD_B,
        (NODE, OUTSIDE): NODE,
    }  # fmt: skip
    assert {pair: native.seen(*pair) for pair in expected} == expected


@pytest.mark.parametrize(
    ("chain", "comment"),
    [("outbound", "AWS, outbound connections"), ("outbound", "AWS, CONNMARK"), ("translation", "AWS, SNAT")],
)
def test_without_mark_restore_or_translation_the_internet_is_out_of_reach(native, chain, comment):
    without(native, chain, comment)
    assert native.fails(POD_B, OUTSIDE)
    start(native)
    assert native.seen(POD_B, OUTSIDE) == NODE


@pytest.mark.parametrize("mode", MODES)
def test_a_service_with_an_endpoint_outside_the_vpc_works_from_both_enis_thanks_to_the_mark(native, mode):
    serve(native, mode, service(OUTSIDE))
    assert native.seen(POD_B, CLUSTER_IP, port=80, listener=OUTSIDE) == NODE
    assert native.seen(POD_A, CLUSTER_IP, port=80, listener=OUTSIDE) == NODE
    without(native, "outbound", "AWS, outbound connections")
    assert native.fails(POD_B, CLUSTER_IP, port=80, listener=OUTSIDE)


@pytest.mark.parametrize("mode", MODES)
def test_a_mark_in_a_chain_of_type_nat_would_never_see_what_kube_proxy_rewrote(native, mode):
    serve(native, mode, service(OUTSIDE))
    without(native, "outbound", "AWS, outbound connections")
    nft(native, "add chain ip vpccni wrong { type nat hook prerouting priority dstnat + 5; }")
    outside = " ".join(f"ip daddr != {cidr}" for cidr in CIDRS)
    nft(native, f"add rule ip vpccni wrong iifgroup 9100 {outside} ct mark set ct mark | 0x80")
    assert native.seen(POD_B, OUTSIDE) == NODE, "a direct flow is marked either way"
    assert native.fails(POD_B, CLUSTER_IP, port=80, listener=OUTSIDE)


@pytest.mark.parametrize("mode", MODES)
def test_a_service_within_the_vpc_leaves_by_the_pods_own_eni(native, mode):
    serve(native, mode, service(PEER))
    assert native.seen(POD_B, CLUSTER_IP, port=80, listener=PEER) == POD_B
    start(native, cidrs=CIDRS[1:])  # the negative: a VPC without the peer's network
    assert native.seen(POD_B, CLUSTER_IP, port=80, listener=PEER) == NODE


@pytest.mark.parametrize(("mode", "local"), [("nftables", True), ("iptables", False)], ids=["Local", "Cluster"])
def test_a_node_port_leads_to_a_pod_on_a_secondary_eni_thanks_to_the_mark(native, mode, local):
    serve(native, mode, service(POD_B, local=True, node_port=NODE_PORT, local_policy=local))

    def seen() -> str:
        return native.seen(OUTSIDE, NODE, port=NODE_PORT, listener=POD_B, timeout_s=0.4)

    assert seen() == (OUTSIDE if local else NODE)
    without(native, "inbound", "AWS, primary ENI")
    assert seen() == ""
    start(native)
    assert seen() != ""
    start(native, AWS_VPC_CNI_NODE_PORT_SUPPORT="false")
    assert seen() == ""
    start(native, AWS_VPC_K8S_CNI_EXTERNALSNAT="true")
    assert seen() != "", "with external SNAT too"


@pytest.mark.parametrize("mode", MODES)
def test_kube_proxys_masquerading_comes_first_and_is_the_only_one(native, mode):
    """A port of the node that leads to a server outside: translated once, by kube-proxy, and answers find back."""
    serve(native, mode, service(OUTSIDE, node_port=NODE_PORT))
    nft(native, "insert rule ip vpccni translation counter")

    def counted() -> int:
        listed = native.node.run("nft", "list", "chain", "ip", "vpccni", "translation")
        return int(listed.split("counter packets ")[1].split()[0])

    assert native.seen(PEER, NODE, port=NODE_PORT, listener=OUTSIDE) == NODE
    assert counted() == 0
    assert native.seen(POD_B, OUTSIDE) == NODE
    assert counted() == 1


def test_with_external_snat_pods_are_seen_as_themselves(native):
    start(native, AWS_VPC_K8S_CNI_EXTERNALSNAT="true")
    serve(native, "nftables", service(OUTSIDE))
    assert [native.seen(pod, OUTSIDE) for pod in (POD_A, POD_B)] == [POD_A, POD_B]
    assert native.seen(POD_B, CLUSTER_IP, port=80, listener=OUTSIDE) == POD_B
    assert native.seen(POD_B, PEER) == POD_B


def test_an_excluded_destination_and_a_new_vpc_cidr_are_reached_without_translation(native):
    for cidrs, excluded in ((CIDRS, "203.0.113.0/24"), ((*CIDRS, "203.0.113.0/24"), "")):
        start(native, cidrs, AWS_VPC_K8S_CNI_EXCLUDE_SNAT_CIDRS=excluded)
        assert native.seen(POD_B, OUTSIDE) == POD_B
    start(native)
    assert native.seen(POD_B, OUTSIDE) == NODE


def test_flows_of_the_node_itself_keep_their_port(native):
    assert [port_outside(native, port) for port in (40001, 40002, 40003)] == [40001, 40002, 40003]
    without(native, "translation", "flows of the node itself")
    assert [port_outside(native, port) for port in (40011, 40012, 40013)] != [40011, 40012, 40013]


def test_bits_of_others_in_both_marks_survive(native):
    serve(native, "nftables", service(OUTSIDE))
    nft(native, "add table ip other; add chain ip other pre { type filter hook prerouting priority mangle - 5; }; "
                'add rule ip other pre iifname "eni*" meta mark set meta mark | 0x10000 ct mark set ct mark | 0x20000; '
                "add chain ip other forward { type filter hook forward priority filter; }; "
                f"add rule ip other forward ip daddr {OUTSIDE} meta mark & 0x10080 != 0x10080 drop; "
                f"add rule ip other forward ip daddr {OUTSIDE} ct mark & 0x20080 != 0x20080 drop")  # fmt: skip
    assert native.seen(POD_B, OUTSIDE) == NODE
    assert native.seen(POD_B, CLUSTER_IP, port=80, listener=OUTSIDE) == NODE
    nft(native, "flush chain ip other pre")
    assert native.fails(POD_B, OUTSIDE)


def test_links_of_somebody_else_with_names_like_ours_are_none_of_ours(native):
    """What counts is the group: a link that is called like a pod's and is not in it gets no mark, and the reverse."""
    link = next(line.split()[1].split("@")[0] for line in native.node.ip("-o", "link") if "eni" in line)
    pod = POD_B if link in " ".join(native.node.ip(f"route get {POD_B}")) else POD_A
    nft(native, "add table ip other; add chain ip other forward { type filter hook forward priority filter; }; "
                f"add rule ip other forward ip daddr {OUTSIDE} ct mark & 0x80 == 0 drop")  # fmt: skip
    assert native.seen(pod, OUTSIDE) == NODE
    native.node.ip(f"link set {link} group default")
    try:
        assert native.fails(pod, OUTSIDE)
    finally:
        native.node.ip(f"link set {link} group 9100")


def test_a_change_of_the_networks_moves_no_flow_that_is_under_way(native):
    """A flow that has left as itself, and had no answer yet, is not sent out by another ENI with its old source."""
    start(native, cidrs=(*CIDRS, "203.0.113.0/24"))
    nft(native, "add table ip other; add chain ip other forward { type filter hook forward priority filter; }; "
                f"add rule ip other forward ip daddr {OUTSIDE} ct mark & 0x80 == 0x80 counter; "
                f"add rule ip other forward ip daddr {OUTSIDE} udp dport 9 counter")  # fmt: skip
    with inside(native.places[POD_B].fd):
        flow = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

    def counters() -> list[int]:
        listed = native.node.run("nft", "list", "chain", "ip", "other", "forward").split()
        return [int(listed[at + 1]) for at, word in enumerate(listed) if word == "packets"]

    with flow:
        flow.bind(("0.0.0.0", 40100))
        flow.sendto(b"x", (OUTSIDE, 9))
        start(native)
        flow.sendto(b"x", (OUTSIDE, 9))
        assert counters() == [0, 2]
    with inside(native.places[POD_B].fd), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as fresh:
        fresh.sendto(b"x", (OUTSIDE, 9))
    assert counters() == [1, 3], "a new flow is marked"
