# SPDX-License-Identifier: Apache-2.0
"""Services for the length of a run, as rules: ClusterIPs and NodePorts that lead to the cast.

Knows what kube-proxy does to a packet, in both of its modes: the target rewritten in prerouting, the mark 0x4000 on
what must be masqueraded. Must never run anything, nor touch rules of somebody else: it needs neither kube-proxy nor an
API server, and uses addresses, ports, a table and chains of its own.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address

from vpccni.netlink.values import IPAddress
from vpccni.selftest.matrix import Party, Way

TABLE = "vpccni-selftest"
CHAIN, MASQUERADE_CHAIN = "VPCCNI-SELFTEST", "VPCCNI-SELFTEST-MASQ"
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


@dataclass(frozen=True, slots=True)
class Form:
    """One of kube-proxy's modes: a program, and its input that makes the Services and that removes them all."""

    program: tuple[str, ...]
    make: str
    remove: str


def nftables(services: Iterable[Service]) -> Form:
    """A table of its own, whose chains run just before kube-proxy's."""
    rewrites = "\n".join(f"    {_nft(each)}" for each in services)
    removal = f"table ip {TABLE} {{ }}\ndelete table ip {TABLE}\n"
    text = f"""table ip {TABLE} {{
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
    return Form(("nft", "-f", "-"), text, removal)


def iptables(services: Iterable[Service]) -> Form:
    """Chains of its own, with their jumps in front of all others, where kube-proxy puts its own."""
    rules = [rule for each in services for rule in _iptables(each)]
    chain, masquerade = f"-A {CHAIN}", f"-A {MASQUERADE_CHAIN}"
    lines = [
        "*nat", f":{CHAIN} - [0:0]", f":{MASQUERADE_CHAIN} - [0:0]",
        f"-I PREROUTING 1 -j {CHAIN}", f"-I POSTROUTING 1 -j {MASQUERADE_CHAIN}",
        *(f"{chain} {rule}" for rule in rules),
        f"{masquerade} -m mark ! --mark {MASQUERADE}/{MASQUERADE} -j RETURN",
        f"{masquerade} -j MARK --xor-mark {MASQUERADE}",
        f"{masquerade} -j MASQUERADE",
        "COMMIT", "",
    ]  # fmt: skip
    gone = [
        "*nat", f"-D PREROUTING -j {CHAIN}", f"-D POSTROUTING -j {MASQUERADE_CHAIN}",
        *(f"{verb} {name}" for name in (CHAIN, MASQUERADE_CHAIN) for verb in ("-F", "-X")),
        "COMMIT", "",
    ]  # fmt: skip
    return Form(("iptables-restore", "--noflush", "-w", "5"), "\n".join(lines), "\n".join(gone))


FORMS = {"nftables": nftables, "iptables": iptables}


def _nft(service: Service) -> str:
    target = f"dnat to {service.endpoint}:{service.port}"
    protocols = "meta l4proto { tcp, udp }"
    mark = f"meta mark set meta mark | {MASQUERADE} "
    if service.way is Way.CLUSTER_IP:
        match = f"ip daddr {service.cluster_ip} {protocols} th dport {PORT}"
        return f"{match} ip saddr {service.endpoint} {mark}{target}\n    {match} {target}"
    match = f"fib daddr type local {protocols} th dport {service.node_port}"
    return f"{match} {mark if service.way is Way.NODE_PORT else ''}{target}"


def _iptables(service: Service) -> Iterable[str]:
    for protocol in ("tcp", "udp"):
        if service.way is Way.CLUSTER_IP:
            match = f"-d {service.cluster_ip} -p {protocol} --dport {PORT}"
            yield f"{match} -s {service.endpoint} -j MARK --or-mark {MASQUERADE}"
        else:
            match = f"-m addrtype --dst-type LOCAL -p {protocol} --dport {service.node_port}"
            if service.way is Way.NODE_PORT:
                yield f"{match} -j MARK --or-mark {MASQUERADE}"
        yield f"{match} -j DNAT --to-destination {service.endpoint}:{service.port}"
