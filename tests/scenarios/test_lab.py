# SPDX-License-Identifier: Apache-2.0
"""A lab from up to down, with real pods and packets."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from labs import Lab, wait_until

pytestmark = pytest.mark.lab


def pids_of(lab: Lab) -> dict[str, int]:
    return {row["role"]: row["pid"] for row in lab.json("status")["processes"]}


def test_pods_get_vpc_addresses_and_talk(lab: Lab) -> None:
    up = lab.up()
    assert up["took_s"] <= 5.0
    assert [node["ready"] for node in up["nodes"]] == [True, True]
    pods = lab.add("a", "b", node="1") | lab.add("c", node="2")
    outcomes = lab.json("probe")
    assert len(outcomes) == 3 * 2 + 3 * 2 and all(outcome["reached"] for outcome in outcomes)
    seen = {(one["source"], one["destination"]): one["seen"] for one in outcomes}
    nodes = {node["name"]: node for node in lab.json("nodes")}
    assert seen["a", "b"] == pods["a"] and seen["a", "c"] == pods["a"] and seen["c", "a"] == pods["c"]
    assert seen["a", "host site"] == nodes["1"]["private_address"]
    assert seen["c", "host internet"] == nodes["2"]["public_address"]
    assert pods["a"] in [address for eni in nodes["1"]["enis"] for address in eni["addresses"]]
    assert lab.introspect("1", "/v1/pods").keys() != {} and len(lab.introspect("1", "/v1/pods")) == 2


def test_a_wrong_pod_name_a_second_pod_and_a_second_lab_are_refused(lab: Lab) -> None:
    lab.up("--nodes", "1")
    lab.add("a")
    for argv, code in (
        (["pod", "add", "a"], 2),
        (["pod", "add", "A_b"], 2),
        (["pod", "add", "b", "--node", "9"], 2),
        (["pod", "rm", "zzz"], 2),
        (["exec", "zzz", "--", "true"], 2),
        (["up"], 2),
        (["exec", "a", "--", "false"], 1),
        (["probe", "--from", "a", "--to", "zzz"], 2),
    ):
        done = lab.run(*argv, ok=False)
        assert done.returncode == code, (argv, done.stderr)
        assert code == 1 or "vpccni: cannot" in done.stderr
    assert len(lab.json("pod", "list")) == 1


def test_a_probe_fails_when_a_pod_is_cut_off(lab: Lab) -> None:
    lab.up("--nodes", "1")
    lab.add("a", "b")
    assert lab.run("probe", "--from", "a", "--to", "b").returncode == 0
    lab.run("exec", "b", "--", "ip", "link", "set", "eth0", "down")
    done = lab.run("probe", "--from", "a", "--to", "b", ok=False)
    assert done.returncode == 1 and "0 of 1" in done.stdout


def test_ipamd_restarts_under_running_pods_also_after_a_crash(lab: Lab) -> None:
    lab.up("--nodes", "1")
    pods = lab.add("a", "b")
    before = lab.introspect("1", "/v1/pods")
    lab.run("restart", "ipamd", "--node", "1")
    assert lab.introspect("1", "/v1/pods") == before
    lab.run("restart", "ipamd", "--node", "1", "--kill", "--env", "AWS_VPC_K8S_CNI_EXTERNALSNAT=true")
    assert lab.introspect("1", "/v1/pods") == before
    outcomes = lab.json("probe", "--to", "b", "--from", "a", "--to", "site")
    assert [outcome["seen"] for outcome in outcomes] == [pods["a"]] * 2
    assert lab.add("c")["c"] not in pods.values()
    bad = lab.run("restart", "ipamd", "--node", "1", "--env", "WARM_ENI_TARGET=x", ok=False)
    assert bad.returncode == 2 and lab.node("1")["ready"]  # refused before anything was stopped


def test_a_pod_that_is_deleted_while_ipamd_is_away_gives_its_address_back(lab: Lab) -> None:
    lab.up("--nodes", "1")
    lab.add("a", "b")
    os.kill(pids_of(lab)["ipamd-1"], signal.SIGKILL)
    lab.run("pod", "rm", "a")
    lab.run("restart", "ipamd", "--node", "1")
    wait_until(lambda: len(lab.introspect("1", "/v1/pods")) == 1, 5, "the queued DEL is drained")


@pytest.mark.parametrize("victim", ["daemon", "ipamd-1", "both"])
def test_down_removes_everything_after_a_crash_and_twice(lab: Lab, victim: str) -> None:
    lab.up("--nodes", "1")
    lab.add("a")
    sleeper = subprocess.Popen(
        [sys.executable, "-m", "vpccni", "lab", "exec", "a", "--", "sleep", "300"], env=lab.environ
    )
    for role, pid in pids_of(lab).items():
        if victim in (role, "both"):
            os.kill(pid, signal.SIGKILL)
    rows = {row["what"]: row for row in lab.down()}
    assert all(row["left"] == [] for row in rows.values())
    assert rows["network namespaces"]["removed"] == 5  # node, pod, fabric, internet, site
    assert sleeper.wait(5) != 0
    assert all(row["removed"] == 0 and row["left"] == [] for row in lab.down())


def test_a_topology_file_gives_the_lab_its_shape(lab: Lab, tmp_path: Path) -> None:
    path = tmp_path / "lab.toml"
    path.write_text(
        """
        region = "ap-northeast-2"
        [vpc]
        cidrs = ["10.30.0.0/16", "100.64.0.0/16"]
        [[subnet]]
        name = "pods"
        cidr = "100.64.0.0/26"
        az = "c"
        [[node]]
        name = "solo"
        subnet = "pods"
        type = "t3.small"
        private_ip = "100.64.0.10"
        public = false
        [[host]]
        name = "office"
        address = "203.0.113.7"
        via = "private"
        """
    )
    node = lab.up("--topology", str(path))["nodes"][0]
    assert (node["name"], node["private_address"], node["public_address"]) == ("solo", "100.64.0.10", None)
    assert node["zone"] == "ap-northeast-2c" and node["instance_type"] == "t3.small"
    address = lab.add("web")["web"]
    assert address.startswith("100.64.0.")
    assert lab.json("probe", "--from", "web", "--to", "office")[0]["seen"] == "100.64.0.10"


def test_ids_and_addresses_are_those_of_the_seed(lab: Lab) -> None:
    first = lab.up("--nodes", "1", "--seed", "5")["nodes"][0]["instance_id"]
    lab.down()
    assert lab.up("--nodes", "1", "--seed", "5")["nodes"][0]["instance_id"] == first
    lab.down()
    assert lab.up("--nodes", "1", "--seed", "6")["nodes"][0]["instance_id"] != first


def test_boto3_and_exec_work_with_what_env_prints(lab: Lab) -> None:
    node = lab.up("--nodes", "1")["nodes"][0]
    script = (
        "import boto3; print(boto3.client('ec2').describe_instances()['Reservations'][0]['Instances'][0]['InstanceId'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**lab.environ, **lab.json("env")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == node["instance_id"]
    assert node["private_address"] in lab.run("exec", "1", "--", "ip", "addr").stdout
    assert "10-aws.conflist" in lab.run("exec", "1", "--", "ls", "/etc/cni/net.d").stdout


def test_a_full_subnet_is_named_as_the_reason(lab: Lab, tmp_path: Path) -> None:
    path = tmp_path / "lab.toml"
    path.write_text(
        '[vpc]\ncidrs = ["10.30.0.0/16"]\n[[subnet]]\nname = "tiny"\ncidr = "10.30.0.0/28"\n'
        '[[node]]\nname = "1"\nsubnet = "tiny"\n'
    )
    lab.up("--topology", str(path))
    done = lab.run("pod", "add", *(f"p{n}" for n in range(12)), "--retry", "4", ok=False)
    assert done.returncode == 1
    assert len(done.stdout.splitlines()) in (
        9,
        10,
    )  # 16, less 5 reserved, less the primary addresses of one or two ENIs
    assert "subnet" in done.stderr and "Next:" in done.stderr
    assert len(lab.json("pod", "list")) == len(done.stdout.splitlines())  # nothing is left of those that failed
