# SPDX-License-Identifier: Apache-2.0
"""A fabric with two instances for tests: real namespaces, and events as the cloud would send them.

Knows how to speak TCP between namespaces and say who was seen. Must never touch the machine's own network. Used by the
tests of the fabric.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import select
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_interface,
    ip_network,
)
from pathlib import Path

from vpccni.lab import boot
from vpccni.lab.cloud.events import (
    AddressesChanged,
    LinkAppears,
    PublicAddressChanged,
    SubnetCreated,
    VpcChanged,
)
from vpccni.lab.fabric import Fabric
from vpccni.lab.router import EVERYWHERE, make_namespace
from vpccni.lab.sockets import ANY, listener, namespace_handle, plain, tcp_socket
from vpccni.lab.state import LabState
from vpccni.lab.topology import HostSpec
from vpccni.netlink import namespace
from vpccni.netlink.namespace import NETNS_DIR
from vpccni.netlink.socket import RouteSocket
from vpccni.netlink.values import Address, Link, Neighbour, Route, add, set_link

VPC, SUBNET = "vpc-1", "subnet-1"
INTERNET, SITE = IPv4Address("198.51.100.10"), IPv4Address("203.0.113.169")
CIDR = IPv4Network("10.20.0.0/24")
INTERNET6, SITE6 = IPv6Address("2001:db8:f00d::10"), IPv6Address("2001:db8:cafe::169")
VPC6, CIDR6 = IPv6Network("2001:db8:20:1a00::/56"), IPv6Network("2001:db8:20:1a00::/64")
PRIMARY6 = {"a": "2001:db8:20:1a00::a", "b": "2001:db8:20:1a00::b"}
GATEWAY = {4: IPv4Address("169.254.1.1"), 6: IPv6Address("fe80::1")}  # of the pods
_serial = itertools.count(1)


@dataclass
class World:
    """Fabric, nodes `a` (10.20.0.10, public 192.0.2.10) and `b` (10.20.0.20, no public address).

    With 6 among the versions they have the addresses of `PRIMARY6` as well, and the hosts outside theirs.
    """

    root: Path
    versions: tuple[int, ...] = (4,)
    prefix: str = field(default_factory=lambda: f"vt-{os.getpid()}-{next(_serial)}")

    def __post_init__(self) -> None:
        self.state = LabState(self.root / "state", self.prefix)
        hosts = [
            HostSpec("internet", INTERNET, ipv6_address=INTERNET6),
            HostSpec("site", SITE, "private", ipv6_address=SITE6),
        ]
        self.fabric = Fabric(self.state, hosts, self.versions)
        blocks, subnet = ((VPC6,), CIDR6) if 6 in self.versions else ((), None)
        self.fabric.apply(
            [VpcChanged(VPC, (IPv4Network("10.20.0.0/16"),), blocks), SubnetCreated(SUBNET, VPC, CIDR, subnet)]
        )
        self.macs: dict[str, str] = {}
        self.settle("fabric", "igw")
        self.settle("fabric", "site")
        self.start("a", "10.20.0.10")
        self.start("b", "10.20.0.20")
        self.fabric.apply([PublicAddressChanged("eni-a0", VPC, IPv4Address("10.20.0.10"), IPv4Address("192.0.2.10"))])

    def start(self, node: str, primary: str) -> None:
        boot.power_on(self.state.node_namespace(node))
        self.fabric.place(f"i-{node}", self.netns(node))
        ipv6 = [PRIMARY6[node]] if 6 in self.versions else []
        self.attach(node, 0, [primary, *ipv6])
        with namespace_handle(self.netns(node)) as handle:
            addresses = [IPv6Address(address) for address in ipv6]
            boot.configure(handle, IPv4Interface(f"{primary}/24"), IPv4Address("10.20.0.1"), addresses)
        if ipv6:
            self.sysctl(node, "net.ipv6.conf.all.forwarding", "1")
        self.sysctl(node, "net.ipv4.conf.eth0.rp_filter", "2")
        self.settle("fabric", self.fabric.port_of(f"eni-{node}0"))

    def attach(self, node: str, device: int, addresses: list[str]) -> None:
        eni, mac = f"eni-{node}{device}", f"02:00:00:00:{node * 2}:{device:02d}"
        self.macs[eni] = mac
        owned = tuple(ip_network(address) for address in addresses)
        self.fabric.apply([LinkAppears(f"i-{node}", eni, mac, device, 0, SUBNET, VPC, owned)])

    def own(self, eni: str, *addresses: str) -> None:
        self.fabric.apply([AddressesChanged(eni, VPC, tuple(ip_network(address) for address in addresses))])

    def pod(self, node: str, address: str) -> str:
        """A pod behind a node, wired as simply as possible; returns its name."""
        name = f"pod-{address}"
        pod_fd = make_namespace(f"{self.prefix}-{name}")
        with namespace_handle(self.netns(node)) as node_fd, RouteSocket(node_fd) as outer, RouteSocket(pod_fd) as inner:
            index = 500 + int(ip_address(address)) % 256
            mac, host_mac = f"02:00:00:01:00:{index % 100:02d}", f"02:00:00:02:00:{index % 100:02d}"
            far = Link("eth0", mac=mac, netns_fd=pod_fd)
            outer.run(add(Link(f"v{index}", index=index, kind="veth", mac=host_mac, up=True, peer=far)))
            outer.run(add(Route(ip_network(address), index, scope="link")))
            outer.run(add(Neighbour(ip_address(address), index, mac=mac)))
            link = inner.link("eth0")
            assert link
            gateway = GATEWAY[ip_address(address).version]
            for request in (
                set_link(Link("eth0", index=link.index, up=True)),
                add(Address(ip_interface(address), link.index, nodad=True)),
                add(Route(ip_network(gateway), link.index, scope="link")),
                add(Neighbour(gateway, link.index, mac=host_mac)),
                add(Route(EVERYWHERE[gateway.version], link.index, gateway=gateway)),
            ):
                inner.run(request)
        os.close(pod_fd)
        self.settle(node, f"v{index}")
        return name

    def settle(self, name: str, device: str) -> None:
        """Wait until the kernel has activated a link whose far end came up: until then it drops what it is given."""
        deadline = time.monotonic() + 5
        while "state UP" not in self.run(name, "ip", "-o", "link", "show", device):
            assert time.monotonic() < deadline, f"{device} stays down"
            time.sleep(0.005)

    def netns(self, name: str) -> Path:
        return NETNS_DIR / f"{self.prefix}-{name}"

    def run(self, name: str, *argv: str) -> str:
        done = subprocess.run(
            ["nsenter", f"--net={self.netns(name)}", *argv], capture_output=True, text=True, check=True
        )
        return done.stdout

    def sysctl(self, name: str, key: str, value: str) -> None:
        self.run(name, "sysctl", "-qw", f"{key}={value}")

    def seen(self, source: str, destination: str, address: str, port: int = 80, timeout_s: float = 0.6) -> str | None:
        """Connect from one namespace to an address served in another; the client address that the server saw."""
        with contextlib.ExitStack() as stack:
            here = stack.enter_context(namespace_handle(self.netns(source)))
            there = stack.enter_context(namespace_handle(self.netns(destination)))
            server = stack.enter_context(listener(there, ANY, port))
            client = stack.enter_context(tcp_socket(here, address))
            try:
                client.connect_ex((address, port))
            except OSError:
                return None
            if not select.select([server], [], [], timeout_s)[0]:
                return None
            accepted, peer = server.accept()
            accepted.close()
            return plain(peer[0])

    @contextlib.contextmanager
    def answering(self) -> Iterator[None]:
        """Neighbour discovery is answered, as the lab daemon does."""
        discovery, stopped = self.fabric.discovery, threading.Event()
        assert discovery is not None

        def serve() -> None:
            while not stopped.is_set():
                if select.select([discovery], [], [], 0.05)[0]:
                    discovery.answer()

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield
        finally:
            stopped.set()
            thread.join()

    def close(self) -> None:
        if self.fabric.discovery is not None:
            self.fabric.discovery.close()
        self.fabric.router.close()
        for name in self.state.owned_namespaces():
            namespace.remove(name)
