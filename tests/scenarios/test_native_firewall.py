# SPDX-License-Identifier: Apache-2.0
"""A node whose rules are nftables tables of our own: repaired, explained, tested, and left for another backend."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from labs import Lab, wait_until

pytestmark = [pytest.mark.lab, pytest.mark.timeout(120)]

SOON_S = 10  # far more than it takes, on a busy machine
ROWS = "secondary-to-site,secondary-to-service-outside,site-to-node-port-local-secondary"


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    made = Lab()
    environ = ("VPCCNI_REPAIR_INTERVAL=3600", "VPCCNI_FIREWALL=nftables", "IP_COOLDOWN_PERIOD=1")
    options = [word for each in environ for word in ("--env", each)]
    made.up("--nodes", "1", "--instance-type", "t3.small", *options)
    try:
        yield made
    finally:
        made.down()


def on_node(lab: Lab, command: str) -> str:
    return lab.run("exec", "node/1", "--", "sh", "-c", command).stdout


def command(lab: Lab, *argv: str) -> tuple[int, Any]:
    """A command of ours and its JSON."""
    line = [sys.executable, "-m", "vpccni", *argv, "--node", "1", "-o", "json"]
    done = subprocess.run(line, env=lab.environ, capture_output=True, text=True, timeout=110, check=False)
    return done.returncode, json.loads(done.stdout)


def repairs(lab: Lab) -> float:
    text = on_node(lab, "curl -sf -m 3 http://127.0.0.1:61678/metrics")
    lines = [line for line in text.splitlines() if line.startswith('vpccni_repairs{kind="firewall"}')]
    return float(lines[0].split()[1]) if lines else 0.0


@pytest.mark.parametrize(
    "damage",
    [
        "flush chain ip vpccni translation",
        "insert rule ip vpccni translation ip daddr 203.0.113.0/24 return",
        pytest.param("delete table ip vpccni", marks=pytest.mark.long),
        pytest.param("insert rule ip vpccni inbound accept", marks=pytest.mark.long),
    ],
)
def test_what_another_program_changes_is_put_right_and_counted(lab: Lab, damage: str) -> None:
    before, counted = on_node(lab, "nft list ruleset"), repairs(lab)
    on_node(lab, f"nft '{damage}'")
    wait_until(lambda: repairs(lab) > counted, SOON_S, "the repair is counted")
    assert on_node(lab, "nft list ruleset") == before


def test_rules_of_others_cost_no_repair_and_stay(lab: Lab) -> None:
    counted = repairs(lab)
    on_node(lab, "nft add table ip other; nft add chain ip other vpccni; nft add rule ip other vpccni drop")
    on_node(lab, "nft flush chain ip vpccni outbound")
    wait_until(lambda: repairs(lab) == counted + 1, SOON_S, "ours is back")
    assert "drop" in on_node(lab, "nft list table ip other")
    on_node(lab, "nft delete table ip other")


def test_the_doctor_names_every_rule_with_its_reason_and_what_is_wrong_with_it(lab: Lab) -> None:
    code, document = command(lab, "doctor")
    rules = [each for each in document["objects"] if each["group"] == "firewall"]
    assert code == 0 and len(rules) >= 12 and {each["state"] for each in rules} == {"ok"}
    (snat,) = [each for each in rules if '"AWS, SNAT"' in each["subject"]]
    assert snat["subject"].startswith("nft ip vpccni translation: ") and "primary address" in snat["why"]
    assert not any("iptables" in each["subject"] for each in rules)


@pytest.mark.long
def test_flows_hold_and_each_needs_its_rule(lab: Lab) -> None:
    code, results = command(lab, "selftest", "--negatives", "--rows", ROWS)
    assert code == 0 and {row["verdict"] for row in results} == {"passed"}
    broken = {row["negative"] for row in results}
    assert broken >= {
        "SNAT rule",
        "connection mark of outbound flows",
        "connection mark of flows that kube-proxy rewrote",
        "connection mark of flows that enter by the primary ENI",
        "restore of the mark on packets from pods",
    }
    assert command(lab, "doctor")[0] == 0, "every rule is back where it was"


@pytest.mark.long
def test_a_restart_with_another_backend_leaves_nothing_of_the_old_one(lab: Lab) -> None:
    native = on_node(lab, "nft list table ip vpccni")
    for backend, save in (("iptables-legacy", "iptables-legacy-save"), ("iptables-nft", "iptables-nft-save")):
        lab.run("restart", "ipamd", "--node", "1", "--env", f"VPCCNI_FIREWALL={backend}")
        assert "AWS, SNAT" in on_node(lab, save) and "AWS, SNAT" not in on_node(lab, "nft list table ip vpccni")
        assert command(lab, "doctor")[0] == 0
    assert "AWS" not in on_node(lab, "iptables-legacy-save")
    # With auto, kube-proxy's table decides; until the daemon has seen it, the doctor tells.
    told = "kube-proxy runs in nftables mode"
    assert told not in json.dumps(command(lab, "doctor")[1]["remarks"])
    on_node(lab, "nft add table ip kube-proxy")
    assert told in json.dumps(command(lab, "doctor")[1]["remarks"])
    lab.run("restart", "ipamd", "--node", "1", "--env", "VPCCNI_FIREWALL=auto")
    assert on_node(lab, "nft list table ip vpccni") == native
    assert "AWS" not in on_node(lab, "iptables-nft-save; iptables-legacy-save")
    assert told not in json.dumps(command(lab, "doctor")[1]["remarks"])
    assert told in on_node(lab, "cat /var/log/aws-routed-eni/ipamd.log")
