# SPDX-License-Identifier: Apache-2.0
"""Pods of real containerds on two nodes: their addresses, who reaches whom, and what is left when they go."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import permutations

import pytest
from boxes import Box
from containerd import Containerd, CriPod, PodSpec, persist, tried, wait_until

pytestmark = [pytest.mark.runtimes, pytest.mark.timeout(240)]

COOLDOWN_S = 1
PER_ENI = 3  # a t3.small has three ENIs of four addresses, the first of each its own


@pytest.fixture(scope="module")
def runtimes(box: Box) -> tuple[Containerd, Containerd]:
    box.up(2, "t3.small", IP_COOLDOWN_PERIOD=str(COOLDOWN_S))
    return box.containerd("1"), box.containerd("2")


@pytest.fixture(autouse=True)
def no_pods_stay(runtimes: tuple[Containerd, Containerd], box: Box) -> Iterator[None]:
    yield
    for one in runtimes:
        one.sweep()
    for node in ("1", "2"):
        wait_until(lambda node=node: box.in_use(node) == set(), 10, f"node {node} has no pods")
    time.sleep(COOLDOWN_S + 0.2)  # and every address is free again, so that each test finds the same


def test_pods_of_two_containerds_have_vpc_addresses_and_reach_each_other(
    runtimes: tuple[Containerd, Containerd], box: Box
) -> None:
    first, second = runtimes
    pods = [(first, persist(lambda n=n: first.run_pod(f"a{n}"))) for n in range(PER_ENI + 1)]
    pods += [(second, persist(lambda n=n: second.run_pod(f"b{n}"))) for n in range(PER_ENI + 1)]
    for node, mine in (("1", pods[: PER_ENI + 1]), ("2", pods[PER_ENI + 1 :])):
        held = box.addresses_by_device(node)
        devices = {next(device for device, addresses in held.items() if pod.address in addresses) for _, pod in mine}
        assert devices > {0}, "pods on the primary ENI and on a secondary"
        assert box.in_use(node) == {pod.address for _, pod in mine}
    pairs = list(permutations(pods, 2))
    with ThreadPoolExecutor(8) as pool:
        pages = list(pool.map(lambda pair: pair[0][0].fetch(pair[0][1], pair[1][1].address), pairs))
    wanted = [f"{destination.name} saw {source.address}" for (_, source), (_, destination) in pairs]
    assert pages == wanted


def test_a_pod_on_a_secondary_eni_is_cut_off_without_its_source_rule(
    runtimes: tuple[Containerd, Containerd], box: Box
) -> None:
    """The negative of the test above: a fetch can fail, and what is missing decides."""
    first, second = runtimes
    pods = [persist(lambda n=n: first.run_pod(f"a{n}")) for n in range(PER_ENI + 1)]
    away = second.run_pod("b")
    held = box.addresses_by_device("1")
    device = {pod: next(number for number, addresses in held.items() if pod.address in addresses) for pod in pods}
    secondary = next(pod for pod in pods if device[pod] != 0)
    neighbour = next(pod for pod in pods if device[pod] != device[secondary])
    (rule,) = [line for line in box.ip("1", "rule").splitlines() if f"from {secondary.address} " in line]
    priority, _, selector = rule.partition(":")
    with box.daemon_frozen("1"):  # or it would put the rule back
        box.ip("1", "rule", "del", "priority", priority, *selector.split())
        assert first.fetch(secondary, away.address) == ""
        assert first.fetch(neighbour, away.address) == f"b saw {neighbour.address}"
        box.ip("1", "rule", "add", "priority", priority, *selector.split())
        assert first.fetch(secondary, away.address) == f"b saw {secondary.address}"


def test_stop_and_remove_are_two_dels_and_the_second_knows_neither_namespace_nor_result(
    runtimes: tuple[Containerd, Containerd], box: Box
) -> None:
    first, _ = runtimes
    box.record("1", "aws-cni")
    pod, witness = first.run_pod("gone"), first.run_pod("witness")
    assert first.fetch(witness, pod.address) == f"gone saw {witness.address}"
    assert len(box.traces("1", pod.address)) >= 2
    box.forget_calls("1")
    first.stop_pod(pod)
    (stop,) = box.calls("1")
    assert stop["variables"]["CNI_COMMAND"] == "DEL" and stop["variables"]["CNI_NETNS"]
    assert stop["stdin"]["prevResult"]["ips"][0]["address"] == f"{pod.address}/32"
    assert box.traces("1", pod.address) == []
    assert box.in_use("1") == {witness.address}
    first.remove_pod(pod)
    removal = box.calls("1")[1]
    assert removal["variables"]["CNI_NETNS"] == "" and "prevResult" not in removal["stdin"]
    assert [call["exit_code"] for call in box.calls("1")] == [0, 0]
    assert first.sandboxes() == {"witness": "SANDBOX_READY"}
    assert first.fetch(witness, pod.address) == ""


def test_removing_the_old_sandbox_of_a_pod_leaves_the_new_one_alone(
    runtimes: tuple[Containerd, Containerd], box: Box
) -> None:
    """What kubelet does when a sandbox died: the new one comes before the old one is removed, under the same name."""
    first, second = runtimes
    away = second.run_pod("away")
    old = first.run_pod("web-0")
    first.stop_pod(old)
    new = first.run_pod(PodSpec("web-0", attempt=1))
    assert second.fetch(away, new.address) == f"web-0 saw {away.address}"
    first.remove_pod(old)
    assert second.fetch(away, new.address) == f"web-0 saw {away.address}"
    assert box.in_use("1") == {new.address}


def test_pods_outlive_a_killed_containerd(runtimes: tuple[Containerd, Containerd], box: Box) -> None:
    first, second = runtimes
    before, away = first.run_pod("before"), second.run_pod("away")
    first.kill(signal.SIGKILL)
    assert second.fetch(away, before.address) == f"before saw {away.address}"
    first.start()
    assert first.sandboxes() == {"before": "SANDBOX_READY"}
    assert first.address_of(before.sandbox) == before.address
    assert second.fetch(away, before.address) == f"before saw {away.address}"
    assert first.fetch(before, away.address) == f"away saw {before.address}"
    after = first.run_pod("after")
    assert after.address != before.address
    assert first.fetch(after, before.address) == f"before saw {after.address}"
    first.stop_pod(before)
    first.remove_pod(before)
    assert box.in_use("1") == {after.address}
    assert second.fetch(away, before.address) == ""


def test_twenty_four_pods_come_and_go_eight_at_a_time(runtimes: tuple[Containerd, Containerd], box: Box) -> None:
    first, _ = runtimes
    lives: list[CriPod] = []

    def live(number: int) -> None:
        pod = first.run_sandbox(f"p{number}")
        first.stop_pod(pod)
        first.remove_pod(pod)
        lives.append(pod)

    def insist(number: int) -> None:
        # Nine addresses that cool for a second each: some attempts find none, and kubelet tries again.
        wait_until(lambda: tried(lambda: live(number)), 60, f"pod {number} lived")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(insist, range(24)))
    assert len({pod.sandbox for pod in lives}) == 24
    assert first.sandboxes() == {}
    assert box.in_use("1") == set()
    assert [line for line in box.ip("1", "rule").splitlines() if line.startswith(("512:", "1536:"))] == []
    assert "link/ether" not in "".join(line for line in box.ip("1", "-o", "link").splitlines() if ": eni" in line)
