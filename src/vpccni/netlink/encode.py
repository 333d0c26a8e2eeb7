# SPDX-License-Identifier: Apache-2.0
"""Requests to rtnetlink messages, with `struct` alone.

Knows the layout of NEWLINK, NEWADDR, NEWROUTE, NEWRULE, NEWNEIGH and their deletions. Must never touch a socket.
`codec` dispatches to it; this is the hot path of every pod, so a message is one join of few packed pieces.
"""

from __future__ import annotations

from collections.abc import Callable

from vpccni.netlink import wire
from vpccni.netlink.attribute_numbers import (
    ADDR_GEN_EUI64,
    ADDR_GEN_NONE,
    FRA_DST,
    FRA_FWMARK,
    FRA_FWMASK,
    FRA_GOTO,
    FRA_IIFNAME,
    FRA_OIFNAME,
    FRA_PRIORITY,
    FRA_PROTOCOL,
    FRA_SRC,
    FRA_SUPPRESS_PREFIXLEN,
    FRA_TABLE,
    IFA_ADDRESS,
    IFA_BROADCAST,
    IFA_F_NODAD,
    IFA_F_NOPREFIXROUTE,
    IFA_FLAGS,
    IFA_LOCAL,
    IFF_UP,
    IFLA_ADDRESS,
    IFLA_AF_SPEC,
    IFLA_GROUP,
    IFLA_IFALIAS,
    IFLA_IFNAME,
    IFLA_INET6_ADDR_GEN_MODE,
    IFLA_INFO_DATA,
    IFLA_INFO_KIND,
    IFLA_LINK,
    IFLA_LINK_NETNSID,
    IFLA_LINKINFO,
    IFLA_MTU,
    IFLA_NET_NS_FD,
    IFLA_NUM_RX_QUEUES,
    IFLA_NUM_TX_QUEUES,
    IFLA_TXQLEN,
    NDA_DST,
    NDA_LLADDR,
    NTF_PROXY,
    RTA_DST,
    RTA_GATEWAY,
    RTA_OIF,
    RTA_PREFSRC,
    RTA_PRIORITY,
    RTA_TABLE,
    RTA_VIA,
    RTNH_F_ONLINK,
    VETH_INFO_PEER,
)
from vpccni.netlink.names import NEIGHBOUR_STATES, ROUTE_KINDS, RULE_KINDS, SCOPES
from vpccni.netlink.values import Address, IPAddress, Link, Neighbour, Request, Route, Rule
from vpccni.netlink.wire import AF_INET, AF_INET6, NLM_F_REQUEST, attribute, nested, text_attribute

_VERB_FLAGS = {
    "add": NLM_F_REQUEST | wire.NLM_F_CREATE | wire.NLM_F_EXCL,
    "replace": NLM_F_REQUEST | wire.NLM_F_CREATE | wire.NLM_F_REPLACE,
    "delete": NLM_F_REQUEST,
    "set": NLM_F_REQUEST,
}
_U32 = wire.U32_ATTRIBUTE.pack
_U8 = wire.U8_ATTRIBUTE.pack
_IPV4 = wire.IPV4_ATTRIBUTE.pack
_IPV6 = wire.IPV6_ATTRIBUTE.pack


def _address(kind: int, address: IPAddress) -> bytes:
    return _IPV4(8, kind, address.packed) if address.version == 4 else _IPV6(20, kind, address.packed)


def _mac(kind: int, mac: str) -> bytes:
    return attribute(kind, bytes.fromhex(mac.replace(":", "")))


def encode_route(request: Request, route: Route, seq: int, flags: int) -> bytes:
    """RTM_NEWROUTE or RTM_DELROUTE. The table goes into the attribute too, as it may be over 255."""
    dst, table = route.dst, route.table
    body = _U32(8, RTA_TABLE, table)
    length = dst.prefixlen
    if length:
        body += _address(RTA_DST, dst.network_address)
    if route.index:
        body += _U32(8, RTA_OIF, route.index)
    gateway = route.gateway
    if gateway is not None:
        if gateway.version == dst.version:
            body += _address(RTA_GATEWAY, gateway)
        else:
            family = AF_INET if gateway.version == 4 else AF_INET6
            body += attribute(RTA_VIA, wire.U16.pack(family) + gateway.packed)
    if route.prefsrc is not None:
        body += _address(RTA_PREFSRC, route.prefsrc)
    if route.metric:
        body += _U32(8, RTA_PRIORITY, route.metric)
    header = wire.ROUTE_HEADER.pack(
        28 + len(body),
        wire.RTM_DELROUTE if request.verb == "delete" else wire.RTM_NEWROUTE,
        _VERB_FLAGS[request.verb] | flags,
        seq,
        0,
        AF_INET if dst.version == 4 else AF_INET6,
        length,
        0,
        0,
        table if table < 256 else 0,
        route.protocol,
        SCOPES[route.scope],
        ROUTE_KINDS[route.kind],
        RTNH_F_ONLINK if route.onlink else 0,
    )
    return header + body


def encode_rule(request: Request, rule: Rule, seq: int, flags: int) -> bytes:
    """RTM_NEWRULE or RTM_DELRULE. The priority is always sent: absent, the kernel would choose or match any."""
    body = _U32(8, FRA_PRIORITY, rule.priority)
    table, src, dst = rule.table, rule.src, rule.dst
    if table > 255:
        body += _U32(8, FRA_TABLE, table)
    if src is not None and src.prefixlen:
        body += _address(FRA_SRC, src.network_address)
    if dst is not None and dst.prefixlen:
        body += _address(FRA_DST, dst.network_address)
    if rule.fwmask:
        body += _U32(8, FRA_FWMARK, rule.fwmark) + _U32(8, FRA_FWMASK, rule.fwmask)
    if rule.iif:
        body += text_attribute(FRA_IIFNAME, rule.iif)
    if rule.oif:
        body += text_attribute(FRA_OIFNAME, rule.oif)
    if rule.protocol:
        body += _U8(5, FRA_PROTOCOL, rule.protocol)
    if rule.suppress_prefixlength is not None:
        body += _U32(8, FRA_SUPPRESS_PREFIXLEN, rule.suppress_prefixlength)
    if rule.target:
        body += _U32(8, FRA_GOTO, rule.target)
    header = wire.ROUTE_HEADER.pack(
        28 + len(body),
        wire.RTM_DELRULE if request.verb == "delete" else wire.RTM_NEWRULE,
        _VERB_FLAGS[request.verb] | flags,
        seq,
        0,
        AF_INET if rule.family == 4 else AF_INET6,
        dst.prefixlen if dst is not None else 0,
        src.prefixlen if src is not None else 0,
        0,
        table if table < 256 else 0,
        0,
        0,
        RULE_KINDS[rule.kind],
        0,
    )
    return header + body


def encode_address(request: Request, address: Address, seq: int, flags: int) -> bytes:
    """RTM_NEWADDR or RTM_DELADDR."""
    interface = address.interface
    packed = interface.packed
    if interface.version == 4:
        family = AF_INET
        body = _IPV4(8, IFA_LOCAL, packed) + _IPV4(8, IFA_ADDRESS, packed)
    else:
        family = AF_INET6
        body = _IPV6(20, IFA_ADDRESS, packed)
    if address.broadcast is not None:
        body += _IPV4(8, IFA_BROADCAST, address.broadcast.packed)
    marks = (IFA_F_NODAD if address.nodad else 0) | (IFA_F_NOPREFIXROUTE if address.noprefixroute else 0)
    if marks:
        body += _U32(8, IFA_FLAGS, marks)
    header = wire.ADDRESS_HEADER.pack(
        24 + len(body),
        wire.RTM_DELADDR if request.verb == "delete" else wire.RTM_NEWADDR,
        _VERB_FLAGS[request.verb] | flags,
        seq,
        0,
        family,
        interface.network.prefixlen,
        0,
        SCOPES[address.scope],
        address.index,
    )
    return header + body


def encode_neighbour(request: Request, neighbour: Neighbour, seq: int, flags: int) -> bytes:
    """RTM_NEWNEIGH or RTM_DELNEIGH."""
    body = _address(NDA_DST, neighbour.dst)
    if neighbour.mac:
        body += _mac(NDA_LLADDR, neighbour.mac)
    header = wire.NEIGHBOUR_HEADER.pack(
        28 + len(body),
        wire.RTM_DELNEIGH if request.verb == "delete" else wire.RTM_NEWNEIGH,
        _VERB_FLAGS[request.verb] | flags,
        seq,
        0,
        AF_INET if neighbour.dst.version == 4 else AF_INET6,
        neighbour.index,
        NEIGHBOUR_STATES["permanent" if neighbour.permanent else "reachable"],
        NTF_PROXY if neighbour.proxy else 0,
        0,
    )
    return header + body


def encode_link(request: Request, link: Link, seq: int, flags: int) -> bytes:
    """RTM_NEWLINK, RTM_SETLINK or RTM_DELLINK."""
    verb, up, change = request.verb, 0, 0
    if verb == "add":
        kind = wire.RTM_NEWLINK
        body = _link_attributes(link) + _link_kind(link)
        up = change = IFF_UP if link.up else 0
    elif verb == "set":
        kind = wire.RTM_SETLINK
        fields = request.fields
        body = b"".join([_SETTERS[name](link) for name in fields if name != "up"])
        if not link.index:
            body += text_attribute(IFLA_IFNAME, link.name)
        if "up" in fields:
            up, change = (IFF_UP if link.up else 0), IFF_UP
    else:
        kind = wire.RTM_DELLINK
        if link.index:
            body = b""
        else:
            body = text_attribute(IFLA_IFNAME, link.name) if link.name else _U32(8, IFLA_GROUP, link.group)
    length = 32 + len(body)
    header = wire.LINK_HEADER.pack(length, kind, _VERB_FLAGS[verb] | flags, seq, 0, 0, 0, link.index, up, change)
    return header + body


def _link_attributes(link: Link) -> bytes:
    """What a link and a veth's peer have in common."""
    body = text_attribute(IFLA_IFNAME, link.name) if link.name else b""
    if link.mac:
        body += _mac(IFLA_ADDRESS, link.mac)
    if link.mtu:
        body += _U32(8, IFLA_MTU, link.mtu)
    if link.queues:
        # The default is one queue per possible CPU, shrunk later: a third of the whole creation, more on big nodes.
        body += _U32(8, IFLA_NUM_TX_QUEUES, link.queues) + _U32(8, IFLA_NUM_RX_QUEUES, link.queues)
    if link.txqlen is not None:
        body += _U32(8, IFLA_TXQLEN, link.txqlen)
    if link.group:
        body += _U32(8, IFLA_GROUP, link.group)
    if link.netns_fd is not None:
        body += _U32(8, IFLA_NET_NS_FD, link.netns_fd)
    if link.link_index:
        body += _U32(8, IFLA_LINK, link.link_index)
    if link.link_netnsid is not None:
        body += _U32(8, IFLA_LINK_NETNSID, link.link_netnsid & 0xFFFFFFFF)
    return body


def _link_kind(link: Link) -> bytes:
    if not link.kind:
        return b""
    body = attribute(IFLA_INFO_KIND, link.kind.encode())
    peer = link.peer
    if peer is not None:
        # ifinfomsg of the peer: only the index is read; an IFF_UP here is refused with ENOTCONN.
        fixed = wire.LINK_BODY.pack(0, 0, peer.index, 0, 0)
        body += nested(IFLA_INFO_DATA, attribute(VETH_INFO_PEER, fixed + _link_attributes(peer)))
    return nested(IFLA_LINKINFO, body)


def _alias(link: Link) -> bytes:
    return attribute(IFLA_IFALIAS, link.alias.encode())


def _addr_gen_mode(link: Link) -> bytes:
    mode = _U8(5, IFLA_INET6_ADDR_GEN_MODE, ADDR_GEN_NONE if link.addr_gen_none else ADDR_GEN_EUI64)
    return nested(IFLA_AF_SPEC, nested(AF_INET6, mode))


_SETTERS: dict[str, Callable[[Link], bytes]] = {
    "mtu": lambda link: _U32(8, IFLA_MTU, link.mtu),
    "mac": lambda link: _mac(IFLA_ADDRESS, link.mac),
    "alias": _alias,
    "group": lambda link: _U32(8, IFLA_GROUP, link.group),
    "txqlen": lambda link: _U32(8, IFLA_TXQLEN, link.txqlen),
    "addr_gen_none": _addr_gen_mode,
    "netns_fd": lambda link: _U32(8, IFLA_NET_NS_FD, link.netns_fd),
    "name": lambda link: text_attribute(IFLA_IFNAME, link.name),
}
