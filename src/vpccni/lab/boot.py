# SPDX-License-Identifier: Apache-2.0
"""What EC2 and the machine image give an instance before any pod network runs.

Knows the state in which a node daemon finds a fresh node. Must never do what is the daemon's own work. The lab daemon
calls `power_on` before the instance's first link and `configure` after it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface

from vpccni.aws.values import IPAddress
from vpccni.errors import HostError
from vpccni.lab.router import EVERYWHERE, IPV6_GATEWAY, make_namespace, write_sysctls
from vpccni.netlink.socket import RouteSocket
from vpccni.netlink.values import Address, Link, Route, add, set_link

PRIMARY_DEVICE = "eth0"
PROTOCOL_RA, PROTOCOL_DHCP = 9, 16  # RTPROT_RA, RTPROT_DHCP
DHCP_METRIC = 512

# Strict reverse-path filtering on new devices is what Amazon Linux 2 ships, and the reason why the daemon has to loosen
# it on the primary interface: the lab must not hide a daemon that forgets to.
_IMAGE_SYSCTLS = {
    "net/ipv4/ip_forward": "1",
    "net/ipv4/conf/all/rp_filter": "0",
    "net/ipv4/conf/default/rp_filter": "1",
}


def power_on(name: str) -> None:
    """Make the instance's network namespace: loopback up, the image's kernel settings, no interface yet."""
    handle = make_namespace(name)
    try:
        write_sysctls(handle, _IMAGE_SYSCTLS.items())
    finally:
        os.close(handle)


def configure(netns_fd: int, primary: IPv4Interface, gateway: IPv4Address, ipv6: Sequence[IPv6Address] = ()) -> None:
    """What DHCP configures on the primary interface: the address with the subnet's prefix, the default route.

    IPv6 as DHCPv6 and router advertisements do: addresses of size one, and all else by the subnet's gateway.
    """
    if ipv6:
        # A machine has been up for long when its first pod comes; the box does not wait 2 s for that.
        write_sysctls(netns_fd, [(f"net/ipv6/conf/{PRIMARY_DEVICE}/accept_dad", "0")])
    with RouteSocket(netns_fd) as kernel:
        link = kernel.link(PRIMARY_DEVICE)
        if link is None:
            raise HostError("boot the instance", f"it has no {PRIMARY_DEVICE}")
        kernel.run(set_link(Link(PRIMARY_DEVICE, index=link.index, up=True)))
        broadcast = primary.network.broadcast_address
        kernel.run(add(Address(primary, link.index, dev=PRIMARY_DEVICE, broadcast=broadcast)))
        for address in ipv6:
            kernel.run(add(Address(IPv6Interface(address), link.index, dev=PRIMARY_DEVICE, nodad=True)))
        kernel.run(add(_default(link.index, gateway, PROTOCOL_DHCP, primary.ip)))
        if ipv6:
            kernel.run(add(_default(link.index, IPV6_GATEWAY, PROTOCOL_RA)))


def _default(index: int, gateway: IPAddress, protocol: int, prefsrc: IPAddress | None = None) -> Route:
    everywhere = EVERYWHERE[gateway.version]
    return Route(
        everywhere, index, dev=PRIMARY_DEVICE, gateway=gateway, protocol=protocol, prefsrc=prefsrc, metric=DHCP_METRIC
    )
