# SPDX-License-Identifier: Apache-2.0
"""A trace through somebody else's rules of nftables: predicted and observed agree, and a changed rule changes both.

Two pods and a node in namespaces (`nft_worlds`), probed with TCP, UDP and echo requests.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from ipaddress import ip_address
from typing import Any

import pytest
from nft_worlds import CLIENT, NODE, NODE_FAR, OTHER, SERVER, SERVICE, NftWorld, build

from vpccni.lab.kubeproxy.sync import clear, sync
from vpccni.lab.kubeproxy.values import KUBE_PROXY, MODES, Endpoint, ServicePort
from vpccni.lab.trace import Trace, trace
from vpccni.netlink.namespace import inside

pytestmark = pytest.mark.netns
PORT = 8080
BOTH = pytest.mark.parametrize("version", [4, 6])
# The evaluator is the same for both: where one rule after the other is tried, IPv6 is left to the long run.
ONE = pytest.mark.parametrize("version", [4, pytest.param(6, marks=pytest.mark.long)])


@pytest.fixture(scope="module")
def built(lasting_spaces: Any) -> Iterator[NftWorld]:
    made = build(lasting_spaces)
    with inside(made.server.fd):
        listener = socket.create_server(("::", PORT), family=socket.AF_INET6, dualstack_ipv6=True)
    with listener:
        yield made


@pytest.fixture
def world(built: NftWorld) -> Iterator[NftWorld]:
    yield built
    built.rules("flush ruleset")


def go(
    world: NftWorld,
    target: str,
    port: int = PORT,
    protocol: str = "tcp",
    start: str = "pod client",
    wait_s: float = 0.3,
) -> Trace:
    lab = world.observe()
    address = ip_address(target)
    own = CLIENT[address.version] if start == "pod client" else None
    found = trace(
        lab, start, ip_address(own) if own else None, address, port,
        send=True, wait_s=0.2, drops=dict, protocol=protocol,  # type: ignore[arg-type]
    )  # fmt: skip
    assert found.agrees, [(row, row.agrees) for row in found.rows]
    assert found.trip.verdict.reached == (found.answer in ("connected", "refused", "answered")) or (
        found.trip.verdict.code == "rejected"
    )
    return found


def decided(found: Trace) -> str:
    return "\n".join(hop.by for hop in found.trip.hops)


@BOTH
@pytest.mark.parametrize("protocol", ["tcp", "udp", "icmp"])
def test_without_rules_every_probe_goes_there_and_back(world, version, protocol):
    found = go(world, SERVER[version], 8080 if protocol == "tcp" else 9, protocol)
    assert found.answer == {"tcp": "connected", "udp": "refused", "icmp": "answered"}[protocol]
    assert [row.phase for row in found.rows] == ["request"] * 4 + ["reply"] * 4
    assert go(world, SERVER[version], 9).answer == "refused"
    from_node = go(world, SERVER[version], 8080 if protocol == "tcp" else 9, protocol, "node 1")
    assert from_node.answer == found.answer and len(from_node.rows) == 4


@ONE
@pytest.mark.parametrize(
    ("protocol", "match"), [("tcp", "tcp dport 8080"), ("udp", "udp dport 8080"), ("icmp", "icmp{6} type echo-request")]
)
def test_a_rule_of_a_foreign_table_that_drops_is_named(world, version, protocol, match):
    match = match.replace("{6}", "v6" if version == 6 else "")
    table = "table inet foreign {{\n chain gate {{\n type filter hook forward priority 5\n {} {}\n }}\n}}\n"
    world.rules(table.format(match, "drop"))
    found = go(world, SERVER[version], PORT, protocol)
    verdict = found.trip.verdict
    assert (verdict.code, verdict.where) == ("filtered", "node 1") and found.answer.startswith("no answer")
    assert verdict.why == f"table inet foreign: chain gate: {match} drop"
    world.rules("flush ruleset\n" + table.format(match, "accept"))
    assert go(world, SERVER[version], PORT, protocol).trip.verdict.reached


@ONE
def test_a_refusal_is_predicted_with_its_answer(world, version):
    table = "table inet foreign {{\n chain gate {{\n type filter hook {} priority 0\n {} {}\n }}\n}}\n"
    for how in ("reject with tcp reset", "reject", "reject with icmpx type admin-prohibited"):
        world.rules("flush ruleset\n" + table.format("forward", "tcp dport 8080", how))
        found = go(world, SERVER[version])
        assert found.trip.verdict.code == "rejected"
        # An ICMP error that comes while connect(2) holds the socket is forgotten until the next SYN (tcp_v6_err).
        assert found.answer == "refused" or "reset" not in how
        assert any(row.phase == "reply" for row in found.rows) == ("reset" in how)
    world.rules("flush ruleset\n" + table.format("input", "udp dport 8080", "reject"))
    found = go(world, NODE_FAR[version], PORT, "udp")
    assert (found.trip.verdict.code, found.answer) == ("rejected", "refused")


def serve(world: NftWorld, mode: str, version: int, *endpoints: str) -> None:
    """A Service as kube-proxy has it: 80 of the ClusterIP and 30080 of the node lead to the endpoints, 81 to nobody."""
    to = tuple(Endpoint(ip_address(each), PORT) for each in endpoints)
    address = ip_address(SERVICE[version])
    services = [
        *(ServicePort("default", "web", each, each, address, 80, to, 30080) for each in ("tcp", "udp")),
        ServicePort("default", "none", "", "tcp", address, 81),
    ]
    with inside(world.node.fd):
        clear(KUBE_PROXY)
        sync(mode, services, KUBE_PROXY, [ip_address(NODE[version])], version)


SERVICES = pytest.mark.parametrize("mode", MODES)


@BOTH
@SERVICES
def test_a_service_is_followed_to_the_endpoint_that_was_drawn(world, mode, version):
    serve(world, mode, version, SERVER[version], OTHER[version])
    met = set()
    for _ in range(40):
        found = go(world, SERVICE[version], 80)
        (draw,) = found.trip.draws
        assert len(draw.options) == 2 and found.answer == "connected"
        met.add(draw.taken)
        if len(met) == 2:
            break
    assert met == {0, 1}
    assert go(world, SERVICE[version], 80, start="node 1").answer == "connected"  # by the output hook
    refused = go(world, SERVICE[version], 81)
    assert refused.trip.verdict.code == "rejected" and "REJECT" in refused.trip.verdict.why.upper()
    assert go(world, SERVICE[version], 80, "udp").answer == "refused"  # by the endpoint, where nobody listens
    gone = found.trip.draws[0].rule
    with inside(world.node.fd):
        clear(KUBE_PROXY)
    assert gone not in decided(go(world, SERVICE[version], 80)), "it was the rules that led there"


@ONE
@SERVICES
def test_masquerading_by_a_mark_shows_the_nodes_address_and_is_undone(world, mode, version):
    def seen(target: str, port: int) -> str:
        found = go(world, target, port)
        assert found.answer == "connected"
        row = next(row for row in found.rows if (row.place, row.phase) == ("pod server", "request"))
        assert row.seen is not None
        return str(row.seen.source)

    serve(world, mode, version, SERVER[version])
    assert seen(NODE[version], 30080) == NODE_FAR[version]
    assert seen(SERVICE[version], 80) == CLIENT[version]


def test_connection_states_marks_and_names_of_devices_decide_as_in_the_kernel(world):
    """A stateful gate lets answers pass and nothing begin; a mark chosen by one table is matched by another."""
    gate = """table ip gate {{
 chain forward {{
  type filter hook forward priority 0; policy drop;
  ct state vmap {{ invalid : drop, established : accept, related : accept }}
  {}
 }}
}}
"""
    world.rules(gate.format('iifname "eni*" ip daddr . tcp dport { 10.2.0.2 . 8080 } accept'))
    found = go(world, SERVER[4])
    assert found.answer == "connected" and "ct state vmap" in decided(found)
    assert go(world, OTHER[4]).trip.verdict.why == "table ip gate: chain forward has policy drop"
    world.rules("flush ruleset\n" + gate.format('iifname "eth*" accept'))
    assert go(world, SERVER[4]).trip.verdict.code == "filtered"
    marks = """table inet marks {
 chain early {
  type filter hook prerouting priority mangle
  ip saddr 10.1.0.0/24 meta mark set meta mark or 0x20 ct mark set meta mark
 }
}
"""
    world.rules("flush ruleset\n" + marks + gate.format("meta mark & 0xf0 == 0x20 ct mark 0x20 accept"))
    found = go(world, SERVER[4])
    assert found.answer == "connected"
    assert {(hop.mark, hop.ct_mark) for hop in found.trip.hops if (hop.device, hop.way) == ("enib", "out")} == {
        (0x20, 0x20)
    }
    world.rules("flush ruleset\n" + marks.replace("0x20", "0x40") + gate.format("meta mark & 0xf0 == 0x20 accept"))
    assert go(world, SERVER[4]).trip.verdict.code == "filtered"


def test_a_mark_of_nftables_chooses_the_route(world):
    world.node.ip("rule add fwmark 0x80/0x80 lookup 77 pref 100")
    world.node.ip("route add blackhole 10.2.0.0/24 table 77")
    table = "table ip marks {{\n chain early {{\n type {} hook {} priority mangle\n tcp dport 8080 {}\n }}\n}}\n"
    try:
        world.rules(table.format("filter", "prerouting", "meta mark set 0x81"))
        found = go(world, SERVER[4])
        assert (found.trip.verdict.code, found.trip.verdict.where) == ("no-route", "node 1")
        assert go(world, SERVER[4], 81).answer == "refused"
        # Of the node's own packets only a chain of type route chooses again.
        world.rules("flush ruleset\n" + table.format("filter", "output", "meta mark set 0x81"))
        assert go(world, SERVER[4], start="node 1").answer == "connected"
        world.rules("flush ruleset\n" + table.format("route", "output", "meta mark set 0x81"))
        assert go(world, SERVER[4], start="node 1").trip.verdict.code == "no-route"
    finally:
        world.node.ip("rule del pref 100")
        world.node.ip("route flush table 77")


def test_source_translation_before_and_behind_iptables(world):
    """All nat chains are run together in the order of their priorities, until one decides."""
    own = "table ip own {{\n chain post {{\n type nat hook postrouting priority {}\n {}\n }}\n}}\n"
    world.node.run(
        *["iptables", "-t", "nat", "-A", "POSTROUTING", "-s", "10.1.0.0/24", "-j", "SNAT", "--to-source", "10.2.0.77"]
    )

    def source() -> str:
        found = go(world, SERVER[4])
        return str(next(hop for hop in found.trip.hops if (hop.device, hop.way) == ("enib", "out")).header.source)

    world.node.ip("addr add 10.2.0.77/32 dev enib")
    world.node.ip("addr add 10.2.0.78/32 dev enib")
    assert source() == "10.2.0.77"
    for priority, statement, expected in (
        (90, "snat to 10.2.0.78", "10.2.0.78"), (110, "snat to 10.2.0.78", "10.2.0.77"), (90, "accept", "10.2.0.77"),
        (90, "snat to ip saddr", CLIENT[4]), (100, "snat to 10.2.0.78", "10.2.0.78"),
    ):  # fmt: skip
        world.rules(own.format(priority, statement))
        assert source() == expected, (priority, statement)
        world.rules("delete table ip own")


def test_what_is_not_modelled_is_named_and_taken_as_not_matching(world):
    world.rules("table ip odd {\n chain c {\n type filter hook forward priority 0\n meta length > 4000 drop\n }\n}\n")
    found = go(world, SERVER[4])
    assert found.answer == "connected"
    assert found.trip.unread == ("table ip odd: chain c: meta length > 4000 drop (not modelled: meta length)",)
    assert [hop.why for hop in found.trip.hops if "meta length" in hop.by] == 2 * [
        "not modelled: taken as not matching"
    ]
    world.rules("flush ruleset")
    assert go(world, SERVER[4]).trip.unread == ()


def test_a_rule_that_changes_after_the_look_makes_prediction_and_observation_differ(world):
    table = "table ip late {{\n chain c {{\n type filter hook forward priority 0\n tcp dport 8080 {}\n }}\n}}\n"
    world.rules(table.format("accept"))
    before = world.observe()
    world.rules("flush ruleset\n" + table.format("drop"))
    stale = trace(
        before, "pod client", ip_address(CLIENT[4]), ip_address(SERVER[4]), PORT, send=True, wait_s=0.2, drops=dict
    )
    assert stale.trip.verdict.reached and not stale.agrees and stale.answer.startswith("no answer")
    assert go(world, SERVER[4]).trip.verdict.code == "filtered"


def test_a_table_that_only_looks_like_one_of_iptables_is_evaluated(world):
    """iptables-save shows a table of its own form, and calls another one of the same name incompatible."""
    world.node.run("iptables", "-A", "FORWARD", "-p", "tcp", "--dport", "80", "-j", "DROP")
    lines = [table for table in world.observe().world.stacks["node 1"].nft if table.of_iptables]
    assert [(table.family, table.name, dict(table.chains)) for table in lines] == [("ip", "filter", {})]
    assert go(world, SERVER[4], 80).trip.verdict.why.startswith("filter: -A FORWARD")
    mine = "table ip filter {\n chain mine {\n type filter hook forward priority 3\n tcp dport 81 drop\n }\n}\n"
    for before in ("", "flush ruleset\n"):
        world.rules(before + mine)
        assert go(world, SERVER[4], 81).trip.verdict.why == "table ip filter: chain mine: tcp dport 81 drop"
        assert go(world, SERVER[4], 80).trip.verdict.reached == bool(before)


def test_rules_inside_a_pod_decide_too(world):
    sidecar = "table inet sidecar {{ chain c {{ type {} hook {} priority {}; tcp dport 81 {}; }}; }}"
    try:
        assert go(world, SERVER[4], 81).answer == "refused"
        world.server.run("nft", sidecar.format("nat", "prerouting", "-100", "redirect to :8080"))
        found = go(world, SERVER[4], 81)
        assert found.answer == "connected" and "table inet sidecar: chain c: tcp dport 81 redirect" in decided(found)
        world.server.run("nft", "flush ruleset; " + sidecar.format("filter", "input", "0", "drop"))
        verdict = go(world, SERVER[4], 81).trip.verdict
        assert (verdict.code, verdict.where) == ("filtered", "pod server")
        world.client.run("nft", sidecar.format("filter", "output", "0", "reject with tcp reset"))
        assert go(world, SERVER[4], 81).trip.verdict.where == "pod client"
    finally:
        for space in (world.client, world.server):
            space.run("nft", "flush ruleset")
