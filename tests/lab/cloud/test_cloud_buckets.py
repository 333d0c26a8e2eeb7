# SPDX-License-Identifier: Apache-2.0
"""Token buckets: sizes, refill, and which call draws from which."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpccni.lab.cloud.buckets import UNFILTERED, Bucket, Buckets, Size, bucket_of, published
from vpccni.lab.cloud.errors import ApiError


def test_a_bucket_starts_full_and_refuses_when_it_is_empty() -> None:
    bucket = Bucket(50, 5)
    assert [bucket.take(0.0) for _ in range(51)] == [True] * 50 + [False]
    assert bucket.wait_s(0.0) == pytest.approx(0.2)
    assert not bucket.take(0.19)
    assert bucket.take(0.2)


def test_a_bucket_never_holds_more_than_its_burst() -> None:
    bucket = Bucket(5, 1)
    bucket.take(0.0, 5)
    assert bucket.tokens(1e6) == 5
    assert not bucket.take(1e6, 6)
    assert bucket.wait_s(1e6, 6) == float("inf")


def test_a_clock_that_goes_back_gives_nothing_away() -> None:
    bucket = Bucket(1, 1)
    assert bucket.take(100.0)
    assert not bucket.take(50.0)
    assert not bucket.take(100.5)
    assert bucket.take(101.0)


def test_tokens_owed_by_many_small_steps_are_not_refused() -> None:
    bucket = Bucket(1, 1)
    assert bucket.take(0.0)
    now = 0.0
    for _ in range(10):
        now += 0.1
        bucket.tokens(now)
    assert bucket.take(now)


@given(st.lists(st.floats(0, 3), min_size=1, max_size=200))
def test_no_sequence_of_calls_gets_more_than_burst_plus_refill(gaps: list[float]) -> None:
    bucket, now, got = Bucket(5, 2), 0.0, 0
    for gap in gaps:
        now += gap
        got += bucket.take(now)
    assert got <= 5 + 2 * (now - gaps[0]) + 1e-6


@pytest.mark.parametrize(
    ("action", "burst", "refill"),
    [
        ("DescribeSubnets", 100, 20),
        ("DescribeTrunkInterfaceAssociations", 100, 20),
        ("DescribeNetworkInterfaces" + UNFILTERED, 50, 10),
        ("AttachNetworkInterface", 50, 5),
        ("DetachNetworkInterface", 50, 5),
        ("UnassignIpv6Addresses", 50, 5),
        ("AssociateTrunkInterface", 50, 5),
        ("CreateNetworkInterface", 100, 5),
        ("AssignPrivateIpAddresses", 100, 5),
        ("AssignIpv6Addresses", 100, 5),
        ("CreateTags", 100, 10),
        ("CreateSubnetCidrReservation", 5, 1),
        ("RunInstances", 5, 2),
    ],
)
def test_the_sizes_are_the_published_ones(action: str, burst: int, refill: int) -> None:  # D
    assert published(action) == Size(burst, refill)


def test_every_action_has_its_own_bucket() -> None:
    buckets = Buckets()
    while buckets.take("AttachNetworkInterface", 0.0):
        pass
    assert buckets.take("DetachNetworkInterface", 0.0)
    with pytest.raises(ApiError, match="RequestLimitExceeded") as refused:
        buckets.admit("AttachNetworkInterface", 0.0)
    assert refused.value.status == 503
    assert buckets.levels(0.0) == {"AttachNetworkInterface": 0, "DetachNetworkInterface": 49}


def test_asking_for_everything_draws_from_a_bucket_of_its_own_where_there_is_one() -> None:
    assert bucket_of("DescribeNetworkInterfaces", filtered=False) != bucket_of("DescribeNetworkInterfaces")
    assert bucket_of("DescribeSubnets", filtered=False) == bucket_of("DescribeSubnets")
    buckets = Buckets()
    assert sum(buckets.take("DescribeNetworkInterfaces", 0.0, filtered=False) for _ in range(100)) == 50
    assert sum(buckets.take("DescribeNetworkInterfaces", 0.0) for _ in range(200)) == 100


def test_terminating_counts_instances_besides_requests() -> None:
    buckets = Buckets()
    assert buckets.take("TerminateInstances", 0.0, resources=1000)
    assert not buckets.take("TerminateInstances", 0.0, resources=1)
    assert buckets.levels(0.0)["TerminateInstances"] == 99  # the refused request cost nothing
    assert buckets.take("TerminateInstances", 0.05, resources=1)
