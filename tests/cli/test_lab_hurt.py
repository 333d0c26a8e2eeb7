# SPDX-License-Identifier: Apache-2.0
"""`lab fault`, `lab calls`, `lab subnet`: refusals without a lab, and the three together in one."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from labs import Lab, own_lab

from vpccni.cli.app import main

NOWHERE = {"VPCCNI_LAB_NAME": f"x{os.getpid()}"}  # a lab of this name is never brought up


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["fault", "set", "throttle=maybe"], "accepted is off or on, or a factor"),
        (["fault", "set", "rain=on"], "there are throttle, latency, deny"),
        (["fault", "set", "throttle"], "not NAME=VALUE"),
        (["fault", "set", "profile=sunny"], "accepted is bad-day, busy, calm"),
        (["fault", "set"], "NAME=VALUE"),
        (["fault", "clear", "rain"], "there are throttle, latency, deny"),
        (["fault", "list"], "none is up"),
        (["fault", "set", "throttle=on"], "none is up"),
        (["calls"], "none is up"),
        (["calls", "--since", "yesterday"], "a number with s, m or h"),
        (["calls", "--last", "-1"], "--last"),
        (["subnet", "a"], "none is up"),
        (["subnet"], "SUBNET"),
        (["up", "--profile", "sunny"], "bad-day or busy or calm"),
    ],
)
def test_bad_input_is_refused_with_code_2(argv: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lab", *argv], NOWHERE) == 2
    printed = capsys.readouterr()
    assert said in " ".join(printed.err.replace("│", " ").split()) and printed.out == ""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with own_lab() as made:
        made.up("--nodes", "1", "--env", "IP_COOLDOWN_PERIOD=300")
        yield made


def _boto(lab: Lab):
    import boto3
    from botocore.config import Config

    variables = lab.json("env")
    return boto3.client(
        "ec2", endpoint_url=variables["AWS_ENDPOINT_URL_EC2"], region_name=variables["AWS_REGION"],
        aws_access_key_id="lab", aws_secret_access_key="lab", config=Config(retries={"total_max_attempts": 1}),
    )  # fmt: skip


@pytest.mark.lab
def test_a_fault_holds_from_the_moment_it_is_set_until_it_is_cleared_and_calls_show_it(lab: Lab) -> None:
    from botocore.exceptions import ClientError

    ec2 = _boto(lab)
    answer = lab.json("fault", "set", "deny=DescribeVpcs", "latency=0")
    assert (answer["faults"]["deny"], answer["profile"]) == ("DescribeVpcs", "calm")
    with pytest.raises(ClientError, match="UnauthorizedOperation"):
        ec2.describe_vpcs()
    assert lab.json("fault", "clear", "deny")["faults"]["latency"] == "0"
    assert ec2.describe_vpcs()["Vpcs"]
    mine = lab.json("calls", "--node", "machine", "--since", "1m")
    (row,) = [row for row in mine["totals"] if row["action"] == "DescribeVpcs"]
    assert row["calls"] == 2 and row["codes"] == {"UnauthorizedOperation": 1}
    assert [entry["code"] for entry in mine["calls"] if entry["action"] == "DescribeVpcs"] == [
        "UnauthorizedOperation", None,
    ]  # fmt: skip
    assert {row["action"] for row in lab.json("calls", "--node", "1")["totals"]} >= {"DescribeNetworkInterfaces"}
    printed = lab.run("calls", "--last", "3").stdout
    assert "DescribeVpcs" in printed and "UnauthorizedOperation 1" in printed
    assert lab.run("fault", "set", "deny=FlyAway", ok=False).returncode == 2
    refused = lab.run("calls", "--node", "9", ok=False)
    assert refused.returncode == 2 and "accepted are 1, machine" in refused.stderr
    assert set(lab.json("fault", "clear")["faults"].values()) == {"off", "1"}


@pytest.mark.lab
def test_the_subnet_map_names_pods_and_cooling_addresses(lab: Lab) -> None:
    addresses = lab.add("web", "gone")
    lab.run("pod", "rm", "gone")
    drawn = lab.json("subnet", "a")
    assert drawn["cooling"] == [addresses["gone"]] and drawn["nodes_not_asked"] == []
    (block,) = [block for block in drawn["blocks"] if addresses["web"] in block["pods"]]
    assert block["pods"][addresses["web"]] == "web" and block["state"] == "blocked"
    holders = {one["address"]: one["holder"] for one in block["occupants"]}
    assert holders[addresses["web"]].startswith("node 1, device ")
    printed = lab.run("subnet", drawn["subnet_id"], "--all").stdout
    assert "pod web" in printed and "cooling" in printed and "blocks of 16" in printed
    assert "lines like this" in printed, "a /18 is not drawn line by line where it is empty"
    refused = lab.run("subnet", "z", ok=False)
    assert refused.returncode == 2 and "subnets are a (subnet-" in refused.stderr
