# SPDX-License-Identifier: Apache-2.0
"""The installed plugin called as a runtime calls it, on a node of a lab: every command, odd orders, broken input."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from labs import Lab, own_lab, wait_until

pytestmark = [pytest.mark.lab, pytest.mark.timeout(150)]

NETCONF = {"cniVersion": "1.1.0", "name": "aws-cni", "type": "aws-cni", "vethPrefix": "eni", "mtu": "9001"}


@dataclass
class Answer:
    """What the plugin printed and how it ended."""

    exit_code: int
    body: Any

    @property
    def code(self) -> int:
        """The CNI error code."""
        return int(self.body["code"])


@dataclass
class Node:
    """A node of a lab and namespaces of the test's own on this machine."""

    lab: Lab

    def call(self, command: str, container: str = "", netns: str = "", conf: object = None, **env: str) -> Answer:
        """Execute the installed plugin with its environment and standard input."""
        stdin = conf if isinstance(conf, str) else json.dumps({**NETCONF, **(conf or {})})  # type: ignore[dict-item]
        variables = {"CNI_COMMAND": command, "CNI_PATH": "/opt/cni/bin"}
        if container:
            args = f"IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME={container}"
            variables |= {"CNI_CONTAINERID": container, "CNI_IFNAME": "eth0", "CNI_NETNS": netns, "CNI_ARGS": args}
        pairs = [f"{name}={value}" for name, value in (variables | env).items()]
        script = 'printf %s "$1" | { shift; exec env -i "$@" /opt/cni/bin/aws-cni; }'
        done = self.lab.run("exec", "node/1", "--", "sh", "-c", script, "sh", stdin, *pairs, ok=False)
        return Answer(done.returncode, json.loads(done.stdout) if done.stdout.strip() else None)

    def ip(self, *words: str) -> str:
        namespace = self.lab.node("1")["namespace"]
        done = subprocess.run(["ip", "-n", namespace, *words], capture_output=True, text=True, check=True)
        return done.stdout

    def used(self) -> set[str]:
        """Addresses that the daemon says are in use."""
        return {pod["IP"] for pod in self.lab.introspect("1", "/v1/pods").values()}


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    with own_lab() as lab:
        lab.up("--nodes", "1", "--env", "IP_COOLDOWN_PERIOD=1")
        yield Node(lab)


@pytest.fixture
def sandbox(node: Node, request: pytest.FixtureRequest) -> Iterator[str]:
    """A network namespace as a runtime makes one; its name is also the container's."""
    name = f"vt-{node.lab.name}-{abs(hash(request.node.name)) % 10000}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        yield name
    finally:
        node.call("DEL", name)
        subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


def path(name: str) -> str:
    return f"/run/netns/{name}"


def added(node: Node, sandbox: str, **conf: object) -> dict[str, Any]:
    answer = node.call("ADD", sandbox, path(sandbox), conf)
    assert answer.exit_code == 0, answer.body
    result: dict[str, Any] = answer.body
    return result


def address_of(result: dict[str, Any]) -> str:
    return str(result["ips"][0]["address"]).removesuffix("/32")


def test_an_add_repeated_gives_the_same_answer_and_changes_nothing(node: Node, sandbox: str) -> None:
    first = added(node, sandbox)
    # The first pod makes the pool attach an ENI, whose rules are none of this test's business.
    wait_until(lambda: "32765:" in node.ip("rule"), 20, "the second ENI is attached")
    before = node.ip("rule"), node.ip("route")
    assert added(node, sandbox) == first
    assert (node.ip("rule"), node.ip("route")) == before
    interfaces = {entry["name"]: entry for entry in first["interfaces"]}
    inside = json.loads(subprocess.run(["ip", "-n", sandbox, "-j", "link"], capture_output=True, check=True).stdout)
    macs = {link["ifname"]: link["address"] for link in inside}
    assert interfaces["eth0"]["mac"] == macs["eth0"]
    assert interfaces["eth0"]["sandbox"] == path(sandbox)


@pytest.mark.parametrize("netns", ["", "/run/netns/gone-long-ago"])
def test_a_del_needs_neither_namespace_nor_prev_result_and_may_come_twice(node: Node, sandbox: str, netns: str) -> None:
    address = address_of(added(node, sandbox))
    assert address in node.ip("rule")
    for _ in range(2):
        answer = node.call("DEL", sandbox, netns)
        assert (answer.exit_code, answer.body) == (0, None)
    assert address not in node.ip("rule") + node.ip("route")
    assert address not in node.used()


def test_check_is_content_with_a_whole_pod_and_names_what_is_missing(node: Node, sandbox: str) -> None:
    result = added(node, sandbox)
    conf = {"prevResult": result}
    assert node.call("CHECK", sandbox, path(sandbox), conf).exit_code == 0
    node.ip("rule", "del", "pref", "512", "to", address_of(result))
    wait_until(lambda: f"to {address_of(result)} " in node.ip("rule"), 5, "the daemon repairs the host's side")
    assert node.call("CHECK", sandbox, path(sandbox), conf).exit_code == 0
    subprocess.run(["ip", "-n", sandbox, "neigh", "del", "169.254.1.1", "dev", "eth0"], check=True)
    answer = node.call("CHECK", sandbox, path(sandbox), conf)
    assert answer.exit_code == 1
    assert "the pod lacks a permanent neighbour 169.254.1.1" in answer.body["msg"]
    added(node, sandbox)  # a repeated ADD completes what is missing
    assert node.call("CHECK", sandbox, path(sandbox), conf).exit_code == 0


def test_gc_drops_what_the_runtime_does_not_name_and_nothing_else(node: Node, sandbox: str) -> None:
    address = address_of(added(node, sandbox))
    keep = {"cni.dev/valid-attachments": [{"containerID": sandbox, "ifname": "eth0"}]}
    assert node.call("GC", conf=keep).exit_code == 0
    assert address in node.used()
    drop: dict[str, object] = {"cni.dev/valid-attachments": []}
    assert node.call("GC", conf=drop).exit_code == 0
    assert address not in node.used()
    assert address not in node.ip("rule")


def test_a_namespace_that_vanished_is_an_error_and_costs_no_address(node: Node) -> None:
    before = node.used()
    answer = node.call("ADD", "ghost", path("ghost-of-a-namespace"))
    assert (answer.exit_code, answer.code) == (1, 4)
    assert "No such file or directory" in answer.body["msg"]
    assert node.used() == before


def test_an_add_that_fails_in_the_pod_leaves_nothing(node: Node, sandbox: str) -> None:
    subprocess.run(["ip", "-n", sandbox, "link", "add", "eth0", "type", "veth", "peer", "name", "x"], check=True)
    before = node.ip("rule"), node.ip("route"), node.ip("-o", "link"), node.used()
    answer = node.call("ADD", sandbox, path(sandbox))
    assert answer.exit_code == 1
    assert "pod-interface-exists" in answer.body["details"]
    assert (node.ip("rule"), node.ip("route"), node.ip("-o", "link"), node.used()) == before


@pytest.mark.parametrize(
    ("command", "conf", "env", "code", "words"),
    [
        ("ADD", "{bad", {}, 6, "JSON is malformed"),
        ("ADD", {"cniVersion": "9.9"}, {}, 1, "'9.9' is not supported"),
        ("ADD", {}, {"CNI_CONTAINERID": "", "CNI_IFNAME": ""}, 4, "CNI_CONTAINERID is missing; CNI_IFNAME is missing"),
        ("ADD", {"vethPrefix": "toolong"}, {}, 7, "vethPrefix"),
        ("FOO", {}, {}, 4, "FOO is not one of"),
        ("STATUS", {"cniVersion": "1.0.0"}, {}, 1, "does not allow STATUS"),
        ("CHECK", {}, {}, 7, "prevResult is missing"),
    ],
)
def test_bad_input_is_refused_with_a_code_a_reason_and_a_next_step(
    node: Node, sandbox: str, command: str, conf: object, env: dict[str, str], code: int, words: str
) -> None:
    before = node.used()
    answer = node.call(command, sandbox, path(sandbox), conf, **env)
    assert (answer.exit_code, answer.code) == (1, code)
    assert words in answer.body["msg"]
    assert "Next: " in answer.body["details"] or code == 7
    assert node.used() == before


def test_without_a_daemon_the_plugin_says_so_and_a_del_is_made_up_for(node: Node, sandbox: str) -> None:
    address = address_of(added(node, sandbox))
    pid = next(row["pid"] for row in node.lab.json("status")["processes"] if row["role"] == "ipamd-1")
    subprocess.run(["kill", "-TERM", str(pid)], check=True)
    conflist = node.lab.root / "nodes" / "1" / "netd" / "10-aws.conflist"
    wait_until(lambda: not conflist.exists(), 10, "the conflist is removed when the daemon stops")
    status, version = node.call("STATUS"), node.call("VERSION")
    refused = node.call("ADD", "other", path(sandbox))
    assert (status.code, refused.code) == (50, 11)
    assert "Next: " in refused.body["details"]
    assert version.body["supportedVersions"][-1] == "1.1.0"
    assert node.call("DEL", sandbox).exit_code == 0
    assert address in node.ip("rule")  # queued, not done
    node.lab.run("restart", "ipamd", "--node", "1")
    wait_until(lambda: address not in node.used(), 10, "the queued DEL is served")
    assert address not in node.ip("rule")
    assert node.call("STATUS").exit_code == 0


def test_corrupt_state_files_are_set_aside_and_no_pod_is_lost(node: Node, sandbox: str) -> None:
    result = added(node, sandbox)
    run = node.lab.root / "nodes" / "1" / "run"
    node.lab.run("restart", "ipamd", "--node", "1", "--kill")
    for name, garbage in (("vpccni.journal", b"12345678 {}\nxx\nyy\n"), ("ipam.json", b'{"version":"vpc')):
        wait_until((run / name).exists, 5, name)
        (run / name).write_bytes(garbage)
    pid = next(row["pid"] for row in node.lab.json("status")["processes"] if row["role"] == "ipamd-1")
    subprocess.run(["kill", "-KILL", str(pid)], check=True)
    for name, garbage in (("vpccni.journal", b"12345678 {}\nxx\nyy\n"), ("ipam.json", b'{"version":"vpc')):
        (run / name).write_bytes(garbage)
    node.lab.run("restart", "ipamd", "--node", "1")
    assert len(list(run.glob("*.corrupt-*"))) >= 2
    log = (node.lab.root / "nodes" / "1" / "log" / "ipamd.log").read_text()
    assert "cannot read the journal" in log
    assert "cannot read ipam.json" in log
    assert address_of(result) in node.used()
    assert added(node, sandbox)["ips"] == result["ips"]  # the key is known again, from the link's alias
    assert node.call("DEL", sandbox).exit_code == 0
    assert address_of(result) not in node.used()


def test_routes_and_rules_that_were_tampered_with_are_repaired_at_a_restart(node: Node, sandbox: str) -> None:
    address = address_of(added(node, sandbox))
    node.ip("rule", "del", "pref", "512", "to", address)
    node.ip("rule", "add", "pref", "1536", "from", "10.20.255.9", "lookup", "2", "proto", "91")
    node.ip("rule", "add", "pref", "700", "from", "10.20.255.9", "lookup", "2")
    node.lab.run("restart", "ipamd", "--node", "1")
    rules = node.ip("rule")
    assert f"512:\tfrom all to {address} lookup main" in rules
    assert "1536:\tfrom 10.20.255.9" not in rules
    assert "700:\tfrom 10.20.255.9" in rules  # somebody else's
    node.ip("rule", "del", "pref", "700")


def inside(sandbox: str) -> list[str]:
    """IPv4 addresses of the pod's interfaces, as its processes see them."""
    listed = subprocess.run(["ip", "-n", sandbox, "-j", "-4", "addr"], capture_output=True, check=True).stdout
    return [each["local"] for link in json.loads(listed) for each in link["addr_info"] if link["ifname"] != "lo"]


def test_a_namespace_that_lives_on_after_del_loses_its_interface(node: Node, sandbox: str) -> None:
    address = address_of(added(node, sandbox))
    assert inside(sandbox) == [address]
    assert node.call("DEL", sandbox, path(sandbox)).exit_code == 0
    wait_until(lambda: inside(sandbox) == [], 10, "the address that is not the pod's any more goes with its link")


def test_an_add_right_after_del_in_the_same_namespace_has_one_address(node: Node, sandbox: str) -> None:
    first = address_of(added(node, sandbox))
    assert node.call("DEL", sandbox, path(sandbox)).exit_code == 0
    result = added(node, sandbox)
    assert address_of(result) != first  # it cools
    assert inside(sandbox) == [address_of(result)]
    link = json.loads(subprocess.run(["ip", "-n", sandbox, "-j", "link"], capture_output=True, check=True).stdout)
    assert result["interfaces"][1]["mac"] in {each["address"] for each in link}
    time.sleep(2)  # the collector of strays must not take the new link for the old one
    assert inside(sandbox) == [address_of(result)]
    assert node.call("CHECK", sandbox, path(sandbox), {"prevResult": result}).exit_code == 0


def test_an_unreachable_ec2_endpoint_is_named_and_deletes_still_work(node: Node, sandbox: str) -> None:
    address = address_of(added(node, sandbox))
    silent = "AWS_ENDPOINT_URL_EC2=http://169.254.169.250:81"  # nobody listens there
    command = [sys.executable, "-m", "vpccni", "lab", "restart", "ipamd", "--node", "1", "--env", silent]
    restart = subprocess.Popen(command, env=node.lab.environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: "EC2" in str(node.call("ADD", "other", path(sandbox)).body), 20, "the refusal names EC2")
        refused = node.call("ADD", "other", path(sandbox))
        assert refused.code == 11
        assert "waiting for EC2's list of interfaces" in refused.body["msg"]
        assert node.call("STATUS").code == 50
        assert node.call("DEL", sandbox, path(sandbox)).exit_code == 0
        assert address not in node.ip("rule")
    finally:
        restart.terminate()
        restart.wait(10)
    node.lab.run("restart", "ipamd", "--node", "1", "--env", "AWS_ENDPOINT_URL_EC2=http://169.254.169.250")
    assert node.call("STATUS").exit_code == 0
    assert address not in node.used()
