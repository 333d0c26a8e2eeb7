# SPDX-License-Identifier: Apache-2.0
"""Services -> the input of `iptables-restore --noflush` that kube-proxy in its iptables mode would run.

Knows which chains there are, what jumps to them and in which order. Must never run a program, nor name a chain or rule
that is not of its set of names. What is written is a full sync of kube-proxy with
`--iptables-localhost-nodeports=false` (so without KUBE-FIREWALL, which is the kubelet's as well, and without
route_localnet), in a kernel without nfacct.
Without a pod CIDR kube-proxy cannot tell a pod's packets from others, as on EKS, whose kube-proxy is given none.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Sequence

from vpccni.core.firewall.chains import parse_save
from vpccni.lab.kubeproxy.nftables import Pods
from vpccni.lab.kubeproxy.values import MASQUERADE_MARK, Endpoint, Names, ServicePort

_NEW = "-m conntrack --ctstate NEW "
# (table, chain, what the jump asks for, its comment, role of its target): each is put in front of all that is there, so
# that the last one stands first.
_JUMPS = (
    ("filter", "INPUT", _NEW, "externally-visible service portals", "EXTERNAL-SERVICES"),
    ("filter", "FORWARD", _NEW, "externally-visible service portals", "EXTERNAL-SERVICES"),
    ("filter", "INPUT", "", "health check service ports", "NODEPORTS"),
    ("filter", "FORWARD", _NEW, "service portals", "SERVICES"),
    ("filter", "OUTPUT", _NEW, "service portals", "SERVICES"),
    ("filter", "FORWARD", "", "forwarding rules", "FORWARD"),
    ("filter", "INPUT", _NEW, "load balancer firewall", "PROXY-FIREWALL"),
    ("filter", "OUTPUT", _NEW, "load balancer firewall", "PROXY-FIREWALL"),
    ("filter", "FORWARD", _NEW, "load balancer firewall", "PROXY-FIREWALL"),
    ("nat", "OUTPUT", "", "service portals", "SERVICES"),
    ("nat", "PREROUTING", "", "service portals", "SERVICES"),
    ("nat", "POSTROUTING", "", "postrouting rules", "POSTROUTING"),
)
_CHAINS = {
    "filter": ("SERVICES", "EXTERNAL-SERVICES", "FORWARD", "NODEPORTS", "PROXY-FIREWALL"),
    "nat": ("SERVICES", "NODEPORTS", "POSTROUTING", "MARK-MASQ"),
}
_TABLES = ("filter", "nat", "mangle")
_LOOPBACK = {4: "127.0.0.0/8", 6: "::1/128"}
_LAST = "nodeports; NOTE: this must be the last rule in this chain"


def transaction(
    services: Iterable[ServicePort], names: Names, saved: str, pods: Pods | None = None, version: int = 4
) -> str:
    """A full sync of the Services of one IP version. `saved` is what its `iptables-save` prints: jumps that it has stay
    where they are, chains of Services that are no longer wanted go. Chains that stay are emptied and filled in one
    transaction per table."""
    services, have = list(services), parse_save(saved)
    rules = {"filter": [*_filter(services, names), *_forward(names)], "nat": list(_nat(services, names, pods, version))}
    blocks = []
    for table in _TABLES:
        chains = have.get(table, {})
        wanted = dict.fromkeys(names.chain(role) for role in _CHAINS.get(table, ()))
        wanted |= dict.fromkeys(rule.split()[1] for rule in rules.get(table, ()))
        canary = names.chain("PROXY-CANARY")  # its absence tells kube-proxy that somebody flushed everything
        stale = [name for name in chains if names.stale(name) and name not in wanted]
        declared = [*([] if canary in chains else [canary]), *wanted, *stale]
        lines = [*(f":{name} - [0:0]" for name in declared), *_missing(table, chains, names), *rules.get(table, ())]
        blocks.append("\n".join([f"*{table}", *lines, *(f"-X {name}" for name in stale), "COMMIT", ""]))
    return "".join(blocks)


def removal(saved: str, names: Names) -> str:
    """What takes every chain of the set away, and the jumps to them; empty when there is none."""
    blocks = []
    for table, chains in parse_save(saved).items():
        owned = [name for name in chains if names.owns(name)]
        if owned:
            foreign = (rule for name, rules in chains.items() if name not in owned for rule in rules)
            jumps = [rule.replace("-A ", "-D ", 1) for rule in foreign if _target(rule) in owned]
            emptied = (f":{name} - [0:0]" for name in owned)
            blocks.append("\n".join([f"*{table}", *emptied, *jumps, *(f"-X {each}" for each in owned), "COMMIT", ""]))
    return "".join(blocks)


def _missing(table: str, chains: dict[str, list[str]], names: Names) -> Iterator[str]:
    for where, chain, match, comment, role in _JUMPS:
        rule = f'{match}-m comment --comment "{names.who} {comment}" -j {names.chain(role)}'
        there = (shlex.split(each)[2:] for each in chains.get(chain, ()))
        if where == table and shlex.split(rule) not in there:
            yield f"-I {chain} {rule}"


def _target(rule: str) -> str:
    words = shlex.split(rule)
    return words[words.index("-j") + 1] if "-j" in words else ""


def _nat(services: Sequence[ServicePort], names: Names, pods: Pods | None, version: int) -> Iterator[str]:
    mark, chain = f"{MASQUERADE_MARK:#x}", f"-A {names.chain('POSTROUTING')}"
    yield f"{chain} -m mark ! --mark {mark}/{mark} -j RETURN"
    yield f"{chain} -j MARK --xor-mark {mark}"  # or it would be masqueraded again should it come by again
    yield f'{chain} -m comment --comment "{names.who} service traffic requiring SNAT" -j MASQUERADE --random-fully'
    yield f"-A {names.chain('MARK-MASQ')} -j MARK --or-mark {mark}"
    for service in services:
        if service.endpoints:
            yield from _service(service, names, pods)
    match = f'-m comment --comment "{names.who} service {_LAST}" -m addrtype --dst-type LOCAL ! -d {_LOOPBACK[version]}'
    yield f"-A {names.chain('SERVICES')} {match} -j {names.chain('NODEPORTS')}"


def _service(service: ServicePort, names: Names, pods: Pods | None) -> Iterator[str]:
    cluster, external = names.hashed("SVC", service), names.hashed("EXT", service)
    match = f'-m comment --comment "{service.label} cluster IP" {_asked(service)} -d {service.cluster_ip}'
    yield f"-A {names.chain('SERVICES')} {match} --dport {service.port} -j {cluster}"
    if service.node_port:
        asked = f"-m comment --comment {service.label} {_asked(service)} --dport {service.node_port}"
        yield f"-A {names.chain('NODEPORTS')} {asked} -j {external}"
    if pods:
        yield f"-A {cluster} {match} --dport {service.port} ! -s {pods} -j {names.chain('MARK-MASQ')}"
    if service.node_port:
        yield from _external(service, names, pods)
    yield from _spread(cluster, service, service.endpoints, names)
    if service.node_port and service.local_policy:
        yield from _spread(names.hashed("SVL", service), service, service.near, names)
    for endpoint in service.endpoints:
        chain = f"-A {names.hashed('SEP', service, endpoint)} -m comment --comment {service.label}"
        yield f"{chain} -s {endpoint.address} -j {names.chain('MARK-MASQ')}"  # a pod that reaches itself
        yield f"{chain} {_asked(service)} -j DNAT --to-destination {endpoint}"


def _external(service: ServicePort, names: Names, pods: Pods | None) -> Iterator[str]:
    """The node port: masqueraded, because the endpoint may be elsewhere; with the policy Local only for the node's own
    flows, which may go anywhere, as may those of pods where a pod CIDR tells them."""
    cluster, masquerade = names.hashed("SVC", service), names.chain("MARK-MASQ")

    def rule(what: str, match: str, target: str) -> str:
        comment = f'-m comment --comment "{what} for {service.label} external destinations"'
        return f"-A {names.hashed('EXT', service)} {comment} {match}-j {target}"

    if not service.local_policy:
        yield rule("masquerade traffic", "", masquerade)
    else:
        if pods:
            yield rule("pod traffic", f"-s {pods} ", cluster)
        yield rule("masquerade LOCAL traffic", "-m addrtype --src-type LOCAL ", masquerade)
        yield rule("route LOCAL traffic", "-m addrtype --src-type LOCAL ", cluster)
    if service.reached_from_outside:
        policy = names.hashed("SVL", service) if service.local_policy else cluster
        yield f"-A {names.hashed('EXT', service)} -j {policy}"


def _spread(chain: str, service: ServicePort, endpoints: Sequence[Endpoint], names: Names) -> Iterator[str]:
    """Each rule takes its share of what those before it have left, the last one everything."""
    for left, endpoint in zip(range(len(endpoints), 0, -1), endpoints, strict=True):
        share = f"-m statistic --mode random --probability {1 / left:.10f} " if left > 1 else ""
        comment = f'-m comment --comment "{service.label} -> {endpoint}"'
        yield f"-A {chain} {comment} {share}-j {names.hashed('SEP', service, endpoint)}"


def _filter(services: Sequence[ServicePort], names: Names) -> Iterator[str]:
    """What has nowhere to go: refused without any endpoint, dropped without one on this node."""
    for service in services:
        if not service.endpoints:
            match = f'-m comment --comment "{service.label} has no endpoints" {_asked(service)} -d {service.cluster_ip}'
            yield f"-A {names.chain('SERVICES')} {match} --dport {service.port} -j REJECT"
        if service.node_port and not service.reached_from_outside:
            why, verdict = ("no local endpoints", "DROP") if service.endpoints else ("no endpoints", "REJECT")
            match = f'-m comment --comment "{service.label} has {why}" -m addrtype --dst-type LOCAL {_asked(service)}'
            yield f"-A {names.chain('EXTERNAL-SERVICES')} {match} --dport {service.node_port} -j {verdict}"


def _forward(names: Names) -> Iterator[str]:
    chain, mark = f"-A {names.chain('FORWARD')}", f"{MASQUERADE_MARK:#x}"
    yield f"{chain} -m conntrack --ctstate INVALID -j DROP"
    yield f'{chain} -m comment --comment "{names.who} forwarding rules" -m mark --mark {mark}/{mark} -j ACCEPT'
    rule = f'-m comment --comment "{names.who} forwarding conntrack rule" -m conntrack --ctstate RELATED,ESTABLISHED'
    yield f"{chain} {rule} -j ACCEPT"


def _asked(service: ServicePort) -> str:
    return f"-m {service.protocol} -p {service.protocol}"
