# SPDX-License-Identifier: Apache-2.0
"""The kernel objects of the VPC router and of what lies outside: namespaces, ports, routes, neighbours.

Knows one namespace that routes between ports, and how a port is cabled to an instance. Must never know EC2's vocabulary
or decide who owns an address. `lab.fabric` tells it what to make.

The router owns every link of the box and has none to the machine, so nothing leaves. It knows the owner of every
address beforehand (permanent neighbours), because an instance does not answer ARP for its pods; towards the instances
it answers ARP for every owned address itself (proxy_arp), as a VPC does.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from pathlib import Path

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
OUTSIDE_GATEWAY = IPv4Address("169.254.254.1")  # next hop of the hosts outside; nobody ever asks who has it
SERVICE_ADDRESSES = (IPv4Address("169.254.169.254"), IPv4Address("169.254.169.250"))  # metadata, EC2 endpoint

_ROUTER_SYSCTLS = {
    "net/ipv4/ip_forward": "1",
    "net/ipv4/conf/all/rp_filter": "0",
    "net/ipv4/conf/default/rp_filter": "0",
    "net/ipv4/conf/all/send_redirects": "0",
    "net/ipv4/conf/default/send_redirects": "0",
    "net/ipv4/conf/default/proxy_arp": "1",
    "net/ipv6/conf/all/disable_ipv6": "1",
    "net/ipv6/conf/default/disable_ipv6": "1",
}


@dataclass(frozen=True, slots=True)
class Port:
    """The router's end of an interface's cable."""

    name: str
    index: int
    mac: str  # of the far end


def host_route(network: IPv4Network, port: Port) -> list[Request]:
    """An address, or all of a prefix, is behind a port."""
    route = Route(network, port.index, dev=port.name, scope="link")
    return [replace(route), *(replace(entry) for entry in _neighbours(network, port))]


def no_host_route(network: IPv4Network, port: Port) -> list[Request]:
    """The inverse; a route that another port has taken over in the meantime is left alone."""
    route = Route(network, port.index, dev=port.name, scope="link")
    return [delete(route), *(delete(entry) for entry in _neighbours(network, port))]


def _neighbours(network: IPv4Network, port: Port) -> list[Neighbour]:
    return [Neighbour(address, port.index, dev=port.name, mac=port.mac) for address in network]


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

    def __init__(self, name: str) -> None:
        """Create the namespace and its rules; from now on it routes between no ports."""
        self.name = name
        self.fd = make_namespace(name)
        self._kernel = RouteSocket(self.fd)
        self._next_index = FIRST_PORT_INDEX
        write_sysctls(self.fd, _ROUTER_SYSCTLS.items())
        self.nft(ruleset.base())
        for address in SERVICE_ADDRESSES:
            self.answer_as(address)

    def close(self) -> None:
        """Let go of the namespace; it lives on by its name."""
        self._kernel.close()
        os.close(self.fd)

    def plug(self, name: str, far: Link, mtu: int = JUMBO_MTU) -> Port:
        """Cable a new port to a new device `far` (name, MAC and namespace descriptor) elsewhere."""
        index = self._next_index
        self._next_index += 1
        self._kernel.run(add(Link(name, index=index, kind="veth", mtu=mtu, up=True, queues=1, peer=far)))
        # Inherited from the machine's defaults, not from this namespace's: a random wait of up to 0.8 s per answer.
        write_sysctls(self.fd, [(f"net/ipv4/neigh/{name}/proxy_delay", "0")])
        return Port(name, index, far.mac)

    def unplug(self, port: Port) -> None:
        """Remove a port and with it the far device, the port's routes and neighbours."""
        self._kernel.run(delete(Link(port.name, index=port.index)))

    def set_mac(self, port: Port, mac: str) -> None:
        """Give the router's own end of a port a known MAC."""
        self._kernel.run(set_link(Link(port.name, index=port.index, mac=mac)))

    def answer_as(self, address: IPv4Address) -> None:
        """The router itself has this address (a subnet's gateway, a service)."""
        self._kernel.run(replace(self._own(address)))

    def answer_no_more(self, address: IPv4Address) -> None:
        """The inverse."""
        self._kernel.run(delete(self._own(address)))

    def blackhole(self, cidr: IPv4Network) -> None:
        """Addresses of this range that nobody owns are neither delivered nor answered for."""
        self._kernel.run(replace(Route(cidr, 0, kind="blackhole")))

    def change(self, requests: Sequence[Request]) -> None:
        """Apply a batch of routes and neighbours; what is to be deleted may be gone already."""
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


def make_outside(router: Router, name: str, port_name: str, macs: tuple[str, str], hosts: Sequence[IPv4Address]) -> int:
    """A namespace of hosts behind one port of the router; `macs` are the router's and the hosts' end's.

    Returns a descriptor of it. No ARP is ever needed: both ends know each other.
    """
    handle = make_namespace(name)
    port = router.plug(port_name, Link("eth0", mac=macs[1], mtu=INTERNET_MTU, netns_fd=handle), INTERNET_MTU)
    router.change([request for host in hosts for request in host_route(IPv4Network(host), port)])
    router.set_mac(port, macs[0])
    with RouteSocket(handle) as kernel:
        link = kernel.link("eth0")
        assert link is not None
        kernel.run(set_link(Link("eth0", index=link.index, up=True)))
        gateway = IPv4Network(OUTSIDE_GATEWAY)
        requests: list[Request] = [add(_host_address(host, link.index)) for host in hosts]
        requests += [
            add(Route(gateway, link.index, scope="link")),
            add(Neighbour(OUTSIDE_GATEWAY, link.index, mac=macs[0])),
        ]
        for request in requests:
            kernel.run(request)
        kernel.run(add(Route(IPv4Network("0.0.0.0/0"), link.index, gateway=OUTSIDE_GATEWAY)))
    return handle


def _host_address(host: IPv4Address, index: int) -> Address:
    return Address(IPv4Interface(host), index)
