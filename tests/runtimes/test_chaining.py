# SPDX-License-Identifier: Apache-2.0
"""The reference plugins portmap, bandwidth and tuning after ours: they do their work, and undo it with the pod."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from boxes import Box
from chain import Attachment, OwnRunner, conflist_of, new_pod, rate_into, rate_out_of
from containerd import Containerd, PodSpec, persist, wait_until
from images import write_pages
from node_machine import NodeMachine, Service

pytestmark = [pytest.mark.runtimes, pytest.mark.timeout(240)]

HOST_PORT = 18080
MBIT = 1_000_000
INGRESS, EGRESS = 40 * MBIT, 20 * MBIT
MAPPED = {"portMappings": [{"hostPort": HOST_PORT, "containerPort": 80, "protocol": "tcp"}]}
SHAPED = {
    "bandwidth": {"ingressRate": INGRESS, "ingressBurst": MBIT, "egressRate": EGRESS, "egressBurst": MBIT},
}
IPV6_OFF = [f"net.ipv6.conf.{name}.disable_ipv6" for name in ("all", "default", "lo", "eth0")]


@pytest.fixture(scope="module")
def machine(box: Box) -> NodeMachine:
    box.up(2, "t3.small", IP_COOLDOWN_PERIOD="1", ENABLE_BANDWIDTH_PLUGIN="true", DISABLE_POD_V6="true")
    return box.machine("1")


@pytest.fixture
def runtime(machine: NodeMachine, box: Box) -> Iterator[Containerd]:
    yield (made := box.containerd("1"))
    made.sweep()
    wait_until(lambda: box.in_use("1") == set(), 10, "the node has no pods")


def shaping(box: Box) -> dict[str, int]:
    """Device: rate in bits a second, of every token bucket on node 1."""
    listed: list[dict[str, Any]] = json.loads(box.machine("1").output("tc", "-j", "qdisc", "show"))
    return {one["dev"]: one["options"]["rate"] * 8 for one in listed if one["kind"] == "tbf"}


def redirections(box: Box) -> list[str]:
    """Devices that bandwidth makes for what a pod sends."""
    return [line for line in box.ip("1", "-br", "link").splitlines() if line.startswith("bwp")]


def port_rules(box: Box) -> list[str]:
    """What portmap has written for single pods."""
    rules = box.machine("1").output("iptables-save", "-t", "nat").splitlines()
    return [rule for rule in rules if "CNI-DN" in rule]


def test_a_host_port_leads_to_pods_on_every_eni_and_goes_with_them(runtime: Containerd, box: Box) -> None:
    public, private = (box.node("1")[kind] for kind in ("public_address", "private_address"))
    clients = [(box.state.node_namespace("2"), private), (box.state.internet_namespace, public)]
    outside = next(host["address"] for host in box.status()["hosts"] if host["via"] == "internet")
    pods = []
    for number in range(4):  # three on the primary ENI, one on a secondary
        assert all(box.page_from(namespace, address, HOST_PORT + number) == "" for namespace, address in clients)
        port = {"protocol": "TCP", "container_port": 80, "host_port": HOST_PORT + number}
        spec = PodSpec(f"web{number}", ports=[port])
        pods.append(persist(lambda spec=spec: runtime.run_pod(spec)))
    held = box.addresses_by_device("1")
    assert {device for device in held if held[device] & {pod.address for pod in pods}} > {0}
    for number, pod in enumerate(pods):
        pages = [box.page_from(namespace, address, HOST_PORT + number) for namespace, address in clients]
        names, seen = zip(*(page.split(" saw ") for page in pages), strict=True)
        assert set(names) == {pod.name}, pages
        assert seen == (box.node("2")["private_address"], outside), pages
    # A pod reaches its own port by the node's address, which needs its source to be changed.
    assert runtime.fetch(pods[0], private, HOST_PORT).startswith("web0 saw ")
    assert port_rules(box)
    for pod in pods:
        runtime.stop_pod(pod)
    assert all(box.page_from(namespace, address, HOST_PORT) == "" for namespace, address in clients)
    assert port_rules(box) == []


def test_bandwidth_annotations_become_token_buckets_and_go_with_the_pod(runtime: Containerd, box: Box) -> None:
    limits = {"kubernetes.io/ingress-bandwidth": "40M", "kubernetes.io/egress-bandwidth": "20M"}
    free = runtime.run_pod("free")
    assert shaping(box) == {} and redirections(box) == []
    pod = runtime.run_pod(PodSpec("shaped", annotations=limits))
    rates = shaping(box)
    assert sorted(rates.values()) == [EGRESS, INGRESS]
    into = next(device for device, rate in rates.items() if rate == INGRESS)
    assert into.startswith("eni") and pod.address in box.ip("1", "route", "show", "dev", into)
    assert len(redirections(box)) == 1
    assert runtime.fetch(free, pod.address) == f"shaped saw {free.address}"
    runtime.stop_pod(pod)
    wait_until(lambda: shaping(box) == {} and redirections(box) == [], 5, "nothing is shaped any more")


def test_pods_have_no_ipv6_at_all_when_tuning_says_so(runtime: Containerd, box: Box) -> None:
    pod = runtime.run_pod("plain")
    _, printed = runtime.cri.execute(pod.container, "/bin/sysctl", *IPV6_OFF)
    assert [line.split(" = ")[1] for line in printed.splitlines()] == ["1"] * len(IPV6_OFF)
    assert "inet6" not in runtime.cri.execute(pod.container, "/bin/ip", "addr")[1]
    # The negative: the same node, the same pod, the setting off.
    box.restart_daemon("1", DISABLE_POD_V6="false")
    try:
        wait_until(lambda: runtime.cri.conditions()["NetworkReady"], 5, "containerd saw the conflist")
        other = runtime.run_pod("six")
        _, printed = runtime.cri.execute(other.container, "/bin/sysctl", *IPV6_OFF[:2])
        assert [line.split(" = ")[1] for line in printed.splitlines()] == ["0", "0"]
    finally:
        box.restart_daemon("1", DISABLE_POD_V6="true")
    wait_until(lambda: runtime.cri.conditions()["NetworkReady"], 5, "containerd saw the conflist")


# -- by hand, because a runtime lets nobody choose version and burst ------------------------------------------------
@pytest.fixture
def by_hand(machine: NodeMachine, box: Box) -> Iterator[None]:
    yield
    for line in machine.output("ip", "netns", "list").splitlines():
        machine.output("ip", "netns", "del", line.split()[0])
    wait_until(lambda: box.in_use("1") == set(), 10, "the node has no pods")


@pytest.mark.usefixtures("by_hand")
@pytest.mark.parametrize("version", ["0.3.1", "0.4.0", "1.0.0"])
def test_the_chain_works_on_results_of_every_version(machine: NodeMachine, box: Box, version: str) -> None:
    runner = OwnRunner(machine, conflist_of(machine, version))
    pod = new_pod(machine, "chained", {**MAPPED, **SHAPED})
    node, away = box.node("1")["private_address"], box.state.node_namespace("2")
    added = runner.call("ADD", pod)
    assert added.result is not None, added
    assert added.result["cniVersion"] == version
    address = added.result["ips"][0]["address"].removesuffix("/32")
    server = serve(machine, pod)
    try:
        wait_until(lambda: box.page_from(away, node, HOST_PORT) != "", 5, "the port is open")
        assert sorted(shaping(box).values()) == [EGRESS, INGRESS]
        off = machine.output("nsenter", f"--net={pod.netns}", "sysctl", "-n", *IPV6_OFF)
        assert off.split() == ["1"] * len(IPV6_OFF)
        assert runner.call("DEL", pod).text == ""
        assert box.page_from(away, node, HOST_PORT) == "" and port_rules(box) == [] and redirections(box) == []
        assert box.traces("1", address) == []
        assert runner.call("DEL", pod.without_namespace()).text == "", "twice is fine"
    finally:
        server.kill()


@pytest.mark.usefixtures("by_hand")
def test_a_limited_pod_is_slower_than_a_free_one_in_both_directions(machine: NodeMachine, box: Box) -> None:
    runner = OwnRunner(machine, conflist_of(machine, "1.0.0"))
    free, shaped = new_pod(machine, "free"), new_pod(machine, "shaped", SHAPED)
    for pod in (free, shaped):
        assert runner.call("ADD", pod).text == ""
    assert rate_into(machine, free) > 5 * INGRESS and rate_out_of(machine, free) > 5 * EGRESS
    assert 0.7 * INGRESS < rate_into(machine, shaped) < 1.2 * INGRESS
    assert 0.7 * EGRESS < rate_out_of(machine, shaped) < 1.2 * EGRESS
    for pod in (free, shaped):
        assert runner.call("DEL", pod).text == ""


@pytest.mark.usefixtures("by_hand")
def test_a_limited_pod_can_be_added_again_in_its_namespace(machine: NodeMachine) -> None:
    runner = OwnRunner(machine, conflist_of(machine, "1.0.0"))
    pod = new_pod(machine, "twice", SHAPED)
    outcomes = [runner.call(command, pod) for command in ("ADD", "DEL", "ADD", "DEL")]
    assert [outcome.text for outcome in outcomes] == ["", "", "", ""]


@pytest.mark.usefixtures("by_hand")
@pytest.mark.parametrize(
    ("asked", "refusal"),
    [
        ({}, 'plugin type="bandwidth" failed (check)'),
        (SHAPED, ""),
        ({**SHAPED, **MAPPED}, 'plugin type="portmap" failed (check): could not check ipv6 dnat'),
    ],
    ids=["plain", "limited", "limited, host port"],
)
def test_check_of_the_reference_plugins_refuses_healthy_pods_so_the_conflist_switches_it_off(
    machine: NodeMachine, asked: dict[str, Any], refusal: str
) -> None:
    shipped = conflist_of(machine, "1.0.0")
    assert shipped["disableCheck"] is True
    pod = new_pod(machine, "checked", asked)
    runner, believer = OwnRunner(machine, shipped), OwnRunner(machine, {**shipped, "disableCheck": False})
    assert believer.call("ADD", pod).text == ""
    checked = believer.call("CHECK", pod).text
    assert checked.startswith(refusal) and bool(checked) == bool(refusal), checked
    assert runner.call("CHECK", pod).text == ""
    assert believer.call("DEL", pod).text == ""


def serve(machine: NodeMachine, pod: Attachment) -> Service:
    """The pages of the image, served in a pod that has no image."""
    write_pages(machine.work / "www")
    busybox = ("busybox", "httpd", "-f", "-p", "80", "-h", str(machine.work / "www"))
    with (machine.work / "httpd.log").open("ab") as log:
        return machine.spawn(log, "nsenter", f"--net={pod.netns}", *busybox)
