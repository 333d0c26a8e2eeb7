# SPDX-License-Identifier: Apache-2.0
"""Rules go into the variant of iptables that kubelet and kube-proxy use, and leave the other one."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network

import pytest

from vpccni.core.firewall.snat import SnatPolicy, rules
from vpccni.core.firewall.variant import VARIANTS, choose
from vpccni.host.firewall import Firewall
from vpccni.netlink.namespace import inside

POLICY = SnatPolicy("eth0", IPv4Address("192.168.0.10"), (IPv4Network("192.168.0.0/16"),))
OURS = '-A POSTROUTING -m comment --comment "AWS SNAT CHAIN" -j AWS-SNAT-CHAIN-0'


@pytest.mark.parametrize(
    ("setting", "installed", "hinted", "variant", "reason"),
    [
        ("auto", VARIANTS, (), "", "nobody has made chains yet"),
        ("auto", VARIANTS, ("legacy",), "legacy", "kubelet's or kube-proxy's chains"),
        ("auto", VARIANTS, ("nft",), "nft", "kubelet's or kube-proxy's chains"),
        ("auto", VARIANTS, VARIANTS, "nft", "in both variants"),
        ("auto", (), ("nft",), "", "only a program called iptables"),
        ("iptables-legacy", VARIANTS, ("nft",), "legacy", "VPCCNI_FIREWALL=iptables-legacy"),
    ],
)
def test_the_choice_follows_what_kubernetes_uses_unless_it_is_set(setting, installed, hinted, variant, reason):
    choice = choose(setting, installed, hinted)
    assert choice.variant == variant and reason in choice.reason


class Node:
    """A node's namespace with both variants of iptables."""

    def __init__(self, space) -> None:
        self.space = space

    def ours_in(self, variant: str) -> bool:
        return OURS in self.space.run(f"iptables-{variant}-save", "-t", "nat").splitlines()

    def hint(self, variant: str) -> None:
        self.space.run(f"iptables-{variant}", "-t", "mangle", "-N", "KUBE-KUBELET-CANARY")


@pytest.fixture
def node(spaces) -> Iterator[Node]:
    if any(shutil.which(f"iptables-{variant}-save", path="/usr/sbin:/sbin") is None for variant in VARIANTS):
        pytest.skip("needs both variants of iptables")
    made = Node(spaces())
    with inside(made.space.fd):
        yield made


@pytest.mark.netns
@pytest.mark.parametrize("variant", VARIANTS)
def test_rules_go_where_kubelet_has_left_its_chain(node, variant):
    (other,) = set(VARIANTS) - {variant}
    node.hint(variant)
    firewall = Firewall()
    assert firewall.match("auto").variant == variant
    firewall.apply(rules(POLICY))
    assert node.ours_in(variant) and not node.ours_in(other)
    assert firewall.apply(rules(POLICY)) == "", "the second pass is empty"


@pytest.mark.netns
@pytest.mark.parametrize("variant", VARIANTS)
def test_rules_of_the_other_variant_go_once_the_right_ones_are_there_and_foreign_ones_stay(node, variant):
    (other,) = set(VARIANTS) - {variant}
    wrong = Firewall(variant=other)
    wrong.apply(rules(POLICY))
    node.space.run(f"iptables-{other}", "-t", "nat", "-A", "POSTROUTING", "-s", "10.9.0.0/16", "-j", "MASQUERADE")
    node.hint(variant)
    firewall = Firewall()
    firewall.match("auto")
    firewall.apply(rules(POLICY))
    assert node.ours_in(variant) and node.ours_in(other)
    assert "AWS-SNAT-CHAIN-0" in firewall.remove_other()
    assert node.ours_in(variant) and not node.ours_in(other)
    left = node.space.run(f"iptables-{other}-save", "-t", "nat")
    assert "10.9.0.0/16" in left and "AWS" not in left
    assert firewall.remove_other() == ""


@pytest.mark.netns
def test_a_look_at_the_legacy_variant_makes_no_tables_of_it(node):
    firewall = Firewall()
    assert firewall.match("auto").variant == ""
    firewall.apply(rules(POLICY))
    firewall.remove_other()
    names = node.space.run("cat", "/proc/net/ip_tables_names") if _legacy_is_loaded() else ""
    assert names.strip() == "" or not firewall.sends_events()


def _legacy_is_loaded() -> bool:
    from pathlib import Path

    return Path("/proc/net/ip_tables_names").exists()
