# SPDX-License-Identifier: Apache-2.0
"""Topology files: what is accepted, and that a refusal names the key and what would be accepted."""

from __future__ import annotations

import copy
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest

from vpccni.errors import TopologyError
from vpccni.lab import topology
from vpccni.lab.cloud import grouprules

GOOD: dict[str, Any] = {
    "vpc": {"cidrs": ["10.20.0.0/16", "100.64.0.0/16"]},
    "subnet": [
        {"name": "a", "cidr": "10.20.0.0/24", "az": "a", "tags": {"kubernetes.io/role/elb": "1"}},
        {"name": "b", "cidr": "100.64.0.0/24", "az": "eu-central-1b"},
    ],
    "node": [
        {"name": "1", "subnet": "a", "private_ip": "10.20.0.9"},
        {"name": "big", "subnet": "b", "type": "c5.4xlarge", "env": {"MAX_ENI": "2"}},
    ],
    "host": [{"name": "web", "address": "198.51.100.10"}, {"name": "db", "address": "203.0.113.1", "via": "private"}],
}


def changed(path: str, value: object, tree: dict[str, Any] = GOOD) -> dict[str, Any]:
    tree = copy.deepcopy(tree)
    *parents, last = path.split(".")
    place: Any = tree
    for step in parents:
        place = place[int(step)] if isinstance(place, list) else place[step]
    place[int(last) if isinstance(place, list) else last] = value
    return tree


def test_a_good_file_is_read_as_written(tmp_path: Path) -> None:
    path = tmp_path / "lab.toml"
    path.write_text(
        'region = "us-west-2"\n[vpc]\ncidrs = ["10.0.0.0/16"]\n'
        '[[subnet]]\nname = "x"\ncidr = "10.0.1.0/24"\naz = "b"\n[[node]]\nname = "n"\nsubnet = "x"\n'
    )
    plan = topology.load(path, {"WARM_IP_TARGET": "4"}, seed=7)
    assert plan.zone(plan.subnet[0]) == "us-west-2b"
    assert plan.subnet_of(plan.node[0]).gateway == IPv4Address("10.0.1.1")
    assert plan.settings_of(plan.node[0]) == {"WARM_IP_TARGET": "4"} and plan.seed == 7


def test_what_is_written_to_the_state_is_read_back_equal() -> None:
    plan = topology.decode(GOOD)
    assert topology.decode(topology.encode(plan)) == plan
    assert plan.settings_of(plan.node[1]) == {"MAX_ENI": "2"}


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        ("subnet.0.cidr", "10.21.0.0/24", ["subnet[0].cidr", "10.20.0.0/16"]),
        ("subnet.0.cidr", "10.20.0.0/29", ["subnet[0].cidr", "/16 to /28"]),
        ("subnet.0.cidr", "10.20.0.1/24", ["subnet[0].cidr", "host bits"]),
        ("subnet.1.cidr", "10.20.0.128/25", ["subnet[1].cidr", "'a'"]),
        ("subnet.0.az", "us-west-2a", ["subnet[0].az", "eu-central-1"]),
        ("subnet.1.name", "a", ["subnet[1].name", "no other"]),
        ("node.0.subnet", "c", ["node[0].subnet", "a, b"]),
        ("node.0.private_ip", "10.20.0.3", ["node[0].private_ip", "10.20.0.0/24"]),
        ("node.0.private_ip", "10.20.0.255", ["node[0].private_ip"]),
        ("node.0.name", "fabric", ["node[0].name", "internet"]),
        ("node.0.name", "Node_1", ["node[0].name", "a-z"]),
        ("node.1.name", "1", ["node[1].name"]),
        ("node.0.type", "z9.huge", ["node[0].type", "m5.large"]),
        ("profile", "stormy", ["profile", "calm"]),
        ("node.0.typ", "m5.large", ["node", "typ", "private_ip, public, security_groups, env"]),
        ("node.0.env", {"A": 1}, ["node", "env", "str"]),
        ("host.0.address", "10.20.0.7", ["host[0].address", "192.0.2.0/24"]),
        ("host.0.via", "vpn", ["host", "via"]),
        ("host.1.address", "198.51.100.10", ["host[1].address"]),
        ("vpc.cidrs", [], ["vpc.cidrs", "at least one"]),
        ("http_put_response_hop_limit", 0, ["http_put_response_hop_limit", "1 to 64"]),
        ("node", [], ["node", "at least one"]),
        ("node.0.security_groups", ["web"], ["node[0].security_groups", "default, nodes"]),
        ("node.0.security_groups", [], ["node[0].security_groups", "1 to 5"]),
        ("security_group", [{"name": "default"}], ["security_group[0].name", "other than default"]),
        ("security_group", [{"name": "w"}, {"name": "w"}], ["security_group[1].name", "no other"]),
        ("security_group", [{"name": "w", "rules": ["tcp 80"]}], ["security_group[0].rules", "from|to"]),
        (
            "security_group",
            [{"name": "w", "rules": ["tcp 80 from x"]}],
            ["security_group[0].rules", "default, nodes, w"],
        ),
        ("security_group", [{"name": "w", "rules": ["tcp 9-8 from w"]}], ["security_group[0].rules", "port range"]),
        ("security_group", [{"name": "w", "rule": []}], ["security_group", "rule", "name, rules"]),
    ],
)
def test_a_bad_value_is_refused_by_key(path: str, value: object, named: list[str]) -> None:
    with pytest.raises(TopologyError) as refusal:
        topology.decode(changed(path, value))
    text = f"{refusal.value.message} {refusal.value.evidence}"
    assert all(word in text for word in named), text


IPV6: dict[str, Any] = {**GOOD, "vpc": {**GOOD["vpc"], "ipv6_cidrs": ["2001:db8:1:aa00::/56"]}}


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        ("subnet.0.ipv6_cidr", "2001:db8:1:aa00::/80", ["subnet[0].ipv6_cidr", "a /64 of 2001:db8:1:aa00::/56"]),
        ("subnet.0.ipv6_cidr", "2001:db8:1:ab00::/64", ["subnet[0].ipv6_cidr", "a /64 of"]),
        ("subnet.0.ipv6_cidr", "10.20.0.0/24", ["subnet[0].ipv6_cidr"]),
        ("vpc.ipv6_cidrs", ["2001:db8::/64"], ["vpc.ipv6_cidrs[0]", "/44 to /60"]),
        ("vpc.ipv6_cidrs", ["2001:db8::/56", "2001:db8::/48"], ["vpc.ipv6_cidrs[1]", "apart"]),
        ("host.0.ipv6_address", "2001:db8:1:aa07::1", ["host[0].ipv6_address", "2001:db8:1:aa00::/56"]),
        ("host.0.ipv6_address", "fe80::1", ["host[0].ipv6_address", "fe80::/10"]),
    ],
)
def test_a_bad_ipv6_value_is_refused_by_key(path: str, value: object, named: list[str]) -> None:
    with pytest.raises(TopologyError) as refusal:
        topology.decode(changed(path, value, IPV6))
    assert all(word in f"{refusal.value.message} {refusal.value.evidence}" for word in named), refusal.value.message


def test_ipv6_of_a_file_is_read_as_written_and_belongs_to_one_subnet() -> None:
    plan = topology.decode(changed("subnet.0.ipv6_cidr", "2001:db8:1:aa00::/64", IPV6))
    assert str(plan.subnet[0].ipv6_cidr) == "2001:db8:1:aa00::/64" and plan.subnet[1].ipv6_cidr is None
    assert plan.versions == (4, 6) and topology.decode(topology.encode(plan)) == plan
    assert topology.decode(GOOD).versions == (4,)
    with pytest.raises(TopologyError, match=r"subnet\[0\].ipv6_cidr .*which is empty"):
        topology.decode(changed("subnet.0.ipv6_cidr", "2001:db8:1:aa00::/64"))
    with pytest.raises(TopologyError, match="no other subnet has"):
        tree = changed("subnet.0.ipv6_cidr", "2001:db8:1:aa00::/64", IPV6)
        tree["subnet"][1]["ipv6_cidr"] = "2001:db8:1:aa00::/64"
        topology.decode(tree)


def test_the_nodes_own_group_lets_everything_in_unless_the_file_has_it() -> None:
    implied, web = topology.decode(changed("security_group", [{"name": "web"}])).groups
    assert (implied.name, implied.rules, web.rules) == ("nodes", ["all from anywhere"], [])
    (own,) = topology.decode(changed("security_group", [{"name": "nodes", "rules": ["all from nodes"]}])).groups
    assert [str(rule) for rule in own.parsed({"nodes": "sg-1"})] == ["all from sg-1"]


@pytest.mark.parametrize(
    ("text", "rules"),
    [
        ("tcp 80 from 10.0.0.0/8", ["tcp 80 from 10.0.0.0/8"]),
        ("udp 5000-5010 to db", ["udp 5000-5010 to sg-2"]),
        ("icmp 8 from sg-2", ["icmp 8 from sg-2"]),
        ("icmp 3/4 from 2001:db8::/64", ["icmp 3/4 from 2001:db8::/64"]),
        ("6 from 10.0.0.1", ["tcp from 10.0.0.1/32"]),
        ("ALL to anywhere", ["all to 0.0.0.0/0", "all to ::/0"]),
    ],
)
def test_a_rule_is_read_as_it_is_written(text: str, rules: list[str]) -> None:
    found = grouprules.parse(text, {"db": "sg-2"})
    assert [str(rule) for rule in found] == rules
    assert grouprules.parse(str(found[0]), {"db": "sg-2"}) == found[:1]


def test_a_file_that_is_not_toml_or_not_there_is_refused(tmp_path: Path) -> None:
    bad = tmp_path / "bad.toml"
    bad.write_text("[vpc\n")
    for path in (bad, tmp_path / "absent.toml"):
        with pytest.raises(TopologyError) as refusal:
            topology.load(path, {}, None)
        assert refusal.value.evidence["file"] == path


def test_nodes_of_the_default_lab_alternate_between_the_zones() -> None:
    plan = topology.default(3, "m5.large", {}, 1)
    assert [node.subnet for node in plan.node] == ["a", "b", "a"]
    for count in (0, 51):
        with pytest.raises(TopologyError, match="--nodes"):
            topology.default(count, "m5.large", {}, 1)
