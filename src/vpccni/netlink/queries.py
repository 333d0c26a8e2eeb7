# SPDX-License-Identifier: Apache-2.0
"""The RTM_GET* messages: what to dump, narrowed as far as the kernel narrows it.

Knows the strict form of dump requests (NETLINK_GET_STRICT_CHK), in which the fields of the request filter the answer.
Must never touch a socket. `RouteSocket` sends them.
"""

from __future__ import annotations

from vpccni.netlink import wire
from vpccni.netlink.attribute_numbers import (
    IFLA_EXT_MASK,
    IFLA_IFNAME,
    NTF_PROXY,
    RTA_TABLE,
    RTEXT_FILTER_SKIP_STATS,
)
from vpccni.netlink.wire import NLM_F_DUMP, NLM_F_REQUEST, U32_ATTRIBUTE, text_attribute

_DUMP = NLM_F_REQUEST | NLM_F_DUMP
_FAMILIES = {0: wire.AF_UNSPEC, 4: wire.AF_INET, 6: wire.AF_INET6}
# Statistics are most of a link's answer, and nobody here reads them.
_NO_STATISTICS = U32_ATTRIBUTE.pack(8, IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS)


def links(seq: int) -> bytes:
    """All links."""
    body = _NO_STATISTICS
    return wire.LINK_HEADER.pack(32 + len(body), wire.RTM_GETLINK, _DUMP, seq, 0, 0, 0, 0, 0, 0) + body


def ipv6_links(seq: int) -> bytes:
    """All links with their IPv6 settings, and nothing else about them."""
    return wire.LINK_HEADER.pack(32, wire.RTM_GETLINK, _DUMP, seq, 0, wire.AF_INET6, 0, 0, 0, 0)


def link(seq: int, index: int, name: str) -> bytes:
    """One link, by index when it is not 0, else by name."""
    body = _NO_STATISTICS + (b"" if index else text_attribute(IFLA_IFNAME, name))
    return wire.LINK_HEADER.pack(32 + len(body), wire.RTM_GETLINK, NLM_F_REQUEST, seq, 0, 0, 0, index, 0, 0) + body


def addresses(seq: int, version: int) -> bytes:
    """All addresses of IP version 4 or 6, or of both (0)."""
    return wire.ADDRESS_HEADER.pack(24, wire.RTM_GETADDR, _DUMP, seq, 0, _FAMILIES[version], 0, 0, 0, 0)


def routes(seq: int, version: int, table: int) -> bytes:
    """Routes of IP version 4 or 6, of one table or of all (0)."""
    body = U32_ATTRIBUTE.pack(8, RTA_TABLE, table) if table else b""
    family = _FAMILIES[version]
    header = wire.ROUTE_HEADER.pack(
        28 + len(body), wire.RTM_GETROUTE, _DUMP, seq, 0, family, 0, 0, 0, table if table < 256 else 0, 0, 0, 0, 0
    )
    return header + body


def rules(seq: int, version: int) -> bytes:
    """Rules of IP version 4 or 6."""
    return wire.ROUTE_HEADER.pack(28, wire.RTM_GETRULE, _DUMP, seq, 0, _FAMILIES[version], 0, 0, 0, 0, 0, 0, 0, 0)


def neighbours(seq: int, version: int, proxy: bool) -> bytes:
    """Neighbours of IP version 4 or 6 or of both (0), or the proxy entries."""
    flags = NTF_PROXY if proxy else 0
    return wire.NEIGHBOUR_HEADER.pack(28, wire.RTM_GETNEIGH, _DUMP, seq, 0, _FAMILIES[version], 0, 0, flags, 0)
