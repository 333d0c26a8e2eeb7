# SPDX-License-Identifier: Apache-2.0
"""The CNI project's Go library and the lab's runtime do the same to a conflist: calls, stdin, results, errors."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from boxes import Box
from chain import Attachment, GoRunner, Outcome, OwnRunner, build_cnirun, conflist_of, new_pod
from containerd import wait_until
from node_machine import NodeMachine

from vpccni.lab.runtime import Runtime, Sandbox

pytestmark = [pytest.mark.runtimes, pytest.mark.timeout(180)]

VERSIONS = ("0.3.1", "0.4.0", "1.0.0")
RECORDED = ("aws-cni", "portmap", "bandwidth", "tuning")
CAPABILITIES = {
    "bandwidth": {"ingressRate": 20_000_000, "ingressBurst": 2_000_000},
    "io.kubernetes.cri.pod-annotations": {"purpose": "test"},
    "nobodyAsksForThis": {"a": 1},
}
# What may differ between two pods that are otherwise the same.
CHANGING = re.compile(r"([0-9a-f]{2}:){5}[0-9a-f]{2}|\b10\.20\.\d+\.\d+\b|\bbwp[0-9a-f]+")


@pytest.fixture(scope="module")
def machine(box: Box) -> NodeMachine:
    # One ENI, because results up to 0.4.0 tell the route table of the address that happened to be free.
    box.up(1, "m5.large", MAX_ENI="1", IP_COOLDOWN_PERIOD="1", ENABLE_BANDWIDTH_PLUGIN="true", DISABLE_POD_V6="true")
    return box.machine("1")


@pytest.fixture(scope="module")
def cnirun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_cnirun(tmp_path_factory.mktemp("cnirun"))


@pytest.fixture
def pod(machine: NodeMachine, box: Box) -> Iterator[Attachment]:
    box.record("1", *RECORDED)
    made = new_pod(machine, "pod", CAPABILITIES)
    yield made
    machine.output("ip", "netns", "del", "pod")
    wait_until(lambda: box.in_use("1") == set(), 10, "the node has no pods")


def played(box: Box, runner: GoRunner | OwnRunner, pod: Attachment) -> tuple[list[Any], list[Outcome]]:
    """A pod's whole life through a runner: every call that plugins saw, and every outcome, comparable.

    Its namespace is new, as it is for every sandbox of a runtime."""
    renew(box.machine("1"), pod)
    box.forget_calls("1")
    commands = [("ADD", pod), ("DEL", pod), ("DEL", pod.without_namespace())]
    if runner.version != "0.3.1":  # it knows no CHECK
        commands.insert(1, ("CHECK", pod))
    outcomes = [runner.call(command, one) for command, one in commands]
    return [comparable(call) for call in box.calls("1")], [comparable(one.__dict__) for one in outcomes]


def renew(machine: NodeMachine, pod: Attachment) -> None:
    name = pod.netns.rpartition("/")[2]
    machine.output("ip", "netns", "del", name)
    machine.output("ip", "netns", "add", name)


def comparable(value: Any) -> Any:
    return json.loads(CHANGING.sub("changing", json.dumps(value, sort_keys=True)))


@pytest.mark.parametrize("version", VERSIONS)
def test_both_call_plugins_alike_and_report_alike(
    machine: NodeMachine, box: Box, cnirun: Path, pod: Attachment, version: str
) -> None:
    conflist = conflist_of(machine, version, disableCheck=False)
    calls_of_go, outcomes_of_go = played(box, GoRunner(machine, conflist, cnirun), pod)
    calls_of_ours, outcomes_of_ours = played(box, OwnRunner(machine, conflist), pod)
    rounds = 3 if version == "0.3.1" else 4
    assert [call["plugin"] for call in calls_of_go][:8] == [*RECORDED, *(RECORDED if rounds == 4 else RECORDED[::-1])]
    assert len(calls_of_go) == len(RECORDED) * rounds
    assert [call["exit_code"] for call in calls_of_go] == [0] * len(calls_of_go)
    assert outcomes_of_go[0]["result"]["ips"]
    assert calls_of_ours == calls_of_go
    assert outcomes_of_ours == outcomes_of_go


class Forgetful(Runtime):
    """A runtime with one fault: a DEL that does not pass on the result of the ADD."""

    def cached_result(self, sandbox: Sandbox) -> dict[str, Any] | None:
        return None


def test_a_runtime_with_a_fault_is_told_apart(machine: NodeMachine, box: Box, cnirun: Path, pod: Attachment) -> None:
    conflist = conflist_of(machine, "1.0.0", disableCheck=False)
    calls_of_go, _ = played(box, GoRunner(machine, conflist, cnirun), pod)
    calls_of_faulty, _ = played(box, OwnRunner(machine, conflist, runtime=Forgetful), pod)
    differing = [
        ours["variables"]["CNI_COMMAND"] for ours, go in zip(calls_of_faulty, calls_of_go, strict=False) if ours != go
    ]
    assert "DEL" in differing and "ADD" not in differing


def test_both_put_a_refusal_alike(machine: NodeMachine, box: Box, cnirun: Path, pod: Attachment) -> None:
    conflist = conflist_of(machine, "1.0.0", disableCheck=False)
    nowhere = Attachment(pod.container_id, "/run/netns/nowhere", pod.args)
    refusals = [
        runner.call("ADD", nowhere) for runner in (GoRunner(machine, conflist, cnirun), OwnRunner(machine, conflist))
    ]
    assert refusals[0].error is not None
    assert refusals[0].error["code"] == 4 and "/run/netns/nowhere" in refusals[0].error["msg"]
    assert refusals[1].error == refusals[0].error


def test_check_passes_on_a_healthy_pod_and_fails_on_a_broken_one(
    machine: NodeMachine, box: Box, cnirun: Path, pod: Attachment
) -> None:
    runner = GoRunner(machine, conflist_of(machine, "1.0.0", disableCheck=False), cnirun)
    added = runner.call("ADD", pod)
    assert added.result is not None
    address = added.result["ips"][0]["address"].removesuffix("/32")
    assert runner.call("CHECK", pod).text == ""
    machine.output("nsenter", f"--net={pod.netns}", "ip", "route", "del", "default")
    broken = runner.call("CHECK", pod)
    assert broken.error is not None and "default" in broken.error["msg"], broken
    assert runner.call("DEL", pod).text == ""
    gone = runner.call("CHECK", pod)
    assert gone.text != ""
    assert box.traces("1", address) == []
