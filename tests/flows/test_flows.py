# SPDX-License-Identifier: Apache-2.0
"""The flow matrix in the lab: with the default settings, with some of its negatives, and what a run leaves behind."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from flow_labs import FlowLab
from labs import wait_until

from vpccni.lab.kubeproxy.values import MODES
from vpccni.selftest.matrix import Way
from vpccni.selftest.rows import matrix

pytestmark = pytest.mark.lab


def node_state(lab: FlowLab) -> dict[str, str]:
    """All of the node that a run could leave something in."""
    commands = {
        "links": "ip -o link show group 9100",
        "rules": "ip rule",
        "routes": "ip route show table all proto 91",
        "nat": "iptables -t nat -S",
        "mangle": "iptables -t mangle -S",
        "sysctls": "sysctl net.ipv4.ip_forward net.ipv4.conf.eth0.rp_filter",
        "tables": "nft list tables",
    }
    script = "; echo =; ".join(commands.values())
    shown = lab.run("exec", "node/1", "--", "sh", "-c", script).stdout.split("=\n")
    return dict(zip(commands, shown, strict=True))


def test_every_row_holds_with_the_default_settings(flow_lab: FlowLab, tmp_path: Path) -> None:
    path = tmp_path / "flows.xml"
    results = flow_lab.selftest("--node", "1", "--junit", str(path))
    played = {(row["name"], row["protocol"]) for row in results if row["verdict"] == "passed"}
    wanted = {(row.name, protocol) for row in matrix() if 4 in row.versions for protocol in row.protocols}
    assert played == wanted
    root = ElementTree.parse(path).getroot()
    assert (root.get("tests"), root.get("failures")) == (str(len(results)), "0")
    seen = {row["name"]: row["observed"] for row in results if row["protocol"] == "udp"}
    assert "by eth1" in seen["secondary-to-far-pod"] and "by eth0" in seen["primary-to-far-pod"]
    assert "port random" in seen["secondary-to-site"]


def test_without_what_it_needs_a_flow_fails_and_afterwards_the_node_is_as_before(flow_lab: FlowLab) -> None:
    before = node_state(flow_lab)
    rows = "secondary-to-secondary,secondary-to-site,site-to-node-port-secondary"
    results = flow_lab.selftest("--node", "1", "--negatives", "--rows", rows)
    broken = [(row["negative"], row["protocol"]) for row in results if row["negative"]]
    assert len(broken) == 2 * (3 + 4 + 3) and len(set(broken)) >= 2 * 8, broken
    assert all(row["verdict"] == "passed" for row in results)
    # The kernel takes a moment for the links of a namespace that is gone.
    wait_until(lambda: node_state(flow_lab)["links"] == before["links"], 5, "the pods' links are gone")
    after = node_state(flow_lab)
    # A pod of the run may have made the pool grow, which adds an ENI's table and rule.
    for part in ("nat", "mangle", "sysctls", "tables"):
        assert after[part] == before[part], part
    assert not [line for line in after["rules"].splitlines() if line.startswith(("512:", "1536:"))]


def test_services_in_the_form_of_iptables_lead_to_the_same(flow_lab: FlowLab) -> None:
    # What a killed run leaves behind is replaced.
    rule = ["KUBE-SERVICES", "-m", "comment", "--comment", "vpccni-selftest/s0:tcp cluster IP", "-j", "RETURN"]
    for words in (["-N", "KUBE-SERVICES"], ["-A", *rule]):
        flow_lab.run("exec", "node/1", "--", "iptables", "-t", "nat", *words)
    results = flow_lab.selftest("--node", "1", "--services", "iptables", "--rows", "5-8,13-15")
    services = [row for row in matrix() if row.way is not Way.DIRECT]
    assert [row["verdict"] for row in results] == ["passed"] * 2 * len(services)
    assert not re.search("KUBE|VPCCNI", node_state(flow_lab)["nat"])


@pytest.mark.parametrize("mode", [MODES[0], pytest.param(MODES[1], marks=pytest.mark.long)])
def test_beside_a_kube_proxy_that_is_there_its_objects_stay_as_they_are(flow_lab: FlowLab, mode: str) -> None:
    flow_lab.add("web", node="2")
    flow_lab.run("service", "add", "web", "--port", "80", "--to", "web", "--node-port", "31970", "--mode", mode)
    script = "iptables-save | grep -e KUBE -e kubernetes; nft list table ip kube-proxy"
    before = flow_lab.run("exec", "node/1", "--", "sh", "-c", script, ok=False).stdout
    results = flow_lab.selftest("--node", "1", "--services", mode, "--rows", "*-service-far,vpc-host-to-node-port-*")
    assert {row["verdict"] for row in results} == {"passed"}
    after = flow_lab.run("exec", "node/1", "--", "sh", "-c", script, ok=False).stdout
    assert before == after and "web" in before
    flow_lab.run("service", "rm", "web")
    flow_lab.run("pod", "rm", "web")
    state = node_state(flow_lab)
    assert not re.search("KUBE|VPCCNI", state["nat"]) and "kube-proxy" not in state["tables"]


def test_a_rule_of_somebody_else_in_the_way_fails_the_selftest(flow_lab: FlowLab) -> None:
    site = "203.0.113.169"
    # Ends the nat chain for this target before the node's translation; no daemon repairs what is not its own.
    rule = ["POSTROUTING", "-d", site, "-j", "RETURN"]
    flow_lab.run("exec", "node/1", "--", "iptables", "-t", "nat", "-I", *rule)
    try:
        results = flow_lab.selftest("--node", "1", "--rows", "primary-to-site,primary-to-far-pod", exit_code=1)
    finally:
        flow_lab.run("exec", "node/1", "--", "iptables", "-t", "nat", "-D", *rule)
    verdicts = {(row["name"], row["protocol"]): row["verdict"] for row in results}
    assert verdicts["primary-to-site", "tcp"] == "failed" and verdicts["primary-to-far-pod", "tcp"] == "passed"
    why = next(row["why"] for row in results if row["name"] == "primary-to-site")
    assert "the far end saw" in why


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.long)])
def test_interrupted_it_leaves_nothing(flow_lab: FlowLab, number: signal.Signals) -> None:
    before, namespaces = node_state(flow_lab), flow_lab.namespaces()
    command = [sys.executable, "-m", "vpccni", "selftest", "--node", "1"]
    process = subprocess.Popen(
        command, env=flow_lab.environ, stderr=subprocess.PIPE, text=True,
        # Whoever runs tests in a shell's background has SIGINT ignored, and hands that on.
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),  # noqa: PLW1509 - no thread runs here
    )  # fmt: skip
    assert process.stderr is not None
    for line in process.stderr:  # until the first row has been played
        if "passed" in line:
            break
    process.send_signal(number)
    assert process.wait(30) == 130
    process.stderr.close()
    assert flow_lab.namespaces() == namespaces
    assert node_state(flow_lab)["tables"] == before["tables"]
    wait_until(lambda: node_state(flow_lab)["links"] == before["links"], 5, "the pods' links are gone")
    assert flow_lab.introspect("1", "/v1/pods") == {}


def test_a_real_node_is_tested_with_what_is_there(flow_lab: FlowLab) -> None:
    """On a node of the lab as on a machine of its own: no lab is known there, only its files, network and addresses."""
    far = flow_lab.add("far", node="2")["far"]
    options = ["--here", "--far-pod", f"{far}:80", "--site", "203.0.113.169:80", "-o", "json"]
    command = [sys.executable, "-m", "vpccni", "selftest", *options]
    results = json.loads(flow_lab.run("exec", "node/1", "--", *command).stdout)
    flow_lab.run("pod", "rm", "far")
    verdicts = {(row["name"], row["protocol"]): row["verdict"] for row in results}
    assert "failed" not in verdicts.values()
    for name in ("secondary-to-secondary", "secondary-to-far-pod", "secondary-to-site", "primary-to-service-far"):
        assert verdicts[name, "tcp"] == "passed"
    skipped = {row["name"]: row["why"] for row in results if row["verdict"] == "skipped"}
    assert "--vpc-host" in skipped["secondary-to-vpc-host"] and "--internet" in skipped["primary-to-internet"]
    # Who the server saw is not known there; what left the node is.
    site = next(row["observed"] for row in results if row["name"] == "secondary-to-site")
    assert site.startswith(flow_lab.node("1")["private_address"]) and "by eth0" in site


def test_bad_input_is_refused_before_anything_is_made(flow_lab: FlowLab) -> None:
    for argv in (["--rows", "20"], ["--node", "9"], ["--site", "192.0.2.1:80"], ["--node", "1", "--here"]):
        done = flow_lab.selftest_process(*argv)
        assert done.returncode == 2, (argv, done.stderr)
        assert "cannot" in done.stderr
