# SPDX-License-Identifier: Apache-2.0
"""The instance-type table against what is publicly known of single types and of the whole."""

from __future__ import annotations

from collections import Counter

import pytest

from vpccni.core import limits


@pytest.mark.parametrize(
    ("name", "enis", "addresses"),
    [
        ("t3.small", 3, 4),
        ("m5.large", 3, 10),
        ("m7g.large", 3, 10),
        ("m5.xlarge", 4, 15),
        ("c5.4xlarge", 8, 30),
        ("c7i.large", 3, 10),
        ("c7i.xlarge", 4, 15),
        ("c7i.4xlarge", 8, 30),
        ("c7i.16xlarge", 15, 50),
        ("f1.16xlarge", 8, 50),
        ("u-6tb1.metal", 5, 30),
        ("bmn-sf1.metal", 15, 50),
        ("g4ad.xlarge", 2, 4),
    ],
)
def test_single_types_have_the_limits_that_ec2_documents(name, enis, addresses):
    found = limits.limits(name)
    assert (found.max_enis, found.ipv4_per_eni) == (enis, addresses)
    assert found.pod_addresses_per_eni == addresses - 1


@pytest.mark.parametrize(
    ("name", "cards", "per_card"),
    [
        ("m5.large", 1, 3),
        ("p4d.24xlarge", 4, 15),
        ("dl1.24xlarge", 4, 15),
        ("p5.48xlarge", 32, 2),
        ("trn1.32xlarge", 8, 5),
        ("p6-b300.48xlarge", 17, 4),
        ("c6in.32xlarge", 2, 8),
    ],
)
def test_types_with_several_network_cards_count_the_default_card_only(name, cards, per_card):
    found = limits.limits(name)
    assert len(found.cards) == cards
    assert found.max_enis == found.card_limit(0) == found.card_limit(cards - 1) == per_card
    assert found.total_enis == cards * per_card
    assert found.card_limit(cards) == 0


def test_cards_of_one_type_may_differ():
    assert [card.max_enis for card in limits.limits("i7ie.48xlarge").cards] == [8, 7]


@pytest.mark.parametrize(
    ("name", "hypervisor", "bare_metal", "prefixes"),
    [
        ("m5.large", "nitro", False, True),
        ("m4.xlarge", "xen", False, False),
        ("m5.metal", "unknown", True, True),
        ("c7g.metal", "nitro", True, True),
        ("hs1.8xlarge", "unknown", False, False),
    ],
)
def test_prefixes_need_nitro_or_bare_metal(name, hypervisor, bare_metal, prefixes):
    found = limits.limits(name)
    assert (found.hypervisor, found.bare_metal, found.supports_prefixes) == (hypervisor, bare_metal, prefixes)


def test_the_families_without_nitro_are_the_xen_ones():
    xen = {one.instance_type.split(".")[0] for one in limits.matching() if one.hypervisor == "xen"}
    assert sorted(xen) == "c1 c3 c4 d2 f1 h1 i2 i3 m1 m2 m3 m4 p3 r3 r4 t1 t2 x1 x1e".split()  # noqa: SIM905


def test_every_type_can_carry_pods_and_the_whole_has_the_known_shape():
    everything = list(limits.matching())
    assert len(everything) > 1400
    assert all(one.max_enis >= 1 and one.ipv4_per_eni >= 2 and one.cards[0].card == 0 for one in everything)
    shape = Counter((one.max_enis, one.ipv4_per_eni) for one in everything)
    assert [pair for pair, _ in shape.most_common(3)] == [(8, 30), (15, 50), (4, 15)]
    assert "DescribeInstanceTypes" in limits.source()


def test_a_family_is_listed_smallest_first():
    names = [one.instance_type for one in limits.matching("c7i.*")]
    assert names[:4] == ["c7i.large", "c7i.xlarge", "c7i.2xlarge", "c7i.4xlarge"]
    assert list(limits.matching("nothing.*")) == []


def test_an_unknown_type_is_said_to_be_unknown():
    assert limits.find("m99.large") is None
    with pytest.raises(KeyError, match=r"m99\.large"):
        limits.limits("m99.large")


@pytest.mark.parametrize(
    ("name", "branches"),
    [
        ("a1.medium", 10), ("m5.large", 9), ("m5.xlarge", 18), ("m5.2xlarge", 38), ("m5.4xlarge", 54), ("m7g.large", 9),
        ("m5.24xlarge", 107), ("m5.metal", 120), ("p4d.24xlarge", 62), ("c6in.32xlarge", 106), ("p5.48xlarge", 120),
        ("i4i.large", 0), ("z1d.large", 13), ("t3.large", 0), ("m4.large", 0), ("c7i.32xlarge", None), ("m99.x", None),
    ],
)  # fmt: skip
def test_branch_interfaces_are_those_of_the_resource_controller(name, branches):
    assert limits.branches(name) == branches


def test_no_xen_type_takes_a_trunk_and_no_trunk_has_more_branches_than_vlan_ids():
    known = {one.instance_type: limits.branches(one.instance_type) for one in limits.matching()}
    assert all(not known[one.instance_type] for one in limits.matching() if one.hypervisor == "xen")
    assert max(count for count in known.values() if count is not None) == 120
    assert "resource-controller" in limits.branches_source()


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [("m5.huge", "m5.large"), ("M5.Large", "m5.large"), ("m5large", "m5.large"), ("c7.large", "c7i.large"),
     ("c7i.33xlarge", "c7i.32xlarge"), (" t3.small", "t3.small")],
)  # fmt: skip
def test_a_name_that_was_mistyped_finds_the_one_that_was_meant(wrong, meant):
    assert meant in limits.close_to(wrong)
    assert len(limits.close_to(wrong)) <= 5
    assert limits.close_to("nothing like it at all") == []
