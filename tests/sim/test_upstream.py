# SPDX-License-Identifier: Apache-2.0
"""Upstream's process in the simulation: what its SDK tries again, and what ends it."""

from __future__ import annotations

from collections import Counter

from runs import fleet_after, played

from vpccni.errors import CloudError
from vpccni.sim.upstream import UpstreamNode
from vpccni.sim.upstream_sdk import ATTEMPTS, QUOTA, RETRY_COST


def test_a_process_that_is_throttled_before_it_serves_ends_and_makes_all_its_calls_again() -> None:
    def start(*, throttling: bool):
        return played(
            "cold-start", policy="upstream", nodes=250, duration_s=3600.0, until_ready=True, throttling=throttling
        )

    throttled, free = start(throttling=True), start(throttling=False)
    for found in (throttled, free):
        assert found["ready_nodes"] == 250
        assert found["pods"]["failed"] == 0
    admitted = {name: Counter(each["calls_by_action"]) for name, each in (("throttled", throttled), ("free", free))}
    admitted["throttled"].subtract(throttled["throttled_by_action"])
    assert admitted["free"]["DescribeNetworkInterfaces"] == 250
    assert admitted["throttled"]["DescribeNetworkInterfaces"] > 250, "restarts describe anew"
    assert admitted["throttled"]["CreateTags"] == 250, "what is tagged stays so"


def test_the_sdk_gives_up_after_three_attempts_and_sooner_when_its_quota_is_spent() -> None:
    fleet = fleet_after("cold-start", policy="upstream", nodes=1, throttling=False, until_ready=True, duration_s=600.0)
    node = fleet.nodes[0]
    assert isinstance(node, UpstreamNode)
    made = []

    def refused() -> None:
        made.append(1)
        raise CloudError("call", "no", code="throttled", aws_code="RequestLimitExceeded", retryable=True)

    def attempts() -> int:
        made.clear()
        process = node.call("DescribeSubnets", refused)
        try:
            while True:
                next(process)
        except CloudError:
            return len(made)

    node.start_sdk()
    assert attempts() == ATTEMPTS
    for _ in range(QUOTA // RETRY_COST):
        attempts()
    assert attempts() == 1
