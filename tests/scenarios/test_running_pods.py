# SPDX-License-Identifier: Apache-2.0
"""What a node lives through under running pods: its daemon is replaced, the layout changes, the machine reboots."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from labs import Lab, wait_until

from flows import Flow
from vpccni.lab import control, nodes
from vpccni.lab.pods import Pods
from vpccni.lab.state import LabState

pytestmark = [pytest.mark.lab, pytest.mark.timeout(150)]


def netns(lab: Lab, pod: str) -> Path:
    return Path(Pods(LabState.from_environ(lab.environ)).find(pod).netns)


def ip(lab: Lab, *words: str) -> list[str]:
    argv = ["ip", "-n", lab.node("1")["namespace"], *words]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.splitlines()


@pytest.mark.long
def test_no_datagram_is_lost_while_the_daemon_is_replaced_killed_and_set_to_the_other_layout(lab: Lab) -> None:
    lab.up("--nodes", "2", "--instance-type", "t3.small")
    pods = lab.add("a", "b", "c", "d", "e", node="1") | lab.add("far", node="2")
    ruled = " ".join(ip(lab, "rule", "list", "pref", "1536"))  # pods of the second ENI; they came all at once
    first, second = (
        next(name for name in "abcde" if (f"from {pods[name]} " in ruled) is outside) for outside in (False, True)
    )
    near = [os.open(netns(lab, name), os.O_RDONLY) for name in (first, second)]
    far = os.open(netns(lab, "far"), os.O_RDONLY)
    flows = [Flow(fd, far, pods["far"], 9000 + number) for number, fd in enumerate(near)]
    for flow in flows:
        flow.start()
    restart = ("restart", "ipamd", "--node", "1")
    try:
        for changes in (
            [],
            ["--kill"],
            ["--env", "VPCCNI_RULE_LAYOUT=shared"],
            ["--env", "VPCCNI_RULE_LAYOUT=per-pod"],
        ):
            lab.run(*restart, *changes)
            assert [(flow.lost, flow.sent > 100) for flow in flows] == [(0, True)] * 2, changes
        for line in ip(lab, "rule"):
            if line.startswith("1536:"):  # and the negative: a moment without the rule of its ENI is seen
                subprocess.run(["ip", "-n", lab.node("1")["namespace"], "rule", "del", "pref", "1536"], check=True)
        wait_until(lambda: flows[1].lost > 0, 10, "the flow of the second ENI misses a datagram")
        wait_until(lambda: "lookup 2" in " ".join(ip(lab, "rule", "list", "pref", "1536")), 10, "the rule is back")
        lost = flows[1].lost
        time.sleep(1.0)
        assert flows[1].lost <= lost + 1 and flows[0].lost == 0, "and packets flow again"
    finally:
        for flow in flows:
            flow.end()
        for fd in (*near, far):
            os.close(fd)


@pytest.mark.long
def test_after_a_reboot_nothing_of_the_old_pods_is_left_and_new_ones_start(lab: Lab) -> None:
    lab.up("--nodes", "1", "--env", "IP_COOLDOWN_PERIOD=1")
    pods = lab.add("a", "b", "c")
    state = LabState.from_environ(lab.environ)
    nodes.stop(state, "1", signal.SIGKILL)
    # The machine forgets all of this; the files stay, as on a node whose /var/run is on a disk.
    for name in pods:
        pod = Pods(state).find(name)
        control.ask(state, "DELETE", "/servers", {"labels": [pod.label]})  # what runs in a pod ends with the machine
        subprocess.run(["ip", "netns", "del", Path(pod.netns).name], check=True)
    wait_until(lambda: not [line for line in ip(lab, "link") if "alias aws-cni" in line], 10, "the veths went along")
    on_node = ["ip", "netns", "exec", lab.node("1")["namespace"]]
    subprocess.run([*on_node, "nft", "flush", "ruleset"], check=True)
    for priority in ("512", "1024", "1536", "32765"):
        subprocess.run([*on_node, "sh", "-c", f"while ip rule del pref {priority} 2>/dev/null; do :; done"], check=True)
    assert [line.split(":")[0] for line in ip(lab, "rule")] == ["0", "32766", "32767"]
    nodes.start(state, "1")
    nodes.wait_ready(state, "1", 30)
    assert lab.introspect("1", "/v1/pods") == {}
    wait_until(lambda: not [line for line in ip(lab, "rule") if line.startswith(("512:", "1536:"))], 10, "no rule left")
    assert not [line for line in ip(lab, "route") if any(address in line for address in pods.values())]
    assert lab.add("d")
    assert [outcome["reached"] for outcome in lab.json("probe", "--from", "d", "--to", "internet")] == [True]
    saved = subprocess.run([*on_node, "iptables-save"], check=True, capture_output=True, text=True).stdout
    assert "AWS-SNAT-CHAIN-0" in saved
