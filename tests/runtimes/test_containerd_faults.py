# SPDX-License-Identifier: Apache-2.0
"""What real containerd, and through it kubelet, sees when things go wrong: no address, no daemon, no patience."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator

import pytest
from boxes import Box
from containerd import Containerd, persist, tried, wait_until
from cri import CriError

from vpccni.lab import nodes

pytestmark = [pytest.mark.runtimes, pytest.mark.timeout(240)]

ADDRESSES = 9  # of a t3.small
FAILED = 'plugin type="aws-cni" name="aws-cni" failed (add): cannot '


@pytest.fixture(scope="module")
def runtime(box: Box) -> Containerd:
    box.up(1, "t3.small", IP_COOLDOWN_PERIOD="1")
    return box.containerd("1")


@pytest.fixture(autouse=True)
def no_pods_stay(runtime: Containerd, box: Box) -> Iterator[None]:
    yield
    box.insist_on_daemon("1")
    runtime.sweep()
    wait_until(lambda: box.in_use("1") == set(), 10, "the node has no pods")


def calls(box: Box) -> list[tuple[str, int]]:
    """Command and exit code of every call of our plugin."""
    return [(call["variables"]["CNI_COMMAND"], call["exit_code"]) for call in box.calls("1")]


def test_a_full_node_refuses_in_words_that_say_what_to_do(runtime: Containerd, box: Box) -> None:
    pods = [persist(lambda n=n: runtime.run_sandbox(f"p{n}")) for n in range(ADDRESSES)]
    assert len({pod.address for pod in pods}) == ADDRESSES
    box.record("1", "aws-cni")
    with pytest.raises(CriError) as refused:
        runtime.run_sandbox("one-too-many")
    assert refused.value.code == "UNKNOWN"
    text = refused.value.text
    assert FAILED in text, text
    print(text)
    assert "9" in text and "[" in text and "Next: " in text, text
    # The DEL that follows at once finds nothing and says so by succeeding.
    assert calls(box) == [("ADD", 1), ("DEL", 0)]
    assert "one-too-many" not in runtime.sandboxes()
    runtime.stop_pod(pods[0])
    runtime.remove_pod(pods[0])
    wait_until(lambda: tried(lambda: runtime.run_sandbox("one-too-many")), 10, "the address has cooled down")
    assert len(box.in_use("1")) == ADDRESSES


def test_a_caller_that_gives_up_during_add_costs_no_address(runtime: Containerd, box: Box) -> None:
    box.record("1", "aws-cni")
    with box.daemon_frozen("1"):
        with pytest.raises(CriError) as late:
            runtime.run_sandbox("impatient", timeout_s=2)
        assert late.value.code == "DEADLINE_EXCEEDED"
        # containerd kills the plugin, and sends the DEL on its own time: it waits for the daemon, too.
        wait_until(lambda: [one["variables"]["CNI_COMMAND"] for one in box.begun("1")] == ["ADD", "DEL"], 10, "the DEL")
    wait_until(lambda: calls(box) == [("DEL", 0)], 15, "the DEL is answered, the ADD never")
    wait_until(lambda: box.in_use("1") == set(), 5, "the address is back")
    assert "impatient" not in runtime.sandboxes()
    patient = runtime.run_pod("impatient")
    assert box.in_use("1") == {patient.address}


@pytest.mark.parametrize("after_s", [0.0, 0.03, 0.06, 0.1, 0.15])
def test_a_caller_that_gives_up_at_any_moment_costs_no_address(runtime: Containerd, box: Box, after_s: float) -> None:
    for number in range(3):
        served = tried(lambda number=number: runtime.run_sandbox(f"hasty{number}", timeout_s=after_s + 0.02))
        if served:
            assert f"hasty{number}" in runtime.sandboxes()
    # A sandbox whose caller did not wait for the answer may live on; kubelet finds it in the list, and removes it.
    time.sleep(0.5)
    runtime.sweep()
    wait_until(lambda: box.in_use("1") == set(), 10, "every address is back")
    assert [line for line in box.ip("1", "rule").splitlines() if line.startswith(("512:", "1536:"))] == []


def test_the_node_is_ready_exactly_while_the_conflist_is_there(runtime: Containerd, box: Box) -> None:
    assert runtime.cri.conditions() == {"RuntimeReady": True, "NetworkReady": True}
    box.stop_daemon("1")
    wait_until(lambda: not runtime.cri.conditions()["NetworkReady"], 5, "containerd saw the conflist go")
    status = runtime.cri.call("Status")["status"]["conditions"]
    network = next(one for one in status if one["type"] == "NetworkReady")
    assert "cni plugin not initialized" in network["message"]
    with pytest.raises(CriError, match="cni plugin not initialized"):
        runtime.run_sandbox("too-early")
    box.start_daemon("1")
    wait_until(lambda: runtime.cri.conditions()["NetworkReady"], 5, "containerd saw the conflist come")
    pod = runtime.run_sandbox("now")
    assert box.in_use("1") == {pod.address}


def test_pods_can_be_deleted_while_no_daemon_runs_and_their_addresses_come_back_with_it(
    runtime: Containerd, box: Box
) -> None:
    gone, kept = runtime.run_pod("gone"), runtime.run_pod("kept")
    box.daemon("1").signal(signal.SIGKILL)
    wait_until(lambda: not nodes.stop(box.state, "1"), 5, "the daemon is dead")
    assert runtime.cri.conditions()["NetworkReady"], "nobody took the conflist away"
    with pytest.raises(CriError) as refused:
        runtime.run_sandbox("not-now")
    assert f"{FAILED}serve ADD: no connection to the node daemon" in refused.value.text
    runtime.stop_pod(gone)
    runtime.remove_pod(gone)
    assert runtime.sandboxes() == {"kept": "SANDBOX_READY"}
    box.start_daemon("1")
    wait_until(lambda: box.in_use("1") == {kept.address}, 10, "the queued DEL was done, and no other")
    assert box.traces("1", gone.address) == []
    other = persist(lambda: runtime.run_pod("other"))
    assert runtime.fetch(other, kept.address) == f"kept saw {other.address}"
    assert runtime.fetch(other, gone.address) == ""


def test_a_sandbox_whose_namespace_is_gone_can_still_be_removed(runtime: Containerd, box: Box) -> None:
    """As after a reboot: containerd has its records, the kernel has nothing."""
    pod = runtime.run_sandbox("rebooted")
    info = runtime.cri.call("PodSandboxStatus", pod_sandbox_id=pod.sandbox, verbose=True)["info"]["info"]
    namespace = next(
        space["path"] for space in json.loads(info)["runtimeSpec"]["linux"]["namespaces"] if space["type"] == "network"
    )
    machine = runtime.machine
    machine.output("umount", "-l", namespace)
    machine.output("rm", namespace)
    box.record("1", "aws-cni")
    runtime.stop_pod(pod)
    runtime.remove_pod(pod)
    ended = box.calls("1")
    assert [call["variables"]["CNI_NETNS"] for call in ended] == ["", ""]
    assert ["prevResult" in call["stdin"] for call in ended] == [True, False]
    assert calls(box) == [("DEL", 0), ("DEL", 0)]
    assert box.in_use("1") == set()
    assert box.traces("1", pod.address) == []
