# SPDX-License-Identifier: Apache-2.0
"""Security groups as a user meets them: by boto3, by `lab sg`, from a topology, and with pods' packets."""

from __future__ import annotations

from pathlib import Path

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

    ec2 = lab.ec2()
    groups = {group["name"]: group for group in lab.json("sg", "list")}
    assert [rule["rule"] for rule in groups["web"]["rules"]] == ["all to 0.0.0.0/0", "tcp 22 from nodes"]
    eni = lab.node("2")["enis"][0]["eni_id"]
    ec2.modify_network_interface_attribute(NetworkInterfaceId=eni, Groups=[groups["web"]["group_id"]])
    wait_until(lambda: not reaches(lab, "one", "two"), 5.0, "the group is in force")
    ec2.authorize_security_group_ingress(
        GroupId=groups["web"]["group_id"], IpProtocol="tcp", FromPort=80, ToPort=80, CidrIp="10.30.0.0/24"
    )
    assert reaches(lab, "one", "two")


FOLDER = "/var/run/aws-node/eniconfigs"
MANIFEST = "apiVersion: crd.k8s.amazonaws.com/v1alpha1\nkind: ENIConfig\nmetadata: {name: default}\nspec: "


@pytest.mark.long
def test_the_groups_of_an_eniconfig_guard_the_pods_and_not_their_node(lab: Lab) -> None:
    lab.up("--env", "WARM_ENI_TARGET=0", "--env", "MINIMUM_IP_TARGET=2")
    eni = lab.node("1")["enis"][0]
    group = lab.ec2().create_security_group(GroupName="pods", Description="pods", VpcId=vpc_of(lab))["GroupId"]
    spec = f"{{subnet: {eni['subnet_id']}, securityGroups: [{group}]}}"
    write = f"mkdir -p {FOLDER} && printf '%s' '{MANIFEST}{spec}' > {FOLDER}/default.yaml"
    lab.run("exec", "node/1", "--", "sh", "-c", write)
    lab.run("restart", "ipamd", "--node", "1", "--env", "AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG=true")
    lab.add("here", node="1")
    lab.add("away", node="2")
    members = {row["name"]: {one["eni_id"] for one in row["members"]} for row in lab.json("sg", "list")}
    assert members["pods"] and eni["eni_id"] in members["nodes"] - members["pods"]
    assert not reaches(lab, "away", "here") and reaches(lab, "here", "away")
    (refused,) = lab.json("status")["refused"]
    assert refused["eni_id"] in members["pods"] and refused["direction"] == "in"
    lab.run("sg", "allow", "pods", "tcp", "80", "from", "nodes")
    assert reaches(lab, "away", "here")


def vpc_of(lab: Lab) -> str:
    return str(lab.ec2().describe_vpcs()["Vpcs"][0]["VpcId"])
