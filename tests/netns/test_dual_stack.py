# SPDX-License-Identifier: Apache-2.0
"""ADD, CHECK, repair, restart and DEL of IPv6 and dual-stack pods: the daemon's transitions over a real kernel."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest
from test_attachments import KEY, POD, Node

from vpccni.cni import result
from vpccni.core import conventions as c
from vpccni.core.block import Block, Mode
from vpccni.core.eni import Eni
from vpccni.core.pool import Pool
from vpccni.errors import HostError
from vpccni.host.kernel import NodeKernel
from vpccni.ipamd import records, recovery
from vpccni.ipamd.api import nics_of
from vpccni.ipamd.attachments import Attachments

pytestmark = pytest.mark.netns

WIDE = Block(ip_network("2001:db8:0:2::/80"))
SINGLE = Block.of(ip_address("10.0.2.5"))


def node_of(space, *, dual: bool) -> Node:
    """A node whose pods live on a secondary ENI: with both families, or with IPv6 alone."""
    node = Node(space)
    node.pool = Pool(0, dual=True) if dual else Pool(0, Mode.PREFIX, 6)
    node.pool.add_eni(Eni("eni-2", device=2, table=3, blocks=(SINGLE, WIDE)))
    return node


def addresses(dual: bool) -> list[str]:
    return ["10.0.2.5", "2001:db8:0:2::"] if dual else ["2001:db8:0:2::"]


def of_pods(node: Node) -> list[str]:
    """Rules and routes of pods, of both families."""
    return [*node.host(), *(line for line in node.space.ip("-6 rule") if line.startswith(("512:", "1536:")))]


@pytest.mark.parametrize("dual", [True, False])
def test_a_pod_is_added_checked_repeated_and_deleted(spaces, dual):
    node, pod = node_of(spaces(), dual=dual), spaces("pod")

    async def story(attachments: Attachments) -> None:
        wired = await attachments.add(KEY, POD, pod.fd)
        assert [str(at.address) for at in wired.grant.addresses] == addresses(dual)
        (nic,) = nics_of(wired)
        shown = result.msgspec.json.decode(result.render_add("1.1.0", [nic], "/run/netns/p"))
        assert [entry["address"] for entry in shown["ips"]] == [
            f"{address}/{128 if ':' in address else 32}" for address in addresses(dual)
        ]
        for address in addresses(dual):
            flag = "-6" if ":" in address else "-4"
            rules = [line.removesuffix(f" proto {c.PROTOCOL}") for line in node.space.ip(f"{flag} rule")]
            assert f"512: from all to {address} lookup main" in rules
            assert f"1536: from {address} lookup 3" in rules
        (own,) = [line for line in pod.ip("-6 addr show dev eth0") if "2001:db8:0:2::/128" in line]
        assert "nodad" in own and "tentative" not in own
        assert await attachments.check(KEY, pod.fd) == []
        before = of_pods(node)
        assert (await attachments.add(KEY, POD, pod.fd)).grant == wired.grant
        assert of_pods(node) == before
        assert await attachments.delete(KEY) == wired.grant
        assert of_pods(node) == [] and records.replay(node.journal.lines).grants == {}

    node.run(story)


@pytest.mark.parametrize("dual", [True, False])
def test_what_is_taken_of_either_family_is_named_and_repaired(spaces, dual):
    node, pod = node_of(spaces(), dual=dual), spaces("pod")

    async def story(attachments: Attachments) -> None:
        await attachments.add(KEY, POD, pod.fd)
        before = of_pods(node)
        for address in addresses(dual):
            flag = "-6" if ":" in address else "-4"
            node.space.ip(f"{flag} route del {address}")
            node.space.ip(f"{flag} rule del pref 1536 from {address}")
            found = await attachments.check(KEY, pod.fd)
            assert len(found) == 2 and all(address in problem for problem in found)
            done = [command for command in node.repair(attachments) if address in command]
            assert len(done) == 2
            assert sorted(of_pods(node)) == sorted(before) and node.repair(attachments) == []
        pod.ip("-6 route del default")
        assert any("default" in problem for problem in await attachments.check(KEY, pod.fd))

    node.run(story)


@pytest.mark.parametrize("dual", [True, False])
def test_a_restart_finds_the_pod_with_and_without_the_journal(spaces, dual):
    node, pod = node_of(spaces(), dual=dual), spaces("pod")
    node.run(lambda attachments: attachments.add(KEY, POD, pod.fd))
    (grant,) = node.pool.grants()
    with NodeKernel(node.space.fd) as kernel:
        for journal in (records.replay(node.journal.lines), records.JournalState()):
            (again,) = recovery.recover(journal, recovery.allocation_of(grant), kernel.pods(), 2000.0).grants
            assert (again.key, again.pod) == (grant.key, POD)
            assert [at.address for at in again.addresses] == [at.address for at in grant.addresses]
            life = node_of(node.space, dual=dual)
            life.pool.restore(again)
            assert next(life.pool.grants()).addresses == grant.addresses, "the pool knows the places again"
    life.run(lambda attachments: attachments.delete(KEY))
    assert of_pods(life) == []


def test_when_a_step_fails_neither_family_is_left_behind(spaces):
    node, pod = node_of(spaces(), dual=True), spaces("pod")
    pod.dummy("eth0", index=60)  # somebody else's, of our name

    async def story(attachments: Attachments) -> None:
        before = node.space.state(), pod.state()
        with pytest.raises(HostError):
            await attachments.add(KEY, POD, pod.fd)
        assert (node.space.state(), pod.state()) == before and of_pods(node) == []
        assert node.pool.tally(1000.0).assigned == 0 and node.pool.cooling(1000.0) == {}
        assert node.pool.held()[0].owned == 0, "not of the /80 either"

    node.run(story)
