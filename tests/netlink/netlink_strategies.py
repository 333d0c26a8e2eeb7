# SPDX-License-Identifier: Apache-2.0
"""Hypothesis strategies for every netlink value."""

from __future__ import annotations

from ipaddress import IPv4Interface, IPv4Network, IPv6Interface, IPv6Network

from hypothesis import strategies as st

from vpccni.netlink.names import ROUTE_KINDS, RULE_KINDS
from vpccni.netlink.values import Address, Link, Neighbour, Route, Rule

u32 = st.integers(1, 2**32 - 1)
indexes = st.integers(1, 2**31 - 1)
protocols = st.integers(1, 255)
device_names = st.text("abcdefghijklmnopqrstuvwxyz0123456789.-", min_size=1, max_size=15)
macs = st.binary(min_size=6, max_size=6).map(lambda octets: octets.hex(":"))
ipv4, ipv6 = st.ip_addresses(v=4), st.ip_addresses(v=6)
addresses = ipv4 | ipv6


def networks(version: int) -> st.SearchStrategy:
    if version == 4:
        return st.builds(lambda a, n: IPv4Network((int(a), n), strict=False), ipv4, st.integers(0, 32))
    return st.builds(lambda a, n: IPv6Network((int(a), n), strict=False), ipv6, st.integers(0, 128))


def _ends(**more: st.SearchStrategy) -> st.SearchStrategy:
    return st.builds(
        Link,
        name=device_names,
        index=st.just(0) | indexes,
        mac=st.just("") | macs,
        mtu=st.just(0) | st.integers(68, 65535),
        group=st.just(0) | u32,
        txqlen=st.none() | st.integers(0, 10000),
        queues=st.integers(0, 64),
        netns_fd=st.none() | st.integers(0, 1000),
        **more,
    )


links = _ends(kind=st.sampled_from(["", "dummy"]), up=st.booleans(), link_index=st.just(0) | indexes) | _ends(
    kind=st.just("veth"), up=st.booleans(), peer=_ends(), link_netnsid=st.none() | st.integers(-1, 100)
)
interface_addresses = st.builds(
    Address,
    interface=st.builds(lambda a, n: IPv4Interface((int(a), n)), ipv4, st.integers(0, 32)),
    index=indexes,
    scope=st.sampled_from(["global", "link", "host", "site"]),
    broadcast=st.none() | ipv4,
    nodad=st.booleans(),
    noprefixroute=st.booleans(),
) | st.builds(
    Address,
    interface=st.builds(lambda a, n: IPv6Interface((int(a), n)), ipv6, st.integers(0, 128)),
    index=indexes,
    nodad=st.booleans(),
    noprefixroute=st.booleans(),
)
_REJECTING = ("blackhole", "unreachable", "prohibit", "throw")


def _routes(version: int) -> st.SearchStrategy:
    own = ipv4 if version == 4 else ipv6
    return st.builds(
        lambda kind, index, **rest: Route(kind=kind, index=0 if kind in _REJECTING else index, **rest),
        dst=networks(version),
        index=st.just(0) | indexes,
        gateway=st.none() | own | ipv6,
        table=u32,
        scope=st.sampled_from(["global", "link", "host", "nowhere", "site"]),
        protocol=protocols,
        prefsrc=st.none() | own,
        metric=st.just(0) | u32,
        kind=st.sampled_from(sorted(ROUTE_KINDS)),
        onlink=st.booleans(),
    )


routes = _routes(4) | _routes(6)


def _rules(version: int) -> st.SearchStrategy:
    return st.builds(
        lambda kind, target, **rest: Rule(kind=kind, target=target if kind == "goto" else 0, **rest),
        priority=st.just(0) | u32,
        table=u32,
        src=st.none() | networks(version),
        dst=st.none() | networks(version),
        fwmark=st.just(0) | u32,
        fwmask=st.just(0) | u32,
        iif=st.just("") | device_names,
        oif=st.just("") | device_names,
        protocol=st.just(0) | protocols,
        family=st.just(version),
        suppress_prefixlength=st.none() | st.integers(0, 128),
        kind=st.sampled_from(sorted(RULE_KINDS)),
        target=u32,
    )


rules = _rules(4) | _rules(6)
neighbours = st.builds(
    lambda proxy, permanent, **rest: Neighbour(proxy=proxy, permanent=proxy or permanent, **rest),
    dst=addresses,
    index=indexes,
    mac=st.just("") | macs,
    permanent=st.booleans(),
    proxy=st.booleans(),
)
values = links | interface_addresses | routes | rules | neighbours
