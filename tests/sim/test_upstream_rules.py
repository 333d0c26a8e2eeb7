# SPDX-License-Identifier: Apache-2.0
"""Upstream's rules as the simulation has them, against published vectors: one tick, pure decisions.

A state `a/b` is an ENI with a addresses of which b are used, the primary one first; with prefixes, pods per prefix.
"""

from __future__ import annotations

import random
from ipaddress import ip_network

import pytest

from vpccni.core.targets import Targets
from vpccni.sim.upstream_rules import Rules
from vpccni.sim.upstream_store import Store, StoredEni

L = 9  # m5.large


def store_of(*enis: tuple[int, int], prefixes: bool = False) -> Store:
    """A store of ENIs with (blocks, used); prefixes: `used` pods in every block."""
    store = Store(30.0, random.Random(1))
    for number, (blocks, used) in enumerate(enis):
        eni = StoredEni(f"eni-{number}", number == 0, -1000.0, "subnet-1")
        store.add_eni(eni)
        for block in range(blocks):
            store.add_cidr(eni, ip_network(f"10.{number}.{block}.0/{28 if prefixes else 32}"))
        pods = used * blocks if prefixes else used
        for block in range(blocks):
            taken = min(used, 16) if prefixes else int(block < used)
            eni.cidrs[block].used.update(range(taken))
        store.assigned += pods
    return store


def rules(warm_eni: int = 1, warm_ip: int = 0, minimum_ip: int = 0, warm_prefix: int = 0, **changes: object) -> Rules:
    prefixes = bool(changes.pop("prefixes", False))
    targets = Targets(warm_eni, warm_ip or None, minimum_ip or None, warm_prefix, **changes)  # type: ignore[arg-type]
    return Rules.of(targets, L, prefixes=prefixes)


@pytest.mark.parametrize(
    ("name", "rule", "state", "low", "over"),
    [
        ("A1", rules(), [(0, 0)], True, 0),
        ("A2", rules(), [(9, 0)], False, 0),
        ("A3", rules(), [(9, 1)], True, 0),
        ("A4", rules(), [(9, 9), (9, 0)], False, 0),
        ("A7", rules(), [(9, 9)] * 3, True, 0),
        ("A8", rules(0), [(9, 8)], False, 0),
        ("A9", rules(0), [(9, 9)], True, 0),
        ("A11", rules(1, 2), [(0, 0)], True, 0),
        ("A12", rules(1, 2, 5), [(0, 0)], True, 0),
        ("A14", rules(1, 2, 5), [(5, 4)], True, 0),
        ("A15", rules(1, 2, 5), [(9, 2)], False, 4),
        ("A16", rules(1, 2, 5), [(9, 6)], False, 1),
        ("A18", rules(1, 0, 5), [(5, 5)], False, 0),
        ("A19", rules(1, 0, 5), [(9, 5)], False, 4),
        ("A23", rules(max_pods=9), [(9, 9)], False, 0),
        ("A28", rules(1, 1, 1), [(6, 5), (4, 0)], False, 4),
    ],
)
def test_single_addresses(name: str, rule: Rules, state: list[tuple[int, int]], low: bool, over: int) -> None:
    store = store_of(*state)
    assert (rule.too_low(store), rule.over(store)) == (low, over), name


@pytest.mark.parametrize(
    ("name", "rule", "pods", "low", "over"),
    [
        ("P1", rules(warm_prefix=1, prefixes=True), [], True, 0),
        ("P2", rules(warm_prefix=1, prefixes=True), [0], False, 0),
        ("P3", rules(warm_prefix=1, prefixes=True), [1], True, 0),
        ("P4", rules(warm_prefix=1, prefixes=True), [1, 0], False, 0),
        ("P5", rules(warm_prefix=1, prefixes=True), [8, 8], False, 0),
        ("P7", rules(warm_prefix=1, prefixes=True), [1, 0, 0], False, 1),
        ("P10", rules(1, 1, 1, prefixes=True), [16], True, 0),
        ("P11", rules(1, 16, prefixes=True), [0], False, 0),
        ("P13", rules(1, 5, 20, prefixes=True), [], True, 0),
        ("P14", rules(1, 5, 20, prefixes=True), [0, 0, 0], False, 1),
        ("P15", rules(1, 15, prefixes=True), [1, 1, 1], False, 0),
        ("P21", rules(1, 0, 16, prefixes=True), [16], False, 0),
    ],
)
def test_prefixes(name: str, rule: Rules, pods: list[int], low: bool, over: int) -> None:
    store = Store(30.0, random.Random(1))
    eni = StoredEni("eni-0", True, -1000.0, "subnet-1")
    store.add_eni(eni)
    for number, used in enumerate(pods):
        store.add_cidr(eni, ip_network(f"10.0.{number}.0/28"))
        eni.cidrs[number].used.update(range(used))
        store.assigned += used
    assert (rule.too_low(store), rule.over(store)) == (low, over), name


def test_an_eni_is_freed_when_the_others_keep_the_targets() -> None:
    store = store_of((2, 2), (2, 0), (1, 0))
    victim, _ = store.deletable(0.0, 2, 4, 0)
    assert victim is not None
    assert victim.eni_id == "eni-2"
    assert store.deletable(0.0, 3, 1, 0)[0] is None
    assert store.deletable(0.0, 1, 5, 0)[0] is None


def test_a_young_eni_is_freed_later() -> None:
    store = store_of((2, 2), (2, 0))
    store.enis[1].created_at = 0.0
    assert store.deletable(10.0, 0, 0, 0) == (None, 60.0)
    assert store.deletable(60.0, 0, 0, 0)[0] is store.enis[1]


def test_cooling_addresses_count_as_available_and_are_refused_all_the_same() -> None:
    store = store_of((2, 0))
    assert store.assign("a", 0.0)
    assert store.assign("b", 0.0)
    store.release("a", 1.0)
    assert store.available == 1
    assert not store.assign("c", 31.0)  # inclusive
    assert store.assign("c", 31.1)
    assert store.cooling(31.1) == 0
