# SPDX-License-Identifier: Apache-2.0
"""A VXLAN overlay between the nodes of a lab, as flannel builds one, for comparison with addresses of the VPC.

Knows the devices, routes and neighbours of such an overlay and how to give a pod a second, encapsulated interface. Must
never measure, and never touch what the node daemon made: all of it carries names and a table of its own, and `remove`
takes it away. `lab.comparison` calls it.

Everything is known beforehand, so nothing is learned: each node has a route to every other node's range through the
VXLAN device, a permanent neighbour for its far end and a forwarding entry that names the node's address.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from vpccni.errors import HostError
from vpccni.lab.launch import SYSTEM_PATH
from vpccni.lab.sockets import namespace_handle
from vpccni.netlink.namespace import inside

VXLAN_ID, VXLAN_PORT = 4242, 4789
TABLE = 4242  # of routes for what a pod sends from its address in the overlay
# Outer Ethernet, IPv4, UDP, VXLAN and the inner Ethernet header: what encapsulation adds to a packet, but for the
# outer Ethernet header, which every packet has once anyway.
OVERHEAD_BYTES = 20 + 8 + 8 + 14
RANGES = tuple(IPv4Network(text) for text in ("10.244.0.0/16", "172.30.0.0/16", "192.168.0.0/16"))
BRIDGE, DEVICE, HOST_END, POD_END = "ovl-br", "ovl-vx", "ovl-host", "ovl0"
NFT_TABLE = "overlay-comparison"
# As overlays do it: beyond the overlay nobody knows its addresses, so there a pod is its node. Inside, an address is
# bound to itself before the node's own SNAT chain, to which everything outside the VPC is the internet, can take it.
_OUTWARD = """
table ip {table} {{
  chain outward {{
    type nat hook postrouting priority srcnat - 1
    ip saddr {range} ip daddr {range} snat to ip saddr
    ip saddr {range} masquerade
  }}
}}
"""


@dataclass(frozen=True, slots=True)
class Member:
    """A node with one pod that joins the overlay; `number` from 1 names its range."""

    number: int
    node_netns: Path
    node_address: IPv4Address
    pod_netns: Path

    @property
    def mac(self) -> str:
        """Of the node's VXLAN device."""
        return f"0e:00:00:00:00:{self.number:02x}"


class Overlay:
    """The overlay of some nodes. A context: what was made is removed, also when making it failed half-way."""

    def __init__(self, members: Sequence[Member], vpc_cidrs: Sequence[IPv4Network], mtu: int) -> None:
        """`mtu` is that of the network underneath. Raises HostError when every range that we know is the VPC's."""
        free = [each for each in RANGES if not any(each.overlaps(cidr) for cidr in vpc_cidrs)]
        if not free:
            taken = ", ".join(map(str, RANGES))
            raise HostError("make an overlay", f"the VPC uses {taken}", hint="use a topology with another VPC CIDR")
        self.range, self.mtu, self._members = free[0], mtu - OVERHEAD_BYTES, tuple(members)

    def __enter__(self) -> Overlay:
        try:
            for member in self._members:
                self._make(member)
        except BaseException:
            self.remove()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def subnet(self, member: Member) -> IPv4Network:
        """The /24 of a node's pods."""
        return list(self.range.subnets(new_prefix=24))[member.number]

    def pod_address(self, member: Member) -> IPv4Address:
        """The address of the node's pod in the overlay."""
        return self.subnet(member).network_address + 2

    def remove(self) -> None:
        """Take everything away; what is gone already is fine."""
        for member in self._members:
            for device in (HOST_END, BRIDGE, DEVICE):
                _run(member.node_netns, ["ip", "link", "del", device], tolerant=True)
            _run(member.node_netns, ["nft", "delete", "table", "ip", NFT_TABLE], tolerant=True)
            _run(member.pod_netns, ["ip", "rule", "del", "lookup", str(TABLE)], tolerant=True)

    def _make(self, member: Member) -> None:
        own = self.subnet(member)
        gateway, size = own.network_address + 1, own.prefixlen
        lines = [
            f"link add {DEVICE} mtu {self.mtu} address {member.mac} type vxlan id {VXLAN_ID} "
            f"local {member.node_address} dstport {VXLAN_PORT} nolearning",
            f"link set {DEVICE} up",
            f"address add {own.network_address}/32 dev {DEVICE}",
            f"link add {BRIDGE} mtu {self.mtu} type bridge",
            f"link set {BRIDGE} up",
            f"address add {gateway}/{size} dev {BRIDGE}",
            f"link add {HOST_END} mtu {self.mtu} type veth peer name {POD_END} mtu {self.mtu} "
            f"netns {member.pod_netns.name}",
            f"link set {HOST_END} master {BRIDGE} up",
        ]
        others = [each for each in self._members if each != member]
        for other in others:
            there = self.subnet(other)
            lines.append(f"route add {there} via {there.network_address} dev {DEVICE} onlink")
            lines.append(f"neigh add {there.network_address} lladdr {other.mac} dev {DEVICE} nud permanent")
        _run(member.node_netns, ["ip", "-batch", "-"], "\n".join(lines))
        forwarding = [f"fdb append {other.mac} dst {other.node_address} dev {DEVICE}" for other in others]
        _run(member.node_netns, ["bridge", "-batch", "-"], "\n".join(forwarding))
        _run(
            member.node_netns,
            ["nft", "-f", "-"],
            _OUTWARD.format(table=NFT_TABLE, range=self.range),
        )
        address = self.pod_address(member)
        inner = [
            f"link set {POD_END} up",
            f"address add {address}/{size} dev {POD_END}",
            f"route add {self.range} via {gateway} dev {POD_END}",
            f"route add default via {gateway} dev {POD_END} table {TABLE}",
            f"rule add from {address} lookup {TABLE}",
        ]
        _run(member.pod_netns, ["ip", "-batch", "-"], "\n".join(inner))


def _run(netns: Path, argv: Sequence[str], text: str = "", *, tolerant: bool = False) -> None:
    with namespace_handle(netns) as handle, inside(handle):  # a child is born in the namespace of its parent's thread
        done = subprocess.run(argv, input=text, text=True, capture_output=True, check=False, env={"PATH": SYSTEM_PATH})
    if done.returncode and not tolerant:
        raise HostError(
            f"make the overlay in {netns.name}", done.stderr.strip() or f"exit code {done.returncode}",
            evidence={"command": " ".join(argv), "input": text},
            hint="the kernel must know VXLAN (CONFIG_VXLAN); iproute2 and nftables must be installed",
        )  # fmt: skip
