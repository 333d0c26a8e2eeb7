# SPDX-License-Identifier: Apache-2.0
"""A fleet against the model of EC2: the books agree at the end, limits hold, and full subnets have their own code."""

from __future__ import annotations

import pytest
from runs import fleet_after, played

from vpccni.lab.cloud.invariants import violations
from vpccni.sim.ours import OurNode
from vpccni.sim.upstream import UpstreamNode

CASES = [
    ("ours", {"WARM_IP_TARGET": "3"}),
    ("ours", {"ENABLE_PREFIX_DELEGATION": "true"}),
    ("ours", {}),
    ("upstream", {"WARM_IP_TARGET": "3"}),
    ("upstream", {"ENABLE_PREFIX_DELEGATION": "true"}),
]


@pytest.mark.parametrize(("policy", "env"), CASES)
def test_what_nodes_hold_is_what_ec2_gave_them(policy: str, env: dict[str, str]) -> None:
    fleet = fleet_after("batch", policy=policy, env=env, nodes=6, duration_s=3 * 3600.0)
    cloud = fleet.account.cloud
    assert violations(cloud) == []
    held = sum(int(network.num_addresses) for eni in cloud.enis.values() for network in eni.networks)
    assert fleet.record.held.value == held
    assert fleet.record.enis.value == len(cloud.enis)
    for node in fleet.nodes:
        in_ec2 = {eni.eni_id for eni in cloud.enis_of(node.instance.instance_id)}
        if isinstance(node, OurNode) and not node._pending:
            assert {eni.id for eni in node.pool.enis()} == in_ec2
        if isinstance(node, UpstreamNode) and not node._busy:
            assert {eni.eni_id for eni in node.store.enis} == in_ec2


@pytest.mark.parametrize("policy", ["ours", "upstream"])
def test_no_node_ever_exceeds_its_types_limits(policy: str) -> None:
    found = played("churn", policy=policy, nodes=4, duration_s=900.0)
    assert not any("AttachmentLimitExceeded" in refusal for refusal in found["ec2_refusals"])
    assert not any("PrivateIpAddressLimitExceeded" in refusal for refusal in found["ec2_refusals"])
    assert found["enis"]["peak"] <= 4 * 3
    assert found["addresses"]["held_peak"] <= 4 * 3 * 10


def test_an_address_has_one_owner_at_a_time() -> None:
    fleet = fleet_after("churn", nodes=4, duration_s=600.0)
    granted = [
        each.address
        for node in fleet.nodes
        if isinstance(node, OurNode)
        for grant in node.pool.grants()
        for each in grant.addresses
    ]
    assert granted
    assert len(granted) == len(set(granted))


def test_a_full_subnet_is_refused_by_ec2_and_asked_seldom() -> None:
    found = played("cold-start", nodes=10, subnets=(27,), duration_s=600.0)
    codes = {refusal.split()[-1] for refusal in found["ec2_refusals"]}
    assert "InsufficientFreeAddressesInSubnet" in codes
    assert found["ec2_calls"] < 10 * 40
    assert found["pods"]["failed"] > 0
    roomy = played("cold-start", nodes=10, duration_s=600.0)
    assert roomy["pods"]["failed"] == 0


def test_upstreams_rules_ask_a_full_subnet_for_n_and_then_for_one() -> None:
    found = played("cold-start", policy="upstream", nodes=1, instance_type="m5.xlarge", subnets=(28,), duration_s=60.0)
    refused = found["ec2_refusals"]["AssignPrivateIpAddresses InsufficientFreeAddressesInSubnet"]
    # 10 addresses are free: 14 are refused and 1 is given, tick after tick, one address for two calls.
    assert refused >= 9
    assert found["calls_by_action"]["AssignPrivateIpAddresses"] >= refused + 9
    ours = played("cold-start", nodes=1, instance_type="m5.xlarge", subnets=(28,), duration_s=60.0)
    assert ours["calls_by_action"]["AssignPrivateIpAddresses"] <= 6
    assert ours["addresses"]["held_peak"] == found["addresses"]["held_peak"] == 11


def test_confirming_with_ec2_costs_calls_that_are_counted() -> None:
    quiet = played("cron", nodes=5, duration_s=3600.0)
    asking = played("cron", nodes=5, duration_s=3600.0, confirm_s=60.0)
    more = (
        asking["calls_by_action"]["DescribeNetworkInterfaces"] - quiet["calls_by_action"]["DescribeNetworkInterfaces"]
    )
    assert more == pytest.approx(5 * 60, abs=5)
