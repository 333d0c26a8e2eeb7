# SPDX-License-Identifier: Apache-2.0
"""A live node changes its rule layout and back, with pods on two ENIs that talk throughout."""

from __future__ import annotations

import subprocess

import pytest
from labs import Lab

pytestmark = [pytest.mark.lab, pytest.mark.timeout(120)]


def rules(lab: Lab) -> list[str]:
    namespace = lab.node("1")["namespace"]
    done = subprocess.run(["ip", "-n", namespace, "rule"], capture_output=True, text=True, check=True)
    return [" ".join(line.split()) for line in done.stdout.splitlines()]


def to_pods(lab: Lab) -> list[str]:
    return [line for line in rules(lab) if line.startswith("512:")]


def test_a_live_node_changes_its_rule_layout_and_back(lab: Lab) -> None:
    lab.up("--nodes", "1", "--instance-type", "t3.small", "--env", "IP_COOLDOWN_PERIOD=1")
    pods = lab.add("a", "b", "c", "d", "e")  # three fit on the primary ENI
    assert len(to_pods(lab)) == 5
    lab.run("restart", "ipamd", "--node", "1", "--env", "VPCCNI_RULE_LAYOUT=shared")
    pods |= lab.add("f")
    assert to_pods(lab) == ["512: from all lookup 9100 proto 91"]
    assert [line for line in rules(lab) if line.startswith("1537:")]
    assert not [
        line
        for line in rules(lab)
        for address in pods.values()
        if f"from {address} lookup" in line and line.startswith("1536:")
    ]
    assert all(outcome["reached"] for outcome in lab.json("probe"))
    lab.run("pod", "rm", "a")
    lab.run("restart", "ipamd", "--node", "1", "--env", "VPCCNI_RULE_LAYOUT=per-pod")
    assert len(to_pods(lab)) == 5
    assert not [line for line in rules(lab) if line.startswith("1537:")]
    assert all(outcome["reached"] for outcome in lab.json("probe"))
    log = (lab.root / "nodes" / "1" / "log" / "ipamd.log").read_text()
    assert "repaired" not in log, "a change of settings is no repair"
