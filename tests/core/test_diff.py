# SPDX-License-Identifier: Apache-2.0
"""Differences applied to a model of the kernel: they reach the wanted state, leave no gap and can be taken back."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vpccni.core.diff import diff, identity, inverse
from vpccni.netlink.values import Address, Link, Neighbour, Request, Route, Rule, Value, add, delete, set_link
from vpccni.netlink.values import replace as replaced


class Kernel:
    """The objects of a kernel, with what it takes away by itself: secondaries with their primary, and the routes of a
    device with its last address."""

    def __init__(self, values: Iterable[Value]) -> None:
        self.values = list(values)

    def run(self, request: Request) -> None:
        value, key = request.value, identity(request.value)
        there = [each for each in self.values if identity(each) == key]
        if request.verb == "set":
            (old,) = there
            self.values[self.values.index(old)] = replace(
                old, **{name: getattr(value, name) for name in request.fields}
            )
        elif request.verb == "delete":
            # The executor takes absence for success, since an address may have gone with another one.
            assert there or isinstance(value, Address | Route), f"{request}: not there"
            self.values = [each for each in self.values if each is not (there or [None])[0]]
            if isinstance(value, Address):
                self._address_left(value)
        elif request.verb == "add":
            assert not there, f"{request}: there already"
            self.values.append(value)
        else:
            self.values = [each for each in self.values if identity(each) != key] + [value]

    def _address_left(self, gone: Address) -> None:
        of_device = [each for each in self.values if isinstance(each, Address) and each.index == gone.index]
        for each in of_device:
            if each.interface.network == gone.interface.network:
                self.values.remove(each)  # deleting a primary address takes its secondaries along
        if not [each for each in self.values if isinstance(each, Address) and each.index == gone.index]:
            self.values = [each for each in self.values if not (isinstance(each, Route) and each.index == gone.index)]


NUMBERS = st.integers(1, 4)
ADDRESSES = st.builds(
    lambda number, index: Address(IPv4Interface(f"10.0.{index}.{number}/24"), index), NUMBERS, st.integers(2, 3)
)
ROUTES = st.one_of(
    st.builds(
        lambda number, index, table, protocol: Route(
            IPv4Network(f"10.9.{number}.0/24"), index, table=table, scope="link", protocol=protocol
        ),
        NUMBERS,
        st.integers(2, 3),
        st.integers(2, 3),
        st.sampled_from([3, 91]),
    ),
    st.builds(
        lambda index, table: Route(IPv4Network("0.0.0.0/0"), index, gateway=IPv4Address("10.9.1.1"), table=table),
        st.integers(2, 3),
        st.integers(2, 3),
    ),
)
RULES = st.builds(
    lambda number, table: Rule(1536, table, src=IPv4Network(f"10.9.9.{number}/32"), protocol=91),
    NUMBERS,
    st.integers(2, 3),
)
NEIGHBOURS = st.builds(
    lambda number, mac: Neighbour(IPv4Address(f"10.0.0.{number}"), 2, mac=f"02:00:00:00:00:0{mac}"), NUMBERS, NUMBERS
)
LINKS = [Link("eth1", index=2, mtu=1500), Link("eth2", index=3, mtu=9001, up=True)]


def unique(values: Iterable[Value]) -> list[Value]:
    return list({identity(value): value for value in values}.values())


STATES = st.lists(st.one_of(ADDRESSES, ROUTES, RULES, NEIGHBOURS), max_size=12).map(unique)


@settings(max_examples=300, deadline=None)
@given(STATES, STATES)
def test_the_difference_reaches_what_is_wanted_and_a_second_one_is_empty(have, want):
    kernel = Kernel([*LINKS, *have])
    wanted = [*want, Link("eth1", index=2, mtu=9001, up=True), Link("eth2", index=3, mtu=9001, up=True)]
    for request in diff([*LINKS, *have], wanted):
        kernel.run(request)
    assert diff(kernel.values, wanted) == []
    assert {str(value) for value in kernel.values} == {str(value) for value in wanted}


@settings(max_examples=200, deadline=None)
@given(STATES, STATES)
def test_each_request_has_an_inverse(have, want):
    kernel = Kernel([*LINKS, *have])
    for request in diff([*LINKS, *have], [*LINKS, *want]):
        if isinstance(request.value, Address):
            kernel.run(request)  # what goes along with an address is the kernel's doing
            continue
        before = list(kernel.values)
        if request.verb == "delete" and request.value not in before:
            continue
        kernel.run(request)
        kernel.run(inverse(request, before))
        assert sorted(map(repr, kernel.values)) == sorted(map(repr, before))
        kernel.run(request)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.one_of(ROUTES, RULES), max_size=8).map(unique),
    st.lists(st.one_of(ROUTES, RULES), max_size=8).map(unique),
)
def test_routes_and_rules_that_stay_are_not_touched_and_new_ones_come_first(have, want):
    requests = diff(have, want)
    kept = {identity(value) for value in have if value in want}
    assert not [request for request in requests if identity(request.value) in kept]
    verbs = ["delete" if request.verb == "delete" else "add" for request in requests]
    assert verbs == sorted(verbs)


def test_a_wanted_rule_without_our_protocol_number_is_adopted():
    rule = Rule(1024, 254, fwmark=0x80, fwmask=0x80, protocol=91)
    assert diff([replace(rule, protocol=0)], [rule]) == []
    assert diff([], [rule]) == [add(rule)]


def test_a_wanted_route_without_our_protocol_number_is_replaced_in_place():
    route = Route(IPv4Network("0.0.0.0/0"), 2, gateway=IPv4Address("10.0.0.1"), table=2, protocol=91)
    assert diff([replace(route, protocol=3)], [route]) == [replaced(route)]


def test_doubled_rules_are_reduced_to_one():
    rule = Rule(1536, 2, src=IPv4Network("10.0.0.1/32"), protocol=91)
    assert diff([replace(rule, protocol=0), rule], [rule]) == [delete(replace(rule, protocol=0))]


def test_gateways_come_before_the_routes_that_use_them():
    near = Route(IPv4Network("10.0.0.1/32"), 2, table=2, scope="link")
    far = Route(IPv4Network("0.0.0.0/0"), 2, gateway=IPv4Address("10.0.0.1"), table=2)
    assert diff([], [far, near]) == [replaced(near), replaced(far)]
    assert diff([near, far], []) == [delete(far), delete(near)]


def test_links_are_changed_only_where_they_differ():
    have = Link("eth1", index=2, mtu=1500, mac="02:00:00:00:00:01", alias="x")
    want = Link("eth1", index=2, mtu=9001, up=True)
    assert diff([have], [want]) == [set_link(want, "mtu", "up")]
    assert str(inverse(set_link(want, "mtu", "up"), [have])) == "ip link set eth1 down mtu 1500"
    with pytest.raises(ValueError, match="unknown"):
        inverse(set_link(want, "mtu"), [])
