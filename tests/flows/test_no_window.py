# SPDX-License-Identifier: Apache-2.0
"""No window: whatever happens to a node's daemon and its settings, no flow is interrupted and none escapes translation.

The real daemon on a node of the lab, kube-proxy's rules beside its own, and a pod of the second ENI that begins a flow
about every millisecond: to the internet, to a private site, to a Service that leads outside, to pods of both nodes. One
that is not translated is dropped by the VPC and never recovers, so that each window is seen.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator

import pytest
from flow_labs import FlowLab
from labs import wait_until
from stage import SITE, Report, Stage

from vpccni.lab.kubeproxy.values import MODES

pytestmark = [pytest.mark.lab, pytest.mark.timeout(400)]

BACKENDS = ("iptables-nft", "iptables-legacy", "nftables")
DEFAULTS = {
    "VPCCNI_RULE_LAYOUT": "per-pod",
    "AWS_VPC_K8S_CNI_EXCLUDE_SNAT_CIDRS": "",
    "AWS_VPC_K8S_CNI_RANDOMIZESNAT": "prng",
    "AWS_VPC_K8S_CNI_CONNMARK": "0x80",
}
LONGEST_SILENCE_S = 1.0  # of a flow that is asked every 5 ms, on a machine that is busy with other things
BY_MODE = [pytest.param(backend, mode, marks=pytest.mark.long) for backend in BACKENDS for mode in MODES]
ESCAPES = {
    "iptables-nft": "iptables-nft -t nat -F AWS-SNAT-CHAIN-0",
    "iptables-legacy": "iptables-legacy -t nat -F AWS-SNAT-CHAIN-0",
    "nftables": "nft flush chain ip vpccni translation",
}

LISTS = {
    "iptables-nft": "iptables-nft-save -t nat",
    "iptables-legacy": "iptables-legacy-save -t nat",
    "nftables": "nft list table ip vpccni",
}


@pytest.fixture
def staged(flow_lab: FlowLab) -> Iterator[Callable[[str, str], Stage]]:
    """Makes the node of a backend ready, with kube-proxy in a mode; and the lab as before at the end."""
    made: list[Stage] = []

    def make(backend: str, mode: str) -> Stage:
        fresh = "VPCCNI_" not in (flow_lab.root / "nodes" / "1" / "env.json").read_text()
        if not fresh or backend != BACKENDS[0]:
            flow_lab.restart({**DEFAULTS, "VPCCNI_FIREWALL": backend})
        made.append(Stage(flow_lab, mode))
        return made[0]

    yield make
    for stage in made:
        stage.end()


def check(stage: Stage, report: Report) -> None:
    """Nothing was lost, everybody saw whom they had to see, and what stood went on with the same source and port."""
    assert report.lost == []
    node, public, pod = stage.node["private_address"], stage.node["public_address"], stage.address(stage.asker)
    assert report.sources() == {
        "internet": {public}, "outside": {public}, "site": {node}, "pod": {pod}, "far": {pod}, "inside": {pod},
    }, report.first()  # fmt: skip
    broken = {flow: told for flow, told in report.standing().items() if told[0] != 1 or told[1] > LONGEST_SILENCE_S}
    assert broken == {}
    assert report.begun > 150 * report.seconds and max(report.pauses) < LONGEST_SILENCE_S, "too few to see a window"


def flushed_by_hand(stage: Stage, backend: str) -> Report:
    """The negative: with the daemon held, an empty chain lets flows out as they are."""
    stage.stop_daemon(signal.SIGSTOP)
    try:
        with stage.flows() as report, stage.event(report, "flushed by hand"):
            stage.on_node(*ESCAPES[backend].split())
    finally:
        stage.stop_daemon(signal.SIGCONT)
    assert any("internet" in each for each in report.lost), "flows escaped"
    return report


def new_cidr(stage: Stage) -> str:
    """One more CIDR of the VPC."""
    ec2 = stage.lab.ec2()
    (vpc,) = ec2.describe_vpcs()["Vpcs"]
    cidr = f"10.{70 + len(vpc['CidrBlockAssociationSet'])}.0.0/16"
    ec2.associate_vpc_cidr_block(VpcId=vpc["VpcId"], CidrBlock=cidr)
    return cidr


def resync(stage: Stage) -> None:
    """Two full syncs of kube-proxy."""
    stage.lab.run("service", "add", "more", "--port", "80", "--to", "a,b,c", "--node-port", "30099")
    stage.lab.run("service", "rm", "more")


@pytest.mark.parametrize(("backend", "mode"), [("iptables-nft", "iptables")])
def test_no_flow_is_lost_whatever_happens_to_the_daemon(
    staged: Callable[[str, str], Stage], backend: str, mode: str
) -> None:
    stage = staged(backend, mode)
    with stage.flows() as report:
        with stage.event(report, "stopped and started with a new CIDR and other settings"):
            cidr = new_cidr(stage)
            excluded = "AWS_VPC_K8S_CNI_EXCLUDE_SNAT_CIDRS"
            stage.lab.restart({excluded: "192.168.0.0/16", "AWS_VPC_K8S_CNI_RANDOMIZESNAT": "none"})
            assert cidr in stage.on_node("iptables-save", "-t", "nat")
        with stage.event(report, "kube-proxy's full sync"):
            resync(stage)
        with stage.event(report, "killed, and started with the other layout"):
            stage.lab.run("restart", "ipamd", "--node", "1", "--kill", "--env", "VPCCNI_RULE_LAYOUT=shared")
        with stage.event(report, "another connection mark"):
            stage.lab.restart({"AWS_VPC_K8S_CNI_CONNMARK": "0x100"})
    check(stage, report)
    report = flushed_by_hand(stage, backend)
    assert report.sources()["pod"] == {stage.address(stage.asker)}


@pytest.mark.parametrize(("backend", "mode"), BY_MODE)
def test_no_flow_is_lost_by_each_change_in_each_backend(
    staged: Callable[[str, str], Stage], backend: str, mode: str
) -> None:
    stage = staged(backend, mode)

    def setting(name: str, value: str) -> None:
        with stage.event(report, f"{name}={value}"):
            stage.lab.restart({name: value})

    with stage.flows() as report:
        with stage.event(report, "SIGTERM and start"):
            stage.lab.restart({})
        with stage.event(report, "SIGKILL and start"):
            stage.lab.run("restart", "ipamd", "--node", "1", "--kill")
        with stage.event(report, "kube-proxy's full sync"):
            resync(stage)
        for layout in ("shared", "per-pod"):
            setting("VPCCNI_RULE_LAYOUT", layout)
        for ports in ("none", "hashrandom", "prng"):
            setting("AWS_VPC_K8S_CNI_RANDOMIZESNAT", ports)
        for mark in ("0x100", "0x180", "0x80"):
            setting("AWS_VPC_K8S_CNI_CONNMARK", mark)
        setting("AWS_VPC_K8S_CNI_EXCLUDE_SNAT_CIDRS", "192.168.0.0/16,172.31.0.0/16")
        for other in (each for each in (*BACKENDS, backend) if each != backend or each is BACKENDS[0]):
            setting("VPCCNI_FIREWALL", other)
        setting("VPCCNI_FIREWALL", backend)
    check(stage, report)
    # A flow that stands keeps its translation when its target is excluded from it; new ones are seen as the pod.
    with stage.flows() as report:
        setting("AWS_VPC_K8S_CNI_EXCLUDE_SNAT_CIDRS", f"{SITE}/32")
    assert report.lost == [] and report.sources()["site"] == {stage.node["private_address"], stage.address(stage.asker)}
    assert report.standing()["site", "tcp"][0] == report.standing()["site", "udp"][0] == 1
    flushed_by_hand(stage, backend)


@pytest.mark.long
@pytest.mark.parametrize("backend", BACKENDS)
def test_no_flow_is_lost_when_a_running_daemon_learns_of_a_new_cidr(
    staged: Callable[[str, str], Stage], backend: str
) -> None:
    """Every 30 s it asks the metadata service."""
    stage = staged(backend, MODES[0])
    with stage.flows() as report, stage.event(report, "a new CIDR"):
        cidr = new_cidr(stage)
        wait_until(lambda: cidr in stage.on_node(*LISTS[backend].split()), 45, "the new CIDR is exempt")
    check(stage, report)
