# SPDX-License-Identifier: Apache-2.0
"""What the nftables table beside the iptables rules is for, with real packets: rows in which the Go rules fail.

The world is that of `test_packets`: two pods on two ENIs, and a VPC that drops what is not the ENI's own.
"""

from __future__ import annotations

import contextlib
import socket
from dataclasses import replace
from ipaddress import IPv4Network
from pathlib import Path

import pytest
from kube_services import CLUSTER_IP, serve, service
from test_packets import NODE, OUTSIDE, PEER, POD_A, POD_B, POLICY, PORT, World, world

from vpccni.core.firewall.nftmarks import table
from vpccni.core.firewall.snat import rules
from vpccni.host.firewall import Firewall
from vpccni.host.programs import DIRECTORIES
from vpccni.netlink.namespace import inside

pytestmark = pytest.mark.netns
__all__ = ["world"]


def without_table(world: World) -> None:
    with inside(world.node.fd):
        Firewall().nft.apply({})


def port_outside(world: World, bound: int, timeout_s: float = 2.0) -> int:
    """The source port that a server outside sees when the node itself connects to it from port `bound`."""
    with inside(world.places[OUTSIDE].fd):
        server = socket.create_server(("0.0.0.0", PORT))
    with inside(world.node.fd):
        client = socket.socket()
    with server, client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        client.settimeout(timeout_s)
        client.bind(("0.0.0.0", bound))
        client.connect((OUTSIDE, PORT))
        server.settimeout(timeout_s)
        connection, (_, port) = server.accept()
        with contextlib.closing(connection):
            return port


@pytest.mark.parametrize("form", ["iptables", "nftables"])
def test_a_service_with_an_endpoint_outside_the_vpc_works_from_both_enis(world, form):
    serve(world, form, service(OUTSIDE))
    assert world.seen(POD_B, CLUSTER_IP, port=80, listener=OUTSIDE) == NODE
    assert world.seen(POD_A, CLUSTER_IP, port=80, listener=OUTSIDE) == NODE
    without_table(world)
    assert world.fails(POD_B, CLUSTER_IP, port=80, listener=OUTSIDE), "what the Go implementation's rules do alone"
    assert world.seen(POD_A, CLUSTER_IP, port=80, listener=OUTSIDE) == NODE


@pytest.mark.parametrize("form", ["iptables", "nftables"])
def test_the_table_completes_rules_of_the_legacy_variant_too(world, form, tmp_path):
    program = Path("/usr/sbin/xtables-legacy-multi")
    if not program.exists():
        pytest.skip(f"needs {program}")
    for name in ("iptables", "iptables-save", "iptables-restore"):
        (tmp_path / name).symlink_to(program)
    with inside(world.node.fd):
        Firewall().remove()
        Firewall((str(tmp_path), *DIRECTORIES)).apply(rules(POLICY))
    serve(world, form, service(OUTSIDE))
    assert world.seen(POD_B, CLUSTER_IP, port=80, listener=OUTSIDE) == NODE
    assert world.seen(POD_B, OUTSIDE) == NODE
    assert [port_outside(world, port) for port in (40021, 40022, 40023)] == [40021, 40022, 40023]
    without_table(world)
    assert world.fails(POD_B, CLUSTER_IP, port=80, listener=OUTSIDE)
    assert [port_outside(world, port) for port in (40031, 40032, 40033)] != [40031, 40032, 40033]


@pytest.mark.parametrize("form", ["iptables", "nftables"])
def test_a_service_within_the_vpc_leaves_by_the_pods_own_eni(world, form):
    serve(world, form, service(PEER))
    assert world.seen(POD_B, CLUSTER_IP, port=80, listener=PEER) == POD_B


def test_with_external_snat_a_service_outside_sees_the_pod(world):
    serve(world, "iptables", service(OUTSIDE))
    world.firewall(replace(POLICY, external_snat=True))
    assert "vpccni" not in world.node.run("nft", "list", "tables")
    assert world.seen(POD_B, CLUSTER_IP, port=80, listener=OUTSIDE) == POD_B


def test_flows_of_the_node_itself_keep_their_port(world):
    assert [port_outside(world, port) for port in (40001, 40002, 40003)] == [40001, 40002, 40003]
    without_table(world)
    assert [port_outside(world, port) for port in (40011, 40012, 40013)] != [40011, 40012, 40013]


def test_what_kube_proxy_wants_masqueraded_it_masquerades_also_from_the_node(world):
    """The node's own connection to a service, from its other address: kube-proxy's mark comes first."""
    world.node.ip("addr add 172.16.0.1/32 dev lo")
    marked = f"iptables -t nat -I OUTPUT -d {OUTSIDE} -s 172.16.0.1 -j MARK --set-xmark 0x4000/0x4000"
    world.node.run(*marked.split())
    masquerade = "iptables -t nat -I POSTROUTING -m mark --mark 0x4000/0x4000 -j MASQUERADE"
    world.node.run(*masquerade.split())

    def reached() -> bool:
        with inside(world.places[OUTSIDE].fd):
            server = socket.create_server(("0.0.0.0", PORT))
        with inside(world.node.fd):
            client = socket.socket()
        with server, client:
            client.settimeout(0.4)
            client.bind(("172.16.0.1", 0))
            return client.connect_ex((OUTSIDE, PORT)) == 0

    assert reached()
    world.node.run(*marked.replace("-I", "-D").split())
    assert not reached(), "without the mark the node's flow keeps its source, which the VPC does not know"


def test_bits_of_others_in_the_packet_mark_survive(world):
    serve(world, "iptables", service(OUTSIDE))
    foreign, both = "0x10000/0x10000", "0x10080/0x10080"
    world.node.run(*f"iptables -t mangle -I PREROUTING -i eni+ -j MARK --set-xmark {foreign}".split())
    world.node.run(*f"iptables -t mangle -A FORWARD -d {OUTSIDE} -m mark ! --mark {both} -j DROP".split())
    assert world.seen(POD_B, CLUSTER_IP, port=80, listener=OUTSIDE) == NODE
    world.node.run("iptables", "-t", "mangle", "-D", "PREROUTING", "1")
    assert world.fails(POD_B, CLUSTER_IP, port=80, listener=OUTSIDE)


def test_a_second_pass_changes_nothing_and_every_change_is_one_transaction(world):
    with inside(world.node.fd):
        assert Firewall().nft.apply({"ip": table(POLICY)}) == ""
        more = replace(POLICY, excluded=(IPv4Network("10.1.1.1/32"), *map(IPv4Network, ("10.8.0.0/16", "10.9.0.0/16"))))
        changed = Firewall().nft.apply({"ip": table(more)})
        assert changed.startswith("delete table ip vpccni\ntable ip vpccni {") and "10.8.0.0/15" in changed
        assert Firewall().nft.apply({"ip": table(more)}) == ""
        assert Firewall().nft.apply({"ip": table(replace(POLICY, mark=0x10))})
        assert Firewall().nft.apply({"ip": table(replace(POLICY, mark=0x10))}) == ""
        many = tuple(IPv4Network(f"10.{n}.0.0/16") for n in range(1, 60, 2))
        assert Firewall().nft.apply({"ip": table(replace(POLICY, excluded=many))})
        assert Firewall().nft.apply({"ip": table(replace(POLICY, excluded=many))}) == ""
        world.node.run("nft", "flush", "chain", "ip", "vpccni", "prerouting")
        assert Firewall().nft.apply({"ip": table(replace(POLICY, excluded=many))}), "a flushed chain comes back"
        assert Firewall().nft.apply({}) and not Firewall().nft.apply({})
