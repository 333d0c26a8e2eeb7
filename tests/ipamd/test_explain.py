# SPDX-License-Identifier: Apache-2.0
"""A refusal says what stands in the way, with EC2's own words and a next step."""

from __future__ import annotations

from vpccni.core.steps import Wait
from vpccni.errors import CNI_TRY_AGAIN_LATER, CloudError, NoAddress
from vpccni.ipamd.explain import explained

EMPTY = NoAddress("assign an address to default/web", "all 9 addresses are in use", code="all-assigned", hint="wait")
FULL = CloudError(
    "assign addresses",
    "the subnet has none",
    aws_code="InsufficientFreeAddressesInSubnet",
    hint="free some",
    code="subnet-empty",
)


def test_a_full_subnet_is_named_with_what_ec2_said_and_what_to_do() -> None:
    told = explained(EMPTY, [Wait("subnet-hold", 5.0, "subnet-1 had no room")], FULL)
    assert told.error_code == "subnet-empty"
    assert str(told) == "cannot assign an address to default/web: all 9 addresses are in use; subnet-1 had no room"
    assert told.evidence["ec2"] == '"cannot assign addresses: the subnet has none"'
    assert told.hint == "free some"
    assert told.cni_error_code == CNI_TRY_AGAIN_LATER


def test_the_limit_of_the_instance_type_comes_before_throttling() -> None:
    told = explained(
        EMPTY, [Wait("throttled", 5.0, "EC2 throttles us"), Wait("eni-limit", None, "all 3 attached")], FULL
    )
    assert told.error_code == "eni-limit"
    assert "larger type" in told.hint
    assert "ec2" not in told.evidence


def test_without_an_obstacle_the_pool_s_own_words_stand() -> None:
    assert explained(EMPTY, [], FULL) is EMPTY
    assert explained(EMPTY, [Wait("eni-young", 5.0, "too young to free")], FULL) is EMPTY


def test_a_subnet_that_cannot_fill_attached_enis_comes_before_the_limit_of_enis() -> None:
    waits = [Wait("eni-limit", None, "all 3 attached"), Wait("subnet-hold", 5.0, "subnet-1 had no room")]
    assert explained(EMPTY, waits, FULL).error_code == "subnet-empty"


def test_addresses_that_only_have_to_cool_down_need_no_other_reason() -> None:
    cooling = NoAddress("assign an address to default/web", "9 are cooling down", code="all-cooling", hint="wait 3 s")
    assert explained(cooling, [Wait("eni-limit", None, "all 3 attached")], None) is cooling
