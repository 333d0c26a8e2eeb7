# SPDX-License-Identifier: Apache-2.0
"""The daemon's own work costs no comparison, a burst of other people's costs a few: real events, a side that counts."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from ipaddress import IPv4Address

import pytest

from vpccni.clock import SystemClock
from vpccni.core import conventions as c
from vpccni.core.drift import Known
from vpccni.core.podnet import PodAddress, PodAttachment, PodLinkPlan, wiring
from vpccni.host.kernel import NodeKernel
from vpccni.ipamd.repair import Repairs
from vpccni.ipamd.watch import LEGACY_S, REST_S, Watch
from vpccni.netlink.namespace import inside

pytestmark = pytest.mark.netns

BURST = 40
BASE = int(IPv4Address("192.168.0.100"))


class CountingFirewall:
    """What `Watch` asks of a node's firewall."""

    def __init__(self, legacy: bool) -> None:
        self._legacy = legacy
        self.looked = 0

    async def restore(self) -> None:
        self.looked += 1

    def sends_events(self) -> bool:
        return not self._legacy


class CountingSide:
    """What `Watch` asks of a node's side; counts instead of comparing."""

    def __init__(self, legacy: bool = False) -> None:
        self.compared = 0
        self.firewall = CountingFirewall(legacy)
        self.sysctl = "right"
        self.pods: set[IPv4Address] = set()
        self.repairs = Repairs(SystemClock().now, lambda kind: None)

    async def converge(self) -> None:
        self.compared += 1
        self.sysctl = "right"

    async def sysctls_differ(self) -> bool:
        return self.sysctl != "right"

    def known(self) -> Known:
        return Known(held=lambda address: address in self.pods, wired=lambda alias: True)


def watched(node, work: Callable[[CountingSide], Awaitable[None]], *, legacy: bool = False) -> None:
    """Run `work` in a node's namespace while it is watched, with an hour between full comparisons."""
    side = CountingSide(legacy)

    async def run() -> None:
        watch = asyncio.create_task(Watch(side, 3600.0, SystemClock(), random.Random(1)).run())
        await asyncio.sleep(0.2)
        await work(side)
        await asyncio.sleep(2 * REST_S)
        watch.cancel()
        await asyncio.gather(watch, return_exceptions=True)

    with inside(node.fd):
        asyncio.run(run())


def pod(number: int) -> PodAttachment:
    place = PodAddress(IPv4Address(BASE + number), 2)
    return PodAttachment("aws-cni", f"c{number}", "eth0", "default", f"web-{number}", (place,))


def test_adds_and_dels_of_our_own_cost_no_comparison_and_somebody_elses_changes_few(spaces) -> None:
    node, sandboxes, counts = spaces(), [spaces("pod") for _ in range(BURST)], []

    async def work(side: CountingSide) -> None:
        with NodeKernel() as kernel:
            for number in range(BURST):
                attachment = pod(number)
                plan = PodLinkPlan(1000 + number, f"0a:58:00:00:00:{number:02x}")
                kernel.wire(wiring(attachment, plan), sandboxes[number].fd)
                side.pods.add(attachment.addresses[0].address)
                await asyncio.sleep(0)
            counts.append(side.compared)
            for number in range(BURST // 2):
                gone = pod(number)
                side.pods.discard(gone.addresses[0].address)  # busy: its DEL is under way
                kernel.unwire(gone.addresses, gone.link_name(c.VETH_PREFIX))
                await asyncio.sleep(0)
            await asyncio.sleep(2 * REST_S)
            counts.append(side.compared)
            for number in range(BURST // 2, BURST):
                kernel.unwire(pod(number).addresses, pod(number).link_name(c.VETH_PREFIX))  # somebody else's doing
            await asyncio.sleep(2 * REST_S)
            counts.append(side.compared)

    watched(node, work)
    assert counts[:2] == [0, 0]
    assert 1 <= counts[2] <= 3


def test_firewall_changes_and_settings_are_seen_too(spaces) -> None:
    node = spaces()
    node.run("iptables", "-t", "nat", "-N", c.SNAT_CHAIN)
    node.run("iptables", "-t", "nat", "-A", c.SNAT_CHAIN, "-j", "RETURN")

    async def work(side: CountingSide) -> None:
        await asyncio.to_thread(node.run, "iptables", "-t", "nat", "-A", "POSTROUTING", "-j", "RETURN")
        await asyncio.sleep(2 * REST_S)
        assert side.firewall.looked == 0, "what others add is no reason"
        await asyncio.to_thread(node.run, "iptables", "-t", "nat", "-F", c.SNAT_CHAIN)
        await asyncio.sleep(2 * REST_S)
        assert side.firewall.looked == 1 and side.compared == 0
        side.sysctl = "wrong"
        await asyncio.sleep(1.5)
        assert side.compared == 1

    watched(node, work)


def test_legacy_rules_which_send_no_events_are_looked_at_every_second(spaces) -> None:
    async def work(side: CountingSide) -> None:
        await asyncio.sleep(LEGACY_S)
        assert 1 <= side.firewall.looked <= 3 and side.compared == 0

    watched(spaces(), work, legacy=True)
