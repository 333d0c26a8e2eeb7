# SPDX-License-Identifier: Apache-2.0
"""The pool against EC2 and the kernel: EC2 decides, live pods keep their grants, and the second pass is empty."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, ip_address, ip_network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vpccni.aws.values import Attachment, Interface, Subnet
from vpccni.core.block import Block
from vpccni.core.conventions import PodAlias
from vpccni.core.eni import Eni
from vpccni.core.grant import Grant, GrantedAddress, PodIdentity, PodKey
from vpccni.core.podnet import PodAddress
from vpccni.core.podseen import ObservedPod
from vpccni.core.pool import Pool
from vpccni.core.reconcile import (
    AddBlocks,
    AddEni,
    Confirm,
    OrphanGrant,
    ReleaseGrant,
    RemoveBlocks,
    RemoveEni,
    RestoreGrant,
    Suspect,
    UpdateEni,
    apply,
    reconcile,
)
from vpccni.core.view import NodePolicy, View, eni_of, managed
from vpccni.netlink.values import Link

NOW = 10_000.0
POLICY = NodePolicy("i-1")
POD = PodIdentity("default", "web-0")


def interface(device: int, *addresses: str, card: int = 0, status: str = "attached", **fields: object) -> Interface:
    plain = Interface(
        eni_id=f"eni-{device}",
        mac=f"02:00:00:00:00:0{device}",
        subnet_id="subnet-a",
        primary_address=IPv4Address(f"10.0.{device}.1"),
        addresses=tuple(ip_address(address) for address in addresses),
        attachment=Attachment(f"attach-{device}", "i-1", device, card, status),
    )
    return replace(plain, **fields)  # type: ignore[arg-type]  # fields by name


def view(*interfaces: Interface, pods: tuple[ObservedPod, ...] | None = None, at: float = NOW) -> View:
    subnets = {"subnet-a": Subnet("subnet-a", "vpc-1", "az-1", IPv4Network("10.0.0.0/16"), 100)}
    return View(interfaces, at, subnets, pods)


def corrected(pool: Pool, seen: View, policy: NodePolicy = POLICY, **options: object) -> list[object]:
    """What is corrected; afterwards a second pass must find nothing more to correct."""
    corrections = reconcile(pool, seen, policy, NOW, **options)  # type: ignore[arg-type]
    assert all(correction.reason and str(correction) for correction in corrections)
    assert apply(pool, corrections, NOW) == []
    again = reconcile(pool, seen, policy, NOW, **options)  # type: ignore[arg-type]
    assert [each for each in again if not isinstance(each, Suspect)] == [], "the second pass is empty"
    return list(corrections)


def kinds(corrections: list[object]) -> list[type]:
    return [type(each) for each in corrections]


def key(name: str) -> PodKey:
    return PodKey("aws-cni", name, "eth0")


def started() -> Pool:
    pool = Pool(30.0)
    corrected(pool, view(interface(0, "10.0.0.4", "10.0.0.5"), interface(1, "10.0.1.4", "10.0.1.5")))
    return pool


def observed(address: str, container: str | None = "a", link: str = "eni0d7763386da") -> ObservedPod:
    alias = None if container is None else PodAlias("aws-cni", container, "eth0", "default", "web-0")
    return ObservedPod(Link(link, kind="veth"), alias, (PodAddress(ip_address(address)),))


def test_an_empty_pool_learns_everything_from_ec2() -> None:
    pool = Pool(30.0)
    prefixed = interface(1, "10.0.1.4", prefixes=(ip_network("10.0.1.16/28"),))
    assert kinds(corrected(pool, view(interface(0, "10.0.0.4"), prefixed))) == [AddEni, AddEni]
    first, second = pool.enis()
    assert first == Eni(
        "eni-0",
        mac="02:00:00:00:00:00",
        subnet_id="subnet-a",
        subnet=IPv4Network("10.0.0.0/16"),
        primary=True,
        primary_address=IPv4Address("10.0.0.1"),
        created_at=NOW,
        blocks=(Block.of(IPv4Address("10.0.0.4")),),
    )
    assert (second.device, second.table, [str(block) for block in second.blocks]) == (
        1,
        2,
        ["10.0.1.4/32", "10.0.1.16/28"],
    )


def test_when_nothing_changed_nothing_is_corrected() -> None:
    pool = started()
    assert corrected(pool, view(interface(0, "10.0.0.4", "10.0.0.5"), interface(1, "10.0.1.4", "10.0.1.5"))) == []


def test_addresses_that_ec2_gave_or_took_are_followed_and_targets_may_refill() -> None:
    pool = started()
    added, removed = interface(0, "10.0.0.4", "10.0.0.5", "10.0.0.6"), interface(1, "10.0.1.5")
    corrections = corrected(pool, view(added, removed))
    assert corrections == [
        RemoveBlocks("eni-1", (Block.of(IPv4Address("10.0.1.4")),), "EC2 lists 1 blocks on it, we had 2"),
        AddBlocks("eni-0", (Block.of(IPv4Address("10.0.0.6")),), "EC2 lists 3 blocks, we had 2"),
    ]
    assert pool.stats(NOW).total == 4


def test_a_pod_whose_address_ec2_took_away_keeps_its_grant_and_is_named_loudly() -> None:
    pool = started()
    pool.assign(key("a"), POD, NOW)
    corrections = corrected(pool, view(interface(0, "10.0.0.5"), interface(1, "10.0.1.4", "10.0.1.5")))
    assert kinds(corrections) == [RemoveBlocks, OrphanGrant]
    assert "default/web-0 uses it, but EC2 does not list it on eni-0 any more" in str(corrections[1])
    assert pool.orphans() == (IPv4Address("10.0.0.4"),)
    corrected(pool, view(interface(0, "10.0.0.4", "10.0.0.5"), interface(1, "10.0.1.4", "10.0.1.5")))
    assert pool.orphans() == () and pool.owner(IPv4Address("10.0.0.4")) == key("a"), "EC2 lists it again"


def test_an_eni_with_pods_that_vanishes_leaves_orphans_and_right_totals() -> None:
    """Upstream drops the pods' allocations and subtracts the ENI's addresses twice."""
    pool = started()
    for name in "abc":
        pool.assign(key(name), POD, NOW)
    corrections = corrected(pool, view(interface(0, "10.0.0.4", "10.0.0.5")))
    assert kinds(corrections) == [RemoveEni, OrphanGrant]
    stats = pool.stats(NOW)
    assert (stats.total, stats.assigned, stats.orphans, stats.grants) == (2, 2, 1, 3)


def test_an_address_that_moved_to_another_eni_takes_its_grant_along() -> None:
    pool = started()
    pool.assign(key("a"), POD, NOW)
    corrections = corrected(pool, view(interface(0, "10.0.0.5"), interface(1, "10.0.1.4", "10.0.1.5", "10.0.0.4")))
    assert kinds(corrections) == [RemoveBlocks, OrphanGrant, AddBlocks]
    assert "moved it from eni-0 to eni-1" in str(corrections[1])
    grant = pool.grant(key("a"))
    assert grant is not None and (grant.addresses[0].eni_id, grant.addresses[0].table) == ("eni-1", 2)


def test_a_view_older_than_our_own_change_is_not_believed() -> None:
    """An address that we just released must not come back because an older answer still lists it."""
    pool = started()
    pool.remove_blocks("eni-1", (Block.of(IPv4Address("10.0.1.4")),))
    stale = view(interface(0, "10.0.0.4", "10.0.0.5"), interface(1, "10.0.1.4", "10.0.1.5"))
    for changed_at in (NOW + 1, NOW - 5, float("inf")):
        assert corrected(pool, stale, changed_at={"eni-1": changed_at}) == []
    assert kinds(corrected(pool, stale, changed_at={"eni-1": NOW - 10})) == [AddBlocks]


def test_an_answer_without_the_primary_interface_is_not_believed_at_all() -> None:
    pool = started()
    pool.assign(key("a"), POD, NOW)
    for seen in (view(), view(interface(1, "10.0.1.4"))):
        assert kinds(corrected(pool, seen)) == [Suspect]
    assert pool.stats(NOW).total == 4


def test_blocks_withdrawn_and_then_not_taken_by_ec2_are_handed_out_again() -> None:
    pool = started()
    pool.withdraw("eni-0", (Block.of(IPv4Address("10.0.0.4")),))
    pool.withdraw("eni-1")
    seen = view(interface(0, "10.0.0.4", "10.0.0.5"), interface(1, "10.0.1.4", "10.0.1.5"))
    assert corrected(pool, seen, changed_at={"eni-0": float("inf"), "eni-1": float("inf")}) == []
    assert pool.stats(NOW).total == 1
    assert kinds(corrected(pool, seen)) == [Confirm, Confirm]
    assert pool.stats(NOW).total == 4


def test_an_eni_that_is_being_detached_serves_no_new_pods() -> None:
    pool = started()
    (update,) = corrected(
        pool, view(interface(0, "10.0.0.4", "10.0.0.5"), interface(1, "10.0.1.4", "10.0.1.5", status="detaching"))
    )
    assert isinstance(update, UpdateEni) and update.reason == "usable_for_pods is False, was True"
    assert pool.stats(NOW).total == 2


def test_a_live_pod_that_the_pool_does_not_know_gets_its_grant_back_from_its_link() -> None:
    pool = started()
    seen = view(
        interface(0, "10.0.0.4", "10.0.0.5"), interface(1, "10.0.1.4", "10.0.1.5"), pods=(observed("10.0.1.4"),)
    )
    assert kinds(corrected(pool, seen)) == [RestoreGrant]
    assert pool.owner(IPv4Address("10.0.1.4")) == key("a")


def test_the_address_of_a_live_pod_of_unknown_name_is_reserved_until_its_link_is_gone() -> None:
    pool = started()
    both = (interface(0, "10.0.0.4", "10.0.0.5"), interface(1, "10.0.1.4", "10.0.1.5"))
    corrected(pool, view(*both, pods=(observed("10.0.0.4", None),)))
    assert pool.owner(IPv4Address("10.0.0.4")) == PodKey("_unknown", "eni0d7763386da", "_unknown")
    assert str(pool.assign(key("new"), POD, NOW).addresses[0].address) == "10.0.0.5"
    corrections = reconcile(pool, view(*both, pods=(observed("10.0.0.5", "new"),), at=NOW + 121), POLICY, NOW + 121)
    assert kinds(list(corrections)) == [ReleaseGrant]


def test_a_pod_that_was_released_after_the_kernel_was_looked_at_does_not_come_back() -> None:
    pool = started()
    pool.assign(key("a"), POD, NOW - 100)
    both = (interface(0, "10.0.0.4", "10.0.0.5"), interface(1, "10.0.1.4", "10.0.1.5"))
    seen = view(*both, pods=(observed("10.0.0.4"),), at=NOW - 1)
    pool.release(key("a"), NOW - 0.5)
    assert corrected(pool, seen) == []
    assert kinds(corrected(pool, replace(seen, observed_at=NOW))) == [RestoreGrant], "still wired later on: it lives"


def test_a_grant_without_a_pod_is_released_only_after_every_add_must_be_over() -> None:
    pool = started()
    pool.assign(key("a"), POD, NOW - 119)
    both = (interface(0, "10.0.0.4", "10.0.0.5"), interface(1, "10.0.1.4", "10.0.1.5"))
    assert corrected(pool, view(*both, pods=())) == []
    assert corrected(pool, view(*both, pods=None, at=NOW + 500)) == [], "the kernel was not asked"
    assert kinds(corrected(pool, view(*both, pods=(), at=NOW + 1))) == [ReleaseGrant]
    assert pool.stats(NOW).cooling == 1


def test_a_live_pod_keeps_its_grant_whatever_its_age() -> None:
    pool = started()
    pool.assign(key("a"), POD, NOW - 100_000)
    both = (interface(0, "10.0.0.4", "10.0.0.5"), interface(1, "10.0.1.4", "10.0.1.5"))
    assert corrected(pool, view(*both, pods=(observed("10.0.0.4"),))) == []


def test_a_link_and_a_grant_that_contradict_each_other_are_reported_and_left_alone() -> None:
    pool = started()
    pool.assign(key("a"), POD, NOW)
    both = (interface(0, "10.0.0.4", "10.0.0.5"), interface(1, "10.0.1.4", "10.0.1.5"))
    (suspect,) = corrected(pool, view(*both, pods=(observed("10.0.0.4", "somebody-else"),)))
    assert isinstance(suspect, Suspect) and "aws-cni/somebody-else/eth0" in suspect.reason
    assert pool.owner(IPv4Address("10.0.0.4")) == key("a")


MANAGED = [
    ({}, True, True),
    ({}, False, False),
    ({"node.k8s.amazonaws.com/no_manage": "true"}, True, False),
    ({"node.k8s.amazonaws.com/no_manage": "True"}, False, True),
    ({"node.k8s.amazonaws.com/no_manage": "false"}, False, True),
    ({"node.k8s.amazonaws.com/instance_id": "i-1"}, False, True),
    ({"node.k8s.amazonaws.com/instance_id": "i-2"}, False, False),
    ({"node.k8s.amazonaws.com/instance_id": "i-1", "node.k8s.amazonaws.com/no_manage": "true"}, True, False),
]


@pytest.mark.parametrize(("tags", "manage_untagged", "ours"), MANAGED)
def test_which_interfaces_are_ours(tags: dict[str, str], manage_untagged: bool, ours: bool) -> None:
    policy = replace(POLICY, manage_untagged=manage_untagged)
    assert managed(interface(1, tags=tags), policy, primary=False) is ours
    assert managed(interface(0, tags=tags), policy, primary=True) is True


PLACES = [
    (interface(0), POLICY, ("primary", "usable_for_pods", "managed")),
    (interface(0), replace(POLICY, custom_networking=True), ("primary", "managed")),
    (interface(1), replace(POLICY, custom_networking=True), ("usable_for_pods", "managed")),
    (interface(1), replace(POLICY, excluded_subnets=frozenset({"subnet-a"})), ("managed",)),
    (interface(1, interface_type="trunk"), POLICY, ("trunk", "managed")),
    (interface(1, interface_type="efa"), POLICY, ("usable_for_pods", "efa", "managed")),
    (interface(1, interface_type="efa-only"), POLICY, ()),
]


@pytest.mark.parametrize(("seen", "policy", "flags"), PLACES)
def test_what_an_interface_may_be_used_for(seen: Interface, policy: NodePolicy, flags: tuple[str, ...]) -> None:
    eni = eni_of(seen, policy, view(), NOW)
    assert eni is not None
    names = ("primary", "usable_for_pods", "trunk", "efa", "managed")
    assert tuple(name for name in names if getattr(eni, name)) == flags


def test_interfaces_of_others_on_their_way_or_on_unmanaged_cards_are_not_ours() -> None:
    for status in ("attaching", "detached"):
        assert eni_of(interface(1, status=status), POLICY, view(), NOW) is None
    assert eni_of(replace(interface(1), attachment=None), POLICY, view(), NOW) is None
    assert eni_of(interface(1, card=1), POLICY, view(), NOW) is None
    assert eni_of(interface(1), replace(POLICY, instance_id="i-2"), view(), NOW) is None
    second = eni_of(interface(1, card=1), replace(POLICY, cards=(0, 1)), view(), NOW)
    assert second is not None and second.table == 10101


listing = st.lists(st.tuples(st.integers(1, 3), st.sets(st.integers(4, 9))), max_size=3, unique_by=lambda pair: pair[0])


@settings(max_examples=80, deadline=None)
@given(rounds=st.lists(listing, min_size=1, max_size=4), pods=st.integers(0, 12))
def test_whatever_ec2_says_no_grant_is_lost_and_the_pool_ends_as_ec2_says(
    rounds: list[list[tuple[int, set[int]]]], pods: int
) -> None:
    pool, granted = Pool(30.0), dict[PodKey, Grant]()
    for number, listed in enumerate(rounds):
        seen = view(interface(0, "10.0.0.4"), *(interface(d, *(f"10.0.{d}.{n}" for n in sorted(s))) for d, s in listed))
        corrected(pool, seen)
        assert {eni.id: {str(block) for block in eni.blocks} for eni in pool.enis()} == {
            "eni-0": {"10.0.0.4/32"},
            **{f"eni-{d}": {f"10.0.{d}.{n}/32" for n in s} for d, s in listed},
        }
        for serial in range(min(pods, pool.tally(NOW).available)):
            grant = pool.assign(key(f"{number}-{serial}"), POD, NOW)
            granted[grant.key] = grant
        addresses = [each.address for grant in pool.grants() for each in grant.addresses]
        assert len(addresses) == len(set(addresses))
        assert {grant.key: grant.addresses[0].address for grant in pool.grants()} == {
            each: grant.addresses[0].address for each, grant in granted.items()
        }


def test_a_correction_that_the_pool_refuses_is_returned_and_the_others_are_applied() -> None:
    pool = started()
    pool.restore(Grant(key("a"), POD, (GrantedAddress(IPv4Address("10.0.9.9")),), NOW))
    duplicate = AddBlocks("eni-1", (Block.of(IPv4Address("10.0.0.4")),), "wrong")
    fine = AddBlocks("eni-1", (Block.of(IPv4Address("10.0.1.6")),), "right")
    ((refused, why),) = apply(pool, [duplicate, fine], NOW)
    assert refused is duplicate and why.error_code == "duplicate-address"
    assert pool.stats(NOW).total == 5


def test_blocks_that_we_have_just_changed_are_left_alone_and_the_enis_other_blocks_are_not() -> None:
    pool = Pool()
    blocks = tuple(Block.of(IPv4Address(f"10.0.0.{n}")) for n in (5, 6, 7))
    pool.add_eni(Eni("eni-0", mac="02:00:00:00:00:00", primary=True, blocks=blocks))
    # A reader of EC2 that lags: .6 was assigned and .9 taken back a moment ago, .7 is long gone, .8 long there.
    stale = view(interface(0, "10.0.0.5", "10.0.0.8", "10.0.0.9"))
    marks = {ip_network("10.0.0.6"): NOW - 5, ip_network("10.0.0.9"): float("inf")}
    found = [str(each) for each in corrected(pool, stale, changed_at=marks)]
    assert any("remove 10.0.0.7/32" in each for each in found) and any("add 10.0.0.8/32" in each for each in found)
    assert not any("10.0.0.6" in each or "10.0.0.9" in each for each in found)
    assert [kinds for kinds in corrected(pool, stale, changed_at={}) if isinstance(kinds, RemoveBlocks | AddBlocks)]
