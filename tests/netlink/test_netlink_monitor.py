# SPDX-License-Identifier: Apache-2.0
"""A monitor tells what changed, in order, in its groups and namespace only, and says so when it lost events."""

from __future__ import annotations

import asyncio
from ipaddress import ip_address, ip_interface, ip_network

import pytest

from vpccni.netlink.monitor import Event, Monitor
from vpccni.netlink.values import Address, Link, Neighbour, Route, Rule, add, delete, set_link

pytestmark = pytest.mark.netns

V0 = 10
POD = ip_network("10.20.1.5/32")
VALUES = {
    "address": Address(ip_interface("10.20.1.5/32"), V0),
    "route": Route(POD, V0, scope="link", protocol=91),
    "rule": Rule(512, 254, dst=POD, protocol=91),
    "neigh": Neighbour(ip_address("169.254.1.1"), V0, mac="02:00:00:00:00:01"),
}


@pytest.mark.parametrize("group", VALUES)
def test_a_group_reports_its_kind_coming_and_going(node, group):
    value = VALUES[group]
    with Monitor([group], node.fd) as monitor:
        node.route.run(add(value))
        node.route.run(delete(value))
        seen = list(monitor.events())
        assert (seen[0].verb, seen[-1].verb) == ("new", "del")
        assert seen[0].value == value
        # A neighbour is announced as failed and without its MAC when it goes; the others go as they came.
        assert seen[-1].value == value or (group == "neigh" and seen[-1].value.dst == value.dst)
        assert list(monitor.events()) == []
    assert str(seen[0]) == f"new {seen[0].value}"


def test_other_groups_and_other_namespaces_stay_silent(node, sandbox):
    other = sandbox()
    with Monitor(["link"], node.fd) as links_here, Monitor(netns_fd=other.fd) as everything_elsewhere:
        node.route.run(add(VALUES["rule"]))
        assert list(links_here.events()) == []
        assert list(everything_elsewhere.events()) == []
        node.route.run(set_link(Link("v0", mtu=1234)))
        assert {event.value.mtu for event in links_here.events() if event.value.name == "v0"} == {1234}


def test_a_link_that_appears_and_vanishes_is_announced_with_its_mac(node):
    with Monitor(["link"], node.fd) as monitor:
        node.route.run(add(Link("ens6", kind="veth", mac="02:00:00:00:00:66", peer=Link("p"))))
        node.route.run(delete(Link("ens6")))
        seen = [event for event in monitor.events() if event.value.name == "ens6"]
    assert seen[0].verb == "new"
    assert seen[-1].verb == "del"
    assert {event.value.mac for event in seen} == {"02:00:00:00:00:66"}


def test_lost_events_are_reported_as_a_resync_and_later_ones_arrive(node):
    with Monitor(["rule"], node.fd, receive_bytes=4096) as monitor:
        rules = [Rule(100 + n, 254) for n in range(200)]
        assert node.route.batch([add(rule) for rule in rules]) == [None] * 200
        seen = list(monitor.events())
        assert Event("resync") in seen
        assert len(seen) < 200
        node.route.run(add(VALUES["rule"]))
        assert list(monitor.events()) == [Event("new", VALUES["rule"])]


def test_an_event_loop_is_woken_by_its_descriptor(node):
    async def first_event():
        with Monitor(["rule"], node.fd) as monitor:
            readable = asyncio.Event()
            loop = asyncio.get_running_loop()
            loop.add_reader(monitor.fileno(), readable.set)
            loop.call_later(0.05, node.route.run, add(VALUES["rule"]))
            await asyncio.wait_for(readable.wait(), 5)
            loop.remove_reader(monitor.fileno())
            return next(iter(monitor.events()))

    assert asyncio.run(first_event()).value == VALUES["rule"]
