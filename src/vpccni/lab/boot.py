# SPDX-License-Identifier: Apache-2.0
"""What EC2 and the machine image give an instance before any pod network runs.

Knows the state in which a node daemon finds a fresh node. Must never do what is the daemon's own work. The lab daemon
calls `power_on` before the instance's first link and `configure` after it.
"""

from __future__ import annotations

import os
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

from vpccni.errors import HostError
from vpccni.lab.router import make_namespace, write_sysctls
from vpccni.netlink.socket import RouteSocket
from vpccni.netlink.values import Address, Link, Route, add, set_link

PRIMARY_DEVICE = "eth0"
PROTOCOL_DHCP = 16  # RTPROT_DHCP
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


def configure(netns_fd: int, primary: IPv4Interface, gateway: IPv4Address) -> None:
    """What DHCP configures on the primary interface: the address with the subnet's prefix, the default route."""
    with RouteSocket(netns_fd) as kernel:
        link = kernel.link(PRIMARY_DEVICE)
        if link is None:
            raise HostError("boot the instance", f"it has no {PRIMARY_DEVICE}")
        kernel.run(set_link(Link(PRIMARY_DEVICE, index=link.index, up=True)))
        broadcast = primary.network.broadcast_address
        kernel.run(add(Address(primary, link.index, dev=PRIMARY_DEVICE, broadcast=broadcast)))
        default = Route(
            IPv4Network("0.0.0.0/0"), link.index, dev=PRIMARY_DEVICE, gateway=gateway, protocol=PROTOCOL_DHCP,
            prefsrc=primary.ip, metric=DHCP_METRIC,
        )  # fmt: skip
        kernel.run(add(default))
