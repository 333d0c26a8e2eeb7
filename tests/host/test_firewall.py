# SPDX-License-Identifier: Apache-2.0
"""Chains and rules in a real kernel through iptables-save and iptables-restore."""

from __future__ import annotations

import itertools
import random
import shutil
import threading
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from vpccni.core.firewall.snat import ChainRules, IptablesRules, SnatPolicy, TableRules, nothing, rules
from vpccni.errors import HostError
from vpccni.host.firewall import Firewall
from vpccni.host.programs import DIRECTORIES
from vpccni.netlink.firewall_events import FirewallMonitor
from vpccni.netlink.namespace import inside

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(shutil.which("iptables-save", path="/usr/sbin:/sbin") is None, reason="needs iptables"),
]

GOLDEN = Path(__file__).parent / "golden"
CIDRS = (IPv4Network("192.168.0.0/16"), IPv4Network("100.64.0.0/16"))
POLICY = SnatPolicy("eth0", IPv4Address("192.168.0.10"), CIDRS)


class Node:
    """A node's namespace and one variant of iptables."""

    def __init__(self, space, programs: Path) -> None:
        self.name, self.fd, self._space, self._programs = space.name, space.fd, space, programs
        self.firewall = Firewall((str(programs), *DIRECTORIES))

    def run(self, program: str, *arguments: str) -> str:
        own = self._programs / program
        return self._space.run(str(own) if own.exists() else program, *arguments)


@pytest.fixture(params=["nft", "legacy"])
def node(spaces, request, tmp_path) -> Iterator[Node]:
    """A node, whose namespace the test's thread has entered, with each variant of iptables that the machine has."""
    program = Path(f"/usr/sbin/xtables-{request.param}-multi")
    if not program.exists():
        pytest.skip(f"needs {program}")
    for name in ("iptables", "iptables-save", "iptables-restore"):
        (tmp_path / name).symlink_to(program)
    made = Node(spaces(), tmp_path)
    with inside(made.fd):
        yield made


def listed(node, table: str) -> list[str]:
    return node.run("iptables", "-t", table, "-S").splitlines()


def counted(node) -> dict[str, str]:
    """Rule text -> counters, of all rules of nat."""
    lines = [line for line in node.run("iptables-save", "-c", "-t", "nat").splitlines() if line.startswith("[")]
    return {line.split(" ", 1)[1]: line.split(" ", 1)[0] for line in lines}


def test_the_kernel_lists_what_the_golden_files_hold(node):
    node.firewall.apply(rules(POLICY))
    assert listed(node, "nat") == (GOLDEN / "nat.txt").read_text().splitlines()
    mangle = [line for line in listed(node, "mangle") if not line.startswith("-P")]
    assert mangle == (GOLDEN / "mangle.txt").read_text().splitlines()


@pytest.mark.parametrize("external", [False, True])
@pytest.mark.parametrize("node_port", [False, True])
@pytest.mark.parametrize("randomize", ["prng", "hashrandom", "none"])
def test_a_second_application_finds_nothing_to_do(node, external, node_port, randomize):
    excluded = (IPv4Network("10.12.0.0/16"), IPv4Network("0.0.0.0/0"), IPv4Network("10.1.1.1/32"))
    policy = replace(
        POLICY,
        external_snat=external,
        node_port_support=node_port,
        randomize=randomize,
        excluded=excluded,
        mark=0x10000,
    )
    assert node.firewall.apply(rules(policy))
    assert node.firewall.apply(rules(policy)) == ""


def test_any_order_of_policies_ends_in_the_same_rules(node):
    firewall, dice = node.firewall, random.Random(3)
    firewall.apply(rules(POLICY))
    wanted = listed(node, "nat"), listed(node, "mangle")
    for external, node_port, prefix in itertools.product([True, False], [True, False], ["eni", "veth"]):
        cidrs = tuple(dice.sample([*CIDRS, IPv4Network("10.0.0.0/8"), IPv4Network("10.9.0.0/16")], 3))
        firewall.apply(
            rules(SnatPolicy("eth0", IPv4Address("192.168.0.10"), cidrs, (), external, node_port, "none", 0x80, prefix))
        )
    firewall.apply(rules(POLICY))
    assert (listed(node, "nat"), listed(node, "mangle")) == wanted
    firewall.remove()
    left = [line for table in ("nat", "mangle") for line in listed(node, table) if "AWS" in line]
    assert left == []


def test_foreign_rules_stay_and_ours_come_behind_them(node):
    node.run("iptables", "-t", "nat", "-N", "KUBE-SERVICES")
    node.run(
        "iptables", "-t", "nat", "-A", "PREROUTING", "-m", "comment", "--comment", "kube's own", "-j", "KUBE-SERVICES"
    )
    node.run("iptables", "-t", "nat", "-A", "POSTROUTING", "-s", "10.9.9.9", "-j", "MASQUERADE")
    node.run("iptables", "-t", "mangle", "-A", "PREROUTING", "-i", "wg0", "-j", "MARK", "--set-mark", "0x4")
    before = {table: listed(node, table) for table in ("nat", "mangle")}
    firewall = node.firewall
    firewall.apply(rules(POLICY))
    prerouting = [line for line in listed(node, "nat") if line.startswith("-A PREROUTING")]
    assert ["KUBE-SERVICES" in line for line in prerouting] == [True, False, False]
    assert "-j MASQUERADE" in next(line for line in listed(node, "nat") if line.startswith("-A POSTROUTING"))
    firewall.remove()
    assert {table: listed(node, table) for table in ("nat", "mangle")} == before


def test_stale_rules_and_chains_of_ours_are_removed(node):
    stale = [
        "-t nat -N AWS-SNAT-CHAIN-0",
        "-t nat -N AWS-SNAT-CHAIN-1",
        "-t nat -A AWS-SNAT-CHAIN-0 ! -d 10.0.0.0/8 -m comment --comment AWS-old -j AWS-SNAT-CHAIN-1",
        "-t nat -A AWS-SNAT-CHAIN-1 -j SNAT --to-source 10.1.1.1",
        "-t nat -N AWS-CONNMARK-CHAIN-0",
        "-t nat -A PREROUTING -i eni+ -m comment --comment AWS,~outbound~connections -m state --state NEW "
        "-j AWS-CONNMARK-CHAIN-0",
        "-t mangle -A PREROUTING -i ens5 -m comment --comment AWS,~primary~ENI -j CONNMARK --set-mark 0x80/0x80",
    ]
    for line in stale:
        node.run("iptables", *(word.replace("~", " ") for word in line.split()))
    node.firewall.apply(rules(POLICY))
    assert listed(node, "nat") == (GOLDEN / "nat.txt").read_text().splitlines()
    assert "ens5" not in " ".join(listed(node, "mangle"))


def test_a_new_vpc_cidr_touches_no_rule_that_is_right(node):
    firewall = node.firewall
    firewall.apply(rules(POLICY))
    # Counters tell whether a rule was replaced: give every rule one that a new rule would not have.
    saved = node.run("iptables-save", "-c", "-t", "nat").replace("[0:0]", "[7:700]")
    (path := Path("/tmp") / f"{node.name}.rules").write_text(saved)
    node.run("iptables-restore", "-c", str(path))
    path.unlink()
    assert set(counted(node).values()) == {"[7:700]"}
    text = firewall.apply(rules(replace(POLICY, vpc_cidrs=(*CIDRS, IPv4Network("10.77.0.0/16")))))
    assert text.count("COMMIT") == 1 and "-D" not in text and "-F" not in text
    new = {rule: counter for rule, counter in counted(node).items() if counter != "[7:700]"}
    assert len(new) == 2 and all("-d 10.77.0.0/16" in rule for rule in new)
    firewall.apply(rules(POLICY))
    assert set(counted(node).values()) == {"[7:700]"}


def test_rules_flushed_by_somebody_else_come_back(node):
    firewall = node.firewall
    firewall.apply(rules(POLICY))
    wanted = listed(node, "nat")
    node.run("iptables", "-t", "nat", "-F")
    assert firewall.apply(rules(POLICY))
    assert listed(node, "nat") == wanted


def test_the_variant_without_events_is_known(node, request):
    legacy = "legacy" in request.node.name
    assert node.firewall.sends_events() is not legacy
    with FirewallMonitor() as monitor:
        node.firewall.apply(rules(POLICY))
        assert bool(list(monitor.events())) is not legacy


def test_a_wrong_rule_is_refused_as_a_whole_and_named(node):
    firewall = node.firewall
    firewall.apply(rules(POLICY))
    before = {table: listed(node, table) for table in ("nat", "mangle")}
    good = rules(replace(POLICY, vpc_cidrs=(*CIDRS, IPv4Network("10.77.0.0/16"))))
    wrong = TableRules("mangle", (ChainRules("PREROUTING", ("-A PREROUTING -i eth0 --no-such-option",), False),))
    with pytest.raises(HostError) as caught:
        firewall.apply(IptablesRules((good.tables[0], wrong)))
    assert caught.value.error_code == "firewall-refused" and "nothing was changed" in caught.value.hint
    assert "no-such-option" in caught.value.details
    assert {table: listed(node, table) for table in ("nat", "mangle")} == before
    assert firewall.apply(good)  # and the right part alone is accepted


def test_a_missing_iptables_is_named_with_the_place_to_get_it(tmp_path):
    with pytest.raises(HostError) as caught:
        Firewall((str(tmp_path),)).apply(rules(POLICY))
    assert caught.value.error_code == "program-missing"
    assert "iptables-save" in caught.value.message and "apt-get install iptables" in caught.value.hint


def test_only_the_calling_threads_namespace_changes(spaces):
    here, there = spaces(), spaces("other")
    failures: list[BaseException] = []

    def work():
        try:
            with inside(there.fd):
                Firewall().apply(rules(POLICY))
        except BaseException as error:
            failures.append(error)

    with inside(here.fd):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        assert not failures
        assert not any(chain.rules for table in nothing().tables for chain in table.chains)
        assert Firewall().observe(nothing())["nat"].get("AWS-SNAT-CHAIN-0") is None
    with inside(there.fd):
        assert "AWS-SNAT-CHAIN-0" in Firewall().observe(nothing())["nat"]


def test_the_go_implementations_nftables_backend_is_removed(node):
    if shutil.which("nft", path="/usr/sbin:/sbin") is None:
        pytest.skip("needs nft")
    firewall = node.firewall
    assert firewall.nft.remove_upstream() is False
    node.run("nft", "add", "table", "ip", "aws-cni")
    node.run("nft", "add", "table", "ip", "mine")
    assert firewall.nft.remove_upstream() is True
    assert "aws-cni" not in node.run("nft", "list", "tables") and "mine" in node.run("nft", "list", "tables")
