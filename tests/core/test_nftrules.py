# SPDX-License-Identifier: Apache-2.0
"""The rules of the native backend as text, and what differs from it line by line."""

from __future__ import annotations

import re
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpccni.core.firewall.backend import bridge, form
from vpccni.core.firewall.nftlisting import rule_states, same_shape, transaction
from vpccni.core.firewall.nftrules import tables
from vpccni.core.firewall.snat import SnatPolicy
from vpccni.core.reasons import firewall_reason

CIDRS = (IPv4Network("192.168.0.0/16"), IPv4Network("100.64.0.0/16"))
POLICY = SnatPolicy("eth0", IPv4Address("192.168.0.10"), CIDRS)
SIX = IPv6Address("2001:db8::10")


def text(policy: SnatPolicy | None = POLICY, egress_from=None) -> dict[str, str]:
    """The tables by family."""
    return {table.family: str(table) for table in tables(policy, egress_from)}


def comments(policy: SnatPolicy) -> list[str]:
    return [comment for table in tables(policy, None) for chain in table.chains for _, comment in chain.rules]


# (external SNAT, NodePort support) -> what the rules say of themselves, in order; as the iptables form has them.
RESTORE, TRANSLATION = (
    "AWS, CONNMARK",
    ["flows of the node itself", "what stays on the node", *["AWS SNAT CHAIN"] * len(CIDRS), "AWS, SNAT"],
)
OUTBOUND = [*["flows of pods that stay in the VPC"] * len(CIDRS), "AWS, outbound connections"]
SWITCHES = {
    (False, True): ["AWS, primary ENI", *OUTBOUND, RESTORE, RESTORE, *TRANSLATION],
    (False, False): [*OUTBOUND, RESTORE, *TRANSLATION],
    (True, True): ["AWS, primary ENI", RESTORE, RESTORE],
    (True, False): [],
}


@pytest.mark.parametrize(("switches", "expected"), SWITCHES.items())
def test_each_combination_of_switches_gives_the_documented_rules(switches, expected):
    assert comments(replace(POLICY, external_snat=switches[0], node_port_support=switches[1])) == expected


def test_there_is_no_table_where_there_is_nothing_to_say():
    assert text(replace(POLICY, external_snat=True, node_port_support=False)) == {} == text(None)
    assert list(text(None, SIX)) == ["ip6"] and list(text(None, IPv4Address("192.0.2.1"))) == ["ip"]
    assert list(text(POLICY, SIX)) == ["ip", "ip6"]


@pytest.mark.parametrize(("randomize", "flag"), [("prng", " fully-random"), ("hashrandom", " random"), ("none", "")])
def test_the_choice_of_the_source_port_is_in_both_translations(randomize, flag):
    shown = [str(table) for table in tables(replace(POLICY, randomize=randomize), SIX, randomize)]
    assert f'snat to 192.168.0.10{flag} comment "AWS, SNAT"' in shown[0]
    assert f'snat to {SIX}{flag} comment "AWS, egress"' in shown[1]


def test_each_address_is_named_once_and_the_mark_is_the_settings():
    shown = text(replace(POLICY, excluded=(IPv4Network("192.168.7.0/24"), IPv4Network("10.1.1.1/32")), mark=0x100))[
        "ip"
    ]
    once = ["10.1.1.1", "100.64.0.0/16", "192.168.0.0/16"]
    assert re.findall(r"ip daddr (\S+) return", shown) == once == re.findall(r"ip daddr (\S+) ct mark set", shown)
    assert "".join(f" ip daddr != {network}" for network in once) in shown
    assert shown.count("10.1.1.1") == 3 and "192.168.7.0" not in shown
    assert "ct mark set ct mark | 0x00000100" in shown and "0x00000080" not in shown


def test_every_line_that_the_doctor_shows_has_a_reason_of_its_own():
    everything = text(POLICY, SIX) | {"ip": text(POLICY, IPv4Address("192.168.0.10"))["ip"]}
    for external, node_port in product((False, True), repeat=2):
        shown = rule_states({}, everything | text(replace(POLICY, external_snat=external, node_port_support=node_port)))
        assert [line for _, line, _ in shown if firewall_reason(line) == "the data path needs it"] == []


def test_a_listing_in_other_white_space_is_the_same():
    want = text()
    have = {"ip": want["ip"].replace("    ", "\t")}
    assert have != want and transaction(have, want) == ""
    assert {state for _, _, state in rule_states(have, want)} == {"ok"}


def test_a_table_with_more_or_fewer_lines_is_never_the_same_in_other_words():
    want = text()["ip"]
    assert same_shape(want, want.replace("ct status ! confirmed", "ct status != confirmed"))
    assert not same_shape(want, "")
    lines = want.splitlines(keepends=True)
    for number, line in enumerate(lines):
        if line.startswith("        "):
            assert not same_shape(want, "".join(lines[:number] + lines[number + 1 :]))
            assert not same_shape(want, "".join([*lines[:number], line, *lines[number:]]))


def test_what_is_missing_extra_or_out_of_place_is_told_by_line():
    want = text()
    lines = want["ip"].splitlines(keepends=True)
    snat = next(line for line in lines if '"AWS, SNAT"' in line)
    local = next(line for line in lines if '"what stays on the node"' in line)
    without = {"ip": "".join(line for line in lines if line != snat)}
    place = "ip vpccni translation"
    assert (place, snat.strip(), "missing") in rule_states(without, want)
    more = {"ip": want["ip"].replace(snat, snat + "        accept\n")}
    assert [each for each in rule_states(more, want) if each[2] != "ok"] == [(place, "accept", "extra")]
    moved = {"ip": want["ip"].replace(local, "").replace(snat, snat + local)}
    assert (place, local.strip(), "wrong") in rule_states(moved, want)
    assert all(state == "extra" for _, _, state in rule_states(want, {}))
    for have in (without, more, moved):
        assert transaction(have, want) == "delete table ip vpccni\n" + want["ip"]


NETWORKS = st.lists(st.integers(0, 7).map(lambda number: IPv4Network(f"10.{number}.0.0/16")), max_size=5).map(tuple)
POLICIES = st.builds(
    SnatPolicy,
    primary_link=st.sampled_from(["eth0", "ens5"]),
    primary_address=st.sampled_from([IPv4Address("10.0.0.5"), IPv4Address("10.0.0.6")]),
    vpc_cidrs=NETWORKS,
    excluded=NETWORKS,
    external_snat=st.booleans(),
    node_port_support=st.booleans(),
    randomize=st.sampled_from(["prng", "hashrandom", "none"]),
    mark=st.sampled_from([0x80, 0x10000]),
    dual_stack=st.booleans(),
)
FORMS = st.builds(
    form,
    native=st.booleans(),
    policy=st.none() | POLICIES,
    egress_from=st.sampled_from([None, SIX, IPv4Address("10.0.0.5")]),
    randomize=st.sampled_from(["prng", "none"]),
)


@given(FORMS, FORMS)
def test_from_any_form_to_any_other_it_is_one_transaction_that_names_only_what_differs(old, new):
    change = transaction(old.nftables, new.nftables)
    assert (change == "") == (old.nftables == new.nftables)
    for family in ("ip", "ip6"):
        have, want = old.nftables.get(family, ""), new.nftables.get(family, "")
        assert (f"table {family} vpccni" in change) == (have != want)
        assert change.count(f"delete table {family} vpccni\n") == (have not in (want, ""))


@given(POLICIES, st.permutations(range(4)))
def test_the_order_of_networks_makes_no_difference(policy, order):
    four = tuple(IPv4Network(f"10.{number}.0.0/16") for number in range(4))
    turned = tuple(four[number] for number in order)
    assert text(replace(policy, vpc_cidrs=four)) == text(replace(policy, vpc_cidrs=turned))


@given(POLICIES)
def test_the_iptables_form_and_the_native_one_translate_and_mark_under_the_same_settings(policy):
    iptables = form(native=False, policy=policy, egress_from=None, randomize="prng")
    native = form(native=True, policy=policy, egress_from=None, randomize="prng")
    said, shown = "".join(map(str, iptables.iptables)), "".join(native.nftables.values())
    assert native.iptables == ()
    for comment in ("AWS, SNAT", "AWS, outbound connections"):
        assert (f'"{comment}"' in said) == (f'"{comment}"' in shown)
    assert ("--dst-type LOCAL --limit-iface-in" in said) == ("fib daddr . iif type local" in shown)
    assert ("--restore-mark" in said) == ("meta mark set meta mark |" in shown)


@given(POLICIES, POLICIES, st.booleans())
def test_between_two_backends_the_native_rules_and_the_nodes_own_flows_stand_together(old, new, back):
    was = form(native=back, policy=old, egress_from=SIX, randomize="prng")
    wanted = form(native=not back, policy=new, egress_from=SIX, randomize="prng")
    found = bridge(was.nftables, wanted)
    native, beside = (each.nftables for each in ((was, wanted) if back else (wanted, was)))
    both = "fib saddr type local return" in str(native) and "snat to ip saddr" in str(beside)
    assert (found is not None) == both
    if found is not None:
        keeping = beside["ip"].partition("chain postrouting {")[2].partition("}")[0]
        assert sorted(found["ip"].split()) == sorted(f"{native['ip']} chain postrouting {{ {keeping} }}".split())
        assert found.keys() == native.keys()
    assert bridge(was.nftables, was) is None and bridge({}, wanted) is None
