# SPDX-License-Identifier: Apache-2.0
"""Other programs change the kernel's state under a running daemon: it is back at once, counted, and packets flow."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from labs import Lab, own_lab, wait_until

from vpccni.core.conventions import host_link_name

pytestmark = [pytest.mark.lab, pytest.mark.timeout(120)]

SOON_S = 10  # far more than it takes, on a busy machine


@dataclass
class Node:
    """A node with pods on two ENIs."""

    lab: Lab
    namespace: str
    pods: dict[str, str]

    def run(self, command: str) -> str:
        """A shell command in the node's network namespace."""
        argv = ["ip", "netns", "exec", self.namespace, "sh", "-c", command]
        return subprocess.run(argv, capture_output=True, text=True, check=True).stdout

    def state(self) -> list[str]:
        """What the daemon keeps, as text."""
        shown = (
            "ip rule; ip -4 route show table all; ip -4 addr; ip -d link; iptables-save -t nat; iptables-save -t mangle"
            "; nft list table ip vpccni"
        )
        lines = self.run(shown + "; sysctl net.ipv4.conf.eth0.rp_filter net.ipv6.conf.all.forwarding").splitlines()
        return sorted(line for line in lines if not line.startswith((":", "#")) and "valid_lft" not in line)

    def repairs(self) -> dict[str, float]:
        """The counter, by kind."""
        text = self.run("curl -sf -m 3 http://127.0.0.1:61678/metrics")
        lines = [line for line in text.splitlines() if line.startswith("vpccni_repairs{")]
        return {line.split('"')[1]: float(line.split()[1]) for line in lines}

    def talks(self) -> bool:
        """Whether all pods reach each other."""
        return all(outcome["reached"] for outcome in self.lab.json("probe"))


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    with own_lab() as lab:
        # A comparison of everything every hour only: what is seen here comes from events and looks.
        lab.up("--nodes", "1", "--instance-type", "t3.small", "--env", "VPCCNI_REPAIR_INTERVAL=3600")
        pods = lab.add("a", "b", "c", "d", "e")
        made = Node(lab, lab.node("1")["namespace"], pods)
        wait_until(lambda: "lookup 3" in made.run("ip rule"), SOON_S, "the spare ENI is there, the last one")
        yield made


VETH = host_link_name("eni", "default", "e")
CASES = {
    "a pod's rule": ("rule", "ip rule del pref 512 to {e}"),
    "all rules, as networkd drops foreign ones": (
        "rule",
        "ip rule | grep 'proto 91' | sed 's/^\\([0-9]*\\):.*/\\1/' | while read p; do ip rule del pref $p; done",
    ),
    "the mark's rule": ("rule", "ip rule del pref 1024"),
    "a pod's route": ("route", "ip route del {e}"),
    "a pod's route led elsewhere": ("route", "ip route replace {e} dev lo proto static"),
    "an ENI's table": ("route", "ip route flush table 2"),
    "an ENI's address": ("address", "ip -4 addr flush dev eth1"),
    "a veth down": ("link", f"ip link set {VETH} down"),
    "a veth's MTU": ("link", f"ip link set {VETH} mtu 1400"),
    "a veth's group": ("link", f"ip link set {VETH} group 7"),
    "an ENI down": ("link", "ip link set eth1 down"),
    "an ENI's MTU": ("link", "ip link set eth1 mtu 1500"),
    "strict filtering": ("sysctl", "sysctl -qw net.ipv4.conf.eth0.rp_filter=1"),
    "a veth that speaks IPv6": ("sysctl", f"sysctl -qw net.ipv6.conf.{VETH}.disable_ipv6=0"),
    "our chain flushed": ("firewall", "iptables -t nat -F AWS-SNAT-CHAIN-0"),
    "all of nat flushed": ("firewall", "iptables -t nat -F"),
    "all of mangle flushed": ("firewall", "iptables -t mangle -F"),
    "our nftables table deleted": ("firewall", "nft delete table ip vpccni"),
    "a chain of our nftables table flushed": ("firewall", "nft flush chain ip vpccni prerouting"),
}


@pytest.mark.parametrize("case", CASES)
def test_what_another_program_changes_is_put_right_and_counted(node: Node, case: str) -> None:
    kind, command = CASES[case]
    before, counted = node.state(), node.repairs().get(kind, 0.0)
    node.run(command.format(**node.pods))
    wait_until(lambda: node.repairs().get(kind, 0.0) > counted, SOON_S, "the repair is counted")
    wait_until(lambda: node.state() == before, SOON_S, "everything is as it was")
    if case in ("all rules, as networkd drops foreign ones", "an ENI down", "a veth down", "all of nat flushed"):
        assert node.talks()


def test_what_others_add_is_left_alone_and_costs_no_repair(node: Node) -> None:
    counted = node.repairs()
    foreign = ["ip rule add pref 700 from 10.9.9.9 lookup 77", "ip route add 10.9.0.0/16 dev eth0 proto bird"]
    foreign += ["iptables -t nat -A POSTROUTING -s 10.9.9.9 -j RETURN", "ip rule del pref 700"]
    for command in foreign:
        node.run(command)
    node.run("ip rule del pref 1024")  # makes it look at everything
    wait_until(lambda: node.repairs() != counted, SOON_S, "the repair is counted")
    assert "10.9.0.0/16 dev eth0 proto bird" in node.run("ip route")
    assert "-s 10.9.9.9/32" in node.run("iptables-save -t nat")
    node.run("ip route del 10.9.0.0/16; iptables -t nat -D POSTROUTING -s 10.9.9.9 -j RETURN")


def test_pods_that_come_and_go_are_no_repairs(node: Node) -> None:
    counted = node.repairs()
    node.lab.run("pod", "rm", "d")
    node.lab.add("f")
    time.sleep(1.5)
    assert node.repairs() == counted


@pytest.mark.long
def test_a_program_that_undoes_it_again_and_again_is_named_and_not_fought(node: Node) -> None:
    counted = node.repairs().get("rule", 0.0)
    for _ in range(12):
        node.run("ip rule del pref 1024 2>/dev/null || true")
        time.sleep(0.5)
    made = node.repairs()["rule"] - counted
    assert 3 <= made <= 7, made
    log = (node.lab.root / "nodes" / "1" / "log" / "ipamd.log").read_text()
    assert "another program undoes this again and again: rule 1024: from all fwmark 0x80/0x80 lookup main" in log
    wait_until(lambda: "1024:" in node.run("ip rule"), 30, "when the other one gives up, the rule is back")
