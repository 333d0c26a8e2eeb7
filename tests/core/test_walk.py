# SPDX-License-Identifier: Apache-2.0
"""The predicted way of packets: rows of the flow table in both rule layouts, and what breaks when an object goes."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest
from walk_worlds import FAR, NODE, POLICY, PUBLIC, SITE, WEB, A, B, C, route, tables, with_node, without_rules, world

from vpccni.core.walk.groups import Group, Permit
from vpccni.core.walk.iptables import run
from vpccni.core.walk.meeting import Header, Meeting
from vpccni.core.walk.values import Trip, World
from vpccni.core.walk.walk import walk

SERVICE = "10.100.0.1"
LAYOUTS = pytest.mark.parametrize("shared", [False, True], ids=["per-pod", "shared"])


def go(where: World, start: str, source: str, target: str, port: int = 80) -> Trip:
    return walk(where, start, Header(ip_address(source), 40000, ip_address(target), port))


def service(endpoint: str, *, masquerade: bool = False, nodeport: int = 0) -> str:
    """What kube-proxy adds to the nat table for one service with one endpoint."""
    drawn = "-m statistic --mode random --probability 0.5"
    lines = [
        f"-A PREROUTING -d {SERVICE}/32 -p tcp -m tcp --dport 80 -j KUBE-SVC-X",
        f"-A KUBE-SVC-X {drawn} -j DNAT --to-destination {endpoint}:80",
    ]
    if nodeport:
        lines.append(f"-A PREROUTING -p tcp -m addrtype --dst-type LOCAL -m tcp --dport {nodeport} -j KUBE-SVC-X")
    if masquerade:
        lines.insert(1, "-A KUBE-SVC-X -j MARK --set-xmark 0x4000/0x4000")
        lines.append("-A POSTROUTING -m mark --mark 0x4000/0x4000 -j MASQUERADE")
    return "\n".join(lines) + "\n"


def devices(trip: Trip, place: str = "node 1") -> list[str]:
    """What is used at a place, request and reply: `eth1 out`."""
    return [f"{hop.device} {hop.way}" for hop in trip.hops if hop.place == place and hop.device]


def seen_by_peer(trip: Trip) -> str:
    """The source address that the end of the request sees."""
    arrival = [hop for hop in trip.hops if hop.phase == "request" and hop.device][-1]
    assert arrival.way == "in"
    return str(arrival.header.source)


# Row of the flow table: start, source, target, who sees whom, devices of node 1.
ROWS = {
    1: ("pod b", B, C, "pod c", B, ["enib in", "enic out", "enic in", "enib out"]),
    2: ("pod a", A, B, "pod b", A, ["enia in", "enib out", "enib in", "enia out"]),
    3: ("pod b", B, FAR, "pod f", B, ["enib in", "eth1 out", "eth1 in", "enib out"]),
    4: ("pod a", A, FAR, "pod f", A, ["enia in", "eth0 out", "eth0 in", "enia out"]),
    9: ("pod b", B, WEB, "internet", PUBLIC[NODE], ["enib in", "eth0 out", "eth0 in", "enib out"]),
    10: ("pod a", A, SITE, "site", NODE, ["enia in", "eth0 out", "eth0 in", "enia out"]),
    16: ("pod f", FAR, B, "pod b", FAR, ["eth1 in", "enib out", "enib in", "eth1 out"]),
    17: ("node 1", NODE, B, "pod b", NODE, ["enib out", "enib in"]),
    18: ("pod b", B, NODE, "node 1", B, ["enib in", "enib out"]),
    19: ("node 1", NODE, WEB, "internet", PUBLIC[NODE], ["eth0 out", "eth0 in"]),
}


@LAYOUTS
@pytest.mark.parametrize("number", ROWS)
def test_a_row_of_the_flow_table_goes_its_way(number: int, shared: bool) -> None:
    start, source, target, end, seen, used = ROWS[number]
    trip = go(world(shared=shared), start, source, target)
    assert trip.verdict.reached, trip.verdict
    assert (trip.delivered_to, seen_by_peer(trip), devices(trip)) == (end, seen, used)
    assert trip.unread == ()


@LAYOUTS
@pytest.mark.parametrize(
    ("endpoint", "end", "used"), [(FAR, "pod f", "eth1 out"), (C, "pod c", "enic out")], ids=["row 5", "row 6"]
)
def test_a_cluster_address_is_translated_and_back(endpoint: str, end: str, used: str, shared: bool) -> None:
    trip = go(world(shared=shared, extra=service(endpoint)), "pod b", B, SERVICE)
    assert trip.verdict.reached, trip.verdict
    assert trip.delivered_to == end and seen_by_peer(trip) == B and devices(trip)[1] == used


@LAYOUTS
def test_row_7_a_pod_reaches_itself_by_its_own_service_only_when_masqueraded(shared: bool) -> None:
    trip = go(world(shared=shared, extra=service(B, masquerade=True)), "pod b", B, SERVICE)
    assert trip.verdict.reached and trip.delivered_to == "pod b"
    assert devices(trip) == ["enib in", "enib out", "enib in", "enib out"]


@LAYOUTS
def test_row_8_an_endpoint_outside_behind_a_cluster_address_leaves_by_the_wrong_interface(shared: bool) -> None:
    # The connection's mark is set by the translated address, but the first packet's NAT chain ended at the DNAT.
    trip = go(world(shared=shared, extra=service(WEB)), "pod b", B, SERVICE)
    assert (trip.verdict.code, trip.verdict.where, devices(trip)) == ("source-check", "vpc", ["enib in", "eth1 out"])
    assert f"{NODE} belongs to eni-1 (eth0), but the packet left by eth1" in trip.verdict.why


@LAYOUTS
def test_rows_11_and_12_without_snat_pods_keep_their_address_and_need_a_public_one(shared: bool) -> None:
    external = world(shared=shared, policy=replace(POLICY, external_snat=True))
    for start, source, device in (("pod b", B, "eth1 out"), ("pod a", A, "eth0 out")):
        private = go(external, start, source, SITE)
        assert private.verdict.reached and seen_by_peer(private) == source and devices(private)[1] == device
        assert go(external, start, source, WEB).verdict.code == "no-public-address"


@LAYOUTS
def test_rows_13_and_14_a_node_port_answers_by_the_interface_it_was_asked_at(shared: bool) -> None:
    for masquerade, seen in ((False, WEB), (True, NODE)):
        ported = world(shared=shared, extra=service(B, nodeport=30080, masquerade=masquerade))
        trip = go(ported, "internet", WEB, PUBLIC[NODE], 30080)
        assert trip.verdict.reached, trip.verdict
        assert devices(trip) == ["eth0 in", "enib out", "enib in", "eth0 out"] and seen_by_peer(trip) == seen
    off = replace(POLICY, node_port_support=False, external_snat=True)
    unmarked = go(
        world(shared=shared, policy=off, extra=service(B, nodeport=30080)), "internet", WEB, PUBLIC[NODE], 30080
    )
    assert (unmarked.verdict.code, devices(unmarked)[-1]) == ("source-check", "eth1 out")


@LAYOUTS
def test_row_15_a_node_port_leads_to_another_node(shared: bool) -> None:
    trip = go(
        world(shared=shared, extra=service(FAR, nodeport=30080, masquerade=True)), "internet", WEB, PUBLIC[NODE], 30080
    )
    assert trip.verdict.reached and trip.delivered_to == "pod f"
    assert devices(trip) == ["eth0 in", "eth0 out", "eth0 in", "eth0 out"]


def test_without_the_rule_by_source_the_vpc_drops_and_the_rule_is_named() -> None:
    trip = go(without_rules(world(), 1536), "pod b", B, FAR)
    assert (trip.verdict.code, trip.verdict.where) == ("source-check", "vpc")
    assert devices(trip) == ["enib in", "eth0 out"] and f"1536: from {B}" in trip.verdict.next_step


def test_without_the_rule_by_mark_only_the_answerable_part_of_the_way_is_predicted() -> None:
    trip = go(without_rules(world(), 1024), "pod b", B, WEB)
    assert (trip.verdict.code, devices(trip)) == ("source-check", ["enib in", "eth1 out"])


def test_without_the_rules_to_pods_answers_go_to_the_vpc_and_in_circles() -> None:
    main = go(without_rules(world(), 512), "pod a", A, B)
    assert (main.delivered_to, main.verdict.code) == ("pod b", "loop")  # the request still finds main's route
    table = go(without_rules(world(shared=True), 512), "pod a", A, B)
    assert (table.delivered_to, table.verdict.reached) == ("", False)


def test_without_the_translation_the_gateway_drops() -> None:
    bare = with_node(world(), replace(world().stacks["node 1"], tables={}))
    trip = go(bare, "pod a", A, WEB)
    assert (trip.verdict.code, trip.verdict.where) == ("no-public-address", "vpc") and A in trip.verdict.why


def test_a_blackhole_a_filter_and_a_policy_are_named() -> None:
    near = world().stacks["node 1"]
    hole = replace(near, routes=(*near.routes, replace(route(f"{SITE}/32", 0), kind="blackhole")))
    assert f"blackhole {SITE}" in go(with_node(world(), hole), "pod a", A, SITE).verdict.why
    rule = f"-A FORWARD -d {SITE}/32 -p tcp -m tcp --dport 80 -j DROP"
    closed = replace(near, tables={4: {**tables(POLICY), "filter": {"FORWARD": [rule]}}})
    dropped = go(with_node(world(), closed), "pod a", A, SITE).verdict
    assert (dropped.code, dropped.where, dropped.why) == ("filtered", "node 1", f"filter: {rule}")
    assert go(with_node(world(), closed), "pod a", A, SITE, 443).verdict.reached
    refusing = replace(near, policies={4: {"filter FORWARD": "DROP"}})
    assert "-P FORWARD DROP" in go(with_node(world(), refusing), "pod a", A, FAR).verdict.why


def test_security_groups_judge_the_beginning_of_a_connection_on_both_sides() -> None:
    def grouped(**groups: tuple[Permit, ...]) -> World:
        before = world()
        named = {port.eni_id: groups.get(port.eni_id.replace("-", "_")) for port in before.vpc.ports}
        ports = tuple(
            replace(port, groups=None if named[port.eni_id] is None else (Group("web", named[port.eni_id] or ()),))
            for port in before.vpc.ports
        )
        return replace(before, vpc=replace(before.vpc, ports=ports))

    out = Permit("all to 0.0.0.0/0", True, "-1", (ip_network("0.0.0.0/0"),))
    web = Permit("tcp 80 from 192.168.0.0/16", False, "tcp", (ip_network("192.168.0.0/16"),), 80, 80)
    allowed = go(grouped(eni_2=(out,), eni_3=(web,)), "pod b", B, FAR)
    assert allowed.verdict.reached and "web: tcp 80 from 192.168.0.0/16" in [hop.by for hop in allowed.hops]
    for refused, port, way in (
        (grouped(eni_2=(web,)), 80, "eni-2 (node 1 eth1) send"),
        (grouped(eni_3=(out,)), 80, "eni-3 (node 2 eth0) receive"),
        (grouped(eni_3=(web,)), 81, "eni-3 (node 2 eth0) receive"),
    ):
        verdict = go(refused, "pod b", B, FAR, port).verdict
        assert (verdict.code, verdict.where) == ("security-group", "vpc") and way in verdict.why
    assert go(grouped(eni_1=(), eni_2=()), "pod b", B, A).verdict.reached  # never leaves the node


def test_strict_reverse_path_filtering_stops_the_answer_of_the_internet() -> None:
    near = replace(world().stacks["node 1"], reverse_filter={"eth0": 1})
    assert go(with_node(world(), near), "pod a", A, WEB).verdict.reached
    assert go(with_node(world(), near), "pod b", B, FAR).verdict.reached
    strict = replace(near, reverse_filter={"eth1": 1})
    asked = go(with_node(world(), strict), "pod f", FAR, C)
    assert asked.verdict.reached  # the way back of a pod of eth1 is eth1
    without = go(without_rules(with_node(world(), strict), 1536), "pod f", FAR, C)
    assert (without.verdict.code, without.verdict.where) == ("reverse-path", "node 1")


def test_a_wrong_neighbour_and_an_unowned_address_are_named() -> None:
    inner = world().stacks["pod a"]
    wrong = replace(inner, neighbours=(replace(inner.neighbours[0], mac="0a:58:00:00:00:99"),))
    assert go(with_node(world(), wrong), "pod a", A, B).verdict.code == "neighbour"
    assert go(with_node(world(), replace(inner, neighbours=())), "pod a", A, B).verdict.where == "pod a"
    assert go(world(), "pod a", A, "192.168.9.9").verdict.code == "unowned-address"


def test_what_cannot_be_evaluated_is_told_and_does_not_match() -> None:
    rule = "-A PREROUTING -m set --match-set banned src -j DROP"
    effect = run({"PREROUTING": [rule]}, "PREROUTING", Meeting(Header(ip_address(A), 1, ip_address(B), 2)))
    assert effect.unread == (rule,) and not effect.ending


def test_suppressed_and_jumping_rules_are_followed() -> None:
    from vpccni.core.walk.fib import Question, choose
    from vpccni.netlink.values import Rule

    routes = [route("0.0.0.0/0", 2), route("10.0.0.0/8", 3), route("0.0.0.0/0", 4, table=7)]
    rules = [Rule(5, kind="goto", target=20), Rule(10, 7), Rule(20, 254, suppress_prefixlength=0), Rule(30, 7)]
    inside = choose(rules, routes, Question(ip_address(A), ip_address("10.1.1.1")))
    beyond = choose(rules, routes, Question(ip_address(A), ip_address("9.9.9.9")))
    assert (inside.route, beyond.route) == (routes[1], routes[2])
    assert beyond.rule == rules[3] and [rule.priority for rule in beyond.without] == [20]
    assert ip_network("10.0.0.0/8") == routes[1].dst
