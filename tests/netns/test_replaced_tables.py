# SPDX-License-Identifier: Apache-2.0
"""Our nftables table is replaced under a flood of new flows inside the VPC: not one is judged as leaving it.

A pod begins flows as fast as a raw socket can, and a chain behind ours counts those that carry the connection mark. The
negative keeps the same networks in a set of the table, which the kernel finds empty at the moment of the change.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from ipaddress import IPv4Network

import pytest
from test_packets import PEER, POD_B, POLICY, World, built

from vpccni.core.firewall.nftrules import tables
from vpccni.host.nftables import Nftables
from vpccni.netlink.namespace import inside

pytestmark = [pytest.mark.netns, pytest.mark.long]

FLOOD_S = 6.0
EXEMPT = IPv4Network("10.78.0.0/16")
# UDP from and to every port in turn; the kernel fills in what is left zero in the header of a raw socket.
FLOOD = f"""
import itertools, socket, struct
raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
address = [socket.inet_aton(each) for each in ("{POD_B}", "{PEER}")]
head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 28, 0, 0, 64, 17, 0, *address)
for target, source in itertools.cycle(itertools.product(range(7000, 7100), range(1024, 65536))):
    try:
        raw.sendto(head + struct.pack("!HHHH", source, target, 8, 0), ("{PEER}", 0))
    except OSError:  # the queue is full
        pass
"""
WITNESS = f"""
table ip witness {{
    counter every {{ }}
    counter escaped {{ }}
    chain behind {{
        type filter hook prerouting priority dstnat + 20;
        ip saddr {POD_B} ct state new counter name every
        ip saddr {POD_B} ct state new ct mark & 0x80 == 0x80 counter name escaped
    }}
}}
"""


@pytest.fixture(scope="module")
def world(lasting_spaces) -> Iterator[World]:
    with built(lasting_spaces) as made:
        made.node.run("nft", "flush ruleset")
        # Flows that nobody answers are forgotten soon: the same ports are new ones a second later.
        made.node.run("sysctl", "-q", "-w", "net.netfilter.nf_conntrack_udp_timeout=1")
        yield made


@contextmanager
def flood(world: World) -> Iterator[None]:
    with inside(world.places[POD_B].fd):
        child = subprocess.Popen([sys.executable, "-c", FLOOD])
    try:
        yield
    finally:
        child.kill()
        child.wait()


def replaced_under_flood(world: World, write: Callable[[str], str]) -> tuple[int, int, int]:
    """How often the table was replaced, how many packets met it, and how many of them left with the mark."""
    texts = [write(str(tables(replace(POLICY, excluded=each), None)[0])) for each in ((), (EXEMPT,))]
    with inside(world.node.fd):
        nft, times = Nftables(), 0
        nft.apply({"ip": texts[0]})
        world.node.run("nft", WITNESS)
        with flood(world):
            end = time.monotonic() + FLOOD_S
            while time.monotonic() < end:
                times += 1
                assert nft.apply({"ip": texts[times % 2]})
        counters = world.node.run("nft", "list table ip witness")
        world.node.run("nft", "delete table ip witness")
    every, escaped = (int(each) for each in re.findall(r"packets (\d+)", counters)[:2])
    return times, every, escaped


def with_a_set(text: str) -> str:
    """The same table with its networks in an interval set."""
    networks = re.findall(r"ip daddr (\S+) return", text)
    together = "".join(f" ip daddr != {each}" for each in networks)
    exempt = f"set exempt {{\n type ipv4_addr\n flags interval\n elements = {{ {', '.join(networks)} }}\n }}\n"
    return text.replace(together, " ip daddr != @exempt").replace("{\n", "{\n" + exempt, 1)


def test_no_flow_inside_the_vpc_is_judged_as_leaving_it(world):
    times, every, escaped = replaced_under_flood(world, lambda text: text)
    assert times > 50 and every > 100_000
    assert escaped == 0, f"{escaped} of {every} in {times} replacements"


def test_a_set_that_is_replaced_with_its_table_lets_some_escape(world):
    times, every, escaped = replaced_under_flood(world, with_a_set)
    assert times > 50 and 0 < escaped < every / 100
