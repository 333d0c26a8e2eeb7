# SPDX-License-Identifier: Apache-2.0
"""What an expression of nftables says about a packet: a field of it, of its connection or of the machine.

Knows which number or name each expression stands for, and how its constants are written. Must never guess: what it
does not know is `NotModelled`, and what a packet does not have (the ports of a TCP packet in one of UDP) `Absent`,
which ends a rule in the kernel as well (NFT_BREAK). `walk.nftmatch` compares, `walk.nft` acts. Source: nft(8),
libnftables-json(5).
"""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_address, ip_network
from typing import Any

from vpccni.core.walk.meeting import (
    ANY_PORT,
    CONFIRMED,
    DNAT,
    FULL,
    PROTOCOLS,
    SEEN_REPLY,
    SNAT,
    Draws,
    Header,
    Meeting,
)
from vpccni.netlink.values import IPAddress

# A field as its kind says (a number; devices are names, and a device that there is not is ""), or several of them.
Value = int | str | tuple[Any, ...]
Kind = str | tuple[Any, ...]
Field = tuple[Kind, Value]

NAMES: Mapping[str, Mapping[str, int]] = {
    "protocol": {"icmp": 1, "igmp": 2, "tcp": 6, "udp": 17, "dccp": 33, "gre": 47, "esp": 50, "ah": 51, "icmpv6": 58,
                 "ipv6-icmp": 58, "sctp": 132, "udplite": 136},
    "nfproto": {"ipv4": 2, "ipv6": 10},
    "ethertype": {"ip": 0x0800, "arp": 0x0806, "ip6": 0x86DD, "vlan": 0x8100},
    "state": {"invalid": 1, "established": 2, "related": 4, "new": 8, "untracked": 64},
    "status": {"expected": 1, "seen-reply": SEEN_REPLY, "assured": 4, "confirmed": CONFIRMED, "snat": SNAT,
               "dnat": DNAT, "dying": 0x200},
    "direction": {"original": 0, "reply": 1},
    "tcp-flags": {"fin": 1, "syn": 2, "rst": 4, "psh": 8, "ack": 16, "urg": 32, "ecn": 64, "cwr": 128},
    "icmp-type": {"echo-reply": 0, "destination-unreachable": 3, "redirect": 5, "echo-request": 8, "time-exceeded": 11,
                  "parameter-problem": 12},
    "icmp6-type": {"destination-unreachable": 1, "packet-too-big": 2, "time-exceeded": 3, "parameter-problem": 4,
                   "echo-request": 128, "echo-reply": 129, "nd-router-solicit": 133, "nd-router-advert": 134,
                   "nd-neighbor-solicit": 135, "nd-neighbor-advert": 136},
    "address-type": {"unspec": 0, "unicast": 1, "local": 2, "broadcast": 3, "anycast": 4, "multicast": 5,
                     "blackhole": 6, "unreachable": 7, "prohibit": 8},
}  # fmt: skip
_FLAGS = ("state", "status", "tcp-flags")
_SYN, _ACK = 2, 16


class NotModelled(Exception):
    """An expression that this walk does not know."""


class Absent(Exception):
    """The packet has no such field: the rule ends here without an effect."""


def evaluate(expression: Any, meeting: Meeting, draws: Draws, rule: str) -> Field:
    """(Kind, value) of an expression that is no constant."""
    if not isinstance(expression, Mapping) or len(expression) != 1:
        raise NotModelled(_brief(expression))
    (name, body), header = next(iter(expression.items())), meeting.header
    match name:
        case "payload":
            return _payload(body, header, meeting)
        case "meta":
            return _meta(body["key"], meeting)
        case "ct":
            return _ct(body, meeting)
        case "fib":
            return _fib(body, meeting)
        case "concat":
            parts = [evaluate(each, meeting, draws, rule) for each in body]
            return tuple(kind for kind, _ in parts), tuple(value for _, value in parts)
        case "&" | "|" | "^" | "<<" | ">>":
            return _computed(name, body, meeting, draws, rule)
        case "numgen" | "jhash" | "symhash":
            return "number", drawn(body, draws, rule, ())
    raise NotModelled(_brief(expression))


def drawn(body: Mapping[str, Any], draws: Draws, rule: str, options: tuple[str, ...]) -> int:
    """A number by chance, or by a hash that only the kernel knows; `options` are what follows from each."""
    count, first = int(body["mod"]), int(body.get("offset", 0))
    names = options if len(options) == count else tuple(str(first + number) for number in range(count))
    return first + draws.among(rule, names)


def number(kind: Kind, text: Any) -> int:
    """A constant of a kind as a number; flags may be several."""
    if isinstance(text, int):  # or a bool
        return int(text)
    if isinstance(text, list) and kind in _FLAGS:
        return sum(number(kind, each) for each in text)
    if isinstance(text, Mapping) and "|" in text and kind in _FLAGS:
        return sum({number(kind, each) for each in text["|"]})
    if isinstance(text, str):
        if kind == "address":
            return int(ip_address(text))
        known = NAMES.get(kind, {}) if isinstance(kind, str) else {}
        if text in known:
            return known[text]
        try:
            return int(text, 0)
        except ValueError:
            pass
    raise NotModelled(f"{_brief(text)} as {kind}")


def network(text: Mapping[str, Any]) -> tuple[int, int]:
    """The first and the last address of a prefix."""
    found = ip_network((text["addr"], int(text["len"])), strict=False)
    return int(found.network_address), int(found.broadcast_address)


def address(version: int, value: Value) -> IPAddress:
    """A number as an address of a packet's IP version; `Absent` when it is none of that version."""
    if isinstance(value, str):
        found = ip_address(value)
        if found.version != version:
            raise Absent
        return found
    assert isinstance(value, int)
    return ip_address(value.to_bytes(4 if version == 4 else 16, "big"))


def known(port: int) -> int:
    """A port, unless the kernel draws it."""
    if port == ANY_PORT:
        raise NotModelled("a port that the kernel draws")
    return port


def _payload(body: Mapping[str, Any], header: Header, meeting: Meeting) -> Field:
    protocol, what = str(body.get("protocol", "")), str(body.get("field", ""))
    found: Field | None = None
    if protocol in ("ip", "ip6"):
        found = _network(protocol, what, header)
    elif protocol in ("th", "tcp", "udp"):
        found = _transport(protocol, what, header, meeting)
    elif protocol in ("icmp", "icmpv6"):
        found = _echo(protocol, what, header, meeting)
    elif protocol in ("sctp", "dccp", "udplite", "arp", "vlan"):
        raise Absent
    if found is None:
        raise NotModelled(f"{protocol} {what}".strip() or f"payload {body}")
    return found


def _network(protocol: str, what: str, header: Header) -> Field | None:
    if header.target.version != (4 if protocol == "ip" else 6):
        raise Absent
    match what:
        case "saddr" | "daddr":
            return "address", int(header.source if what == "saddr" else header.target)
        case "protocol" | "nexthdr":
            return "protocol", PROTOCOLS[header.protocol]
        case "version":
            return "number", header.target.version
    return None


def _transport(protocol: str, what: str, header: Header, meeting: Meeting) -> Field | None:
    if header.is_echo or protocol not in ("th", header.protocol):
        raise Absent
    if what in ("sport", "dport"):
        return "port", known(header.source_port if what == "sport" else header.target_port)
    return ("tcp-flags", _SYN | _ACK if meeting.reply else _SYN) if (protocol, what) == ("tcp", "flags") else None


def _echo(protocol: str, what: str, header: Header, meeting: Meeting) -> Field | None:
    kind = "icmp" if protocol == "icmp" else "icmp6"
    if header.protocol != kind:
        raise Absent
    match what:
        case "type":
            asked, answered = (8, 0) if kind == "icmp" else (128, 129)
            return f"{kind}-type", answered if meeting.reply else asked
        case "code":
            return "number", 0
        case "id":
            return "number", known(header.source_port or header.target_port)
    return None


def _meta(key: str, meeting: Meeting) -> Field:
    header, version = meeting.header, meeting.header.target.version
    match key:
        case "mark":
            return "number", meeting.mark
        case "l4proto":
            return "protocol", PROTOCOLS[header.protocol]
        case "nfproto":
            return "nfproto", 2 if version == 4 else 10
        case "protocol":
            return "ethertype", 0x0800 if version == 4 else 0x86DD
        case "iif" | "oif" | "iifname" | "oifname" | "iifgroup" | "oifgroup":
            device = meeting.iif if key.startswith("i") else meeting.oif
            if not key.endswith("group"):
                return "name" if key.endswith("name") else "device", device
            link = meeting.machine.link(device) if device else None
            if link is None:
                raise Absent
            return "number", link.group
    raise NotModelled(f"meta {key}")


def _ct(body: Mapping[str, Any], meeting: Meeting) -> Field:
    key = body["key"]
    if key == "state":
        return "state", NAMES["state"][meeting.state]
    if meeting.original is None or meeting.untracked:
        raise Absent
    match key:
        case "mark":
            return "number", meeting.ct_mark
        case "status":
            return "status", meeting.status
        case "direction":
            return "direction", int(meeting.reply)
        case "l3proto":
            return "nfproto", 2 if meeting.original.target.version == 4 else 10
        case "protocol":
            return "protocol", PROTOCOLS[meeting.original.protocol]
    family, _, what = key.rpartition(" ")
    if body.get("dir") != "original" or what not in ("saddr", "daddr", "proto-src", "proto-dst"):
        raise NotModelled(f"ct {body.get('dir', '')} {key}".replace("  ", " "))
    original = meeting.original
    if family and family != ("ip" if original.target.version == 4 else "ip6"):
        raise Absent
    if what.startswith("proto"):
        return "port", known(original.source_port if what == "proto-src" else original.target_port)
    return "address", int(original.source if what == "saddr" else original.target)


def _fib(body: Mapping[str, Any], meeting: Meeting) -> Field:
    """`fib`: the type of an address, or the device by which it would be reached (nft_fib_ipv4.c)."""
    header, flags = meeting.header, body["flags"]
    by_source = "saddr" in flags
    subject = header.source if by_source else header.target
    device = meeting.iif if "iif" in flags else meeting.oif if "oif" in flags else ""
    if body["result"] == "type":
        return "address-type", NAMES["address-type"].get(meeting.machine.address_type(subject, device), 0)
    other = header.target if by_source else header.source
    found = meeting.machine.way_out(other, subject, meeting.mark if "mark" in flags else 0)
    found = "" if device and found != device else found
    return "name" if body["result"] == "oifname" else "device", found


def _computed(name: str, body: Any, meeting: Meeting, draws: Draws, rule: str) -> Field:
    kind, value = evaluate(body[0], meeting, draws, rule)
    if not isinstance(value, int):
        raise NotModelled(_brief({name: body}))
    for right in body[1:]:
        if isinstance(right, Mapping) and not {"|"} & right.keys():
            _, other = evaluate(right, meeting, draws, rule)
            if not isinstance(other, int):
                raise NotModelled(_brief({name: body}))
        else:
            other = number(kind, right)
        value = {
            "&": value & other, "|": value | other, "^": value ^ other,
            "<<": (value << other if name == "<<" else 0) & FULL, ">>": value >> other if name == ">>" else 0,
        }[name]  # fmt: skip
    return kind, value


def _brief(expression: Any) -> str:
    """An expression in few words."""
    if isinstance(expression, Mapping) and len(expression) == 1:
        name, body = next(iter(expression.items()))
        key = body.get("key", "") if isinstance(body, Mapping) else ""
        return f"{name} {key}".strip()
    return str(expression)[:60]
