# SPDX-License-Identifier: Apache-2.0
"""Services for the length of a run, as nft(8) text: ClusterIPs and NodePorts that lead to the cast.

Knows what kube-proxy does to a packet: the target rewritten in prerouting, the mark 0x4000 on what must be masqueraded.
Must never run anything, nor touch a table of somebody else: it needs neither kube-proxy nor an API server, and goes
with its table. It runs just before kube-proxy's own rules, on addresses and ports of its own.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address

from vpccni.netlink.values import IPAddress
from vpccni.selftest.matrix import Party, Way

TABLE = "vpccni-selftest"
PORT = 80
MASQUERADE = "0x4000"  # kube-proxy's own bit
_FIRST_CLUSTER_IP = IPv4Address("198.18.255.10")  # of the range for benchmarks, which no VPC routes
_FIRST_NODE_PORT = 31970


@dataclass(frozen=True, slots=True)
class Service:
    """Where a ClusterIP or a port of the node leads."""

    way: Way
    target: Party
    number: int
    endpoint: IPAddress
    port: int

    @property
    def cluster_ip(self) -> IPAddress:
        """The address of its own."""
        return _FIRST_CLUSTER_IP + self.number

    @property
    def node_port(self) -> int:
        """The node's port."""
        return _FIRST_NODE_PORT + self.number


def table(services: Iterable[Service]) -> str:
    """The table, replacing one that an interrupted run may have left."""
    rewrites = "\n".join(f"    {_rewrite(each)}" for each in services)
    return f"""{removal()}table ip {TABLE} {{
  chain prerouting {{
    type nat hook prerouting priority dstnat - 1; policy accept;
{rewrites}
  }}
  chain postrouting {{
    type nat hook postrouting priority srcnat - 1; policy accept;
    meta mark & {MASQUERADE} == {MASQUERADE} meta mark set meta mark ^ {MASQUERADE} masquerade
  }}
}}
"""


def removal() -> str:
    """Takes the table away, also when it is not there."""
    return f"table ip {TABLE} {{ }}\ndelete table ip {TABLE}\n"


def _rewrite(service: Service) -> str:
    target = f"dnat to {service.endpoint}:{service.port}"
    protocols = "meta l4proto { tcp, udp }"
    mark = f"meta mark set meta mark | {MASQUERADE} "
    if service.way is Way.CLUSTER_IP:
        match = f"ip daddr {service.cluster_ip} {protocols} th dport {PORT}"
        return f"{match} ip saddr {service.endpoint} {mark}{target}\n    {match} {target}"
    match = f"fib daddr type local {protocols} th dport {service.node_port}"
    return f"{match} {mark if service.way is Way.NODE_PORT else ''}{target}"
