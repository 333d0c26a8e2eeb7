# SPDX-License-Identifier: Apache-2.0
"""A handful of the engine's modes once more through the real daemon, boto3, the EC2 API and packets."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from labs import Lab

pytestmark = pytest.mark.lab
FOLDER = "/var/run/aws-node/eniconfigs"


def cidrs(lab: Lab) -> dict[str, list[str]]:
    """Blocks by ENI, as the introspection API shows them."""
    enis: dict[str, Any] = lab.introspect("1", "/v1/enis")["0"]["ENIs"]
    return {name: sorted(eni["AvailableIPv4Cidrs"]) for name, eni in enis.items()}


def test_a_live_node_changes_to_prefixes_and_back_under_running_pods(lab: Lab) -> None:
    lab.up("--nodes", "1", "--env", "WARM_IP_TARGET=2", "--env", "IP_COOLDOWN_PERIOD=1")
    before = lab.add("a", "b")
    lab.run("restart", "ipamd", "--node", "1", "--env", "ENABLE_PREFIX_DELEGATION=true")
    after = lab.add("c")
    (blocks,) = cidrs(lab).values()
    (prefix,) = [ip_network(block) for block in blocks if block.endswith("/28")]
    assert ip_address(after["c"]) in prefix
    assert {f"{address}/32" for address in before.values()} <= set(blocks)
    assert all(outcome["reached"] for outcome in lab.json("probe"))
    lab.run("restart", "ipamd", "--node", "1", "--env", "ENABLE_PREFIX_DELEGATION=false")
    again = lab.add("d")
    assert f"{again['d']}/32" in next(iter(cidrs(lab).values()))
    assert all(outcome["reached"] for outcome in lab.json("probe"))


def test_custom_networking_puts_pods_on_enis_of_the_eniconfig(lab: Lab) -> None:
    lab.up("--nodes", "1")
    (eni,) = lab.node("1")["enis"]
    (subnet,) = {each["SubnetID"] for each in lab.introspect("1", "/v1/enis")["0"]["ENIs"].values()}
    manifest = "apiVersion: crd.k8s.amazonaws.com/v1alpha1\nkind: ENIConfig\nmetadata: {name: default}\n"
    write = f"mkdir -p {FOLDER} && printf '%s' '{manifest}spec: {{subnet: {subnet}}}' > {FOLDER}/default.yaml"
    lab.run("exec", "node/1", "--", "sh", "-c", write)
    lab.run("restart", "ipamd", "--node", "1", "--env", "AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG=true")
    lab.add("a", "b")
    assert all(outcome["reached"] for outcome in lab.json("probe"))
    blocks = cidrs(lab)
    assert len(blocks) >= 2 and blocks.pop(eni["eni_id"]) == [], "the primary ENI carries no pods"
    assert all(blocks.values())


def test_in_imds_only_mode_a_node_serves_from_what_it_has(lab: Lab) -> None:
    lab.up("--nodes", "1")
    lab.add("a")
    held = lab.held("1")
    lab.run("restart", "ipamd", "--node", "1", "--env", "ENABLE_IMDS_ONLY_MODE=true")
    lab.add("b")
    assert lab.held("1") == held, "nothing was asked of EC2"
    assert all(outcome["reached"] for outcome in lab.json("probe"))
