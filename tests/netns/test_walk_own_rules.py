# SPDX-License-Identifier: Apache-2.0
"""The flow table once more, with our rules as nftables lists them: by the native backend, and beside iptables.

The rules go into a namespace and are read back from there, because their JSON is the kernel's and nft's to write. The
walk knows nothing of our tables.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from test_walk import LAYOUTS, ROWS, devices, go, seen_by_peer, service
from walk_worlds import NODE, POLICY, PUBLIC, SITE, WEB, A, B, with_node, world

from vpccni.core.conventions import VETH_GROUP
from vpccni.core.firewall.backend import form
from vpccni.core.firewall.snat import SnatPolicy
from vpccni.core.walk.nftread import NftTable
from vpccni.core.walk.values import World
from vpccni.host.programs import run_program
from vpccni.lab.world import read_nftables
from vpccni.netlink.namespace import inside

pytestmark = pytest.mark.netns
BACKENDS = pytest.mark.parametrize("native", [True, False], ids=["native", "iptables"])


@pytest.fixture(scope="module")
def node(lasting_spaces: Any) -> Any:
    return lasting_spaces("rules")


def listed(node: Any, native: bool, policy: SnatPolicy) -> tuple[NftTable, ...]:
    """Our tables as the kernel has them."""
    tables = form(native=native, policy=policy, egress_from=None, randomize="prng").nftables
    with inside(node.fd):
        run_program("load rules", "nft", "-f", "-", stdin="flush ruleset\n" + "".join(tables.values()))
        return read_nftables()


def built(node: Any, *, native: bool, shared: bool, policy: SnatPolicy = POLICY, extra: str = "") -> World:
    """The worked example with our rules in a backend, and `extra` rules of kube-proxy's in iptables."""
    before = world(shared=shared, policy=policy, extra=extra)
    near = before.stacks["node 1"]
    links = tuple(replace(link, group=VETH_GROUP if link.kind else 0) for link in near.links)
    near = replace(near, links=links, nft=listed(node, native, policy))
    if native:
        chains: dict[str, list[str]] = {"PREROUTING": [], "POSTROUTING": []}
        for line in extra.splitlines():
            chains.setdefault(line.split()[1], []).append(line)
        near = replace(near, tables={4: {"nat": chains}})
    return with_node(before, near)


@LAYOUTS
@BACKENDS
@pytest.mark.parametrize("number", ROWS)
def test_a_row_goes_its_way_in_every_backend(node, number, shared, native):
    start, source, target, end, seen, used = ROWS[number]
    trip = go(built(node, native=native, shared=shared), start, source, target)
    assert trip.verdict.reached, trip.verdict
    assert (trip.delivered_to, seen_by_peer(trip), devices(trip), trip.unread) == (end, seen, used, ())


@LAYOUTS
@BACKENDS
def test_row_8_an_endpoint_outside_leaves_by_the_primary_interface(node, shared, native):
    before = built(node, native=native, shared=shared, extra=service(WEB))
    trip = go(before, "pod b", B, "10.100.0.1")
    assert trip.verdict.reached, trip.verdict
    assert devices(trip) == ["enib in", "eth0 out", "eth0 in", "enib out"]
    assert any(hop.by.startswith("table ip vpccni: chain ") for hop in trip.hops)
    # The negative: without the table, the Go implementation's way.
    without = with_node(before, replace(before.stacks["node 1"], nft=()))
    assert go(without, "pod b", B, "10.100.0.1").verdict.code in ("source-check", "no-public-address")


@BACKENDS
def test_a_flow_of_the_node_keeps_its_source(node, native):
    own = built(node, native=native, shared=False)
    ports = [hop.header.source_port for hop in go(own, "node 1", NODE, WEB).hops if hop.device]
    assert 0 not in ports
    pods = [hop.header.source_port for hop in go(own, "pod a", A, WEB).hops if hop.device]
    assert 0 in pods, "a pod's port is drawn"


@BACKENDS
def test_node_ports_answer_where_they_were_asked_and_external_snat_keeps_addresses(node, native):
    ported = built(node, native=native, shared=False, extra=service(B, nodeport=30080))
    trip = go(ported, "internet", WEB, PUBLIC[NODE], 30080)
    assert trip.verdict.reached and devices(trip) == ["eth0 in", "enib out", "enib in", "eth0 out"]
    off = replace(POLICY, node_port_support=False, external_snat=True)
    unmarked = built(node, native=native, shared=False, policy=off, extra=service(B, nodeport=30080))
    assert go(unmarked, "internet", WEB, PUBLIC[NODE], 30080).verdict.code == "source-check"
    external = built(node, native=native, shared=False, policy=replace(POLICY, external_snat=True))
    assert seen_by_peer(go(external, "pod b", B, SITE)) == B
