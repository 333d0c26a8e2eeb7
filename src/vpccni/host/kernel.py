# SPDX-License-Identifier: Apache-2.0
"""The kernel's network objects of one node: observe them, apply requests, wire and unwire pods.

Knows sockets and which refusals mean that somebody was there first. Must never decide what should be: requests and
wirings come from `core`. `ipamd` holds one in its wiring thread, and uses it in no other.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Self

from vpccni.core import conventions as c
from vpccni.core import egress, podseen
from vpccni.core.podnet import PodAddress, PodWiring, Sysctl, unroute, unwire
from vpccni.host import sysctl
from vpccni.host.podwire import OpenSocket, PodWirer
from vpccni.host.undo import GONE
from vpccni.netlink.errors import NetlinkError
from vpccni.netlink.namespace import inside
from vpccni.netlink.socket import RouteSocket
from vpccni.netlink.values import IPAddress, Link, Request, Route, Value, delete, delete_group, set_link

_POD_TABLES = (c.TABLE_MAIN, c.POD_TABLE)


class NodeKernel:
    """A node's kernel state. `netns_fd` is its namespace; None means the one that the calling thread is in now."""

    def __init__(self, netns_fd: int | None = None, open_socket: OpenSocket = RouteSocket) -> None:
        """`open_socket` makes the sockets, of the node and of each pod."""
        self._netns_fd = netns_fd
        self._host = open_socket(netns_fd)
        self._wirer = PodWirer(self._host, netns_fd, open_socket)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the node's socket."""
        self._host.close()

    def wire(self, wiring: PodWiring, netns_fd: int, *, fresh: bool = False) -> None:
        """Connect one interface of the pod whose namespace is `netns_fd`.

        All or nothing; a repeated call completes what is missing, unless the attachment is `fresh`: then what an
        earlier one left is replaced. HostError or NetlinkError says which step failed.
        """
        self._wirer.wire((wiring,), netns_fd, fresh=fresh)

    def wire_all(self, wirings: Sequence[PodWiring], netns_fd: int, *, fresh: bool = False) -> None:
        """Connect all interfaces of a pod, or none of them."""
        self._wirer.wire(wirings, netns_fd, fresh=fresh)

    def unwire(self, addresses: Sequence[PodAddress], link_name: str, container_id: str = "") -> list[Request]:
        """Remove rules and routes of a pod's addresses; what was removed. The link dies with the pod's namespace.

        Succeeds when anything is gone already. An address whose route leads to the veth of another sandbox belongs to
        that one by now, and is left alone. `container_id`, when known, tells a newer sandbox's veth of the same name.
        """
        index = self.pod_link(link_name, container_id) if link_name else 0
        removed, free = self._unroute(addresses, index, container_id)
        rules = [request for request in unwire(free, index, link_name) if not isinstance(request.value, Route)]
        return removed + self._tolerant(rules)

    def pods(self, veth_prefix: str = c.VETH_PREFIX) -> tuple[podseen.ObservedPod, ...]:
        """The wired pods as the kernel alone tells them, in either layout: key by alias, addresses by route, table by
        rule."""
        routes = [route for version in (4, 6) for table in _POD_TABLES for route in self._host.routes(version, table)]
        rules = [*self._host.rules(4), *self._host.rules(6)]
        return podseen.pods(self._host.links(), routes, rules, veth_prefix)

    def pod_of(self, container_id: str, ifname: str) -> podseen.ObservedPod | None:
        """The wired pod of that attachment, from the kernel alone: for a DEL that knows nothing else."""
        for pod in self.pods():
            if pod.alias is not None and (pod.alias.container_id, pod.alias.ifname) == (container_id, ifname):
                return pod
        return None

    def local_addresses(self, version: int) -> list[IPAddress]:
        """The node-local egress addresses that a host route leads to, whoever made it."""
        return egress.held_in(self._host.routes(version, c.TABLE_MAIN))

    def links_by_mac(self) -> dict[str, Link]:
        """MAC -> link, without the pods' veths."""
        return {link.mac: link for link in self._host.links() if link.mac and not podseen.is_pod_link(link)}

    def observe(self, versions: Iterable[int] = (4,)) -> list[Value]:
        """Links, addresses, routes (but those of the local table) and rules of the address families."""
        seen: list[Value] = list(self._host.links())
        for version in versions:
            seen += self._host.addresses(version)
            seen += [route for route in self._host.routes(version) if route.table != c.TABLE_LOCAL]
            seen += self._host.rules(version)
        return seen

    def apply(self, requests: Sequence[Request]) -> None:
        """Run requests in order. What is there already, or gone already, is fine; the first other refusal is raised."""
        self._tolerant(requests)

    def differing_sysctls(self, settings: Iterable[Sysctl]) -> list[Sysctl]:
        """Those settings that the kernel has and that have another value there."""
        links = self._host.ipv6_settings()
        with inside(self._netns_fd):
            return sysctl.differing(settings, links)

    def apply_sysctls(self, settings: Iterable[Sysctl]) -> list[Sysctl]:
        """Write the settings that differ; what was written."""
        with inside(self._netns_fd):
            return sysctl.apply(settings)

    def pod_link(self, name: str, container_id: str) -> int:
        """Index of a sandbox's host veth; 0 when there is none, or when the name is another sandbox's by now."""
        link = self._host.link(name)
        return link.index if link is not None and self._same_sandbox(link, container_id) else 0

    def delete_left(self, links: Mapping[int, str]) -> list[str]:
        """Delete pod links (index -> name) that still exist, together; the names of those that did."""
        found = [self._host.link_by_index(index) for index in links]
        left = [link for link in found if link is not None and link.name == links[link.index]]
        self.delete_links(link.index for link in left)
        return [link.name for link in left]

    def delete_links(self, indexes: Iterable[int]) -> None:
        """Delete links together, as one device group: one grace period (20 ms) instead of one for each."""
        doomed = [Link("", index=index, group=c.DOOMED_GROUP) for index in indexes]
        if doomed:
            self._tolerant([set_link(link, "group") for link in doomed])
            self._tolerant([delete_group(c.DOOMED_GROUP)])

    def _same_sandbox(self, link: Link, container_id: str) -> bool:
        alias = c.parse_alias(link.alias)
        return alias is None or not container_id or alias.container_id == container_id

    def _unroute(
        self, addresses: Sequence[PodAddress], index: int, container_id: str
    ) -> tuple[list[Request], list[PodAddress]]:
        """Remove the addresses' routes over our link. (What was removed, addresses that nobody routes now.)"""
        removed: list[Request] = []
        free: list[PodAddress] = []
        unsure: list[PodAddress] = []
        if index:
            for each in addresses:
                done = self._tolerant(unroute(each.address, index))
                (free if done else unsure).append(each)
                removed += done
        else:
            unsure = list(addresses)
        routes = self._pod_routes(unsure)
        for each in unsure:
            found = routes.get(each.address, [])
            mine = [route for route in found if self._is_of(route, container_id)]
            removed += self._tolerant([delete(route) for route in mine])
            if len(mine) == len(found):
                free.append(each)
        return removed, free

    def _pod_routes(self, addresses: Sequence[PodAddress]) -> dict[IPAddress, list[Route]]:
        """Pod routes of both layouts, listed only when there is an address to look for."""
        found: dict[IPAddress, list[Route]] = {}
        for version in dict.fromkeys(each.address.version for each in addresses):
            for table in _POD_TABLES:
                for route in filter(podseen.is_pod_route, self._host.routes(version, table)):
                    found.setdefault(route.dst.network_address, []).append(route)
        return found

    def _is_of(self, route: Route, container_id: str) -> bool:
        """Whether a route leads to a veth that names the sandbox `container_id`, whatever the veth is called."""
        link = self._host.link_by_index(route.index) if container_id else None
        alias = c.parse_alias(link.alias) if link is not None else None
        return alias is not None and alias.container_id == container_id

    def _tolerant(self, requests: Sequence[Request]) -> list[Request]:
        """Run requests; those that changed something. EEXIST of an addition and absence of the deleted are fine."""
        done: list[Request] = []
        failure: NetlinkError | None = None
        for request, error in zip(requests, self._host.batch(requests) if requests else (), strict=True):
            if error is None:
                done.append(request)
            elif not _harmless(request, error):
                failure = failure or error
        if failure is not None:
            raise failure
        return done


def _harmless(request: Request, error: NetlinkError) -> bool:
    if request.verb == "add":
        return error.errno == errno.EEXIST
    gone = request.verb == "delete" or (isinstance(request.value, Link) and request.fields == ("group",))
    return gone and error.errno in GONE
