# SPDX-License-Identifier: Apache-2.0
"""Our nftables tables in a real kernel: listed as they were written, changed as a whole, chosen when they are right."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address
from itertools import product
from pathlib import Path

import pytest

from vpccni.core.firewall.nftrules import tables
from vpccni.core.firewall.snat import SnatPolicy
from vpccni.errors import HostError
from vpccni.host.firewall import Firewall
from vpccni.host.nftables import Nftables
from vpccni.host.programs import DIRECTORIES
from vpccni.netlink.namespace import inside

pytestmark = pytest.mark.netns

GOLDEN = Path(__file__).parent / "golden"
CIDRS = (IPv4Network("192.168.0.0/16"), IPv4Network("100.64.0.0/16"))
POLICY = SnatPolicy("eth0", IPv4Address("192.168.0.10"), CIDRS)
SIX = IPv6Address("2001:db8::10")


def text(policy: SnatPolicy | None = POLICY, egress_from=None, randomize: str = "prng") -> dict[str, str]:
    return {table.family: str(table) for table in tables(policy, egress_from, randomize)}


@pytest.fixture
def node(spaces) -> Iterator:
    """A node's namespace, which the test's thread has entered."""
    made = spaces()
    with inside(made.fd):
        yield made


def listed(node) -> str:
    return node.run("nft", "list", "ruleset")


def test_the_kernel_lists_what_the_golden_file_holds_and_iptables_sees_nothing(node):
    Nftables().apply(text(POLICY, SIX))
    assert listed(node).split() == (GOLDEN / "nftables.txt").read_text().split()
    assert node.run("iptables-nft-save").splitlines() == []


@pytest.mark.parametrize(("external", "node_port"), list(product([False, True], repeat=2)))
def test_a_second_application_finds_nothing_to_do(node, external, node_port):
    nft = Nftables()
    excluded = (IPv4Network("10.12.0.0/16"), IPv4Network("10.1.1.1/32"))
    for number, randomize in enumerate(("prng", "hashrandom", "none")):
        policy = replace(
            POLICY, external_snat=external, node_port_support=node_port, randomize=randomize, excluded=excluded,
            mark=0x10000, vpc_cidrs=(CIDRS, (), (IPv4Network("0.0.0.0/0"),))[number],
        )  # fmt: skip
        wanted = text(policy, (SIX, IPv4Address("192.168.0.10"), None)[number], randomize)
        nft.apply(wanted)
        assert Nftables().apply(wanted) == "", "also after a restart"
        assert {state for _, _, state in nft.states(wanted)} <= {"ok"}


def test_what_somebody_changed_comes_back_in_one_transaction_and_foreign_tables_stay(node):
    nft, wanted = Nftables(), text(POLICY, SIX)
    nft.apply(wanted)
    node.run("nft", "add table ip other; add chain ip other vpccni; add rule ip other vpccni drop")
    before = listed(node)
    for damage in (
        "flush chain ip vpccni translation",
        "delete table ip vpccni",
        "delete table ip6 vpccni",
        "insert rule ip vpccni inbound accept",
        "insert rule ip vpccni translation ip daddr 10.0.0.0/8 return",
        "add chain ip vpccni mine",
        "flush chain ip6 vpccni refusal",
    ):
        node.run("nft", damage)
        assert {state for _, _, state in nft.states(wanted)} != {"ok"}, damage
        assert nft.apply(wanted).count("delete table") == ("delete table" not in damage), damage
        assert sorted(listed(node).split()) == sorted(before.split()), damage
    assert nft.apply({}) and "table ip other" in listed(node) and listed(node).count("table") == 1


def test_a_transaction_that_the_kernel_refuses_changes_nothing(node):
    Nftables().apply(text(POLICY, SIX))
    before = listed(node)
    changed = text(replace(POLICY, mark=0x100), SIX)
    with pytest.raises(HostError) as caught:
        Nftables().apply(changed | {"ip6": changed["ip6"].replace("type nat hook", "type nonsense hook")})
    assert caught.value.error_code == "firewall-refused" and listed(node) == before


def test_an_nft_that_words_its_listing_differently_changes_a_table_once(node, tmp_path):
    """Releases of nft print some expressions in other words; a second daemon that cannot know them replaces once."""
    program = tmp_path / "nft"
    program.write_text('#!/bin/sh\n/usr/sbin/nft "$@" | sed "s/ct status ! confirmed/ct status != confirmed/"\n')
    program.chmod(0o755)
    nft = Nftables((str(tmp_path), *DIRECTORIES))
    assert nft.apply(text()) and nft.apply(text()) == ""
    assert {state for _, _, state in nft.states(text())} == {"ok"}
    node.run("nft", "flush chain ip vpccni outbound")
    assert nft.apply(text()) and nft.apply(text()) == "", "and still sees what somebody else changes"


def test_without_nft_it_is_named_with_the_place_to_get_it(tmp_path):
    with pytest.raises(HostError) as caught:
        Nftables((str(tmp_path),)).apply(text())
    assert caught.value.error_code == "program-missing" and "apt-get install nftables" in caught.value.hint


@pytest.mark.parametrize("family", ["ip", "ip6"])
def test_kube_proxy_in_nftables_mode_makes_the_backend_native_and_kubelets_chains_do_not(node, family):
    node.run("iptables-nft", "-t", "mangle", "-N", "KUBE-KUBELET-CANARY")
    assert Firewall().match("auto").variant == "nft"
    node.run("nft", f"add table {family} kube-proxy")
    firewall = Firewall()
    assert firewall.match("auto").native and firewall.sends_events()
    assert not Firewall().match("iptables-nft").native, "a setting counts for more"
    node.run("nft", f"delete table {family} kube-proxy")
    assert Firewall().match("nftables").native and not Firewall().match("auto").native


def test_without_any_iptables_the_backend_is_native(node, tmp_path):
    (tmp_path / "nft").symlink_to("/usr/sbin/nft")
    assert Firewall((str(tmp_path),)).match("auto").native
    (tmp_path / "iptables-save").symlink_to("/usr/sbin/iptables-save")
    assert not Firewall((str(tmp_path),)).match("auto").native
