# SPDX-License-Identifier: Apache-2.0
"""The smallest transaction, checked against a model of iptables-restore over arbitrary earlier states."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

from hypothesis import given, settings
from hypothesis import strategies as st

from vpccni.core.firewall.chains import parse_save, transaction
from vpccni.core.firewall.snat import IptablesRules, SnatPolicy, is_own_chain, nothing, rules

Tables = dict[str, dict[str, list[str]]]
BASE = ("PREROUTING", "INPUT", "OUTPUT", "POSTROUTING")


def restore(tables: Tables, text: str) -> Tables:
    """What `iptables-restore --noflush` makes of `tables`, refusing what the kernel refuses."""
    after = {name: {chain: list(lines) for chain, lines in chains.items()} for name, chains in tables.items()}
    chains: dict[str, list[str]] = {}
    for line in text.splitlines():
        verb, _, rest = line.partition(" ")
        name, _, spec = rest.partition(" ")
        if line.startswith("*"):
            chains = after[line[1:]]
        elif verb == "-N":
            assert name not in chains
            chains[name] = []
        elif verb == "-X":
            assert not chains[name]
            assert not any(f"-j {name}" in rule for rules_ in chains.values() for rule in rules_), "still referenced"
            del chains[name]
        elif verb == "-F":
            chains[name].clear()
        elif verb == "-D" and spec.isdigit():
            assert 0 < int(spec) <= len(chains[name])
            del chains[name][int(spec) - 1]
        elif verb == "-D":
            chains[name].remove(f"-A {name} {spec}")
        elif verb == "-I":
            place, _, rule = spec.partition(" ")
            assert 0 < int(place) <= len(chains[name]) + 1
            chains[name].insert(int(place) - 1, f"-A {name} {rule}")
        elif verb == "-A":
            target = line.rpartition("-j ")[2].split()[0]
            assert not target.startswith("AWS") or target in chains
            chains[name].append(line)
        else:
            assert line == "COMMIT", line
    return after


def wanted_state(want: IptablesRules) -> Tables:
    empty: Tables = {"nat": {name: [] for name in BASE}, "mangle": {name: [] for name in BASE}}
    return restore(empty, transaction(empty, want))


CIDRS = st.lists(
    st.integers(0, 7).map(lambda number: IPv4Network(f"10.{number}.0.0/16")), min_size=1, max_size=5, unique=True
).map(tuple)
POLICIES = st.builds(
    SnatPolicy,
    primary_link=st.sampled_from(["eth0", "ens5"]),
    primary_address=st.sampled_from([IPv4Address("10.0.0.5"), IPv4Address("10.0.0.6")]),
    vpc_cidrs=CIDRS,
    excluded=CIDRS,
    external_snat=st.booleans(),
    node_port_support=st.booleans(),
    randomize=st.sampled_from(["prng", "none"]),
    veth_prefix=st.sampled_from(["eni", "pod"]),
)
FOREIGN = [
    '-A {} -m comment --comment "kubernetes service portals" -j KUBE-SERVICES',
    "-A {} -i wg0 -j ACCEPT",
    '-A {} -m comment --comment "it\'s odd" -j MARK --set-xmark 0x4/0x4',
]


@st.composite
def states(draw: st.DrawFn) -> Tables:
    """A state left by another policy, with foreign rules mixed in, and ours lost, doubled or in disorder."""
    tables = wanted_state(rules(draw(POLICIES)))
    for chains in tables.values():
        for name, lines in list(chains.items()):
            mess = draw(st.sampled_from(["none", "drop", "double", "shuffle"]))
            if lines and mess == "drop":
                del lines[draw(st.integers(0, len(lines) - 1))]
            elif lines and mess == "double":
                lines.insert(draw(st.integers(0, len(lines))), draw(st.sampled_from(lines)))
            elif mess == "shuffle":
                lines[:] = draw(st.permutations(lines))
            if not is_own_chain(name):
                for foreign in draw(st.lists(st.sampled_from(FOREIGN), max_size=2)):
                    lines.insert(draw(st.integers(0, len(lines))), foreign.format(name))
        if draw(st.booleans()):
            chains.setdefault("AWS-SNAT-CHAIN-1", ["-A AWS-SNAT-CHAIN-1 -j RETURN"])
            chains["KUBE-SERVICES"] = ["-A KUBE-SERVICES -j RETURN"]
    return tables


def foreign_only(tables: Tables) -> Tables:
    kept = {text.format(name) for text in FOREIGN for name in BASE} | {"-A KUBE-SERVICES -j RETURN"}
    return {
        table: {
            name: [line for line in lines if line in kept] for name, lines in chains.items() if not is_own_chain(name)
        }
        for table, chains in tables.items()
    }


@settings(max_examples=150, deadline=None)
@given(states(), POLICIES)
def test_one_transaction_reaches_the_desired_rules_and_a_second_one_is_empty(have, policy):
    want = rules(policy)
    after = restore(have, transaction(have, want))
    assert transaction(after, want) == ""
    assert foreign_only(after) == foreign_only(have)
    ours = {
        table: {
            name: [line for line in lines if line not in foreign_only(after)[table].get(name, ())]
            for name, lines in chains.items()
            if name != "KUBE-SERVICES"
        }
        for table, chains in after.items()
    }
    assert ours == wanted_state(want)


@settings(max_examples=80, deadline=None)
@given(states())
def test_taking_everything_away_leaves_what_others_made(have):
    after = restore(have, transaction(have, nothing()))
    assert after == foreign_only(have)
    assert transaction(after, nothing()) == ""


@settings(max_examples=80, deadline=None)
@given(POLICIES, st.integers(8, 20))
def test_a_new_cidr_only_inserts(policy, number):

    have = wanted_state(rules(policy))
    more = replace(policy, vpc_cidrs=(*policy.vpc_cidrs, IPv4Network(f"10.{number}.0.0/16")))
    text = transaction(have, rules(more))
    changes = [line for line in text.splitlines() if not line.startswith("*") and line != "COMMIT"]
    assert len(changes) == (0 if policy.external_snat else 2)
    assert all(line.startswith("-I ") and f"-d 10.{number}.0.0/16" in line for line in changes)


def test_quotes_and_spacing_make_no_difference():
    policy = SnatPolicy("eth0", IPv4Address("10.0.0.5"), (IPv4Network("10.0.0.0/16"),))
    have = {
        table: {name: [line.replace('"', "'") for line in lines] for name, lines in chains.items()}
        for table, chains in wanted_state(rules(policy)).items()
    }
    assert transaction(have, rules(policy)) == ""


def test_saved_text_is_read_as_tables_chains_and_rules():
    lines = ["# Generated", "*nat", ":PREROUTING ACCEPT [3:9]", ":AWS-SNAT-CHAIN-0 - [0:0]"]
    text = "\n".join([*lines, "-A PREROUTING -j ACCEPT", "COMMIT", "# Done", ""])
    assert parse_save(text) == {"nat": {"PREROUTING": ["-A PREROUTING -j ACCEPT"], "AWS-SNAT-CHAIN-0": []}}
