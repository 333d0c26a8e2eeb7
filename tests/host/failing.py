# SPDX-License-Identifier: Apache-2.0
"""A netlink socket on which one request fails, refused by the kernel itself.

Knows how to spoil a request so that a real kernel says no. Must never answer in the kernel's place. Tests of wiring and
unwiring use it.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network

from vpccni.netlink.errors import NetlinkError
from vpccni.netlink.socket import RouteSocket
from vpccni.netlink.values import Link, Request, Route, add, set_link

ABSENT_DEVICE = set_link(Link("", index=0x7FFFFFF0, up=True))  # ENODEV
# ENETUNREACH: unlike an absent device, this cannot be mistaken for something that is gone already.
NO_WAY = add(Route(IPv4Network("198.18.0.0/15"), 0, gateway=IPv4Address("192.0.2.1")))


class Failing(RouteSocket):
    """A real socket that replaces one request by `spoiled`.

    `budget` requests go through unchanged (over all sockets of the test), the next one is replaced.
    """

    budget = 0
    spoiled = ABSENT_DEVICE

    def batch(self, requests: Sequence[Request]) -> list[NetlinkError | None]:
        sent = list(requests)
        if 0 <= Failing.budget < len(sent):
            sent[Failing.budget] = Failing.spoiled
        Failing.budget -= len(sent)
        return super().batch(sent)
