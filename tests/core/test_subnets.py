# SPDX-License-Identifier: Apache-2.0
"""The subnet rules of the Amazon VPC CNI, as its own tests state them."""

from __future__ import annotations

from ipaddress import IPv4Network

import pytest

from vpccni.aws.values import Subnet
from vpccni.core.subnets import CLUSTER_TAG_PREFIX, ROLE_TAG, eligible, excluded


def subnet(name: str, free: int = 10, **tags: str) -> Subnet:
    named = {ROLE_TAG if key == "role" else CLUSTER_TAG_PREFIX + key: value for key, value in tags.items()}
    return Subnet(name, "vpc-1", "az-a", IPv4Network("10.0.0.0/24"), free, tags=named)


@pytest.mark.parametrize(
    ("candidate", "as_primary", "as_other"),
    [
        (subnet("s", role="0"), False, False),
        (subnet("s"), True, False),
        (subnet("s", role=""), True, False),
        (subnet("s", red="shared"), True, False),
        (subnet("s", role="1"), True, True),
        (subnet("s", role="1", blue="shared"), True, True),
        (subnet("s", role="1", red="shared"), False, False),
        (subnet("s", role="1", red="shared", blue=""), True, True),
    ],
)
def test_tags_decide_over_a_subnet(candidate: Subnet, as_primary: bool, as_other: bool) -> None:
    assert bool(eligible([candidate], "s", cluster="blue")) is as_primary
    assert bool(eligible([candidate], "other", cluster="blue")) is as_other


def test_without_a_cluster_name_cluster_tags_say_nothing() -> None:
    assert eligible([subnet("s", role="1", red="shared")], "other")


def test_the_subnet_with_most_free_addresses_comes_first_and_ties_are_stable() -> None:
    found = eligible([subnet("b", 5), subnet("c", 9, role="1"), subnet("a", 9, role="1")], "b")
    assert [each.subnet_id for each in found] == ["a", "c", "b"]


def test_without_discovery_only_the_primary_subnet_counts() -> None:
    found = eligible([subnet("a", 99, role="1"), subnet("b")], "b", discovery=False)
    assert [each.subnet_id for each in found] == ["b"]


def test_existing_enis_are_excluded_by_tag_only() -> None:
    assert excluded(subnet("s", role="0"))
    assert excluded(subnet("s", role="1", red="shared"), "blue")
    assert not excluded(subnet("s"))
    assert not excluded(subnet("s", role="1"), "blue")
