# SPDX-License-Identifier: Apache-2.0
"""Services and their endpoints as one node's kube-proxy sees them, and how the rules made of them are called.

Knows names and hashes. Must never know a rule: `iptables` and `nftables` write those. Sources: the constants and tests
of Kubernetes' pkg/proxy/iptables and pkg/proxy/nftables, whose known names the tests of this folder compare with.
"""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass

from vpccni.netlink.values import IPAddress

MASQUERADE_MARK = 0x4000  # bit 14 is the default of --iptables-masquerade-bit and of its nftables twin
MODES = ("iptables", "nftables")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a Service leads. `local`: a pod of the node that the rules are for."""

    address: IPAddress
    port: int
    local: bool = False

    def __str__(self) -> str:
        return f"{self.address}:{self.port}" if self.address.version == 4 else f"[{self.address}]:{self.port}"


@dataclass(frozen=True, slots=True)
class ServicePort:
    """One port of a Service. `node_port` 0: none; `local_policy`: externalTrafficPolicy is Local."""

    namespace: str
    name: str
    port_name: str
    protocol: str  # tcp or udp
    cluster_ip: IPAddress
    port: int
    endpoints: tuple[Endpoint, ...] = ()
    node_port: int = 0
    local_policy: bool = False

    @property
    def version(self) -> int:
        """The IP version: a Service of both has one of these for each."""
        return self.cluster_ip.version

    @property
    def label(self) -> str:
        """As comments name it. A port without a name adds nothing."""
        return f"{self.namespace}/{self.name}" + (f":{self.port_name}" if self.port_name else "")

    @property
    def near(self) -> tuple[Endpoint, ...]:
        """The endpoints on this node."""
        return tuple(each for each in self.endpoints if each.local)

    @property
    def reached_from_outside(self) -> tuple[Endpoint, ...]:
        """The endpoints that the policy allows to a client of the node port."""
        return self.near if self.local_policy else self.endpoints


@dataclass(frozen=True, slots=True)
class Names:
    """Under which names the rules stand: kube-proxy's own, or others beside a kube-proxy that is there already.

    `prefix` begins every chain of iptables; at most 7 letters, because a name of more than 28 is refused.
    """

    prefix: str
    table: str
    who: str

    def chain(self, role: str) -> str:
        """A chain that there is once, such as SERVICES."""
        return f"{self.prefix}-{role}"

    def hashed(self, role: str, service: ServicePort, endpoint: Endpoint | None = None) -> str:
        """A chain of iptables for a Service (SVC, SVL, EXT) or for one of its endpoints (SEP)."""
        text = f"{service.label}{service.protocol}" + (str(endpoint) if endpoint else "")
        return f"{self.prefix}-{role}-{digest(text, 16)}"

    def owns(self, chain: str) -> bool:
        """Whether a chain of iptables is of this set. A kubelet's (KUBE-FIREWALL, the hints) are not."""
        return re.fullmatch(rf"{self.prefix}-(?:{_ONCE}|(?:SVC|SVL|EXT|SEP|FW)-[A-Z2-7]{{16}})", chain) is not None

    def stale(self, chain: str) -> bool:
        """Whether it is a chain of a Service or endpoint, which goes when they do."""
        return self.owns(chain) and re.search("-[A-Z2-7]{16}$", chain) is not None


_ONCE = "SERVICES|EXTERNAL-SERVICES|NODEPORTS|POSTROUTING|MARK-MASQ|FORWARD|PROXY-FIREWALL|PROXY-CANARY"
KUBE_PROXY = Names("KUBE", "kube-proxy", "kubernetes")


def digest(text: str, length: int) -> str:
    """The first characters of a SHA-256 in base 32, which kube-proxy makes its names of."""
    return base64.b32encode(hashlib.sha256(text.encode()).digest()).decode()[:length]


def path(service: ServicePort, endpoint: Endpoint | None = None) -> str:
    """The end of the name of an nftables chain: hash and plain text of a Service, or of one of its endpoints."""
    text = f"{service.namespace}/{service.name}/{service.protocol}/{service.port_name}"
    # nft takes no colon in a name.
    text += f"__{str(endpoint.address).replace(':', '.')}/{endpoint.port}" if endpoint else ""
    return f"{digest(text, 8)}-{text}"
