# SPDX-License-Identifier: Apache-2.0
"""A node that lives through anything: pods come and go, EC2 refuses, answers get lost, the daemon dies and comes back.

Knows how the test of every crash and the state machine keep a daemon alive, and when a node has come to rest.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from rig import Killed, Process, Rig

from vpccni.aws import tags
from vpccni.aws.values import IPNetwork
from vpccni.core.block import Mode
from vpccni.core.steps import Wait
from vpccni.errors import NoAddress
from vpccni.ipamd import records
from vpccni.lab.cloud.invariants import violations


def due(node: Process) -> list[str]:
    """What the daemon would do now."""
    return [str(step) for step in node.engine.plan() if not isinstance(step, Wait)]


class Life:
    """A rig and its current daemon, started anew whenever it has died."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.node: Process | None = None
        self.environ: Mapping[str, str] = {}
        self.taken: set[IPNetwork] = set()  # blocks that the test itself took from the node
        self.detached: set[str] = set()  # ENIs that the test itself took off the node

    async def daemon(self) -> Process:
        """The running daemon."""
        while self.node is None or self.rig.dead:
            if self.node is not None:
                await self.node.kill()
            self.node = self.rig.process(**self.environ)
            starting = asyncio.get_running_loop().create_task(self.node.start())
            await asyncio.wait([starting])
            if starting.cancelled() or isinstance(starting.exception(), Killed):
                self.rig.dead = True
            else:
                starting.result()
        return self.node

    async def restart(self, **environ: str) -> None:
        if self.node is not None:
            await self.node.kill()
        self.node, self.environ = None, environ
        await self.daemon()

    async def arrive(self, count: int, patience_s: float = 60.0) -> int:
        """Pods arrive; how many got an address in time."""
        deadline, done = self.rig.clock.now() + patience_s, 0
        while done < count and self.rig.clock.now() < deadline:
            node = await self.daemon()
            try:
                await node.add(1)
                done += 1
            except NoAddress:
                node.engine.wake()
                await asyncio.sleep(1.0)
        return done

    async def drop(self, count: int) -> None:
        node = await self.daemon()
        keys = list(self.rig.wired)[:count]
        await node.drop(keys)

    async def sleep(self, duration_s: float) -> None:
        """Time passes; a daemon that dies is started again by its supervisor."""
        end = self.rig.clock.now() + duration_s
        while self.rig.clock.now() < end:
            await self.daemon()
            await asyncio.sleep(min(5.0, max(0.01, end - self.rig.clock.now())))

    def check(self) -> None:
        """What holds at every moment."""
        self.rig.check(frozenset(self.taken), frozenset(self.detached))
        assert violations(self.rig.cloud) == []

    async def rest(self, *, sweep: bool = False) -> None:
        """Faults end; the node must come to rest, with nothing lost and nothing leaked, as a rule without a sweep."""
        rig = self.rig
        rig.refuse, rig.lose, rig.blow_at = lambda action: None, lambda action: False, 0
        await self.restart(**self.environ)
        await self.sleep(700)
        node = await self.daemon()
        if sweep:
            await node.sagas.sweep(300)
        self.check()
        if due(node):  # what EC2 refuses is tried again from time to time, perhaps at this very moment
            await self.sleep(30)
            node = await self.daemon()
            self.check()
        assert due(node) == []
        assert records.replay(rig.journal).intents == {}
        leaked = [eni.eni_id for eni in rig.ec2.owned(rig.node.instance_id) if eni.attachment is None]
        assert leaked == []
        held = {eni.id: {str(block) for block in eni.blocks} for eni in node.pool.enis()}
        assert held == {
            each.eni_id: {f"{at}/32" for at in each.addresses if at.version == 4} | set(map(str, each.prefixes))
            for each in rig.interfaces()
        }, "the pool holds what EC2 says"
        owners = {at.address: grant.key for grant in node.pool.grants() for at in grant.addresses}
        assert owners == {at.address: key for key, grant in rig.wired.items() for at in grant.addresses}
        assert all(tags.INSTANCE_TAG in each.tags for each in rig.interfaces() if each.eni_id != rig.node.eni_id)
        assert node.pool.mode is (Mode.PREFIX if node.settings.enable_prefix_delegation else Mode.SECONDARY)
