# SPDX-License-Identifier: Apache-2.0
"""Firewall rules as text: the worked example, every combination of switches, exclusions, the random flag."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from vpccni.core.firewall.snat import SnatPolicy, beside, is_own_chain, rules

GOLDEN = Path(__file__).parents[1] / "host" / "golden"
CIDRS = (IPv4Network("192.168.0.0/16"), IPv4Network("100.64.0.0/16"))
POLICY = SnatPolicy("eth0", IPv4Address("192.168.0.10"), CIDRS)


def chain(policy: SnatPolicy, table: str, name: str) -> list[str] | None:
    """The rules of a chain; None when the chain is not asked for."""
    found = [each for part in rules(policy).tables if part.name == table for each in part.chains if each.name == name]
    return list(found[0].rules) if found else None


def golden(name: str) -> list[str]:
    return [line for line in (GOLDEN / name).read_text().splitlines() if not line.startswith("-P")]


def test_the_defaults_give_the_golden_text():
    nat, mangle = str(rules(POLICY)).split("*mangle\n")
    assert nat.splitlines()[0] == "*nat"
    assert sorted(nat.splitlines()[1:]) == sorted(golden("nat.txt"))
    assert mangle.splitlines() == golden("mangle.txt")
    for name in ("PREROUTING", "POSTROUTING", "AWS-SNAT-CHAIN-0", "AWS-CONNMARK-CHAIN-0"):
        assert chain(POLICY, "nat", name) == [line for line in golden("nat.txt") if line.startswith(f"-A {name} ")]


# dataplane: what exists for (external SNAT, node port support) -> jump, connection mark, mangle rules.
SWITCHES = {
    (False, True): (True, True, ["eth0", "eni+", "vlan+"]),
    (False, False): (True, True, ["eni+"]),
    (True, True): (False, False, ["eth0", "eni+", "vlan+"]),
    (True, False): (False, False, []),
}


@pytest.mark.parametrize(("switches", "expected"), SWITCHES.items())
def test_each_combination_of_switches_gives_the_documented_objects(switches, expected):
    policy = replace(POLICY, external_snat=switches[0], node_port_support=switches[1])
    snat, connmark, mangle = expected
    assert bool(chain(policy, "nat", "POSTROUTING")) is snat
    assert chain(policy, "nat", "AWS-SNAT-CHAIN-0") is not None, "the chain exists in every mode"
    assert bool(chain(policy, "nat", "AWS-SNAT-CHAIN-0")) is snat
    assert bool(chain(policy, "nat", "AWS-CONNMARK-CHAIN-0")) is connmark
    assert bool(chain(policy, "nat", "PREROUTING")) is connmark
    assert [rule.split()[3] for rule in chain(policy, "mangle", "PREROUTING") or []] == mangle


def test_exclusions_come_first_and_keep_their_own_comment():
    policy = replace(POLICY, excluded=(IPv4Network("10.12.0.0/16"), IPv4Network("0.0.0.0/0")))
    snat = chain(policy, "nat", "AWS-SNAT-CHAIN-0")
    assert snat is not None and len(snat) == 5
    assert snat[0] == '-A AWS-SNAT-CHAIN-0 -m comment --comment "AWS SNAT CHAIN EXCLUSION" -j RETURN'
    assert snat[1] == '-A AWS-SNAT-CHAIN-0 -d 10.12.0.0/16 -m comment --comment "AWS SNAT CHAIN EXCLUSION" -j RETURN'
    connmark = chain(policy, "nat", "AWS-CONNMARK-CHAIN-0")
    assert connmark is not None
    assert connmark[1] == '-A AWS-CONNMARK-CHAIN-0 -d 10.12.0.0/16 -m comment --comment "AWS CONNMARK CHAIN" -j RETURN'


def test_a_network_that_is_named_twice_gets_one_rule():
    policy = replace(POLICY, vpc_cidrs=(*CIDRS, CIDRS[0]), excluded=(CIDRS[1],))
    connmark = chain(policy, "nat", "AWS-CONNMARK-CHAIN-0")
    assert connmark is not None and len(connmark) == len(set(connmark)) == 3


@pytest.mark.parametrize(
    ("setting", "end"),
    [
        ("prng", "--to-source 192.168.0.10 --random-fully"),
        ("hashrandom", "--to-source 192.168.0.10 --random"),
        ("none", "--to-source 192.168.0.10"),
        ("rubbish", "--to-source 192.168.0.10 --random-fully"),
    ],
)
def test_source_ports_are_chosen_as_the_setting_says(setting, end):
    snat = chain(replace(POLICY, randomize=setting), "nat", "AWS-SNAT-CHAIN-0")
    assert snat is not None and snat[-1].endswith(end)


def test_another_mark_or_prefix_appears_in_every_rule_that_uses_it():
    text = str(rules(replace(POLICY, mark=0x4000, veth_prefix="pod")))
    assert (
        "0x80" not in text and text.count("0x4000/0x4000") == 2 and text.count("--nfmask 0x4000 --ctmask 0x4000") == 3
    )
    assert "eni+" not in text and text.count("-i pod+") == 2


def test_on_a_dual_stack_node_ipv6_has_the_marks_of_node_ports_and_nothing_that_translates():
    dual = replace(POLICY, dual_stack=True)
    found = beside(dual)
    assert found is not None and found.version == 6
    assert str(found).splitlines() == [
        "*mangle",
        '-A PREROUTING -i eth0 -m comment --comment "AWS, primary ENI" -m addrtype --dst-type LOCAL --limit-iface-in '
        "-j CONNMARK --set-xmark 0x80/0x80",
        '-A PREROUTING -i eni+ -m comment --comment "AWS, primary ENI" -j CONNMARK --restore-mark --nfmask 0x80 '
        "--ctmask 0x80",
        '-A PREROUTING -i vlan+ -m comment --comment "AWS, primary ENI" -j CONNMARK --restore-mark --nfmask 0x80 '
        "--ctmask 0x80",
    ]
    assert beside(POLICY) is None and beside(replace(dual, node_port_support=False)) is None
    assert rules(dual) == rules(POLICY)


def test_only_numbered_chains_of_ours_are_ours():
    names = ["AWS-SNAT-CHAIN-0", "AWS-CONNMARK-CHAIN-12", "AWS-SNAT-CHAIN-x", "AWS-SNAT-CHAIN-", "KUBE-SERVICES"]
    assert [name for name in names if is_own_chain(name)] == names[:2]
