# SPDX-License-Identifier: Apache-2.0
"""Pods with an interface on each of four network cards: who reaches them from another node, and by which card."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from labs import Lab, own_lab, wait_until

from vpccni.lab.state import LabState

pytestmark = [pytest.mark.lab, pytest.mark.timeout(150)]

NIC_CONFIG = "k8s.amazonaws.com/nicConfig"
CARDS = 4


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    settings = ("--env", "ENABLE_MULTI_NIC=true", "--env", "IP_COOLDOWN_PERIOD=1")
    with own_lab() as made:
        made.up("--nodes", "2", "--instance-type", "p4d.24xlarge", *settings)
        yield made


def multi(lab: Lab, name: str) -> list[str]:
    """The addresses of a new pod on node 1 that asks for every card."""
    row = lab.json("pod", "add", name, "--node", "1", "--annotation", f"{NIC_CONFIG}=multi-nic-attachment")
    return list(row["addresses"])


def answer(lab: Lab, source: str, address: str, bind: str = "") -> dict[str, Any] | None:
    """What the server at `address` says to `source`; None when nobody answers."""
    own = ["--interface", bind] if bind else []
    done = lab.run("exec", source, "--", "curl", "-s", "-m", "1", *own, f"http://{address}/", ok=False)
    return json.loads(done.stdout) if done.returncode == 0 else None


def ip(lab: Lab, *words: str) -> str:
    space = lab.node("1")["namespace"]
    return subprocess.run(["ip", "-n", space, *words], capture_output=True, text=True, check=True).stdout


def used(lab: Lab) -> set[str]:
    """Addresses that the daemon of node 1 says are in use."""
    pods = lab.introspect("1", "/v1/pods").values()
    return {address for pod in pods for address in pod.get("IPs", [pod["IP"]])}


def test_a_pod_is_reached_on_each_address_and_each_answers_by_its_own_card(lab: Lab) -> None:
    addresses = multi(lab, "multi")
    (far,) = lab.add("far", node="2").values()
    rules = ip(lab, "rule")
    assert len(addresses) == CARDS
    for card, address in enumerate(addresses):
        heard = answer(lab, "far", address)
        assert heard is not None and (heard["server"], heard["client"]) == ("multi", far)
        assert (f"from {address} lookup {10000 + 100 * card}" in rules) == bool(card)
        mine = answer(lab, "multi", far, bind=address)
        assert mine is not None and mine["client"] == address, "bound to an address, the pod leaves with it"
    # The VPC takes an address from the ENI that has it and from no other: without its rule it has no way out.
    victim = addresses[2]
    (rule,) = [line for line in rules.splitlines() if f"from {victim} lookup" in line]
    table = rule.split("lookup ")[1].split()[0]
    daemon = LabState.from_environ(lab.environ).process("ipamd-1")
    assert daemon is not None
    daemon.signal(signal.SIGSTOP)  # it would put the rule back within a second
    try:
        ip(lab, "rule", "del", "pref", "1536", "from", victim, "table", table)
        assert answer(lab, "far", victim) is None
        assert answer(lab, "far", addresses[1]) is not None
    finally:
        daemon.signal(signal.SIGCONT)
    wait_until(lambda: answer(lab, "far", victim) is not None, 10, "the rule is repaired")
    assert ip(lab, "rule").count(f"from {victim} lookup") == 1


def test_del_frees_every_card_although_the_daemon_was_restarted_without_its_journal(lab: Lab) -> None:
    addresses = multi(lab, "brief")
    lab.run("exec", "node/1", "--", "rm", "/var/run/aws-node/vpccni.journal", "/var/run/aws-node/ipam.json")
    lab.run("restart", "ipamd", "--node", "1")
    assert set(addresses) <= used(lab)
    lab.run("pod", "rm", "brief")
    assert not set(addresses) & used(lab)
    assert not [address for address in addresses if address in ip(lab, "rule") + ip(lab, "route")]


def test_other_values_of_the_annotation_are_ignored(lab: Lab) -> None:
    row = lab.json("pod", "add", "odd", "--node", "1", "--annotation", f"{NIC_CONFIG}=single")
    assert len(row["addresses"]) == 1
    done = lab.run("pod", "add", "wrong", "--annotation", "no-equals-sign", ok=False)
    assert done.returncode == 2 and "KEY=VALUE" in done.stderr


def test_without_the_switch_such_a_pod_is_refused_and_one_without_is_not(lab: Lab) -> None:
    lab.run("restart", "ipamd", "--node", "2", "--env", "ENABLE_MULTI_NIC=false")
    done = lab.run(
        "pod", "add", "refused", "--node", "2", "--annotation", f"{NIC_CONFIG}=multi-nic-attachment", ok=False
    )
    assert done.returncode == 1 and "multi-nic-disabled" in done.stderr
    assert lab.add("plain", node="2")
