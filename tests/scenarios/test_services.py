# SPDX-License-Identifier: Apache-2.0
"""`lab service`: a ClusterIP and a node port reach pods wherever they are, in both of kube-proxy's modes."""

from __future__ import annotations

import json

import pytest
from labs import Lab

pytestmark = [pytest.mark.lab, pytest.mark.timeout(120)]

MODES = ("iptables", "nftables")


def told(lab: Lab, where: str, *urls: str, times: int = 1) -> list[dict[str, str]]:
    """What the servers behind the URLs say about themselves and about who asked; silent ones are left out."""
    script = f"for n in $(seq {times}); do for url; do curl -sf -m 0.5 $url && echo; done; done"
    answers = lab.run("exec", where, "--", "sh", "-c", script, "sh", *urls, ok=False).stdout
    return [json.loads(line) for line in answers.splitlines() if line]


def kube_proxy(lab: Lab) -> str:
    """All that stands under kube-proxy's names on the second node."""
    script = "iptables-save | grep KUBE; nft list tables | grep kube-proxy"
    return lab.run("exec", "node/2", "--", "sh", "-c", script, ok=False).stdout


@pytest.mark.long
@pytest.mark.parametrize("mode", MODES)
def test_a_service_is_reached_from_everywhere_and_follows_its_pods(lab: Lab, mode: str) -> None:
    lab.up("--instance-type", "t3.small", "--env", "IP_COOLDOWN_PERIOD=1")
    pods = lab.add("a", "b", "c", "d", node="1") | lab.add("far", node="2")
    first, second = (lab.node(name)["private_address"] for name in "12")
    web = ("web", "--port", "8080", "--to", "d,far", "--node-port", "30080", "--mode", mode)
    (row,) = lab.json("service", "add", *web)
    url = f"http://{row['cluster_ip']}:8080/"
    # A pod on the secondary ENI: the answers to the client's own address leave by the primary one.
    lab.run("service", "add", "near", "--port", "80", "--to", "d", "--node-port", "30081", "--policy", "local")
    (outside,) = lab.json("service", "add", "outside", "--port", "80", "--to", "203.0.113.169")
    assert {row["server"] for row in told(lab, "a", url, times=16)} == {"d", "far"}
    # Masqueraded, itself, and nobody, because no pod of it is on that node.
    ports = [f"http://{address}/" for address in (f"{first}:30080", f"{first}:30081", f"{second}:30081")]
    assert [row["client"] for row in told(lab, "site", *ports)] == [first, "203.0.113.169"]
    assert [row["client"] for row in told(lab, "d", f"http://{outside['cluster_ip']}/")] == [first]
    lab.run("pod", "rm", "far")
    assert {row["server"] for row in told(lab, "a", url, times=6)} == {"d"}
    pods |= lab.add("far", node="2")
    assert {row["address"] for row in told(lab, "a", url, times=16)} == {pods["d"], pods["far"]}
    assert [(each["name"], each["mode"]) for each in lab.json("service", "list")] == [
        ("web", mode), ("near", mode), ("outside", mode),
    ]  # fmt: skip
    assert kube_proxy(lab)
    lab.run("service", "rm", "web", "near", "outside")
    assert kube_proxy(lab) == ""
    assert told(lab, "a", url) == [], "it was the rules that led there"


@pytest.mark.long
def test_what_cannot_be_a_service_is_refused_and_nothing_is_made(lab: Lab) -> None:
    lab.up("--nodes", "1")
    lab.add("a")
    lab.run("service", "add", "web", "--port", "80", "--to", "a", "--node-port", "30081")
    for argv in (
        ["web", "--port", "80", "--to", "a"],
        ["x", "--port", "80", "--to", "nobody"],
        ["x", "--port", "80", "--to", "a", "--mode", "nftables"],
        ["x", "--port", "80", "--to", "a", "--node-port", "80"],
        ["x", "--port", "80", "--to", "a", "--node-port", "30081"],
        ["x", "--port", "80", "--to", "a", "--policy", "local"],
    ):
        done = lab.run("service", "add", *argv, ok=False)
        assert done.returncode == 2 and "cannot" in done.stderr, argv
    assert [each["name"] for each in lab.json("service", "list")] == ["web"]
