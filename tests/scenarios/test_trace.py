# SPDX-License-Identifier: Apache-2.0
"""`vpccni trace` and `vpccni pcap` in a lab: what is predicted happens, also when something is broken on purpose.

Each break takes one object away while the node's daemon stands still, because it would put it back.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from labs import Lab

sys.path.insert(0, str(Path(__file__).parent.parent / "core"))
from pcapng_reader import read  # lies with the writer's own tests

pytestmark = pytest.mark.lab


def call(lab: Lab, *argv: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "vpccni", *argv], check=False, env=lab.environ, capture_output=True, timeout=60
    )


def trace(lab: Lab, *argv: str, exit_code: int = 0) -> dict[str, Any]:
    done = call(lab, "trace", *argv, "--wait", "0.6", "-o", "json")
    assert done.returncode == exit_code, (argv, done.stdout.decode(), done.stderr.decode())
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@contextmanager
def frozen_daemon(lab: Lab, node: str) -> Iterator[None]:
    pid = json.loads((lab.root / "pids" / f"ipamd-{node}.json").read_text())["pid"]
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@contextmanager
def broken(lab: Lab, undo: str, *argv: str) -> Iterator[None]:
    lab.run("exec", "node/1", "--", *argv)
    try:
        yield
    finally:
        lab.run("exec", "node/1", "--", *undo.split())


def on_secondary(lab: Lab) -> set[str]:
    """Addresses of pods that leave by another ENI than the primary."""
    rules = lab.run("exec", "node/1", "--", "ip", "rule").stdout.splitlines()
    return {line.split()[2] for line in rules if line.startswith("1536:")}


def test_a_way_is_predicted_and_observed_and_its_break_is_explained(lab: Lab, tmp_path: Path) -> None:
    lab.up("--instance-type", "t3.small")
    near = lab.add("a", "b", "c", "d", node="1")
    far = lab.add("far", node="2")["far"]
    second = next(name for name, address in near.items() if address in on_secondary(lab))
    for end in ("far", "internet"):
        found = trace(lab, second, end)
        assert found["predicted"]["reached"] and found["agrees"] and found["answer"] == "connected", found
    other = next(name for name in near if name != second)
    on_the_node(lab, second, other, far)
    with frozen_daemon(lab, "1"):
        without_its_rule(lab, second, near[second])
    bad = [call(lab, "trace", second, wrong).returncode for wrong in ("nobody", "far:http")]
    assert bad == [2, 2] and call(lab, "pcap", "nobody").returncode == 2
    captured(lab, second, near[second], tmp_path)


@pytest.mark.long
def test_observed_equals_predicted_whole_and_broken(lab: Lab) -> None:
    lab.up("--instance-type", "t3.small", "--ipv6", "--env", "VPCCNI_DUAL_STACK=true")
    near = lab.add("a", "b", "c", "d", node="1")
    lab.add("far", node="2")
    names = {address: name for name, address in near.items()}
    second = names[min(on_secondary(lab))]
    first = next(name for name, address in near.items() if address not in on_secondary(lab))

    for start, end in ((first, second), (second, first), (first, "far"), (second, "far"), ("far", second),
                       (first, "internet"), (second, "internet"), (second, "site"), ("node/1", second),
                       (second, "node/1"), (second, "169.254.169.254")):  # fmt: skip
        found = trace(lab, start, end)
        assert found["predicted"]["reached"] and found["agrees"], (start, end, found)
        assert found["answer"] in ("connected", "refused") and len(found["observed"]) >= 4
    ways = {name: {(row["place"], row["device"], row["way"]) for row in trace(lab, name, "far")["observed"]}
            for name in (first, second)}  # fmt: skip
    assert ("node 1", "eth0", "out") in ways[first] and ("node 1", "eth0", "out") not in ways[second]

    for end in (first, "far", "internet"):
        found = trace(lab, second, end, "--family", "6")
        assert found["predicted"]["reached"] and found["agrees"] and found["sent"].startswith("["), found
    guarded(lab, first, second)
    with frozen_daemon(lab, "1"):
        explained(lab, first, second)

    lab.run("restart", "ipamd", "--node", "1", "--env", "VPCCNI_RULE_LAYOUT=shared")
    for start, end in ((first, second), (second, "far"), ("far", second), (second, "internet")):
        found = trace(lab, start, end)
        assert found["predicted"]["reached"] and found["agrees"], (start, end, found)
    decided = [hop["by"] for hop in trace(lab, second, "far")["hops"] if hop["place"] == "node 1"]
    assert any(by.startswith("1537: from ") for by in decided) and any("lookup 9100" in by for by in decided)


@pytest.mark.long
@pytest.mark.parametrize(("mode", "firewall"), [("nftables", "auto"), ("iptables", "nftables")])
def test_services_and_every_protocol_beside_each_backend(lab: Lab, mode: str, firewall: str) -> None:
    settings = ("VPCCNI_DUAL_STACK=true", f"VPCCNI_FIREWALL={firewall}")
    lab.up("--instance-type", "t3.small", "--ipv6", *(word for each in settings for word in ("--env", each)))
    near = lab.add("a", "b", "c", "d", node="1")
    far = lab.add("far", node="2")["far"]
    second = {address: name for name, address in near.items()}[min(on_secondary(lab))]
    first = next(name for name, address in near.items() if address not in on_secondary(lab))

    def service(name: str, *words: str) -> str:
        (row,) = lab.json("service", "add", name, "--mode", mode, *words)
        return str(row["cluster_ip"])

    web = service("web", "--port", "8080", "--to", f"{first},far", "--node-port", "30080")
    outside = service("outside", "--port", "80", "--to", "203.0.113.169")
    names = service("names", "--port", "53", "--to", "far", "--protocol", "udp")
    node = lab.node("1")["private_address"]
    for start in (first, second, "node/1"):
        for target in (f"{web}:8080", f"{node}:30080", f"{outside}:80"):
            found = trace(lab, start, target)
            assert found["agrees"] and found["answer"] == "connected" and not found["not_evaluated"], (start, target)
            assert len(found["by_chance"]) == (target != f"{outside}:80")
            ends = ("site",) if target == f"{outside}:80" else (f"pod {first}", "pod far")
            assert found["predicted"]["delivered_to"] in ends
        found = trace(lab, start, f"{names}:53", "--protocol", "udp")
        assert found["agrees"] and found["predicted"]["delivered_to"] == "pod far" and found["answer"] == "refused"
        for protocol in ("udp", "icmp"):
            for end, family in (("far", "4"), ("far", "6"), ("internet", "4"), ("internet", "6")):
                found = trace(lab, start, end, "--family", family, "--protocol", protocol)
                assert found["agrees"] and found["answer"] in ("refused", "answered"), (start, end, found)
    # The negative: what a rule of anybody's stops is foretold, through the Service as well.
    table = (
        f"table inet gate {{ chain f {{ type filter hook forward priority 7; ip daddr {far} udp dport 80 drop; }}; }}"
    )
    with broken(lab, "nft delete table inet gate", "nft", table):
        found = trace(lab, second, f"{names}:53", "--protocol", "udp", exit_code=1)
        assert found["agrees"] and found["predicted"]["why"].startswith("table inet gate: chain f: ip daddr")
        assert trace(lab, second, "far", "--protocol", "icmp")["agrees"]


@pytest.mark.long
def test_a_pod_of_an_ipv6_cluster_leaves_by_its_egress_interface(lab: Lab) -> None:
    settings = ("ENABLE_IPv4=false", "ENABLE_IPv6=true", "ENABLE_PREFIX_DELEGATION=true", "ENABLE_V4_EGRESS=true")
    lab.up("--ipv6", *(word for setting in settings for word in ("--env", setting)))
    lab.add("a", node="1")
    found = trace(lab, "a", "internet", "--family", "4")
    assert found["agrees"] and found["answer"] == "connected" and found["sent"].startswith("169.254.172.")
    assert ("pod a", "v4if0", "out") in {(row["place"], row["device"], row["way"]) for row in found["observed"]}
    assert any("AWS, egress" in hop["by"] for hop in found["hops"])
    assert call(lab, "trace", "node/1", "10.20.1.1:x").returncode == 2


def on_the_node(lab: Lab, name: str, other: str, address: str) -> None:
    """The same commands on a node that knows of no lab: its own pods, and what leaves it is out of view."""

    def run(*argv: str) -> dict[str, Any]:
        words = ("env", f"VPCCNI_LAB_NAME=no{os.getpid()}", sys.executable, "-m", "vpccni", *argv, "-o", "json")
        found: dict[str, Any] = json.loads(lab.run("exec", "node/1", "--", *words, ok=False).stdout)
        return found

    found = run("trace", name, other)
    assert found["agrees"] and found["predicted"]["delivered_to"] == f"pod {other}"
    found = run("trace", name, address)
    assert found["agrees"] and found["answer"] == "connected"
    assert found["predicted"]["delivered_to"] == "beyond this node"
    source = run("trace", name, address, "--no-send")["sent"].partition(":")[0]
    undo = f"ip rule del from {source} lookup main pref 600"
    with broken(lab, undo, "ip", "rule", "add", "from", source, "lookup", "main", "pref", "600"):
        found = run("trace", name, address)
        assert (found["predicted"]["code"], found["agrees"]) == ("source-check", True)
        assert found["answer"].startswith("no answer") and "preceded" in found["predicted"]["next_step"]


def guarded(lab: Lab, first: str, second: str) -> None:
    """Security groups let only some connections begin, between nodes."""
    lab.run("sg", "revoke", "nodes", "all", "from", "anywhere")
    found = trace(lab, second, "far", exit_code=1)
    assert found["predicted"]["code"] == "security-group" and found["agrees"]
    assert found["dropped"]["security_group"] >= 1
    assert trace(lab, second, first)["agrees"]  # the same node
    assert trace(lab, second, "internet")["agrees"]  # answers need no rule
    lab.run("sg", "allow", "nodes", "tcp", "80", "from", "nodes")
    assert trace(lab, second, "far")["agrees"]
    assert trace(lab, second, "far:81", exit_code=1)["predicted"]["code"] == "security-group"
    lab.run("sg", "allow", "nodes", "all", "from", "anywhere")


def without_its_rule(lab: Lab, name: str, source: str) -> None:
    """The rule by source of a pod on a secondary ENI is gone."""
    table = next(
        line.split("lookup ")[1].split()[0]
        for line in lab.run("exec", "node/1", "--", "ip", "rule").stdout.splitlines()
        if line.startswith("1536:") and line.split()[2] == source
    )
    rule = f"from {source} lookup {table} pref 1536"
    with broken(lab, f"ip rule add {rule} proto 91", "ip", "rule", "del", *rule.split()):
        found = trace(lab, name, "far", exit_code=1)
        assert (found["predicted"]["code"], found["predicted"]["where"]) == ("source-check", "vpc")
        assert f"1536: from {source}" in found["predicted"]["next_step"] and found["dropped"]["spoofed_source"] >= 1
        last = [row for row in found["observed"] if row["seen"]][-1]
        assert found["agrees"] and last["place"] == "vpc" and found["answer"].startswith("no answer")
    assert trace(lab, name, "far")["agrees"]


def explained(lab: Lab, first: str, second: str) -> None:
    """Objects are taken away or put in the way, one after the other."""
    saved = lab.run("exec", "node/1", "--", "iptables", "-t", "nat", "-S", "AWS-SNAT-CHAIN-0").stdout
    (snat,) = (line for line in saved.splitlines() if "--to-source" in line)
    lab.run("exec", "node/1", "--", "sh", "-c", f"iptables -t nat {snat.replace('-A', '-D', 1)}")
    found = trace(lab, second, "internet", exit_code=1)
    assert found["predicted"]["code"] == "source-check" and found["agrees"]  # its address is not the primary ENI's
    found = trace(lab, first, "internet", exit_code=1)
    assert found["predicted"]["code"] == "no-public-address" and found["dropped"]["no_public_address"] >= 1
    lab.run("exec", "node/1", "--", "sh", "-c", f"iptables -t nat {snat}")
    with broken(lab, "ip route del blackhole 203.0.113.169", "ip", "route", "add", "blackhole", "203.0.113.169"):
        found = trace(lab, first, "site", exit_code=1)
        assert (found["predicted"]["code"], found["predicted"]["where"]) == ("no-route", "node 1") and found["agrees"]
    with broken(lab, "iptables -F FORWARD", "iptables", "-I", "FORWARD", "-p", "tcp", "--dport", "80", "-j", "DROP"):
        found = trace(lab, first, second, exit_code=1)
        assert found["predicted"]["code"] == "filtered" and found["agrees"]
        assert trace(lab, first, f"{second}:81")["answer"] == "refused"
    # A service address whose endpoint is outside the VPC, and one whose endpoint is another node's pod.
    for endpoint in ("198.51.100.10", lab.json("pod", "list")[-1]["address"]):
        rule = f"PREROUTING -d 10.100.0.1/32 -p tcp -m tcp --dport 80 -j DNAT --to-destination {endpoint}:80"
        with broken(lab, f"iptables -t nat -D {rule}", "iptables", "-t", "nat", "-I", *rule.split()):
            found = trace(lab, second, "10.100.0.1")
            assert found["agrees"] and found["answer"] == "connected", found
            assert any(f"DNAT --to-destination {endpoint}:80" in hop["by"] for hop in found["hops"])
    # A rule of somebody's table of nftables.
    text = (
        "add table ip t; add chain ip t c { type filter hook forward priority 0; }; add rule ip t c tcp dport 80 drop"
    )
    with broken(lab, "nft delete table ip t", "nft", text):
        found = trace(lab, first, second, exit_code=1)
        assert found["predicted"]["why"] == "table ip t: chain c: tcp dport 80 drop" and found["agrees"]


def captured(lab: Lab, name: str, address: str, tmp_path: Path) -> None:
    """A capture while the pod is probed, as a file."""
    path = tmp_path / "pod.pcapng"
    argv = [sys.executable, "-m", "vpccni", "pcap", name, "-c", "2", "--seconds", "20", "--port", "80", "-w", str(path)]
    with subprocess.Popen(
        [*argv, "-o", "json"], env=lab.environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as run:
        assert run.stderr is not None and b"capturing" in run.stderr.readline()
        assert trace(lab, name, "far")["agrees"]
        shown = json.loads(run.communicate(timeout=30)[0])
    found = read(path.read_bytes())
    assert len(found.packets) == len(shown) == 2 and found.names[address] == f"pod {name}"
    assert [(row[0], row[3], row[4]) for row in found.packets] == [
        ("eth0", 2, f"pod {name} > pod far"), ("eth0", 1, f"pod far > pod {name}"),
    ]  # fmt: skip
    assert [row["way"] for row in shown] == ["out", "in"]
    if shutil.which("tcpdump"):
        listed = subprocess.run(["tcpdump", "-nr", str(path)], check=True, capture_output=True, text=True).stdout
        assert len(listed.splitlines()) == 2 and f"IP {address}." in listed.splitlines()[0]
