# SPDX-License-Identifier: Apache-2.0
"""Every value survives encoding and decoding, and pyroute2 reads our messages as we mean them."""

from __future__ import annotations

import struct
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from netlink_strategies import interface_addresses, links, neighbours, routes, rules, values
from pyroute2.netlink.rtnl.fibmsg import fibmsg
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.ndmsg import ndmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from vpccni.netlink import wire
from vpccni.netlink.codec import decode, encode
from vpccni.netlink.names import ROUTE_KINDS, RULE_KINDS, SCOPES
from vpccni.netlink.values import Link, Route, Rule, add, delete, set_link

_moderate = settings(max_examples=150, deadline=None)


@_moderate
@given(values)
def test_decoding_an_encoded_value_returns_it(value):
    assert decode(encode(add(value), 1)) == [value]


@_moderate
@given(st.lists(values, max_size=6))
def test_a_datagram_of_many_messages_decodes_in_order(several):
    datagram = b"".join(encode(add(value), seq, wire.NLM_F_ACK) for seq, value in enumerate(several))
    assert decode(datagram) == several
    assert [message.seq for message in wire.messages(datagram)] == list(range(len(several)))


@_moderate
@given(values)
def test_every_message_states_its_own_length_and_is_aligned(value):
    for request in (add(value), delete(value)):
        message = encode(request, 7)
        assert struct.unpack_from("=I", message)[0] == len(message)
        assert len(message) % 4 == 0


@_moderate
@given(values, st.data())
def test_a_cut_message_is_an_error_and_not_a_value(value, choice):
    message = encode(add(value), 1)
    with pytest.raises(ValueError, match="netlink"):
        decode(message[: choice.draw(st.integers(16, len(message) - 1))])


def _read_by_pyroute2(kind, value):
    message = kind(encode(add(value), 5))
    message.decode()
    assert message["header"]["sequence_number"] == 5
    return message


def _ip(message, name):
    text = message.get_attr(name)
    return None if text is None else ip_address(text)


@_moderate
@given(routes)
def test_pyroute2_reads_the_same_route(route):
    seen = _read_by_pyroute2(rtmsg, route)
    assert (seen["dst_len"], seen["proto"]) == (route.dst.prefixlen, route.protocol)
    assert (seen["scope"], seen["type"]) == (SCOPES[route.scope], ROUTE_KINDS[route.kind])
    assert seen.get_attr("RTA_TABLE") == route.table
    assert seen.get_attr("RTA_OIF") == (route.index or None)
    assert seen.get_attr("RTA_PRIORITY") == (route.metric or None)
    assert _ip(seen, "RTA_PREFSRC") == route.prefsrc
    if route.dst.prefixlen:
        assert _ip(seen, "RTA_DST") == route.dst.network_address
    if route.gateway and route.gateway.version == route.dst.version:
        assert _ip(seen, "RTA_GATEWAY") == route.gateway


@_moderate
@given(rules)
def test_pyroute2_reads_the_same_rule(rule):
    seen = _read_by_pyroute2(fibmsg, rule)
    assert seen["action"] == RULE_KINDS[rule.kind]
    assert (seen.get_attr("FRA_TABLE") or seen["table"]) == rule.table
    assert seen.get_attr("FRA_PRIORITY") == rule.priority
    assert _ip(seen, "FRA_SRC") == (rule.src.network_address if rule.src else None)
    assert _ip(seen, "FRA_DST") == (rule.dst.network_address if rule.dst else None)
    assert (seen.get_attr("FRA_FWMASK") or 0) == rule.fwmask
    assert (seen.get_attr("FRA_IIFNAME") or "") == rule.iif
    assert (seen.get_attr("FRA_OIFNAME") or "") == rule.oif
    assert (seen.get_attr("FRA_PROTOCOL") or 0) == rule.protocol
    assert seen.get_attr("FRA_SUPPRESS_PREFIXLEN") == rule.suppress_prefixlength


@_moderate
@given(links)
def test_pyroute2_reads_the_same_link_and_peer(link):
    seen = _read_by_pyroute2(ifinfmsg, link)
    assert seen["index"] == link.index
    for one, got in ((link, seen), (link.peer, _peer(seen))):
        if one is None:
            continue
        assert got.get_attr("IFLA_IFNAME") == one.name
        assert (got.get_attr("IFLA_ADDRESS") or "") == one.mac
        assert (got.get_attr("IFLA_MTU") or 0) == one.mtu
        assert (got.get_attr("IFLA_NUM_TX_QUEUES") or 0) == (got.get_attr("IFLA_NUM_RX_QUEUES") or 0) == one.queues
        assert got.get_attr("IFLA_NET_NS_FD") == one.netns_fd
        assert (got.get_attr("IFLA_GROUP") or 0) == one.group


def _peer(seen):
    kind = seen.get_attr("IFLA_LINKINFO")
    inside = kind.get_attr("IFLA_INFO_DATA") if kind else None
    return inside.get_attr("VETH_INFO_PEER") if inside else None


@_moderate
@given(interface_addresses)
def test_pyroute2_reads_the_same_address(address):
    seen = _read_by_pyroute2(ifaddrmsg, address)
    assert ip_address(seen.get_attr("IFA_ADDRESS")) == address.interface.ip
    assert (seen["prefixlen"], seen["index"]) == (address.interface.network.prefixlen, address.index)
    assert bool((seen.get_attr("IFA_FLAGS") or 0) & 2) == address.nodad


@_moderate
@given(neighbours)
def test_pyroute2_reads_the_same_neighbour(neighbour):
    seen = _read_by_pyroute2(ndmsg, neighbour)
    assert ip_address(seen.get_attr("NDA_DST")) == neighbour.dst
    assert (seen.get_attr("NDA_LLADDR") or "") == neighbour.mac
    assert bool(seen["flags"] & 8) == neighbour.proxy
    assert seen["state"] == (0x80 if neighbour.permanent else 0x02)


def test_a_set_carries_only_the_fields_that_were_asked_for():
    full = Link("eth0", index=3, mtu=1500, alias="a", group=4, mac="02:00:00:00:00:01", addr_gen_none=True)
    assert decode(encode(set_link(full, "alias", "mtu"), 1)) == [Link("", index=3, mtu=1500, alias="a")]
    assert decode(encode(set_link(full), 1)) == [Link("", *_tail(full))]


def _tail(link):
    return (
        link.index,
        link.kind,
        link.mac,
        link.mtu,
        link.up,
        link.alias,
        link.group,
        None,
        0,
        None,
        None,
        0,
        None,
        True,
    )


def test_features_that_a_type_cannot_express_keep_a_foreign_object_from_looking_like_ours():
    ours = Rule(512, 254, dst=ip_network("10.0.0.1/32"))
    message = bytearray(encode(add(ours), 1))
    message += wire.attribute(22, b"\x06")  # FRA_IP_PROTO tcp
    message[0:4] = struct.pack("=I", len(message))
    assert decode(bytes(message)) == [Rule(512, 254, dst=ours.dst, unmodelled=("ipproto",))]
    route = Route(ip_network("10.0.0.0/8"), 0)
    hop = struct.pack("=HBBi", 16, 0, 0, 4) + wire.IPV4_ATTRIBUTE.pack(8, 5, bytes([10, 0, 0, 1]))
    message = bytearray(encode(add(route), 1) + wire.attribute(9, hop + hop))
    message[0:4] = struct.pack("=I", len(message))
    (seen,) = decode(bytes(message))
    assert (seen.index, str(seen.gateway), seen.unmodelled) == (4, "10.0.0.1", ("multipath",))
    with pytest.raises(ValueError, match="multipath"):
        add(seen)
