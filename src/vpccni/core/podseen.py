# SPDX-License-Identifier: Apache-2.0
"""The kernel's links, routes and rules -> which pods are wired, and what belongs to no pod any more.

Knows that a host veth's alias is the key, its /32 route the address and the 1536 rule the ENI's table, which is enough
to rebuild a lost journal. Must never know what the pool thinks; the comparison is `reconcile`'s. `host.kernel` calls it
with dumps.
"""

from __future__ import annotations

import string
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from vpccni.core import conventions as c
from vpccni.core.diff import diff, identity
from vpccni.core.podnet import Layout, PodAddress, PodAttachment, host_objects
from vpccni.core.sourcerules import is_source_rule, table_of
from vpccni.netlink.values import Address, IPAddress, IPNetwork, Link, Request, Route, Rule, Value

_HEX = frozenset(string.hexdigits.lower())


@dataclass(frozen=True, slots=True)
class ObservedPod:
    """A pod's host veth and what leads to it. `alias` is None for veths that the Go implementation made.

    `further` are the veths of its other interfaces, `egress` is its node-local address.
    """

    link: Link
    alias: c.PodAlias | None
    addresses: tuple[PodAddress, ...]
    egress: IPAddress | None = None
    further: tuple[Link, ...] = ()

    @property
    def links(self) -> tuple[Link, ...]:
        """All its veths."""
        return (self.link, *self.further)

    def __str__(self) -> str:
        whose = f"{self.alias.namespace}/{self.alias.pod}" if self.alias else "unknown pod"
        return f"{self.link.name} {whose} {' '.join(str(each.address) for each in self.addresses)}".rstrip()


def is_pod_link(link: Link, veth_prefix: str = c.VETH_PREFIX) -> bool:
    """Whether a link is the host end of a pod's veth: by alias, or by kind and a name of our making."""
    if link.kind != "veth":
        return False
    suffix = link.name[len(veth_prefix) :]
    named = link.name.startswith(veth_prefix) and len(suffix) == c.SUFFIX_LENGTH and _HEX.issuperset(suffix)
    return named or c.parse_alias(link.alias) is not None


def is_pod_route(route: Route) -> bool:
    """Whether a route has the shape of one to a pod: a host route over a device, in main ours or untagged, or in the
    pods' table."""
    return (
        route.table in (c.TABLE_MAIN, c.POD_TABLE)
        and route.dst.prefixlen == route.dst.max_prefixlen
        and route.gateway is None
        and route.index > 0
        and route.kind == "unicast"
        and route.protocol in c.OURS_OR_UNTAGGED
        and not route.unmodelled
    )


def is_pod_rule(rule: Rule) -> bool:
    """Whether a rule has priority and shape of a pod's, and is ours or untagged."""
    network = rule.dst if rule.priority == c.RULE_TO_POD else rule.src
    other = rule.src if rule.priority == c.RULE_TO_POD else rule.dst
    plain = not (rule.fwmask or rule.iif or rule.oif or rule.unmodelled) and rule.kind == "lookup"
    return (
        rule.priority in (c.RULE_TO_POD, c.RULE_FROM_POD)
        and (rule.priority == c.RULE_FROM_POD or rule.table == c.TABLE_MAIN)
        and network is not None
        and network.prefixlen == network.max_prefixlen
        and other is None
        and plain
        and rule.protocol in c.OURS_OR_UNTAGGED
    )


def pods(
    links: Iterable[Link], routes: Iterable[Route], rules: Iterable[Rule], veth_prefix: str = c.VETH_PREFIX
) -> tuple[ObservedPod, ...]:
    """Every pod with its addresses, in order of link name, card and address. Links with one alias are one pod."""
    by_index: dict[int, set[IPAddress]] = {}
    for route in filter(is_pod_route, routes):
        by_index.setdefault(route.index, set()).add(route.dst.network_address)
    tables: dict[IPNetwork, int] = {}
    shared: list[Rule] = []
    for rule in rules:
        if is_source_rule(rule):
            shared.append(rule)
        if is_pod_rule(rule) and rule.priority == c.RULE_FROM_POD and rule.src is not None:
            tables.setdefault(rule.src, rule.table)  # the first one is the one that the kernel uses
    seen: dict[str, ObservedPod] = {}
    for link in sorted(links, key=_main_first):
        if is_pod_link(link, veth_prefix):
            alias, addresses = c.parse_alias(link.alias), by_index.get(link.index, ())
            own = [each for each in addresses if not c.is_egress(each)]
            local = next((each for each in addresses if c.is_egress(each)), None)
            networks = [c.host_network(each) for each in own]
            found = [tables.get(network) or table_of(network, shared) for network in networks]
            placed = tuple(_placed(each, table) for each, table in zip(own, found, strict=True))
            name = link.alias if alias is not None else link.name
            seen[name] = _joined(seen.get(name), ObservedPod(link, alias, placed, local))
    return tuple(sorted(seen.values(), key=lambda pod: pod.link.name))


def _joined(pod: ObservedPod | None, more: ObservedPod) -> ObservedPod:
    first = pod or replace(more, addresses=())
    addresses = sorted(first.addresses + more.addresses, key=lambda at: (at.card, at.address.version, int(at.address)))
    further = (*first.further, more.link) if pod else ()
    return replace(first, addresses=tuple(addresses), egress=first.egress or more.egress, further=further)


def _main_first(link: Link) -> tuple[bool, str]:
    """The veth of a pod's first interface before its others, which carry the same alias."""
    alias = c.parse_alias(link.alias)
    return alias is None or not link.name.endswith(c.name_suffix(alias.namespace, alias.pod)), link.name


class Behind(NamedTuple):
    """Whose a host veth is, and the addresses of that interface."""

    pod: PodAttachment
    addresses: tuple[PodAddress, ...]


def wired(seen: Iterable[ObservedPod], pods: Iterable[PodAttachment]) -> dict[Link, Behind]:
    """The host veths of `pods`. A pod that has none is left out: its DEL is on its way.

    Names are compared by their ends: the prefix may have been another when a veth was made.
    """
    by_key = {(pod.network, pod.container_id, pod.ifname): pod for pod in pods}
    by_suffix = {suffix: pod for pod in by_key.values() for suffix in pod.links("")}
    found: dict[Link, Behind] = {}
    for each in seen:
        alias = each.alias
        if alias is not None:
            pod = by_key.get((alias.network, alias.container_id, alias.ifname))
        else:
            pod = by_suffix.get(each.link.name[-c.SUFFIX_LENGTH :])
        if pod is not None:
            for suffix, addresses in pod.links("").items():
                found |= {link: Behind(pod, addresses) for link in each.links if link.name.endswith(suffix)}
    return found


def link_of(veth: Link, pod: PodAttachment, mtu: int) -> Link:
    """The host veth of a pod as it should be. One that the Go implementation made gets alias and group as well: by the
    group our firewall rules know pods, and neither means anything to that implementation."""
    alias = c.pod_alias(pod.network, pod.container_id, pod.ifname, pod.namespace, pod.pod)
    return Link(veth.name, index=veth.index, kind="veth", mtu=mtu, up=True, group=c.VETH_GROUP, alias=alias)


def owned(observed: Iterable[Value], live: Mapping[PodAddress, Link]) -> list[Value]:
    """The observed routes and rules of pods, of both layouts, that may be changed or removed.

    A leaked 1536 rule is worse than litter: it sends a later holder's packets out of the wrong ENI. Untagged rules
    count as ours by priority and shape; an untagged route only when it leads to a live address or over one of our
    veths, because a plain host route may be anybody's.
    """
    held = {each.address for each in live}
    over = {link.index for link in live.values()}
    observed = tuple(observed)
    have: list[Value] = []
    for value in observed:
        if isinstance(value, Rule) and is_pod_rule(value):
            have.append(value)
        elif isinstance(value, Route) and is_pod_route(value):
            known = value.dst.network_address in held or value.index in over
            have += [value] if known or value.protocol == c.PROTOCOL else []
    own = {identity(value) for value in desired(live) if isinstance(value, Address)}
    return have + [value for value in observed if isinstance(value, Address) and identity(value) in own]


def desired(live: Mapping[PodAddress, Link], layout: Layout = "per-pod") -> list[Value]:
    """The host's routes, rules and addresses for `live` pods (address -> host veth)."""
    return [value for each, link in live.items() for value in host_objects(each, link, layout)]


def repairs(observed: Iterable[Value], live: Mapping[PodAddress, Link], layout: Layout = "per-pod") -> list[Request]:
    """What makes the host's pod routes and rules those of `live`, and of nobody else."""
    return diff(owned(observed, live), desired(live, layout))


def _placed(address: IPAddress, table: int) -> PodAddress:
    card, device = c.place_of_table(table)
    return PodAddress(address, table, device=device, card=card)
