# SPDX-License-Identifier: Apache-2.0
"""Security groups as a user meets them: by boto3, by `lab sg`, from a topology, and with pods' packets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from labs import Lab, wait_until

pytestmark = pytest.mark.lab

TOPOLOGY = """
env = { WARM_ENI_TARGET = "0" }
vpc = { cidrs = ["10.30.0.0/16"] }
subnet = [{ name = "a", cidr = "10.30.0.0/24" }]
node = [{ name = "1", subnet = "a" }, { name = "2", subnet = "a", security_groups = ["web"] }]
host = [{ name = "outside", address = "198.51.100.10" }]
security_group = [{ name = "web", rules = ["tcp 22 from nodes"] }]
"""


def client(lab: Lab) -> Any:
    """EC2 as a program of the machine reaches it."""
    import boto3

    env = lab.json("env")
    return boto3.client(
        "ec2", endpoint_url=env["AWS_ENDPOINT_URL_EC2"], region_name=env["AWS_REGION"],
        aws_access_key_id=env["AWS_ACCESS_KEY_ID"], aws_secret_access_key=env["AWS_SECRET_ACCESS_KEY"],
    )  # fmt: skip


def reaches(lab: Lab, source: str, destination: str) -> bool:
    (outcome,) = lab.json("probe", "--from", source, "--to", destination, "--timeout", "0.7", ok=False)
    return bool(outcome["reached"])


def test_a_group_decides_between_nodes_but_never_within_one_and_changes_take_effect_at_once(
    lab: Lab, tmp_path: Path
) -> None:
    path = tmp_path / "lab.toml"
    path.write_text(TOPOLOGY)
    lab.up("--topology", str(path))
    lab.add("one", node="1")
    lab.add("two", "three", node="2")
    assert not reaches(lab, "one", "two") and reaches(lab, "two", "three")
    assert reaches(lab, "two", "one") and reaches(lab, "two", "outside")
    (refused,) = lab.json("status")["refused"]
    assert (refused["node"], refused["device"], refused["direction"]) == ("2", "eth0", "in") and refused["packets"]
    assert lab.json("status")["dropped"]["security_group"] == refused["packets"]

    lab.run("sg", "allow", "web", "tcp", "80", "from", "nodes")
    assert reaches(lab, "one", "two")
    lab.run("sg", "revoke", "web", "tcp", "80", "from", "nodes")
    assert not reaches(lab, "one", "two")
    assert lab.run("sg", "revoke", "web", "tcp", "80", "from", "nodes", ok=False).returncode == 2
    assert lab.run("sg", "allow", "web", "tcp", "80", "from", "nobody", ok=False).returncode == 2
    lab.run("sg", "attach", "2", "nodes")
    assert reaches(lab, "one", "two")

    ec2 = client(lab)
    groups = {group["name"]: group for group in lab.json("sg", "list")}
    assert [rule["rule"] for rule in groups["web"]["rules"]] == ["all to 0.0.0.0/0", "tcp 22 from nodes"]
    eni = lab.node("2")["enis"][0]["eni_id"]
    ec2.modify_network_interface_attribute(NetworkInterfaceId=eni, Groups=[groups["web"]["group_id"]])
    wait_until(lambda: not reaches(lab, "one", "two"), 5.0, "the group is in force")
    ec2.authorize_security_group_ingress(
        GroupId=groups["web"]["group_id"], IpProtocol="tcp", FromPort=80, ToPort=80, CidrIp="10.30.0.0/24"
    )
    assert reaches(lab, "one", "two")
