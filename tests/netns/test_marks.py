# SPDX-License-Identifier: Apache-2.0
"""A flow of the second ENI runs while the connection mark changes: it takes the new one along, or it is cut off."""

from __future__ import annotations

import socket
from dataclasses import replace

import pytest
from test_packets import NODE, OUTSIDE, POD_B, POLICY, PORT, World, world

from vpccni.core.nodenet import former_marks
from vpccni.host.node import converge
from vpccni.netlink.conntrack import remark
from vpccni.netlink.namespace import inside

pytestmark = pytest.mark.netns
__all__ = ["world"]

OLD, NEW = 0x80, 0x100


def in_marks(world: World, *former: int) -> None:
    """The node's rules for the new mark, beside those of former ones."""
    converge(world.kernel, replace(world.setup, mark=NEW, former_marks=former))


@pytest.mark.parametrize("carried", [True, False])
def test_a_flow_goes_on_exactly_when_its_mark_is_carried_over(world: World, carried: bool) -> None:
    with inside(world.places[OUTSIDE].fd):
        server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with inside(world.places[POD_B].fd):
        client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with server, client:
        server.settimeout(0.3)
        server.bind((OUTSIDE, PORT))
        client.connect((OUTSIDE, PORT))

        def seen() -> tuple[str, int]:
            client.send(b"x")
            try:
                return server.recvfrom(16)[1]
            except TimeoutError:
                return "", 0

        before = seen()
        assert before[0] == NODE
        assert former_marks(world.kernel.observe((4,)), NEW) == (OLD,)
        in_marks(world, OLD)
        if carried:
            assert remark(OLD, NEW, NEW, world.node.fd) == 1
        assert seen() == before
        world.firewall(replace(POLICY, mark=NEW))
        if carried:
            assert seen() == before
            assert remark(OLD, NEW, OLD | NEW, world.node.fd) == 1
        in_marks(world)
        assert former_marks(world.kernel.observe((4,)), NEW) == ()
        assert seen() == (before if carried else ("", 0))
        assert world.seen(POD_B, OUTSIDE) == NODE, "new flows are served in either case"
