# SPDX-License-Identifier: Apache-2.0
"""Two hundred pods on four nodes: no address twice, all reach all, and afterwards the nodes are as before."""

from __future__ import annotations

from typing import Any

import pytest
from labs import Lab, wait_until

pytestmark = [pytest.mark.lab, pytest.mark.long]

NODES = ("1", "2", "3", "4")


def kernel_state(lab: Lab, node: str) -> str:
    """Links, rules and routes of a node, without what differs between ENIs."""
    script = "ip -o link | grep -c ' eni'; ip rule | grep -vE '^(32765|1024):'; ip route show table main"
    return lab.run("exec", f"node/{node}", "--", "sh", "-c", script).stdout


def held(node: dict[str, Any]) -> tuple[int, int]:
    """ENIs of a node and the addresses that they hold."""
    return len(node["enis"]), sum(len(eni["addresses"]) for eni in node["enis"])


@pytest.mark.timeout(360)
def test_two_hundred_pods_come_talk_and_go(lab: Lab) -> None:
    lab.up("--nodes", "4", "--instance-type", "c5.4xlarge", "--env", "IP_COOLDOWN_PERIOD=2")
    before = {node: kernel_state(lab, node) for node in NODES}
    held_before = {row["name"]: held(row) for row in lab.json("nodes")}
    names = [f"p{n}" for n in range(200)]
    pods = lab.add(*names)  # 16 at once
    assert len(pods) == 200 and len(set(pods.values())) == 200
    owned = {address for row in lab.json("nodes") for eni in row["enis"] for address in eni["addresses"]}
    assert set(pods.values()) <= owned

    outcomes = lab.json("probe", ok=False)
    failed = [outcome for outcome in outcomes if not outcome["reached"]]
    assert len(outcomes) == 200 * 199 + 200 * 2 and failed == []
    inside = [outcome for outcome in outcomes if not outcome["destination"].startswith("host ")]
    assert all(outcome["seen"] == pods[outcome["source"]] for outcome in inside)
    dropped = lab.json("status")["dropped"]
    assert dropped["spoofed_source"] == dropped["wrong_mac"] == 0

    lab.run("pod", "rm", *names)
    assert all(lab.introspect(node, "/v1/pods") == {} for node in NODES)
    wait_until(lambda: all(kernel_state(lab, node) == before[node] for node in NODES), 10, "nodes are as before")
    # Surplus ENIs are freed once they are a minute old.
    wait_until(lambda: {row["name"]: held(row) for row in lab.json("nodes")} == held_before, 150, "pools are as before")
    # The same number of pods finds place again: 50 on a node and 29 spare take three ENIs.
    again = lab.add(*names)
    assert len(set(again.values())) == 200
    wait_until(lambda: {held(row)[0] for row in lab.json("nodes")} == {3}, 20, "three ENIs on each node")
