# SPDX-License-Identifier: Apache-2.0
"""Every reserved number and name of the dataplane, and the functions that derive names and numbers.

Knows what the Amazon VPC CNI 1.23 calls things, because Calico, the network policy agent, support scripts and people
rely on it. Must never decide anything or know the state of a node. Everything in `core`, `host`, `ipamd` and `lab` that
needs a priority, table, mark, chain or interface name takes it from here.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from vpccni.netlink.values import IPAddress, IPNetwork

# The rtnetlink protocol number of our routes and rules: "which of these are mine?" is a field read. Unused in
# <linux/rtnetlink.h> and in iproute2's rt_protos; `ip route` prints it as `proto 91`.
PROTOCOL = 91
# What the Go implementation leaves in that field: `boot` on routes, `unspec` on rules (`ip rule add` writes `boot`).
PROTOCOL_UNSPEC, PROTOCOL_KERNEL, PROTOCOL_BOOT = 0, 2, 3
UNTAGGED = frozenset({PROTOCOL_UNSPEC, PROTOCOL_BOOT})
OURS_OR_UNTAGGED = UNTAGGED | {PROTOCOL}

# Priorities of routing rules on the node.
RULE_LOCAL = 0
RULE_V6_GATEWAY = 0  # strict pod security groups in an IPv6 cluster
RULE_VLAN = 10
RULE_LOCAL_STRICT = 20
RULE_TO_POD = 512
RULE_MARK = 1024
RULE_EXTERNAL_SERVICE = 1535
RULE_FROM_POD = 1536
# The shared layout's rules by source stand behind: 1537 to 2499, and a rule at 2500 that does nothing and ends them.
RULE_FROM_BLOCK, RULE_FROM_BLOCK_END = 1537, 2500
RULE_FROM_ENI = 32765
RULE_MAIN, RULE_DEFAULT = 32766, 32767
# Priority of `from <address>` inside a pod with several network interfaces.
POD_RULE_FROM_NIC = 1

TABLE_DEFAULT, TABLE_MAIN, TABLE_LOCAL = 253, 254, 255
# ENIs of further network cards: 10000 + 100 * card + device.
CARD_TABLE_BASE, CARD_TABLE_STEP = 10000, 100
VLAN_TABLE_BASE = 100
# The shared layout's routes to pods. No default route is ever in it: what it does not know goes on to the next rule.
POD_TABLE = 9100

MARK = 0x80
DEFAULT_MTU = 9001
MTU_RANGE = {4: (576, 9001), 6: (1280, 9001)}

VETH_PREFIX = "eni"
VLAN_PREFIX = "vlan"
VETH_PREFIX_LENGTH = 4  # longer prefixes do not fit 15 characters together with the suffix
SUFFIX_LENGTH = 11
POD_INTERFACE = "eth0"
LINK_NAME_LENGTH = 15  # IFNAMSIZ without the terminating zero

# Device groups (IFLA_GROUP): of every host veth of ours, and of those about to be deleted together.
VETH_GROUP, DOOMED_GROUP = 9100, 9101

SNAT_CHAIN = "AWS-SNAT-CHAIN-0"
CONNMARK_CHAIN = "AWS-CONNMARK-CHAIN-0"
CHAIN_PREFIXES = ("AWS-SNAT-CHAIN-", "AWS-CONNMARK-CHAIN-")
NFT_TABLE = "aws-cni"  # of the Go implementation's nftables connmark backend
NFT_OWN_TABLE = "vpccni"  # completes the iptables rules

IPV6_SUBNET_GATEWAY = IPv6Address("fe80:ec2::1")  # of every subnet

V4_EGRESS_RANGE = IPv4Network("169.254.172.0/22")  # IPv4 egress of an IPv6 cluster, interface v4if0
V6_EGRESS_RANGE = IPv6Network("fd00::ac:0/118")  # IPv6 egress of an IPv4 cluster, interface v6if0
EGRESS_RANGES: dict[int, IPNetwork] = {4: V4_EGRESS_RANGE, 6: V6_EGRESS_RANGE}
EGRESS_INTERFACES = {4: "v4if0", 6: "v6if0"}
EGRESS_NIC = -1  # the number of a pod's egress interface among its interfaces
EGRESS_LINK_PREFIX, EGRESS_SUFFIX_LENGTH = "veth", 8
EGRESS_COMMENT = "AWS, egress"
EGRESS_REJECT_COMMENTS = {version: f"Block Node Local Pod access via IPv{version}" for version in (4, 6)}
# A chain for each pod, made by the Go implementation: the prefix and 21 hex digits.
EGRESS_CHAIN_PREFIXES, EGRESS_CHAIN_LENGTH = ("CNI-E4-", "CNI-E6-"), 28

ALIAS_PREFIX = "aws-cni"
ALIAS_LENGTH = 255  # the kernel refuses IFLA_IFALIAS of IFALIASZ (256) bytes or more
CUT = "~"  # ends a pod name that did not fit; no Kubernetes name contains it


def name_suffix(namespace: str, pod: str, nic: int = 0) -> str:
    """The 11 hex digits that name a pod's interface number `nic` on the host.

    Amazon VPC CNI 1.23: SHA-1 of `<namespace>.<pod>`, or of `<namespace>.<pod>.<nic>` for further interfaces. Calico
    and the network policy agent derive the same name.
    """
    text = f"{namespace}.{pod}.{nic}" if nic else f"{namespace}.{pod}"
    return hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()[:SUFFIX_LENGTH]


def host_link_name(prefix: str, namespace: str, pod: str, nic: int = 0) -> str:
    """Name of the host end of a pod's veth, such as `enicc21c2d7785`."""
    return prefix + name_suffix(namespace, pod, nic)


def egress_link_name(network: str, container_id: str, ifname: str) -> str:
    """Name of the host end of a pod's egress veth, such as `veth1a2b3c4d`.

    Amazon VPC CNI 1.23 draws the eight digits at random; derived from the attachment they need not be looked up.
    """
    text = f"{network} {container_id} {ifname}"
    return EGRESS_LINK_PREFIX + hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()[:EGRESS_SUFFIX_LENGTH]


def is_egress(address: IPAddress) -> bool:
    """Whether an address is a node-local one for egress, never one of the VPC."""
    return address in EGRESS_RANGES[address.version]


@lru_cache
def egress_gateway(version: int) -> IPAddress:
    """The first address of the range, which no pod gets."""
    return EGRESS_RANGES[version].network_address + 1


def dummy_name(namespace: str, pod: str) -> str:
    """Name of the pseudo interface in results of CNI 0.4.0 and older, which carries the device number."""
    return "dummy" + name_suffix(namespace, pod)


def pod_link_name(ifname: str, nic: int = 0) -> str:
    """Name of a pod's interface number `nic` inside the pod: `CNI_IFNAME`, then `mNicIf1`, `mNicIf2`, ..."""
    return f"mNicIf{nic}" if nic else ifname


def route_table(card: int, device: int) -> int:
    """Route table of the ENI at device index `device` of network card `card`: 254, 2, 3, ..., 10101, 10102, ..."""
    if card:
        return CARD_TABLE_BASE + CARD_TABLE_STEP * card + device
    return device + 1 if device else TABLE_MAIN


def old_route_table(card: int, device: int, enis_per_card: int) -> int:
    """Route table by the formula of releases before 1.20: recognised on takeover, never used for new rules."""
    return device + 1 + card * enis_per_card


def is_main(table: int) -> bool:
    """Whether a recorded table number means main. 0 and 1 are the encodings of older releases."""
    return table in {0, 1, TABLE_MAIN}


def place_of_table(table: int) -> tuple[int, int]:
    """The inverse of `route_table`: (card, device), as far as a table number can tell."""
    if is_main(table):
        return 0, 0
    if table > CARD_TABLE_BASE:
        return divmod(table - CARD_TABLE_BASE, CARD_TABLE_STEP)
    return 0, table - 1


@lru_cache
def pod_gateway(version: int, nic: int = 0) -> IPAddress:
    """What a pod uses as its gateway: an address nobody holds, with a permanent neighbour entry for the host's veth."""
    if version == 4:
        return IPv4Address(f"169.254.1.{nic + 1}")
    return IPv6Address(f"fe80::{nic + 1:x}")


def subnet_gateway(subnet: IPNetwork) -> IPAddress:
    """The VPC router's address in `subnet`: its first address, or `fe80:ec2::1` for every IPv6 subnet."""
    return subnet.network_address + 1 if subnet.version == 4 else IPV6_SUBNET_GATEWAY


@lru_cache
def everything(version: int) -> IPNetwork:
    """The destination of a default route."""
    return IPv4Network("0.0.0.0/0") if version == 4 else IPv6Network("::/0")


@lru_cache(maxsize=4096)  # each pod's address is asked for several times while it is wired
def host_network(address: IPAddress) -> IPNetwork:
    """`address` as a network of its own: /32 or /128."""
    return IPv4Network((address, 32)) if isinstance(address, IPv4Address) else IPv6Network((address, 128))


@dataclass(frozen=True, slots=True)
class PodAlias:
    """Whose a host veth is, as its alias says. `pod` ends in `~` when the name did not fit."""

    network: str
    container_id: str
    ifname: str
    namespace: str
    pod: str

    @property
    def complete(self) -> bool:
        """Whether `namespace` and `pod` are the whole names."""
        return not self.pod.endswith(CUT)

    def is_of(self, network: str, container_id: str, ifname: str) -> bool:
        """Whether it names this attachment."""
        return (self.network, self.container_id, self.ifname) == (network, container_id, ifname)

    def same_sandbox(self, other: PodAlias) -> bool:
        """Whether both name the same attachment (network, container and interface)."""
        return self.is_of(other.network, other.container_id, other.ifname)

    def __str__(self) -> str:
        return pod_alias(self.network, self.container_id, self.ifname, self.namespace, self.pod)


def pod_alias(network: str, container_id: str, ifname: str, namespace: str, pod: str) -> str:
    """`aws-cni <network> <container> <ifname> <namespace>/<pod>`: lets the kernel alone say whose a veth is.

    At most 255 bytes: a longer pod name is cut and ends in `~`. Empty when even the key does not fit, because an
    alias that names the wrong sandbox would be worse than none.
    """
    head = f"{ALIAS_PREFIX} {network} {container_id} {ifname} "
    text = f"{head}{namespace}/{pod}"
    if len(text.encode()) > ALIAS_LENGTH:
        text = text.encode()[: ALIAS_LENGTH - 1].decode(errors="ignore") + CUT
    return text if len(f"{head}{namespace}/{CUT}".encode()) <= ALIAS_LENGTH else ""


def parse_alias(text: str) -> PodAlias | None:
    """The inverse of `pod_alias`; None for any other text. Without Kubernetes names both halves are empty."""
    words = text.split(" ")
    if len(words) != 5 or words[0] != ALIAS_PREFIX or not all(words):
        return None
    namespace, slash, pod = words[4].partition("/")
    return PodAlias(words[1], words[2], words[3], namespace, pod) if slash else None
