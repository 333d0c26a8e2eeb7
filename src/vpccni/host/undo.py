# SPDX-License-Identifier: Apache-2.0
"""An undo journal: what has been done so far and how to take it back.

Knows inverses in order, and which refusals mean "already gone". Must never decide when to undo. `host.podwire` fills it
while it wires a pod and runs it backwards when a step fails.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Collection, Sequence
from functools import partial

from vpccni.core.diff import inverse
from vpccni.core.podnet import Sysctl
from vpccni.errors import VpcCniError
from vpccni.host import sysctl
from vpccni.netlink.errors import NetlinkError
from vpccni.netlink.namespace import run_inside
from vpccni.netlink.socket import RouteSocket
from vpccni.netlink.values import Request, Value

# Routes, rules and neighbours, links, addresses; a namespace's device that went together with its peer.
GONE = frozenset({errno.ESRCH, errno.ENOENT, errno.ENODEV, errno.EADDRNOTAVAIL})


class UndoJournal:
    """Inverses of what was done, in order."""

    def __init__(self) -> None:
        self._inverses: list[Callable[[], object]] = []

    def did(self, socket: RouteSocket, request: Request, before: Collection[Value] = ()) -> None:
        """`request` succeeded on `socket`; `before` are the objects that were there."""
        self._inverses.append(partial(_take_back, socket, request, before))

    def did_all(
        self,
        socket: RouteSocket,
        requests: Sequence[Request],
        results: Sequence[NetlinkError | None],
        before: Collection[Value] = (),
    ) -> list[NetlinkError]:
        """Note those requests of a batch that succeeded; the errors of the others."""
        for request, error in zip(requests, results, strict=True):
            if error is None:
                self.did(socket, request, before)
        return [error for error in results if error is not None]

    def did_sysctl(self, before: Sysctl, netns_fd: int | None) -> None:
        """A setting had the value `before`, in the namespace `netns_fd` (None: the thread's own)."""
        self._inverses.append(partial(run_inside, netns_fd, partial(sysctl.write, *before)))

    def undo(self) -> list[VpcCniError]:
        """Take everything back, the last step first; the refusals, without those of things already gone."""
        failures: list[VpcCniError] = []
        while self._inverses:
            try:
                self._inverses.pop()()
            except VpcCniError as error:
                failures.append(error)
        return failures


def _take_back(socket: RouteSocket, request: Request, before: Collection[Value]) -> None:
    try:
        socket.run(inverse(request, before))  # computed only now: almost no wiring fails
    except NetlinkError as error:
        if error.errno not in GONE:
            raise
