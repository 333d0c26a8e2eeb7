# SPDX-License-Identifier: Apache-2.0
"""Services -> the input of `nft -f` that kube-proxy in its nftables mode would run.

Knows the table's chains with their hooks and priorities, its maps and its sets. Must never run a program, nor name
another table. What is written is a full sync, with node ports on the node's primary address alone, which is the default
of this mode. Without a pod CIDR kube-proxy cannot tell a pod's packets from others, as on EKS.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from ipaddress import IPv4Network, IPv6Network

from vpccni.lab.kubeproxy.values import MASQUERADE_MARK, Endpoint, Names, ServicePort, path
from vpccni.netlink.values import IPAddress

# Targets are looked at before they are rewritten where that matters, so in front of dstnat.
_BASE = (
    ("filter-prerouting-pre-dnat", "filter", "prerouting", -110),
    ("filter-output-pre-dnat", "filter", "output", -110),
    ("filter-forward", "filter", "forward", 0),
    ("filter-input", "filter", "input", 0),
    ("filter-output", "filter", "output", 0),
    ("nat-prerouting", "nat", "prerouting", -100),
    ("nat-output", "nat", "output", -100),
    ("nat-postrouting", "nat", "postrouting", 100),
)
_CHAINS = (
    "nodeport-endpoints-check", "service-endpoints-check", "firewall-check", "services", "masquerading",
    "cluster-ips-check", "mark-for-masquerade", "reject-chain",
)  # fmt: skip
_NEW = "ct state new jump"
_THREE, _TWO = "{address} . inet_proto . inet_service : verdict", "inet_proto . inet_service : verdict"
_MAPS = {"firewall-ips": _THREE, "service-ips": _THREE, "service-nodeports": _TWO} | {
    "no-endpoint-services": _THREE, "no-endpoint-nodeports": _TWO,
}  # fmt: skip
_SETS = ("cluster-ips", "nodeport-ips")
_TARGET = "{ip} daddr . meta l4proto . th dport vmap"
_MARK = f"{MASQUERADE_MARK:#x}"
_RULES = (
    ("filter-prerouting-pre-dnat", f"{_NEW} firewall-check"),
    ("filter-output-pre-dnat", f"{_NEW} firewall-check"),
    ("filter-forward", f"{_NEW} service-endpoints-check"),
    ("filter-forward", f"{_NEW} cluster-ips-check"),
    ("filter-input", f"{_NEW} nodeport-endpoints-check"),
    ("filter-input", f"{_NEW} service-endpoints-check"),
    ("filter-output", f"{_NEW} service-endpoints-check"),
    ("filter-output", f"{_NEW} cluster-ips-check"),
    ("nat-output", "jump services"),
    ("nat-postrouting", "jump masquerading"),
    ("nat-prerouting", "jump services"),
    ("mark-for-masquerade", f"mark set mark or {_MARK}"),
    ("masquerading", f"mark and {_MARK} == 0 return"),
    ("masquerading", f"mark set mark xor {_MARK}"),
    ("masquerading", "masquerade fully-random"),
    ("cluster-ips-check", '{ip} daddr @cluster-ips reject comment "Reject traffic to invalid ports of ClusterIPs"'),
    ("reject-chain", "reject"),
    ("service-endpoints-check", f"{_TARGET} @no-endpoint-services"),
    ("nodeport-endpoints-check", "{ip} daddr @nodeport-ips meta l4proto . th dport vmap @no-endpoint-nodeports"),
    ("firewall-check", f"{_TARGET} @firewall-ips"),
    ("services", f"{_TARGET} @service-ips"),
    ("services", "{ip} daddr @nodeport-ips meta l4proto . th dport vmap @service-nodeports"),
)
# nft's words for an IP version: the family, which is that of the table as well, and the type of its addresses.
_WORDS = {4: {"ip": "ip", "address": "ipv4_addr"}, 6: {"ip": "ip6", "address": "ipv6_addr"}}
_OF_SERVICE = re.compile(r"^\s*chain (\S+/\S+) \{(\s*\})?", re.MULTILINE)


Pods = IPv4Network | IPv6Network


def transactions(
    services: Iterable[ServicePort],
    names: Names,
    node: Iterable[IPAddress],
    have: str,
    pods: Pods | None = None,
    version: int = 4,
) -> tuple[str, ...]:
    """A full sync of the Services of one IP version, as what has to be run one after the other. `have` is the table as
    nft lists it, "" without one.

    Everything is emptied and filled in one transaction. The chain of a Service that is gone is emptied in it and
    deleted by the next sync, because kernels before 6.2 see a map's element as a user of its chain for a while longer.
    """
    words = _WORDS[version]
    services, add = list(services), f"{words['ip']} {names.table}"
    found = {name: bool(empty) for name, empty in _OF_SERVICE.findall(have)}
    chains = [*_CHAINS, *dict.fromkeys(chain for each in services for chain, _ in _service(each, pods))]
    gone = [name for name in found if name not in chains]
    emptied = [name for name in gone if not found[name]]
    lines = [f'add table {add} {{ comment "rules for {names.table}" ; }}']
    lines += (f"add set {add} {name} {{ type {words['address']} ; }}" for name in _SETS)
    lines += (f"add map {add} {name} {{ type {kind.format(**words)} ; }}" for name, kind in _MAPS.items())
    for name, kind, hook, priority in _BASE:
        lines.append(f"add chain {add} {name} {{ type {kind} hook {hook} priority {priority} ; }}")
    lines += (f"add chain {add} {name}" for name in chains)
    lines += (f"flush chain {add} {name}" for name in [*(base[0] for base in _BASE), *chains, *emptied])
    lines += (f"flush set {add} {name}" for name in _SETS)
    lines += (f"flush map {add} {name}" for name in _MAPS)
    lines += (f"add rule {add} {chain} {rule.format(**words)}" for chain, rule in _RULES)
    lines += (f"add element {add} nodeport-ips {{ {address} }}" for address in node)
    for each in services:
        lines += (f"add rule {add} {chain} {rule}" for chain, rule in _service(each, pods) if rule)
        lines += (f"add element {add} {where} {{ {element} }}" for where, element in _elements(each))
    deletions = [f"delete chain {add} {name}\n" for name in gone if found[name]]
    return (*(["".join(deletions)] if deletions else []), "\n".join([*lines, ""]))


def table(names: Names, version: int = 4) -> str:
    """Family and name of the table."""
    return f"{_WORDS[version]['ip']} {names.table}"


def removal(names: Names, version: int = 4) -> str:
    """What takes the table away, whether it is there or not."""
    return f"table {table(names, version)} {{ }}\ndelete table {table(names, version)}\n"


def _elements(service: ServicePort) -> Iterator[tuple[str, str]]:
    """(map or set, element): the ways into a Service, and those that lead nowhere."""
    inside = f"{service.cluster_ip} . {service.protocol} . {service.port}"
    outside = f"{service.protocol} . {service.node_port}"
    comment, refused = f'comment "{service.label}"', "goto reject-chain"
    yield "cluster-ips", f"{service.cluster_ip}"
    if service.endpoints:
        yield "service-ips", f"{inside} : goto service-{path(service)}"
    else:
        yield "no-endpoint-services", f"{inside} {comment} : {refused}"
    if service.node_port and service.endpoints:
        yield "service-nodeports", f"{outside} : goto external-{path(service)}"
    if service.node_port and not service.reached_from_outside:
        verdict = "drop" if service.endpoints else refused
        yield "no-endpoint-nodeports", f"{outside} {comment} : {verdict}"


def _service(service: ServicePort, pods: Pods | None) -> Iterator[tuple[str, str]]:
    """(chain, rule) of one Service. A chain that has none gets an empty one."""
    if not service.endpoints:
        return
    cluster, ip = f"service-{path(service)}", _WORDS[service.version]["ip"]
    if pods:
        yield cluster, f"{ip} daddr {service.cluster_ip} {ip} saddr != {pods} jump mark-for-masquerade"
    if service.node_port:
        yield from _external(service, pods)
    yield cluster, _spread(service, service.endpoints)
    if service.node_port and service.near and service.local_policy:
        yield f"local-{path(service)}", _spread(service, service.near)
    for endpoint in service.endpoints:
        chain = f"endpoint-{path(service, endpoint)}"
        yield chain, f"{ip} saddr {endpoint.address} jump mark-for-masquerade"  # a pod that reaches itself
        yield chain, f"meta l4proto {service.protocol} dnat to {endpoint}"


def _external(service: ServicePort, pods: Pods | None) -> Iterator[tuple[str, str]]:
    chain, cluster = f"external-{path(service)}", f"service-{path(service)}"
    ip = _WORDS[service.version]["ip"]
    if not service.local_policy:
        yield chain, "jump mark-for-masquerade"
    else:
        if pods:
            yield chain, f'{ip} saddr {pods} goto {cluster} comment "short-circuit pod traffic"'
        yield chain, 'fib saddr type local jump mark-for-masquerade comment "masquerade local traffic"'
        yield chain, f'fib saddr type local goto {cluster} comment "short-circuit local traffic"'
    if service.reached_from_outside:
        yield chain, f"goto {'local' if service.local_policy else 'service'}-{path(service)}"


def _spread(service: ServicePort, endpoints: Sequence[Endpoint]) -> str:
    each = (f"{number} : goto endpoint-{path(service, one)}" for number, one in enumerate(endpoints))
    return f"numgen random mod {len(endpoints)} vmap {{ {' , '.join(each)} }}"
