# SPDX-License-Identifier: Apache-2.0
"""Random rulesets of nftables: what the walk predicts of a datagram is what the kernel does with it.

The kernel tells by a set of its own, into which the last chains of postrouting and input write every packet's marks,
addresses and ports.
"""

from __future__ import annotations

import itertools
import json
import socket
from dataclasses import dataclass, replace
from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from iptables_strategies import tables
from nft_strategies import rulesets
from nft_worlds import CLIENT, NODE, OTHER, SERVER, SERVICE, NftWorld, build

from vpccni.core.walk.meeting import Header
from vpccni.core.walk.values import World
from vpccni.core.walk.walk import walk
from vpccni.host.programs import run_program
from vpccni.lab.world import read_nftables, with_firewall
from vpccni.netlink.namespace import inside

pytestmark = pytest.mark.netns

# Two sets, because nft 1.0.6 cannot list a concatenation of more than five fields.
OBSERVER = """table {ip} observer {{
  set seen {{
    type inet_service . mark . mark . {type} . {type}; flags dynamic; size 65535
  }}
  set ports {{
    type inet_service . inet_service; flags dynamic; size 65535
  }}
  chain leaving {{
    type filter hook postrouting priority 500; meta l4proto udp oifname "en*" jump told
  }}
  chain staying {{
    type filter hook input priority 500; meta l4proto udp jump told
  }}
  chain told {{
    update @seen {{ th sport . meta mark . ct mark . {ip} saddr . {ip} daddr }}
    update @ports {{ th sport . th dport }}
  }}
}}
"""
_ports = itertools.count(10000)


@dataclass(frozen=True)
class Built:
    """A fixture that hypothesis does not print: it is as long as a book."""

    world: NftWorld
    seen: World

    def __repr__(self) -> str:
        return "Built()"


Told = tuple[int, int, str, str, int, int]  # mark, connection mark, source, target, their ports


@pytest.fixture(scope="module")
def built(lasting_spaces: Any) -> Built:
    """The namespaces, and what was seen of them while they had no rules."""
    made = build(lasting_spaces)
    return Built(made, made.observe().world)


def load(world: NftWorld, version: int, text: str, iptables: str = "") -> None:
    ip, kind = ("ip", "ipv4_addr") if version == 4 else ("ip6", "ipv6_addr")
    world.rules("flush ruleset\n")
    if iptables:
        with inside(world.node.fd):
            run_program("load rules", f"{'ip' if version == 4 else 'ip6'}tables-restore", stdin=iptables)
    world.rules(f"{text}{OBSERVER.format(ip=ip, type=kind)}")


def observed(world: NftWorld, version: int) -> dict[int, Told]:
    """What the kernel has let pass since, by source port."""
    with inside(world.node.fd):
        family = "ip" if version == 4 else "ip6"
        found = json.loads(run_program("read", "nft", "-j", "list", "table", family, "observer"))
    sets = {row["set"]["name"]: row["set"].get("elem", []) for row in found["nftables"] if "set" in row}
    ports = dict(_parts(each) for each in sets["ports"])
    told = (_parts(each) for each in sets["seen"])
    return {source: (mark, ct_mark, *ends, source, ports[source]) for source, mark, ct_mark, *ends in told}


def _parts(element: Any) -> tuple[Any, ...]:
    return tuple((element["elem"]["val"] if "elem" in element else element)["concat"])


def send(world: NftWorld, version: int, target: str, port: int) -> Header:
    """A datagram from the client, with a port that no earlier one had."""
    source_port = 10000 + next(_ports) % 50000
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    with inside(world.client.fd), socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.bind((CLIENT[version], source_port))
        sock.sendto(b"?", (target, port))
    return Header(ip_address(CLIENT[version]), source_port, ip_address(target), port, "udp")


def with_rules_of(world: NftWorld, seen: World, *, iptables: bool = False) -> World:
    """What was seen of the world, with the rules that the node has now. Reading those of iptables takes longer."""
    with inside(world.node.fd):
        before = seen.stacks["node 1"]
        node = with_firewall(before) if iptables else replace(before, nft=read_nftables())
    return replace(seen, stacks={**seen.stacks, "node 1": node})


def predicted(seen: World, headers: list[Header]) -> dict[int, Told]:
    """The same as `observed`, foretold."""
    found: dict[int, Told] = {}
    for header in headers:
        trip = walk(seen, "pod client", header)
        assert not trip.unread, trip.unread
        told = next((hop for hop in trip.hops if (hop.place, hop.device) == ("node 1", "enib")), None)
        if told is None and trip.delivered_to == "node 1":
            told = trip.arrived
        if told is not None:
            end = told.header
            found[header.source_port] = (
                told.mark, told.ct_mark, str(end.source), str(end.target), end.source_port, end.target_port
            )  # fmt: skip
    return found


def check(built: Built, version: int, text: str, iptables: str = "") -> None:
    world, seen = built.world, built.seen
    load(world, version, text, iptables)
    headers = [send(world, version, *each) for each in SENT[version]]
    now = with_rules_of(world, seen, iptables=bool(iptables))
    assert predicted(now, headers) == observed(world, version), iptables + text


SENT = {version: [(target[version], port) for target in (SERVER, OTHER, SERVICE, NODE) for port in (53, 80)]
        for version in (4, 6)}  # fmt: skip
FEW = settings(max_examples=12, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
MANY = settings(max_examples=600, deadline=None, suppress_health_check=list(HealthCheck))


@given(text=rulesets(4))
@FEW
def test_the_walk_agrees_with_the_kernel(built: Built, text: str) -> None:
    check(built, 4, text)


@given(text=rulesets(6))
@FEW
def test_the_walk_agrees_with_the_kernel_on_ipv6(built: Built, text: str) -> None:
    check(built, 6, text)


@given(text=rulesets(4), iptables=tables(4))
@settings(FEW, max_examples=6)
def test_the_walk_agrees_with_the_kernel_about_iptables_beside_nftables(built: Built, text: str, iptables: str) -> None:
    check(built, 4, text, iptables)


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("version", [4, 6])
def test_the_walk_agrees_with_the_kernel_about_many_rulesets(built: Built, version: int) -> None:
    several = given(text=rulesets(version), iptables=st.one_of(st.just(""), tables(version)))
    several(MANY(lambda text, iptables: check(built, version, text, iptables)))()


# Rules after all others that change the mark of whatever passes.
MUTATION = "".join(
    f"table ip {hook} {{\n chain c {{\n type filter hook {hook} priority 450\n ct mark set ct mark ^ 0x100\n }}\n}}\n"
    for hook in ("postrouting", "input")
)


@given(text=rulesets(4))
@example(text="")
@settings(FEW, max_examples=6)
def test_one_more_rule_makes_a_difference_to_each_packet_that_passes(built: Built, text: str) -> None:
    world, seen = built.world, built.seen
    load(world, 4, text)
    rules_before = with_rules_of(world, seen)
    load(world, 4, text + MUTATION)
    headers = [send(world, 4, *each) for each in SENT[4]]
    found = observed(world, 4)
    stale, fresh = predicted(rules_before, headers), predicted(with_rules_of(world, seen), headers)
    assert fresh == found and stale.keys() == found.keys()
    assert all(stale[port] != found[port] for port in found) and (found or text)
