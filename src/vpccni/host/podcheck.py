# SPDX-License-Identifier: Apache-2.0
"""CHECK: what of a pod's wiring is missing or different, without changing anything.

Knows how to look at both ends of a veth. Must never repair. `ipamd` calls it in the wiring thread, for a pod whose
grant it knows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vpccni.core.diff import diff, identity
from vpccni.core.podnet import PodWiring
from vpccni.netlink.socket import RouteSocket
from vpccni.netlink.values import Link, Neighbour, Route, Value


@dataclass(frozen=True, slots=True)
class PodEnds:
    """The two ends of a pod's veth as the kernel has them; None when missing."""

    outer: Link | None
    inner: Link | None


def ends(wiring: PodWiring, netns_fd: int) -> PodEnds:
    """The veth's ends by name, in the calling thread's namespace and in the pod's."""
    peer = wiring.link.peer
    assert peer is not None
    with RouteSocket() as host, RouteSocket(netns_fd) as pod:
        return PodEnds(host.link(wiring.link.name), pod.link(peer.name))


def check(wiring: PodWiring, netns_fd: int | None) -> list[str]:
    """One sentence for each thing that is not as the wiring wants it; empty when all is well.

    Without `netns_fd` (the runtime no longer names the namespace) only the host's side is looked at.
    """
    peer = wiring.link.peer
    assert peer is not None
    with RouteSocket() as host:
        outer = host.link(wiring.link.name)
        if outer is None:
            return [f"the host has no link {wiring.link.name}"]
        problems = _host_problems(wiring, host, outer)
    if netns_fd is None:
        return problems
    with RouteSocket(netns_fd) as pod:
        inner = pod.link(peer.name)
        if inner is None:
            return [*problems, f"the pod has no link {peer.name}"]
        return problems + _pod_problems(wiring.over(outer, inner), pod)


def _host_problems(wiring: PodWiring, host: RouteSocket, outer: Link) -> list[str]:
    here = wiring.over(outer, wiring.link.peer or outer)
    want = here.host_values
    versions = dict.fromkeys(each.address.version for each in wiring.addresses)
    seen: list[Value] = []
    for version in versions:
        for table in dict.fromkeys(value.table for value in want if isinstance(value, Route)):
            seen += host.routes(version, table)
        seen += [*host.rules(version), *host.addresses(version)]
    problems = [] if outer.up else [f"{outer.name} is down"]
    return problems + _missing("the host lacks", want, seen)


def _pod_problems(wiring: PodWiring, pod: RouteSocket) -> list[str]:
    seen: list[Value] = [*pod.addresses(), *pod.neighbours()]
    for version in dict.fromkeys(each.address.version for each in wiring.addresses):
        seen += [*pod.routes(version), *pod.rules(version)]
    want = [request.value for request in wiring.pod_requests if not isinstance(request.value, Link)]
    # The neighbour names the host's MAC, which the kernel knows better than a wiring that was computed anew.
    want = [value for value in want if not isinstance(value, Neighbour)]
    problems = _missing("the pod lacks", want, seen)
    gateways = {value.dst for value in seen if isinstance(value, Neighbour) and value.permanent}
    wanted = {request.value.dst for request in wiring.pod_requests if isinstance(request.value, Neighbour)}
    return problems + [
        f"the pod lacks a permanent neighbour {gateway}" for gateway in sorted(wanted - gateways, key=str)
    ]


def _missing(text: str, want: Sequence[Value], seen: Sequence[Value]) -> list[str]:
    keys = {identity(value) for value in want}
    return [f"{text} {request.value}" for request in diff([value for value in seen if identity(value) in keys], want)]
