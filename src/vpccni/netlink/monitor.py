# SPDX-License-Identifier: Apache-2.0
"""What changes in a namespace, as it happens.

Knows rtnetlink's multicast groups and how the kernel says that events were lost. Must never interpret an event.
The daemon's engine and the lab put the descriptor into their event loop and read when it is readable.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from vpccni.netlink.codec import DELETIONS, decode_message
from vpccni.netlink.subscription import Subscription
from vpccni.netlink.values import Value
from vpccni.netlink.wire import messages

# RTNLGRP_* of linux/rtnetlink.h.
GROUPS = {"link": (1,), "neigh": (3,), "address": (5, 9), "route": (7, 11), "rule": (8, 19)}

_NETLINK_ROUTE = 0


@dataclass(frozen=True, slots=True)
class Event:
    """`new` (created or changed) or `del` with the value, or `resync`: events were lost, so dump again."""

    verb: Literal["new", "del", "resync"]
    value: Value | None = None

    def __str__(self) -> str:
        return f"{self.verb} {self.value}" if self.value is not None else self.verb


class Monitor(Subscription):
    """A non-blocking subscription to groups of `GROUPS` in the namespace `netns_fd` (None: the calling thread's)."""

    __slots__ = ()

    def __init__(
        self, groups: Iterable[str] = tuple(GROUPS), netns_fd: int | None = None, *, receive_bytes: int = 1 << 20
    ) -> None:
        numbers = [number for name in groups for number in GROUPS[name]]
        super().__init__("kernel events", _NETLINK_ROUTE, numbers, netns_fd, receive_bytes)

    def events(self) -> Iterator[Event]:
        """What has happened up to now, oldest first; ends when nothing is pending. `dev` names are not filled."""
        for buffer in self._buffers():
            if buffer is None:
                yield Event("resync")
                continue
            for message in messages(buffer):
                value = decode_message(buffer, message)
                if value is not None:
                    yield Event("del" if message.type in DELETIONS else "new", value)
