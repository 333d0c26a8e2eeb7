# SPDX-License-Identifier: Apache-2.0
"""The kernel objects of the VPC router and of what lies outside: namespaces, ports, routes, neighbours.

Knows one namespace that routes between ports, and how a port is cabled to an instance. Must never know EC2's vocabulary
or decide who owns an address. `lab.fabric` tells it what to make.

The router owns every link of the box and has none to the machine, so nothing leaves. It sends every owned address and
prefix to the owner's MAC without asking anybody, because an instance does not answer for its pods: each port has one
next hop per family, a permanent neighbour, so that a /80 costs as much as a single address. Towards the instances it
answers ARP for every owned IPv4 address itself (proxy_arp), as a VPC does; for IPv6 `discovery` does the same, and the
gateway of every subnet is fe80:ec2::1.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from pathlib import Path

from vpccni.aws.values import IPAddress, IPNetwork, alone
from vpccni.errors import HostError
from vpccni.lab import ruleset
from vpccni.lab.launch import SYSTEM_PATH
from vpccni.netlink import namespace
from vpccni.netlink.namespace import inside
from vpccni.netlink.socket import RouteSocket
from vpccni.netlink.values import Address, Link, Neighbour, Request, Route, add, delete, replace, set_link

JUMBO_MTU = 9001  # inside a VPC
INTERNET_MTU = 1500  # through an internet gateway, VPN or transit gateway
LOOPBACK_INDEX = 1  # in every namespace
FIRST_PORT_INDEX = 1000
# What a port's far end is called as a next hop, by family, and what the hosts outside call the router. Both ends know
# each other's MAC, so nobody ever asks who has them.
FAR_END: dict[int, IPAddress] = {4: IPv4Address("169.254.254.2"), 6: IPv6Address("fe80::2")}
OUTSIDE_GATEWAY: dict[int, IPAddress] = {4: IPv4Address("169.254.254.1"), 6: IPv6Address("fe80::1")}
IPV6_GATEWAY = IPv6Address("fe80:ec2::1")  # of every subnet
EVERYWHERE: dict[int, IPNetwork] = {4: IPv4Network("0.0.0.0/0"), 6: IPv6Network("::/0")}
SERVICE_ADDRESSES = (IPv4Address("169.254.169.254"), IPv4Address("169.254.169.250"))  # metadata, EC2 endpoint

_ROUTER_SYSCTLS = {
    "net/ipv4/ip_forward": "1",
    "net/ipv4/conf/all/rp_filter": "0",
    "net/ipv4/conf/default/rp_filter": "0",
    "net/ipv4/conf/all/send_redirects": "0",
    "net/ipv4/conf/default/send_redirects": "0",
    "net/ipv4/conf/default/proxy_arp": "1",
}
_WITHOUT_IPV6 = {
    "net/ipv6/conf/all/disable_ipv6": "1",
    "net/ipv6/conf/default/disable_ipv6": "1",
}
_WITH_IPV6 = {
    "net/ipv6/conf/all/forwarding": "1",
    "net/ipv6/conf/default/forwarding": "1",
    "net/ipv6/conf/all/accept_redirects": "0",
    "net/ipv6/conf/default/accept_redirects": "0",
    "net/ipv6/conf/default/accept_dad": "0",  # nobody else can have the gateway's address
}


@dataclass(frozen=True, slots=True)
class Port:
    """The router's end of an interface's cable."""

    name: str
    index: int
    mac: str  # of the far end
    own_mac: str = ""  # known where IPv6 is spoken


def owned_route(network: IPNetwork, port: Port) -> Route:
    """An address, or all of a prefix, is behind a port."""
    return Route(network, port.index, dev=port.name, gateway=FAR_END[network.version], onlink=True)


def make_namespace(name: str) -> int:
    """Create a named namespace with its loopback up and return a descriptor of it."""
    handle = namespace.create(name)
    with RouteSocket(handle) as kernel:
        kernel.run(set_link(Link("lo", index=LOOPBACK_INDEX, up=True)))
    return handle


def write_sysctls(netns_fd: int, values: Iterable[tuple[str, str]]) -> None:
    """Write `net/...` kernel settings of a namespace."""
    with inside(netns_fd):
        for name, value in values:
            path = Path("/proc/sys") / name
            if path.exists():  # a kernel without IPv6 has no such settings, and needs none
                path.write_text(value)


class Router:
    """The VPC router's namespace, open."""

    def __init__(self, name: str, versions: Sequence[int] = (4,)) -> None:
        """Create the namespace and its rules; from now on it routes between no ports. `versions`: 4, or 4 and 6."""
        self.name, self.versions = name, tuple(versions)
        self.fd = make_namespace(name)
        self._kernel = RouteSocket(self.fd)
        self._next_index = FIRST_PORT_INDEX
        write_sysctls(self.fd, {**_ROUTER_SYSCTLS, **(_WITH_IPV6 if 6 in versions else _WITHOUT_IPV6)}.items())
        self.nft(ruleset.base())
        for address in SERVICE_ADDRESSES:
            self.answer_as(address)

    def close(self) -> None:
        """Let go of the namespace; it lives on by its name."""
        self._kernel.close()
        os.close(self.fd)

    def plug(self, name: str, far: Link, mtu: int = JUMBO_MTU, mac: str = "") -> Port:
        """Cable a new port, with a MAC of its own if it matters, to a new device `far` (name, MAC, namespace)."""
        index = self._next_index
        self._next_index += 1
        self._kernel.run(add(Link(name, index=index, kind="veth", mac=mac, mtu=mtu, up=True, queues=1, peer=far)))
        # Inherited from the machine's defaults, not from this namespace's: a random wait of up to 0.8 s per answer.
        write_sysctls(self.fd, [(f"net/ipv4/neigh/{name}/proxy_delay", "0")])
        for version in self.versions:
            self._kernel.run(replace(Neighbour(FAR_END[version], index, dev=name, mac=far.mac)))
        if 6 in self.versions:
            self._kernel.run(replace(Address(IPv6Interface(IPV6_GATEWAY), index, dev=name, nodad=True)))
            link = self._kernel.link(name)
            assert link is not None  # made a moment ago
            return Port(name, index, far.mac, link.mac)
        return Port(name, index, far.mac)

    def unplug(self, port: Port) -> None:
        """Remove a port and with it the far device, the port's routes and next hops."""
        self._kernel.run(delete(Link(port.name, index=port.index)))

    def answer_as(self, address: IPv4Address) -> None:
        """The router itself has this address (a subnet's gateway, a service)."""
        self._kernel.run(replace(self._own(address)))

    def answer_no_more(self, address: IPv4Address) -> None:
        """The inverse."""
        self._kernel.run(delete(self._own(address)))

    def blackhole(self, cidr: IPNetwork) -> None:
        """Addresses of this range that nobody owns are neither delivered nor answered for."""
        # The kernel hangs an IPv6 route without a device on the loopback.
        self._kernel.run(replace(Route(cidr, LOOPBACK_INDEX if cidr.version == 6 else 0, kind="blackhole")))

    def change(self, requests: Sequence[Request]) -> None:
        """Apply a batch of routes; what is to be deleted may be gone already."""
        for request, error in zip(requests, self._kernel.batch(requests), strict=True):
            if error is not None and request.verb != "delete":
                raise error

    def nft(self, text: str) -> str:
        """Run `nft -f -` in the namespace, one transaction; raises HostError with what nft said."""
        return self._tool(["nft", "-f", "-"], text)

    def counters(self) -> str:
        """The named counters, as nft's JSON."""
        return self._tool(["nft", "-j", "list", "counters"], "")

    def _tool(self, argv: Sequence[str], text: str) -> str:
        with inside(self.fd):  # a child is born in the namespace of the thread that starts it
            done = subprocess.run(
                argv, input=text, text=True, capture_output=True, check=False, env={"PATH": SYSTEM_PATH}
            )
        if done.returncode != 0:
            raise HostError("change the fabric's rules", done.stderr.strip(), evidence={"rules": text.strip()})
        return done.stdout

    def _own(self, address: IPv4Address) -> Address:
        return Address(IPv4Interface(address), LOOPBACK_INDEX, dev="lo")


def make_outside(router: Router, name: str, port_name: str, macs: tuple[str, str], hosts: Sequence[IPAddress]) -> int:
    """A namespace of hosts behind one port of the router; `macs` are the router's and the hosts' end's.

    Returns a descriptor of it. No ARP or neighbour discovery is ever needed: both ends know each other.
    """
    handle = make_namespace(name)
    port = router.plug(port_name, Link("eth0", mac=macs[1], mtu=INTERNET_MTU, netns_fd=handle), INTERNET_MTU, macs[0])
    router.change([replace(owned_route(alone(host), port)) for host in hosts])
    with RouteSocket(handle) as kernel:
        link = kernel.link("eth0")
        assert link is not None
        kernel.run(set_link(Link("eth0", index=link.index, up=True)))
        for host in hosts:
            kernel.run(add(Address(_interface(host), link.index, nodad=True)))
        for version in sorted({host.version for host in hosts}):
            gateway = OUTSIDE_GATEWAY[version]
            kernel.run(add(Neighbour(gateway, link.index, mac=macs[0])))
            kernel.run(add(Route(EVERYWHERE[version], link.index, gateway=gateway, onlink=True)))
    return handle


def _interface(address: IPAddress) -> IPv4Interface | IPv6Interface:
    return IPv4Interface(address) if isinstance(address, IPv4Address) else IPv6Interface(address)
