# SPDX-License-Identifier: Apache-2.0
"""Egress of the other address family: a second interface with a node-local address, translated by one rule of the node.

Knows the objects of Amazon VPC CNI 1.23's egress plugin (`v4if0` in an IPv6 cluster, `v6if0` in an IPv4 cluster), which
local address a pod gets, and the firewall rules of the range. Must never know how packets or requests travel. `podnet`
takes the objects of a pod from here, `ipamd` the addresses and the rules.

The family is that of the address: `conventions.is_egress` tells a local address from a pod's VPC address.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Interface, IPv6Address, IPv6Interface

from vpccni.core import conventions as c
from vpccni.core.firewall.snat import RANDOM_FLAGS, ChainRules, IptablesRules, TableRules
from vpccni.errors import NoAddress
from vpccni.netlink.values import Address, IPAddress, Link, Neighbour, Request, Route, Value, add, set_link

Sysctl = tuple[str, str]

MULTICAST = {4: "224.0.0.0/4", 6: "ff00::/8"}
_UNREACHABLE = {4: "icmp-port-unreachable", 6: "icmp6-port-unreachable"}


class LocalAddresses:
    """The node-local addresses of one family: who holds which. The lowest free one after the last that was given.

    Round-robin as the `host-local` plugin does it, so that an address rests for as long as possible.
    """

    def __init__(self, version: int) -> None:
        """`version`: the IP version of the local addresses, the one that the pods' own addresses are not."""
        network = c.EGRESS_RANGES[version]
        self._first, self._end = c.egress_gateway(version) + 1, network.broadcast_address
        if version == 6:
            self._end += 1  # IPv6 has no broadcast address
        self._last = self._first - 1
        self._held: set[IPAddress] = set()

    def take(self) -> IPAddress:
        """A free address, which is held from now on. Raises NoAddress (`egress-exhausted`)."""
        size = int(self._end) - int(self._first)
        for step in range(1, size + 1):
            offset = (int(self._last) - int(self._first) + step) % size
            address = self._first + offset
            if address not in self._held:
                self._held.add(address)
                self._last = address
                return address
        raise NoAddress(
            "assign a local address for egress",
            f"all {size} of them are held",
            code="egress-exhausted",
            hint="lower the node's max pods, or remove stale host routes to the range: ip route show proto boot",
            evidence={"held": len(self._held)},
        )

    def hold(self, addresses: Iterable[IPAddress]) -> None:
        """These are in use, whoever gave them, the last one last: recovered grants, pods that another program wired."""
        for address in addresses:
            self._held.add(address)
            self._last = address

    def give_back(self, address: IPAddress) -> None:
        """Nobody uses it any more."""
        self._held.discard(address)


def pod_sysctls(address: IPAddress, name: str, main: str) -> tuple[Sysctl, ...]:
    """In the pod: IPv6 on where it is needed without waiting for duplicate address detection, and off on `main`."""
    if address.version == 4:
        return ()
    values = [(main, "disable_ipv6", "1"), ("lo", "disable_ipv6", "0")]
    values += [(name, "disable_ipv6", "0"), (name, "accept_dad", "0")]
    return tuple((f"net/ipv6/conf/{device}/{key}", value) for device, key, value in values)


def host_sysctls(name: str) -> tuple[Sysctl, ...]:
    """On the host end. Its link-local address is a pod's gateway, and must answer before detection would be over."""
    return ((f"net/ipv6/conf/{name}/accept_ra", "0"), (f"net/ipv6/conf/{name}/accept_dad", "0"))


def inside(address: IPAddress, link: Link, host_mac: str) -> tuple[Request, ...]:
    """The pod's side: up, address, the way to the gateway, default route."""
    index, name = link.index, link.name
    up = set_link(Link(name, index=index, up=True), "up")
    network = c.EGRESS_RANGES[address.version]
    if address.version == 4:
        # Not the kernel's connected route: pods reach each other through the host or, as the host refuses it, not.
        brd = network.broadcast_address
        own = Address(IPv4Interface((address, network.prefixlen)), index, name, broadcast=brd, noprefixroute=True)  # type: ignore[arg-type]
        gateway = c.egress_gateway(4)
        return (
            up,
            add(own),
            add(Route(c.host_network(gateway), index, name, scope="link", prefsrc=address)),
            add(Route(network, index, name, gateway=gateway, prefsrc=address)),
            add(Route(c.everything(4), index, name, gateway=gateway)),
        )
    gateway = link_local(host_mac)
    return (
        up,
        add(Address(IPv6Interface((address, network.prefixlen)), index, name, nodad=True)),
        add(Route(c.everything(6), index, name, gateway=gateway)),
        add(Neighbour(gateway, index, name, mac=host_mac)),
    )


def outside(address: IPAddress, link: Link) -> tuple[Value, ...]:
    """The host's address on the veth (IPv4 only: the same one on each, seen by nobody but its pod)."""
    if address.version == 6:
        return ()
    return (Address(IPv4Interface((c.egress_gateway(4), 32)), link.index, link.name, scope="link"),)


def link_local(mac: str) -> IPv6Address:
    """The address that the kernel derives from a MAC (RFC 4291, appendix A)."""
    octets = bytes.fromhex(mac.replace(":", ""))
    identifier = bytes([octets[0] ^ 2, *octets[1:3], 0xFF, 0xFE, *octets[3:]])
    return IPv6Address(bytes.fromhex("fe80000000000000") + identifier)


def rules(node_address: IPAddress, randomize: str = "prng") -> IptablesRules:
    """The rules of a node whose pods leave with `node_address`: one translation for the range, one refusal.

    Amazon VPC CNI 1.23 makes a chain of two rules for each pod; the range is the node's own, so one rule says the same.
    """
    version = node_address.version
    network = c.EGRESS_RANGES[version]
    flag = RANDOM_FLAGS.get(randomize, RANDOM_FLAGS["prng"])
    translate = (
        f"-A POSTROUTING -s {network} ! -d {MULTICAST[version]} "
        f'-m comment --comment "{c.EGRESS_COMMENT}" -j SNAT --to-source {node_address}{flag}'
    )
    refuse = (
        f"-A FORWARD -d {network} -m conntrack --ctstate NEW "
        f'-m comment --comment "{c.EGRESS_REJECT_COMMENTS[version]}" '
        f"-j REJECT --reject-with {_UNREACHABLE[version]}"
    )
    nat = TableRules("nat", (ChainRules("POSTROUTING", (translate,), owned=False),))
    # First in its chain, as upstream: what accepts traffic of pods in general must not come before it.
    forward = TableRules("filter", (ChainRules("FORWARD", (refuse,), owned=False, first=True),))
    return IptablesRules((nat, forward), version)


def held_in(networks: Iterable[Route]) -> list[IPAddress]:
    """The local addresses that a host route leads to, whoever made it."""
    ranges = tuple(c.EGRESS_RANGES.values())
    found = [route.dst for route in networks if route.dst.prefixlen == route.dst.max_prefixlen]
    return [each.network_address for each in found if any(each.network_address in one for one in ranges)]
