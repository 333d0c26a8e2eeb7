# SPDX-License-Identifier: Apache-2.0
"""rtnetlink messages to values.

Knows the same layouts as `encode`, and tolerates whatever else the kernel reports: what a type cannot express is named
in its `unmodelled`, so that a foreign object is never taken for one of ours. Must never touch a socket. `codec` calls
it. Names of devices are not in these messages (except links); callers pass index -> name.
"""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from sys import byteorder

from vpccni.netlink import attribute_numbers as n
from vpccni.netlink import wire
from vpccni.netlink.names import NEIGHBOUR_STATE_NAMES, ROUTE_KIND_NAMES, RULE_KIND_NAMES, SCOPE_NAMES
from vpccni.netlink.values import Address, IPAddress, IPNetwork, Link, Neighbour, Route, Rule
from vpccni.netlink.wire import AF_INET, AF_INET6, attributes

Names = Mapping[int, str]

_UNSET32 = b"\xff\xff\xff\xff"
_REJECTING = ("blackhole", "unreachable", "prohibit", "throw")
# Attributes that narrow or change what a route or rule does, beyond the fields of Route and Rule.
_ROUTE_FEATURES = {
    n.RTA_SRC: "from",
    n.RTA_METRICS: "metrics",
    n.RTA_MULTIPATH: "multipath",
    n.RTA_FLOW: "realms",
    n.RTA_ENCAP: "encap",
}
_RULE_FEATURES = {
    n.FRA_FLOW: "realms",
    n.FRA_TUN_ID: "tun_id",
    n.FRA_SUPPRESS_IFGROUP: "suppress_ifgroup",
    n.FRA_L3MDEV: "l3mdev",
    n.FRA_UID_RANGE: "uidrange",
    n.FRA_IP_PROTO: "ipproto",
    n.FRA_SPORT: "sport",
    n.FRA_DPORT: "dport",
    n.FRA_DSCP: "dscp",
    n.FRA_FLOWLABEL: "flowlabel",
}
# Values with which the kernel reports "not set" for features that it always lists.
_ABSENT = {n.FRA_SUPPRESS_IFGROUP: _UNSET32, n.FRA_L3MDEV: b"\0", n.FRA_IP_PROTO: b"\0"}


def _number(payload: bytes | None, absent: int = 0) -> int:
    return absent if payload is None else int.from_bytes(payload, byteorder)


def _text(payload: bytes | None) -> str:
    return "" if payload is None else payload.rstrip(b"\0").decode("utf-8", "replace")


def _ip(payload: bytes) -> IPAddress:
    return IPv4Address(payload) if len(payload) == 4 else IPv6Address(payload)


def _optional_ip(payload: bytes | None) -> IPAddress | None:
    return None if payload is None else _ip(payload)


def _network(family: int, payload: bytes | None, length: int) -> IPNetwork:
    if family == AF_INET:
        return IPv4Network((payload or b"\0\0\0\0", length))
    return IPv6Network((payload or bytes(16), length))


def _mac(payload: bytes | None) -> str:
    return "" if payload is None else payload.hex(":")


def decode_link(buffer: bytes, start: int, end: int, _names: Names) -> Link | None:
    """A NEWLINK or DELLINK (also one that we wrote ourselves). None for a bridge port's second announcement."""
    family, _device, index, flags, _change = wire.LINK_BODY.unpack_from(buffer, start)
    return None if family else _link(index, flags, attributes(buffer, start + 16, end))


def _link(index: int, flags: int, found: dict[int, bytes]) -> Link:
    kind, peer = "", None
    details = found.get(n.IFLA_LINKINFO)
    if details is not None:
        inside = attributes(details, 0, len(details))
        kind = _text(inside.get(n.IFLA_INFO_KIND))
        peer = _peer(inside[n.IFLA_INFO_DATA]) if kind == "veth" and n.IFLA_INFO_DATA in inside else None
    netnsid = found.get(n.IFLA_LINK_NETNSID)
    fd, txqlen = found.get(n.IFLA_NET_NS_FD), found.get(n.IFLA_TXQLEN)
    return Link(
        name=_text(found.get(n.IFLA_IFNAME)),
        index=index,
        kind=kind,
        mac=_mac(found.get(n.IFLA_ADDRESS)),
        mtu=_number(found.get(n.IFLA_MTU)),
        up=bool(flags & n.IFF_UP),
        alias=_text(found.get(n.IFLA_IFALIAS)),
        group=_number(found.get(n.IFLA_GROUP)),
        txqlen=None if txqlen is None else _number(txqlen),
        queues=_number(found.get(n.IFLA_NUM_TX_QUEUES)),
        netns_fd=None if fd is None else _number(fd),
        peer=peer,
        link_index=_number(found.get(n.IFLA_LINK)),
        link_netnsid=None if netnsid is None else wire.S32.unpack(netnsid)[0],
        addr_gen_none=_addr_gen_none(found.get(n.IFLA_AF_SPEC)),
        lower_up=bool(flags & n.IFF_LOWER_UP),
    )


def _peer(veth: bytes) -> Link | None:
    payload = attributes(veth, 0, len(veth)).get(n.VETH_INFO_PEER)
    if payload is None:
        return None
    _family, _device, index, flags, _change = wire.LINK_BODY.unpack_from(payload, 0)
    return _link(index, flags, attributes(payload, 16, len(payload)))


def _addr_gen_none(families: bytes | None) -> bool:
    if families is None:
        return False
    ipv6 = attributes(families, 0, len(families)).get(AF_INET6)
    return ipv6 is not None and attributes(ipv6, 0, len(ipv6)).get(n.IFLA_INET6_ADDR_GEN_MODE) == b"\x01"


def decode_address(buffer: bytes, start: int, end: int, names: Names) -> Address | None:
    """A NEWADDR or DELADDR. A point-to-point peer address is left out."""
    family, length, _flags, scope, index = wire.ADDRESS_BODY.unpack_from(buffer, start)
    if family not in (AF_INET, AF_INET6):
        return None
    found = attributes(buffer, start + 8, end)
    packed = found.get(n.IFA_LOCAL) or found[n.IFA_ADDRESS]
    flags = _number(found.get(n.IFA_FLAGS))
    broadcast = found.get(n.IFA_BROADCAST)
    return Address(
        interface=IPv4Interface((packed, length)) if family == AF_INET else IPv6Interface((packed, length)),
        index=index,
        dev=names.get(index, ""),
        scope=SCOPE_NAMES.get(scope) or str(scope),
        broadcast=None if broadcast is None else IPv4Address(broadcast),
        nodad=bool(flags & n.IFA_F_NODAD),
        noprefixroute=bool(flags & n.IFA_F_NOPREFIXROUTE),
    )


def decode_route(buffer: bytes, start: int, end: int, names: Names) -> Route | None:
    """A NEWROUTE or DELROUTE. Of a multipath route the first next hop is shown, and `multipath` is in `unmodelled`."""
    family, length, _src, tos, table, protocol, scope, kind, flags = wire.ROUTE_BODY.unpack_from(buffer, start)
    if family not in (AF_INET, AF_INET6):
        return None
    found = attributes(buffer, start + 12, end)
    unmodelled = tuple(name for number, name in _ROUTE_FEATURES.items() if number in found) + (("tos",) if tos else ())
    index, kind_name = _number(found.get(n.RTA_OIF)), ROUTE_KIND_NAMES.get(kind) or str(kind)
    if n.RTA_MULTIPATH in found:
        hop = found[n.RTA_MULTIPATH]
        hop_length, _flags, _hops, index = wire.NEXT_HOP.unpack_from(hop, 0)
        found |= attributes(hop, 8, hop_length)
    if kind_name in _REJECTING:
        index = 0  # IPv6 reports such routes on lo, whatever was asked for
    via = found.get(n.RTA_VIA)
    return Route(
        dst=_network(family, found.get(n.RTA_DST), length),
        index=index,
        dev=names.get(index, ""),
        gateway=_optional_ip(found.get(n.RTA_GATEWAY)) if via is None else _ip(via[2:]),
        table=_number(found.get(n.RTA_TABLE), table),
        scope=SCOPE_NAMES.get(scope) or str(scope),
        protocol=protocol,
        prefsrc=_optional_ip(found.get(n.RTA_PREFSRC)),
        metric=_number(found.get(n.RTA_PRIORITY)),
        kind=kind_name,
        onlink=bool(flags & n.RTNH_F_ONLINK),
        unmodelled=unmodelled,
    )


def decode_rule(buffer: bytes, start: int, end: int, _names: Names) -> Rule | None:
    """A NEWRULE or DELRULE."""
    family, dst_length, src_length, tos, table, _r1, _r2, action, flags = wire.ROUTE_BODY.unpack_from(buffer, start)
    if family not in (AF_INET, AF_INET6):
        return None
    found = attributes(buffer, start + 12, end)
    unmodelled = ["not"] if flags & n.FIB_RULE_INVERT else []
    unmodelled += ["tos"] if tos else []
    unmodelled += [
        name for number, name in _RULE_FEATURES.items() if number in found and found[number] != _ABSENT.get(number)
    ]
    src, dst, suppress = found.get(n.FRA_SRC), found.get(n.FRA_DST), found.get(n.FRA_SUPPRESS_PREFIXLEN)
    return Rule(
        priority=_number(found.get(n.FRA_PRIORITY)),
        table=_number(found.get(n.FRA_TABLE), table),
        src=None if src is None else _network(family, src, src_length),
        dst=None if dst is None else _network(family, dst, dst_length),
        fwmark=_number(found.get(n.FRA_FWMARK)),
        fwmask=_number(found.get(n.FRA_FWMASK)),
        iif=_text(found.get(n.FRA_IIFNAME)),
        oif=_text(found.get(n.FRA_OIFNAME)),
        protocol=_number(found.get(n.FRA_PROTOCOL)),
        family=4 if family == AF_INET else 6,
        suppress_prefixlength=None if suppress in (None, _UNSET32) else _number(suppress),
        kind=RULE_KIND_NAMES.get(action) or str(action),
        target=_number(found.get(n.FRA_GOTO)),
        unmodelled=tuple(unmodelled),
    )


def decode_neighbour(buffer: bytes, start: int, end: int, names: Names) -> Neighbour | None:
    """A NEWNEIGH or DELNEIGH of the IP families (a bridge's forwarding entries are None)."""
    family, index, state, flags, _kind = wire.NEIGHBOUR_BODY.unpack_from(buffer, start)
    if family not in (AF_INET, AF_INET6):
        return None
    found = attributes(buffer, start + 12, end)
    if n.NDA_DST not in found:
        return None
    proxy = bool(flags & n.NTF_PROXY)
    name = NEIGHBOUR_STATE_NAMES.get(state) or str(state)
    return Neighbour(
        dst=_ip(found[n.NDA_DST]),
        index=index,
        dev=names.get(index, ""),
        mac=_mac(found.get(n.NDA_LLADDR)),
        permanent=proxy or name == "permanent",  # a proxy entry has no state; it stays until removed
        proxy=proxy,
        state=name,
    )
