# SPDX-License-Identifier: Apache-2.0
"""Services for the length of a run: ClusterIPs and ports of the node that lead to the cast, in kube-proxy's own rules.

Knows which Services a run needs and under which names they may stand. Must never build a rule or run anything:
`lab.kubeproxy` does both, so neither kube-proxy nor an API server is needed. Beside rules of somebody else's kube-proxy
they stand under names of their own, with addresses that no VPC routes.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from vpccni.lab.kubeproxy.values import KUBE_PROXY, Endpoint, Names, ServicePort
from vpccni.netlink.values import IPAddress
from vpccni.selftest.matrix import Party, Way

OWN = Names("VPCCNI", "vpccni-selftest", "vpccni selftest")
NAMESPACE = "vpccni-selftest"  # of the Services, whatever the names of the chains
PROTOCOLS = ("tcp", "udp")
PORT = 80
LOCAL_PARTIES = (Party.POD, Party.OTHER_POD, Party.ENI_POD, Party.OTHER_ENI_POD)
# Of the ranges for benchmarks (RFC 2544, RFC 5180), which no VPC routes.
_FIRST_CLUSTER_IP: dict[int, IPAddress] = {4: IPv4Address("198.18.255.10"), 6: IPv6Address("2001:2:0:ff::10")}
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
        return _FIRST_CLUSTER_IP[self.endpoint.version] + self.number

    @property
    def node_port(self) -> int:
        """The node's port."""
        return _FIRST_NODE_PORT + self.number

    @property
    def ports(self) -> tuple[ServicePort, ...]:
        """As kube-proxy has it: one for each protocol."""
        endpoint = Endpoint(self.endpoint, self.port, local=self.target in LOCAL_PARTIES)
        outside = 0 if self.way is Way.CLUSTER_IP else self.node_port
        return tuple(
            ServicePort(
                NAMESPACE, f"s{self.number}", protocol, protocol, self.cluster_ip, PORT, (endpoint,), outside,
                self.way is Way.NODE_PORT_LOCAL,
            )
            for protocol in PROTOCOLS
        )  # fmt: skip


def left_behind(present: str) -> bool:
    """Whether what stands under some names was left by a run that was killed. A kube-proxy that came later would have
    removed it, and a run takes no names that are in use: there is nothing else beside it."""
    return f"{NAMESPACE}/" in present


def names(preferred: Names, present: str) -> Names:
    """The names to use; `present` is what stands under the preferred ones. Somebody else's rules are left alone."""
    return OWN if preferred is KUBE_PROXY and present and not left_behind(present) else preferred
