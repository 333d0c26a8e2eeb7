# SPDX-License-Identifier: Apache-2.0
"""ADD, CHECK, repair, restart and DEL of pods with several interfaces: daemon's transitions over a real kernel."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Sequence
from ipaddress import ip_address, ip_network

import pytest

from vpccni.cni import result
from vpccni.core import conventions as c
from vpccni.core.block import Block, Mode
from vpccni.core.egress import LocalAddresses
from vpccni.core.eni import Eni
from vpccni.core.grant import PodIdentity, PodKey
from vpccni.core.nodenet import NodeNet
from vpccni.core.pool import Pool
from vpccni.errors import HostError, Refused
from vpccni.host.kernel import NodeKernel
from vpccni.host.node import converge
from vpccni.ipamd import records, recovery
from vpccni.ipamd.api import nics_of
from vpccni.ipamd.attachments import Attachments, Cards, LinkChoice
from vpccni.ipamd.journal import Record
from vpccni.ipamd.podwires import PodWires
from vpccni.ipamd.worker import Worker
from vpccni.netlink import namespace
from vpccni.netlink.namespace import inside

pytestmark = pytest.mark.netns

POD, KEY = PodIdentity("default", "web-1"), PodKey("aws-cni", "c1", "eth0")


class Memory:
    """A journal in memory."""

    def __init__(self) -> None:
        self.lines: list[Record] = []

    def append(self, lines: Sequence[Record]) -> None:
        self.lines += lines

    def rewrite(self, lines: Sequence[Record]) -> None:
        self.lines = list(lines)


class NoFlows:
    """Connection tracking without connections."""

    async def forget(self, addresses: Sequence[object]) -> None:
        """Nothing to forget."""


class Standing:
    """A clock that stands."""

    def now(self) -> float:
        return 1000.0

    async def sleep(self, duration_s: float) -> None:
        """At once."""


class Node:
    """The part of the daemon that wires pods, in a namespace of its own, with two network cards; IPv4 unless `ipv6`."""

    def __init__(self, space, *, ipv6: bool = False) -> None:
        self.space, self.journal, self.left = space, Memory(), []
        self.pool = Pool(0, Mode.PREFIX, 6) if ipv6 else Pool(0)
        for card in (0, 1):
            blocks = tuple(Block.of(ip_address(f"10.0.{card}.{n}")) for n in range(1, 4))
            blocks = (Block(ip_network(f"2001:db8:0:{card}::/80")),) if ipv6 else blocks
            self.pool.add_eni(Eni(f"eni-{card}", card=card, table=c.route_table(card, card), blocks=blocks))
        self.pool.local = LocalAddresses(4 if ipv6 else 6)

    def run(self, story: Callable[[Attachments], Awaitable[None]]) -> None:
        async def daemon() -> None:
            with NodeKernel(self.space.fd) as kernel:
                worker = Worker(asyncio.get_running_loop(), self.journal, lambda error: None)
                with inside(self.space.fd):
                    worker.start()
                index = itertools.count(2000)
                macs = (f"0a:58:00:00:00:{n:02x}" for n in itertools.count(1))
                made = Attachments(
                    self.pool,
                    worker,
                    PodWires(kernel),
                    NoFlows(),
                    LinkChoice(1500, "eni", lambda: next(index), lambda: next(macs)),
                    Standing(),
                    lambda: None,
                    lambda index, name: self.left.append((index, name)),
                    Cards(lambda: (0, 1), several=True),
                )
                try:
                    await story(made)
                finally:
                    worker.stop()

        asyncio.run(daemon())

    def repair(self, attachments: Attachments) -> list[str]:
        """Bring the host's part in line with the grants; what was changed."""
        quiet = NodeNet((), external_snat=True, node_port_support=False)
        with NodeKernel(self.space.fd) as kernel:
            return converge(kernel, quiet, attachments.pods())

    def host(self) -> list[str]:
        """What the host has of pods, in all families."""
        lines = [*self.space.ip("rule"), *self.space.ip("route"), *self.space.ip("-6", "route")]
        return [line for line in lines if f"proto {c.PROTOCOL}" in line or line.startswith(("512:", "1536:"))]


@pytest.fixture
def node(spaces) -> Node:
    return Node(spaces())


def test_a_pod_gets_an_interface_per_card_and_one_for_egress_and_loses_all_of_them(node, spaces):
    pod = spaces("pod")

    async def story(attachments: Attachments) -> None:
        wired = await attachments.add(KEY, POD, pod.fd, every_card=True)
        grant = wired.grant
        assert [str(at.address) for at in grant.addresses] == ["10.0.0.1", "10.0.1.1"]
        assert str(grant.egress) == "fd00::ac:2"
        assert [nic.ifname for nic in nics_of(wired)] == ["eth0", "mNicIf1", "v6if0"]
        assert "1: from 10.0.1.1 lookup 1" in pod.ip("rule")
        assert pod.ip("route show table 1") == [
            "default via 169.254.1.2 dev mNicIf1",
            "169.254.1.2 dev mNicIf1 scope link",
        ]
        rules = [line.removesuffix(f" proto {c.PROTOCOL}") for line in node.space.ip("rule")]
        assert rules[1:4] == [
            "512: from all to 10.0.0.1 lookup main",
            "512: from all to 10.0.1.1 lookup main",
            "1536: from 10.0.1.1 lookup 10101",
        ]
        assert await attachments.check(KEY, pod.fd) == []
        before = node.host()
        assert (await attachments.add(KEY, POD, pod.fd)).grant == grant, "whatever the annotation says now"
        assert node.host() == before
        namespace.remove(pod.name)
        assert await attachments.delete(KEY) == grant
        assert node.host() == []
        assert node.pool.grant(KEY) is None and records.replay(node.journal.lines).grants == {}

    node.run(story)


@pytest.mark.parametrize("link", ["eth0", "mNicIf1", "v6if0"])
def test_check_names_what_any_interface_lacks_and_repair_brings_the_hosts_part_back(node, spaces, link):
    pod = spaces("pod")
    gone = {"eth0": "10.0.0.1", "mNicIf1": "10.0.1.1", "v6if0": "fd00::ac:2"}[link]
    flag = "-6" if ":" in gone else "-4"

    async def story(attachments: Attachments) -> None:
        await attachments.add(KEY, POD, pod.fd, every_card=True)
        before = node.host()
        node.space.ip(f"{flag} route del {gone}")
        found = await attachments.check(KEY, pod.fd)
        assert found and all(gone in problem for problem in found)
        assert len([command for command in node.repair(attachments) if " route " in command]) == 1
        assert node.host() == before and node.repair(attachments) == []
        pod.ip(f"{flag} addr del {gone}/{118 if ':' in gone else 32} dev {link}")
        assert await attachments.check(KEY, pod.fd) != []

    node.run(story)


def test_the_host_address_of_ipv4_egress_is_repaired_too(spaces):
    node, pod = Node(spaces(), ipv6=True), spaces("pod")
    link = c.egress_link_name(KEY.network, KEY.container_id, KEY.ifname)

    async def story(attachments: Attachments) -> None:
        await attachments.add(KEY, POD, pod.fd)
        node.space.ip(f"addr del 169.254.172.1/32 dev {link}")
        assert await attachments.check(
            KEY, pod.fd
        ) == [  # the kernel takes the routes of a link along with its last address
            f"the host lacks inet 169.254.172.1/32 scope link {link}",
            f"the host lacks 169.254.172.2 dev {link} proto {c.PROTOCOL} scope link",
        ]
        node.repair(attachments)
        assert await attachments.check(KEY, pod.fd) == [] and node.repair(attachments) == []

    node.run(story)


def test_when_the_last_interface_fails_nothing_of_the_pod_is_left(node, spaces):
    pod = spaces("pod")
    pod.dummy("v6if0", index=60)  # somebody else's, of our name

    async def story(attachments: Attachments) -> None:
        before = node.space.state(), pod.state()
        with pytest.raises(HostError) as caught:
            await attachments.add(KEY, POD, pod.fd, every_card=True)
        assert caught.value.error_code == "pod-interface-exists"
        assert (node.space.state(), pod.state()) == before
        assert node.pool.grant(KEY) is None and records.replay(node.journal.lines).grants == {}
        pod.ip("link del v6if0")
        wired = await attachments.add(KEY, POD, pod.fd, every_card=True)
        assert [str(at.address) for at in wired.grant.addresses] == ["10.0.0.1", "10.0.1.1"]

    node.run(story)


def test_a_restart_finds_the_interfaces_again_with_and_without_the_journal(node, spaces):
    pod = spaces("pod")
    node.run(lambda attachments: attachments.add(KEY, POD, pod.fd, every_card=True))
    (grant,) = node.pool.grants()
    with NodeKernel(node.space.fd) as kernel:
        for journal in (records.replay(node.journal.lines), records.JournalState()):
            found = recovery.recover(journal, (), kernel.pods(), 2000.0)
            (again,) = found.grants
            assert (again.key, again.pod, again.egress) == (grant.key, POD, grant.egress)
            assert [(at.address, at.card, at.table) for at in again.addresses] == [
                (at.address, at.card, at.table) for at in grant.addresses
            ]
        assert kernel.local_addresses(6) == [ip_address("fd00::ac:2")]
        life = Node(node.space)
        life.pool.local.hold(kernel.local_addresses(6))
        life.pool.restore(again)

    async def story(attachments: Attachments) -> None:
        assert not [command for command in life.repair(attachments) if command.startswith("ip ")]
        other = await attachments.add(
            PodKey("aws-cni", "c2", "eth0"), PodIdentity("default", "web-2"), spaces("pod").fd
        )
        assert str(other.grant.egress) == "fd00::ac:3"
        assert await attachments.delete(KEY) is not None
        assert sorted(name for _, name in life.left) == sorted(
            {c.host_link_name("eni", "default", "web-1", nic) for nic in (0, 1)}
            | {c.egress_link_name("aws-cni", "c1", "eth0")}
        ), "the namespace lives on: all three veths are to be deleted"
        assert not [line for line in life.host() if "10.0.0.1" in line or "10.0.1.1" in line or "ac:2 " in line]

    life.run(story)


def test_without_multi_nic_the_annotation_is_refused_and_nothing_is_taken(node, spaces):
    pod = spaces("pod")

    async def story(attachments: Attachments) -> None:
        attachments._cards = Cards()
        with pytest.raises(Refused) as caught:
            await attachments.add(KEY, POD, pod.fd, every_card=True)
        assert caught.value.error_code == "multi-nic-disabled" and not caught.value.can_retry
        assert node.pool.grant(KEY) is None and node.host() == [] and node.journal.lines == []

    node.run(story)


def test_the_result_of_such_a_pod_in_old_and_new_versions(node, spaces):
    pod = spaces("pod")

    async def story(attachments: Attachments) -> None:
        nics = nics_of(await attachments.add(KEY, POD, pod.fd, every_card=True))
        old = result.msgspec.json.decode(result.render_add("0.4.0", nics, "/run/netns/p"))
        egress = c.egress_link_name(KEY.network, KEY.container_id, KEY.ifname)
        names = ["eni0761ccbeace", "eth0", c.host_link_name("eni", "default", "web-1", 1), "mNicIf1"]
        assert [each["name"] for each in old["interfaces"]] == [*names, "dummy0761ccbeace", egress, "v6if0"]
        assert [(ip["address"], ip["interface"]) for ip in old["ips"]] == [("10.0.0.1/32", 1), ("10.0.1.1/32", 3)]
        assert [each.get("mac") for each in old["interfaces"]][1:5:2] == ["254", "10101"]
        new = result.msgspec.json.decode(result.render_add("1.1.0", nics, "/run/netns/p"))
        assert [each["name"] for each in new["interfaces"]] == [*names, egress, "v6if0"]
        seen = {line.split()[1] for line in pod.ip("link") if line.startswith("link/ether")}
        assert {each["mac"] for each in new["interfaces"] if each.get("sandbox")} == seen
        assert len(new["ips"]) == 2

    node.run(story)
