# SPDX-License-Identifier: Apache-2.0
"""The nftables table beside the iptables rules, as text."""

from __future__ import annotations

import re
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpccni.core.firewall.nftlisting import transaction
from vpccni.core.firewall.nftmarks import table
from vpccni.core.firewall.snat import SnatPolicy

POLICY = SnatPolicy("eth0", IPv4Address("192.168.0.10"), (ip_network("192.168.0.0/16"), ip_network("100.64.0.0/16")))
NETWORKS = st.builds(
    lambda number, length: IPv4Network((number, length), strict=False), st.integers(0, 2**32 - 1), st.integers(1, 32)
)


def test_the_table_names_networks_once_in_order_and_the_mark_with_its_mask():
    text = table(replace(POLICY, excluded=(ip_network("192.168.7.0/24"), ip_network("10.1.1.1/32")), mark=0x100))
    once = ["10.1.1.1", "100.64.0.0/16", "192.168.0.0/16"]
    assert re.findall(r"ip daddr (\S+) ct mark set", text) == once
    assert text.count("".join(f" ip daddr != {network}" for network in once)) == 2
    assert "ct mark & 0x00000100 == 0x00000100 meta mark set meta mark | 0x00000100" in text
    assert "0x00000080" not in text


@pytest.mark.parametrize(
    "changes", [{"external_snat": True}, {"excluded": (ip_network("0.0.0.0/0"),)}, {"vpc_cidrs": ()}], ids=str
)
def test_where_nothing_is_translated_there_is_no_table(changes):
    assert table(replace(POLICY, **changes)) == ""
    assert table(POLICY)


def test_a_change_replaces_the_table_in_one_transaction_and_no_change_is_none():
    old, new = table(POLICY), table(replace(POLICY, mark=0x100))

    def change(have: str, want: str) -> str:
        return transaction({"ip": have}, {"ip": want} if want else {})

    assert change(old, old) == "" == change("", "")
    assert change(old.replace("    ", "\t"), old) == "", "white space is the listing's own affair"
    assert change("", new) == new
    assert change(old, new) == "delete table ip vpccni\n" + new
    assert change(old, "") == "delete table ip vpccni\n"


@given(st.permutations([ip_network("10.0.0.0/8"), ip_network("172.16.0.0/12"), ip_network("10.9.0.0/16")]))
def test_the_order_of_networks_makes_no_difference(networks):
    wanted = table(replace(POLICY, vpc_cidrs=(ip_network("10.0.0.0/8"), ip_network("172.16.0.0/12"))))
    assert table(replace(POLICY, vpc_cidrs=tuple(networks))) == wanted


@given(st.lists(NETWORKS, min_size=1, max_size=8))
def test_the_rules_name_exactly_the_addresses_of_the_networks(networks):
    text = table(replace(POLICY, vpc_cidrs=tuple(networks)))
    if not text:
        return  # together they are everything
    listed = [ip_network(each) for each in re.findall(r"ip daddr (\S+) ct mark set", text)]
    assert all(any(each.subnet_of(one) for one in listed) for each in networks)
    assert sum(one.num_addresses for one in listed) <= sum(each.num_addresses for each in networks)
    assert not any(one.overlaps(other) for one in listed for other in listed if one is not other)
