# SPDX-License-Identifier: Apache-2.0
"""Rules by source: every address leaves by its ENI, nobody else's does, and a packet walks few rules."""

from __future__ import annotations

import random
from ipaddress import IPv4Address, IPv4Network, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpccni.core import conventions as c
from vpccni.core.sourcerules import is_source_rule, source_rules, table_of


def walked(rules, address):
    """(table or 0, rules looked at) of a packet from `address`, as the kernel walks: by priority, with jumps ahead."""
    ordered = sorted(rules, key=lambda rule: rule.priority)
    looked, at = 0, 0
    while at < len(ordered):
        rule = ordered[at]
        looked += 1
        at += 1
        if rule.src is not None and address not in rule.src:
            continue
        if rule.kind == "lookup":
            return rule.table, looked
        if rule.kind == "goto":
            assert rule.target > rule.priority, "the kernel jumps ahead only"
            at = next((place for place, each in enumerate(ordered) if each.priority == rule.target), at)
    return 0, looked


def scattered(count, enis, subnet="10.20.0.0/19", seed=1):
    dice = random.Random(seed)
    network = IPv4Network(subnet)
    numbers = dice.sample(range(4, network.num_addresses - 1), count)
    return {IPv4Network(network[number]): 2 + place % enis for place, number in enumerate(numbers)}


def test_a_prefix_an_eni_needs_one_rule_and_main_needs_none():
    rules = source_rules({ip_network("10.20.0.16/28"): 2, ip_network("10.20.0.64/28"): 254})
    assert list(map(str, rules)) == ["1537: from 10.20.0.16/28 lookup 2 proto 91"]


def test_neighbouring_addresses_of_one_eni_share_a_rule():
    rules = source_rules({IPv4Network(f"10.20.0.{last}"): 2 for last in range(32, 64)})
    assert list(map(str, rules)) == ["1537: from 10.20.0.32/27 lookup 2 proto 91"]


@given(
    st.dictionaries(
        st.integers(0, 2**14 - 1).map(lambda number: IPv4Network((0x0A140000 + number * 4, 32))),
        st.sampled_from([2, 3, 4, 254]),
        max_size=60,
    )
)
def test_each_source_finds_its_table_and_nobody_elses(tables):
    rules = source_rules(tables)
    assert all(is_source_rule(rule) for rule in rules)
    for network, table in tables.items():
        address = network.network_address
        assert walked(rules, address)[0] == (0 if table == 254 else table)
        assert table_of(network, rules) == table
        assert walked(rules, address + 1)[0] == 0, "an address that no ENI has goes on to the next rule"
    assert walked(rules, IPv4Address("203.0.113.9"))[0] == 0


@pytest.mark.parametrize("subnet", ["10.20.0.0/16", "10.20.0.0/19", "10.20.0.0/22"])
def test_seven_hundred_scattered_addresses_are_found_in_a_few_steps(subnet):
    tables = scattered(700, 14, subnet)
    rules = source_rules(tables)
    steps = [walked(rules, network.network_address)[1] for network in tables]
    assert sum(steps) / len(steps) < 25 and max(steps) < 60
    flat = [rule for rule in rules if rule.kind == "lookup"]
    assert sum(range(1, len(flat))) / len(flat) > 150, "a list would be walked for much longer"


def test_an_address_more_moves_no_rule_of_the_others():
    tables = scattered(200, 4)
    before = set(source_rules(tables))
    more = tables | {IPv4Network("10.20.30.200"): 3}
    gone = before - set(source_rules(more))
    assert len(gone) <= 3, "at most one block's direct rules become a part of the tree"


def test_they_stay_within_their_priorities_and_jump_to_the_common_end():
    rules = source_rules(scattered(735, 14, "10.20.0.0/16"))
    assert {rule.priority for rule in rules} <= set(range(c.RULE_FROM_BLOCK, c.RULE_FROM_BLOCK_END + 1))
    assert [rule.kind for rule in rules if rule.priority == c.RULE_FROM_BLOCK_END] == ["nop"]
    assert len(set(rules)) == len(rules)
