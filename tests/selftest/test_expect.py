# SPDX-License-Identifier: Apache-2.0
"""Rows with addresses in them, and which observations agree."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from vpccni.selftest.expect import Actor, Cast, Expected, Observed, Policy, expected, mismatches
from vpccni.selftest.matrix import Party
from vpccni.selftest.rows import matrix

NODE, POD, ENI_POD, SITE, INTERNET = "10.0.0.10", "10.0.0.11", "10.0.0.21", "203.0.113.9", "198.51.100.1"
SOMEWHERE = Path("/run/netns/x")
ROWS = {row.name: row for row in matrix()}


def actor(party: Party, address: str, link: str = "", eni: str = "") -> Actor:
    return Actor(party, ip_address(address), SOMEWHERE, 8080, link, eni)


ACTORS = [
    actor(Party.POD, POD, "enia", "eth0"),
    actor(Party.ENI_POD, ENI_POD, "enib", "eth1"),
    actor(Party.NODE, NODE),
    actor(Party.SITE, SITE),
    actor(Party.INTERNET, INTERNET),
]
CAST = Cast(4, {each.party: each for each in ACTORS}, {}, "eth0", ip_address(NODE), {NODE: "192.0.2.1"})


def wanted(name: str, policy: Policy, cast: Cast = CAST) -> Expected:
    row = ROWS[name]
    case = row.case(policy.conditions(row, cast))
    assert case is not None
    return expected(row, case, cast, policy.randomize)


@pytest.mark.parametrize(
    ("name", "policy", "want"),
    [
        ("secondary-to-site", Policy(), (NODE, NODE, "eth0", "random")),
        ("secondary-to-site", Policy(randomize="none"), (NODE, NODE, "eth0", "kept")),
        ("secondary-to-site", Policy(external_snat=True), (ENI_POD, ENI_POD, "eth1", "")),
        ("secondary-to-site", Policy(excluded=(ip_network("203.0.113.0/24"),)), (ENI_POD, ENI_POD, "eth1", "")),
        ("secondary-to-site", Policy(excluded=(ip_network("192.0.2.0/24"),)), (NODE, NODE, "eth0", "random")),
        ("secondary-to-internet", Policy(), ("192.0.2.1", NODE, "eth0", "random")),
        ("primary-to-secondary", Policy(), (POD, POD, "enib", "")),
        ("secondary-to-node", Policy(), (ENI_POD, ENI_POD, "", "")),
        ("site-to-secondary", Policy(), (SITE, SITE, "enib", "")),
        ("secondary-to-service-outside", Policy(), (NODE, NODE, "eth0", "random")),
        ("secondary-to-service-outside", Policy(external_services=(ip_network(SITE),)), (NODE, NODE, "eth0", "random")),
    ],
)
def test_settings_decide_source_device_and_ports(name: str, policy: Policy, want: tuple[str, ...]) -> None:
    found = wanted(name, policy)
    assert found.reached and (found.seen, found.source, found.device, found.ports) == want


def test_what_must_not_be_reached() -> None:
    diverted = Policy(external_snat=True, external_services=(ip_network(SITE),))
    assert not wanted("secondary-to-site", diverted).reached
    assert not wanted("site-to-node-port-secondary", Policy(node_port_support=False)).reached
    assert wanted("site-to-node-port-primary", Policy(node_port_support=False)).reached
    # No public address, no way through the internet gateway; behind a NAT gateway (not known here) there is one.
    assert not wanted("secondary-to-internet", Policy(external_snat=True)).reached
    nat_gateway = replace(CAST, public=None)
    found = wanted("secondary-to-internet", Policy(external_snat=True), nat_gateway)
    assert found.reached and (found.seen, found.source, found.device) == ("", ENI_POD, "eth1")


WANT = Expected(True, NODE, NODE, "eth0", "enib", "random")
GOT = Observed(True, NODE, ports_kept=False, left=(("eth0", NODE),), replied=("enib",))


@pytest.mark.parametrize(
    ("got", "says"),
    [
        (GOT, ""),
        (replace(GOT, reached=False, error="refused"), "not reached: refused"),
        (replace(GOT, seen=POD), f"saw {POD}, not {NODE}"),
        (replace(GOT, left=(("eth1", NODE),)), "left by eth1 as 10.0.0.10, not eth0"),
        (replace(GOT, left=(("eth0", POD),)), f"left by eth0 as {POD}"),
        (replace(GOT, left=()), "left by no device"),
        (replace(GOT, replied=("eth9",)), "answers left by eth9, not enib"),
        (replace(GOT, ports_kept=True), "ports were kept, must be random"),
    ],
)
def test_each_kind_of_disagreement_is_named(got: Observed, says: str) -> None:
    found = mismatches(WANT, got)
    assert (says in found[0]) if says else found == []


def test_silence_is_right_only_where_it_is_expected() -> None:
    assert mismatches(Expected(False), replace(GOT, reached=False)) == []
    assert mismatches(Expected(False), GOT) == ["reached, though it must not be"]
    assert mismatches(Expected(True, NODE, NODE, device=""), GOT) == ["left by eth0, must not leave the node"]
