# SPDX-License-Identifier: Apache-2.0
"""`vpccni doctor` on a node of a lab: clean, in a fight, repaired, without a daemon, and with traps around it."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest
from labs import Lab, own_lab, wait_until

from vpccni.lab import nodes
from vpccni.lab.state import LabState

pytestmark = [pytest.mark.lab, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with own_lab() as made:
        made.up("--nodes", "1", "--instance-type", "t3.small", "--env", "VPCCNI_REPAIR_INTERVAL=3600")
        made.add("a", "b", "c", "d")
        wait_until(lambda: "lookup 3" in ip(made, "rule"), 20, "all ENIs are there")
        yield made


def doctor(lab: Lab, *argv: str) -> subprocess.CompletedProcess[str]:
    return lab.vpccni("doctor", *argv)


def examined(lab: Lab, *argv: str) -> tuple[int, Any]:
    done = doctor(lab, "--node", "1", "-o", "json", *argv)
    return done.returncode, json.loads(done.stdout)


def ip(lab: Lab, *words: str) -> str:
    argv = ["ip", "-n", lab.node("1")["namespace"], *words]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout


def differing(document: Any) -> list[tuple[str, str]]:
    return [(each["state"], each["subject"]) for each in document["objects"] if each["state"] != "ok"]


def test_a_node_at_rest_is_clean_and_every_object_says_why(lab: Lab) -> None:
    code, document = examined(lab)
    assert (code, differing(document)) == (0, [])
    assert {each["group"] for each in document["objects"]} == {
        "rules", "routes", "addresses", "links", "sysctls", "firewall", "pods",
    }  # fmt: skip
    assert all(each["why"] for each in document["objects"])
    subjects = {each["subject"] for each in document["objects"]}
    assert "1024: from all fwmark 0x80/0x80 lookup main proto 91" in subjects
    assert "net.ipv4.conf.eth0.rp_filter = 2" in subjects
    text = doctor(lab, "--node", "1").stdout
    assert "objects are as they should be, says the daemon" in text
    assert "connections that came in by the primary ENI" in text


@pytest.mark.long
def test_what_is_fought_about_is_shown_and_put_right_on_request(lab: Lab) -> None:
    namespace, log = lab.node("1")["namespace"], lab.root / "nodes" / "1" / "log" / "ipamd.log"
    while log.read_text().count("again and again") < 3:  # left alone for 8 seconds from then on
        subprocess.run(["ip", "-n", namespace, "rule", "del", "pref", "1024"], capture_output=True, check=False)
        time.sleep(0.3)
    subprocess.run(["ip", "-n", namespace, "rule", "del", "pref", "1024"], check=True)
    code, document = examined(lab)
    assert code == 1
    assert ("missing", "1024: from all fwmark 0x80/0x80 lookup main proto 91") in differing(document)
    (fight,) = document["fights"]
    assert fight["subject"] == "rule 1024: from all fwmark 0x80/0x80 lookup main proto 91"
    code, document = examined(lab, "--fix")
    assert (code, differing(document)) == (0, [])
    assert document["done"] == ["ip rule add pref 1024 fwmark 0x80/0x80 table main protocol 91"]
    assert "1024:" in ip(lab, "rule")
    assert "fight: rule 1024" in doctor(lab, "--node", "1").stdout


def test_without_a_daemon_the_pods_are_told_from_journal_and_kernel(lab: Lab) -> None:
    state = LabState.from_environ(lab.environ)
    address = next(iter(lab.introspect("1", "/v1/pods").values()))["IP"]
    nodes.stop(state, "1", signal.SIGKILL)
    try:
        code, document = examined(lab)
        assert (code, document["daemon"], differing(document)) == (0, False, [])
        assert len(document["objects"]) == 4 * 3 + 1, "link, route, rule; and one pod is on a second ENI"
        ip(lab, "rule", "del", "pref", "512", "to", address)
        code, document = examined(lab)
        assert code == 1
        assert differing(document) == [("missing", f"512: from all to {address} lookup main proto 91")]
        done = doctor(lab, "--node", "1", "--fix")
        assert done.returncode == 1 and "vpccni doctor" not in done.stdout and "ipamd" in done.stderr
    finally:
        nodes.start(state, "1")
    wait_until(lambda: doctor(lab, "--node", "1").returncode == 0, 30, "the daemon is back and has put it right")


def test_traps_around_us_are_named(lab: Lab) -> None:
    namespace = lab.node("1")["namespace"]
    before = examined(lab)[1]["remarks"]  # what this machine itself is like
    made = [
        "iptables -P FORWARD DROP",
        "ip rule add pref 30200 from 10.9.9.9 lookup 30200",
        "ip link add cni0 type bridge",
    ]
    for command in made:
        subprocess.run(["ip", "netns", "exec", namespace, *command.split()], check=True)
    code, document = examined(lab)
    found = " ".join(each["found"] for each in document["remarks"] if each not in before)
    assert code == 0, "a trap is no drift"
    assert all(word in found for word in ("FORWARD", "30200", "cni0"))
    for command in ("iptables -P FORWARD ACCEPT", "ip rule del pref 30200", "ip link del cni0"):
        subprocess.run(["ip", "netns", "exec", namespace, *command.split()], check=True)


@pytest.mark.parametrize(
    ("argv", "word"),
    [(["--node", "9"], "nodes are 1"), (["--introspection", "nonsense:x"], "--introspection"), (["--fox"], "--fox")],
)
def test_bad_usage_is_refused_with_code_2(lab: Lab, argv: list[str], word: str) -> None:
    done = doctor(lab, *argv)
    assert done.returncode == 2
    assert word in done.stderr
