# SPDX-License-Identifier: Apache-2.0
"""IPv6 clusters and dual-stack pods in a whole lab: real daemons, the EC2 API and packets in both families."""

from __future__ import annotations

import os
import signal
import subprocess
from ipaddress import ip_address
from typing import Any

import pytest
from labs import Lab, wait_until

pytestmark = [pytest.mark.lab, pytest.mark.timeout(120)]

IPV6 = ("ENABLE_IPv4=false", "ENABLE_IPv6=true", "ENABLE_PREFIX_DELEGATION=true", "ENABLE_V4_EGRESS=false")


def environment(*settings: str) -> list[str]:
    return [word for setting in settings for word in ("--env", setting)]


def failed(lab: Lab, *argv: str) -> list[dict[str, Any]]:
    return [outcome for outcome in lab.json("probe", *argv, ok=False) if not outcome["reached"]]


def addresses(lab: Lab) -> dict[str, list[str]]:
    """Pod -> all of its addresses."""
    return {row["name"]: row["addresses"] for row in lab.json("pod", "list")}


def on_node(lab: Lab, *argv: str) -> list[str]:
    command = ["ip", "-n", lab.node("1")["namespace"], *argv]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [" ".join(line.split()) for line in done.stdout.splitlines()]


def test_ipv6_pods_reach_each_other_and_the_world_as_themselves(lab: Lab) -> None:
    lab.up("--ipv6", *environment(*IPV6, "IP_COOLDOWN_PERIOD=1"))
    pods = lab.add("a", "b", node="1") | lab.add("c", node="2")
    assert {ip_address(address).version for address in pods.values()} == {6}
    reached = lab.json("probe")
    assert len(reached) == 12 and all(outcome["reached"] for outcome in reached)
    assert all(outcome["seen"] == pods[outcome["source"]] for outcome in reached), "nothing translated"
    assert failed(lab, "--from", "internet", "--to", "a") == [], "from outside too"
    for node, pod in (("1", "a"), ("1", "c")):
        assert failed(lab, "--from", f"node/{node}", "--to", pod) == []
    lab.run("restart", "ipamd", "--node", "1")
    assert failed(lab) == []
    lab.run("pod", "rm", "a")
    assert not [line for line in on_node(lab, "-6", "rule") if pods["a"] in line.split()]
    (card,) = lab.introspect("1", "/v1/enis").values()
    assert card["AssignedIPs"] == 1
    calls = {row["action"]: row["calls"] for row in lab.json("calls")["totals"]}
    assert calls["AssignIpv6Addresses"] == 2, "one for each node, and none for a restart"
    assert not {"CreateNetworkInterface", "AssignPrivateIpAddresses"} & set(calls)


def test_dual_stack_pods_on_two_enis_talk_in_both_families(lab: Lab) -> None:
    lab.up("--ipv6", "--instance-type", "t3.small", *environment("VPCCNI_DUAL_STACK=true"))
    lab.add("a", "b", "c", "d", "e", node="1")  # three fit on the primary ENI
    lab.add("z", node="2")
    known = addresses(lab)
    assert all([ip_address(text).version for text in pair] == [4, 6] for pair in known.values())
    assert failed(lab) == []
    second = {line.split()[2] for line in on_node(lab, "rule") if line.startswith("1536:")}
    (moved,) = [name for name, pair in known.items() if pair[0] in second][:1]
    daemon = lab.node("1")["ipamd_pid"]
    os.kill(daemon, signal.SIGSTOP)  # it would put the rule back within a second
    try:
        on_node(lab, "-6", "rule", "del", "pref", "1536", "from", known[moved][1])
        (broken,) = failed(lab, "--from", moved, "--to", "z")
    finally:
        os.kill(daemon, signal.SIGCONT)
    assert broken["address"] == known["z"][1], "the other ENI may not send from this address; IPv4 goes on"
    wait_until(lambda: failed(lab, "--from", moved, "--to", "z") == [], 20, "the rule is back")
    lab.run("restart", "ipamd", "--node", "1", "--env", "VPCCNI_DUAL_STACK=false")
    assert failed(lab) == [] and addresses(lab) == known, "pods keep what they have"
    listed = {tuple(pod["IPs"]) for pod in lab.introspect("1", "/v1/pods").values()}
    assert listed == {tuple(pair) for name, pair in known.items() if name != "z"}
    lab.add("n", node="1")
    assert [ip_address(text).version for text in addresses(lab)["n"]] == [4]
    assert failed(lab, "--from", "internet", "--to", "a", "--family", "6") == []
    assert failed(lab, "--from", "internet", "--to", "a", "--family", "4") != [], "pods have no public IPv4 address"
