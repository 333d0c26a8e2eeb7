# SPDX-License-Identifier: Apache-2.0
"""Brings the node itself (ENIs, tables, rules, sysctls) and its pods' routes and rules to their desired state, or back.

Knows the loop observe, diff, apply. Must never decide what is desired: that is `core.nodenet` and `core.podnet`.
`ipamd` calls `converge` at start, after every attach and detach, and whenever something may have been changed; the
second call in a row changes nothing.

Node and pods are one difference, not two: on the way from one rule layout to the other everything new, of both, is
there before anything old goes, so that no packet meets a gap.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from vpccni.core import conventions as c
from vpccni.core import podseen
from vpccni.core.diff import diff, identity
from vpccni.core.difference import Difference
from vpccni.core.nodenet import NodeNet, desired, owned, sysctls
from vpccni.core.podnet import PodAddress, PodAttachment, link_sysctls
from vpccni.host.kernel import NodeKernel
from vpccni.netlink.values import Address, IPAddress, Link, Neighbour, Route, Rule, Value

FAMILIES = (4, 6)


@dataclass(frozen=True, slots=True)
class Pods:
    """Which pods the node has now. Objects of `spared` addresses are left alone: a transition is under way.

    `mtus` is what the MTU of a host veth was (by index) when it was made or, which `compare` adds, first seen: settings
    may have changed since, and the end in the pod keeps what it got.
    """

    attachments: Sequence[PodAttachment]
    spared: frozenset[IPAddress] = frozenset()
    veth_prefix: str = c.VETH_PREFIX
    mtus: dict[int, int] = field(default_factory=dict)


def compare(kernel: NodeKernel, node: NodeNet, pods: Pods | None = None) -> Difference:
    """What `converge` would do; without `pods`, pods' objects are left out."""
    seen = kernel.observe(node.versions if pods is None else FAMILIES)
    have = owned(node, (value for value in seen if _concerns(node, value)))
    want = desired(node)
    written = list(sysctls(node))
    if pods is not None:
        veths = _veths(seen, pods)
        live = {place: link for link, behind in veths.items() for place in behind.addresses}
        spared = _spared(pods, live)
        have += [*veths, *podseen.owned((value for value in seen if _address_of(value) not in spared), live)]
        want += podseen.desired(live, node.layout)
        for link, (pod, addresses) in veths.items():
            want.append(podseen.link_of(link, pod, pods.mtus.setdefault(link.index, link.mtu)))
            written += link_sysctls(link.name, addresses)
    return Difference(
        requests=tuple(diff(have, want)),
        sysctls=tuple(kernel.differing_sysctls(written)),
        desired=tuple(want),
        desired_sysctls=tuple(written),
        present=frozenset(map(identity, have)),
    )


def apply(kernel: NodeKernel, found: Difference) -> None:
    """Do it. NetlinkError when the kernel refuses something: what could be done is done then."""
    kernel.apply_sysctls(found.sysctls)
    if any("/conf/all/" in path for path, _ in found.sysctls):
        kernel.apply_sysctls(found.desired_sysctls)  # the kernel writes such a value to every link, right ones too
    kernel.apply(found.requests)


def converge(kernel: NodeKernel, node: NodeNet, pods: Pods | None = None) -> list[str]:
    """Make the kernel hold what `node` and `pods` say; what was changed, as `ip` and `sysctl` commands."""
    found = compare(kernel, node, pods)
    apply(kernel, found)
    return found.commands


def clear(kernel: NodeKernel, node: NodeNet) -> list[str]:
    """Remove the rules and tables of the node and of its ENIs; addresses, MTU and sysctls stay as they are."""
    primary = tuple(eni for eni in node.enis if eni.primary)
    former = (*node.former, *(interface.ip for eni in node.secondary for interface in eni.interfaces))
    bare = replace(node, enis=primary, former=former, external_snat=True, node_port_support=False, external_services=())
    requests = diff(owned(bare, kernel.observe(node.versions)), [])
    kernel.apply(requests)
    return [*map(str, requests)]


def _veths(seen: Iterable[Value], pods: Pods) -> dict[Link, podseen.Behind]:
    """The pods' host veths that are there."""
    links = [value for value in seen if isinstance(value, Link)]
    routes = [value for value in seen if isinstance(value, Route)]
    rules = [value for value in seen if isinstance(value, Rule)]
    return podseen.wired(podseen.pods(links, routes, rules, pods.veth_prefix), pods.attachments)


def _spared(pods: Pods, live: Iterable[PodAddress]) -> frozenset[IPAddress]:
    """Addresses in transition, and those of pods whose link is gone: their DEL is on its way."""
    granted = {place.address for pod in pods.attachments for place in pod.addresses}
    return pods.spared | (granted - {place.address for place in live})


def _concerns(node: NodeNet, value: Value) -> bool:
    """Of a family that the node's pods do not have (any more), only what carries our protocol number."""
    return _version(value) in (0, *node.versions) or getattr(value, "protocol", 0) == c.PROTOCOL


def _version(value: Value) -> int:
    """The address family of a value; 0 for a link, which belongs to all."""
    match value:
        case Rule():
            return value.family
        case Route() | Neighbour():
            return value.dst.version
        case Address():
            return value.interface.version
        case Link():
            return 0


def _address_of(value: Value) -> IPAddress | None:
    """The single address that a route or rule is about."""
    network = value.dst if isinstance(value, Route) else (value.src or value.dst) if isinstance(value, Rule) else None
    return network.network_address if network is not None and network.num_addresses == 1 else None
