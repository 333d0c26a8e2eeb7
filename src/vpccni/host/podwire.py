# SPDX-License-Identifier: Apache-2.0
"""Runs a pod's wiring in the order that is fast and can be taken back.

Knows the steps (link alone, whose it is, sysctls, one batch in the pod, one batch on the host), that nothing is listed
as long as nothing is in the way, and how to go on when something is: a wiring that was begun is completed, a veth of an
older sandbox replaced, foreign objects refused. Must never decide what a pod needs: that is `podnet`. `host.kernel`
calls it, in the wiring thread.

`lo` in the pod is left to the runtime, as upstream does.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from vpccni.core import conventions as c
from vpccni.core.diff import diff, identity
from vpccni.core.podnet import PodWiring, Sysctl
from vpccni.core.podseen import is_pod_rule, link_of
from vpccni.errors import HostError
from vpccni.host import sysctl
from vpccni.host.undo import UndoJournal
from vpccni.netlink.errors import NetlinkError
from vpccni.netlink.namespace import inside
from vpccni.netlink.socket import RouteSocket
from vpccni.netlink.values import Link, Request, Route, Rule, Value, add, delete

OpenSocket = Callable[[int | None], RouteSocket]

# EEXIST: host name, host index or pod name is taken. EBUSY: the pod's index is.
_IN_THE_WAY = frozenset({errno.EEXIST, errno.EBUSY})
_ATTEMPTS = 3


class PodWirer:
    """Wires pods of one node. `host` is the node's socket, `host_fd` its namespace (None: the calling thread's)."""

    def __init__(self, host: RouteSocket, host_fd: int | None, open_socket: OpenSocket) -> None:
        self._host, self._host_fd, self._open = host, host_fd, open_socket

    def wire(self, wirings: Sequence[PodWiring], netns_fd: int, *, fresh: bool = False) -> None:
        """All interfaces of a pod or, when a step fails, none: then the kernel is as it was before, but for veths of
        older sandboxes of the same pod, which are gone for good.

        `fresh`: the attachment is new, so that a veth of the same sandbox is what an earlier DEL left in a namespace
        that lives on, with an address that is not the pod's any more; it is replaced, never completed.
        """
        journal = UndoJournal()
        with self._open(netns_fd) as pod:
            try:
                for wiring in wirings:
                    self._wire(wiring, pod, netns_fd, journal, fresh)
            except BaseException as error:
                for failure in journal.undo():
                    error.add_note(f"while taking back: {failure.message}")
                raise

    def _wire(self, wiring: PodWiring, pod: RouteSocket, netns_fd: int, journal: UndoJournal, fresh: bool) -> None:
        for _ in range(_ATTEMPTS):
            refusal = self._create(wiring.link, wiring.inside, netns_fd, journal)
            if refusal is None:
                return self._connect(wiring, pod, netns_fd, journal)
            if refusal.errno not in _IN_THE_WAY:
                raise refusal
            outer, inner = self._host.link(wiring.link.name), pod.link(wiring.inside.name)
            if outer is None:
                return self._create_elsewhere(wiring, inner, pod, netns_fd, journal)
            _check_ours(wiring, outer)
            if not fresh and inner is not None and _same_wiring(wiring, outer, inner):
                return self._complete(wiring.over(outer, inner), (outer, inner), pod, netns_fd, journal)
            # The older sandbox loses its network: its pod has been replaced by the one that we are wiring.
            self._remove(outer)
        raise HostError(
            f"create {wiring.link.name}",
            "a link of that name comes back as often as it is removed",
            code="link-contended",
            hint="see that only one node daemon runs on this node",
        )

    def _create(self, link: Link, inside: Link, netns_fd: int, journal: UndoJournal) -> NetlinkError | None:
        request = add(replace(link, peer=replace(inside, netns_fd=netns_fd)))
        refusal = self._host.batch((request,))[0]
        if refusal is None:
            journal.did(self._host, request)
        return refusal

    def _create_elsewhere(
        self, wiring: PodWiring, inner: Link | None, pod: RouteSocket, netns_fd: int, journal: UndoJournal
    ) -> None:
        """An index of our choice is taken: let the kernel choose, and ask what it chose."""
        if inner is not None:
            raise HostError(
                f"create {wiring.inside.name} in the pod",
                f"the namespace has an interface of that name already ({inner})",
                code="pod-interface-exists",
                hint="two network plugins may be configured for this pod; see the CNI configurations of the node",
            )
        link = wiring.link
        refusal = self._create(replace(link, index=0), replace(wiring.inside, index=0), netns_fd, journal)
        if refusal is not None:
            raise refusal
        outer, inner = self._host.link(link.name), pod.link(wiring.inside.name)
        if outer is None or inner is None:
            raise HostError(f"find {link.name}", "it vanished while the pod was wired", code="link-vanished")
        self._connect(wiring.over(outer, inner), pod, netns_fd, journal)

    def _connect(self, wiring: PodWiring, pod: RouteSocket, netns_fd: int, journal: UndoJournal) -> None:
        """The steps after a new link. In the pod only rules need an inverse: all else goes with the link."""
        refusals = self._on_host(wiring.link_requests, wiring, journal)
        _write_all(wiring.sysctls, self._host_fd)
        _write_in_pod(wiring.pod_sysctls, pod, netns_fd)
        results = pod.batch(wiring.pod_requests)
        for request, refusal in zip(wiring.pod_requests, results, strict=True):
            if refusal is None and isinstance(request.value, Rule):
                journal.did(pod, request)
        for refusal in filter(None, results):
            raise refusal
        refusals += self._on_host(wiring.host_requests, wiring, journal)
        if refusals:  # leftovers of an earlier holder of the address
            self._settle_host(wiring, (), journal)

    def _on_host(self, requests: Sequence[Request], wiring: PodWiring, journal: UndoJournal) -> list[NetlinkError]:
        """Those that found something there already."""
        refusals = journal.did_all(self._host, requests, self._host.batch(requests), (wiring.link,))
        for error in refusals:
            if error.errno != errno.EEXIST:
                raise error
        return refusals

    def _complete(
        self, wiring: PodWiring, links: tuple[Link, Link], pod: RouteSocket, netns_fd: int, journal: UndoJournal
    ) -> None:
        """A repeated ADD: add what is missing, and only that."""
        outer, inner = links
        _restore_later(wiring.sysctls, self._host_fd, journal)
        _restore_later(wiring.pod_sysctls, netns_fd, journal)
        seen: list[Value] = [inner, *pod.addresses(), *pod.neighbours()]
        for version in (4, 6):
            seen += [*pod.routes(version), *pod.rules(version)]
        _settle(pod, [Link(inner.name, index=inner.index, mtu=wiring.inside.mtu, up=True)], seen, journal)
        _settle(pod, [request.value for request in wiring.pod_requests], seen, journal)
        self._settle_host(wiring, (outer,), journal)

    def _settle_host(self, wiring: PodWiring, links: Sequence[Link], journal: UndoJournal) -> None:
        """Add or replace on the host what differs; foreign routes to the pod's address are refused."""
        seen: list[Value] = list(links)
        for version in dict.fromkeys(each.address.version for each in wiring.addresses):
            for table in dict.fromkeys(r.table for r in wiring.host_values if isinstance(r, Route)):
                seen += self._host.routes(version, table)
            seen += [*self._host.rules(version), *self._host.addresses(version)]
        want = wiring.host_values
        wanted = {identity(value) for value in want if isinstance(value, Route)}
        for route in seen:
            if isinstance(route, Route) and identity(route) in wanted and route.protocol not in c.OURS_OR_UNTAGGED:
                raise HostError(
                    f"route {route.dst.network_address} to {wiring.link.name}",
                    f"another program routes it already ({route})",
                    code="route-taken",
                    hint=f"find out who made it, then: ip route del {route}",
                )
        if links:  # otherwise it is new, and has been opened
            want.append(link_of(wiring.link, wiring.attachment, wiring.link.mtu))
        networks = {c.host_network(each.address) for each in wiring.addresses}
        # An earlier holder's 1536 rule to another table would win over ours.
        stale = [rule for rule in seen if isinstance(rule, Rule) and is_pod_rule(rule) and rule.src in networks]
        _settle(self._host, want, seen, journal, stale)

    def _remove(self, link: Link) -> None:
        try:
            self._host.run(delete(Link(link.name, index=link.index)))
        except NetlinkError as error:
            if error.errno != errno.ENODEV:
                raise


def _check_ours(wiring: PodWiring, link: Link) -> None:
    """Refuse a link of the pod's name that is no veth of ours, or that of another pod."""
    alias = c.parse_alias(link.alias)
    pod = wiring.attachment
    collides = alias is not None and alias.complete and (alias.namespace, alias.pod) != (pod.namespace, pod.pod)
    if link.kind == "veth" and not collides and (alias is not None or not link.alias):
        return
    why = f"the name belongs to {alias.namespace}/{alias.pod}" if alias and collides else f"it is not ours ({link})"
    raise HostError(
        f"create {link.name} for {pod.namespace}/{pod.pod}",
        why,
        code="link-name-taken",
        hint=f"remove or rename that link, or choose another AWS_VPC_K8S_CNI_VETHPREFIX: ip -d link show {link.name}",
    )


def _same_wiring(wiring: PodWiring, outer: Link, inner: Link) -> bool:
    """Whether two links are the ends of one veth, made for this sandbox. One made a moment ago has no alias."""
    paired = inner.link_index == outer.index and outer.link_index == inner.index
    alias = c.parse_alias(outer.alias)
    pod = wiring.attachment
    same = alias is None or (alias.container_id, alias.network) == (pod.container_id, pod.network)
    return paired and same and outer.link_netnsid is not None and inner.link_netnsid is not None


def _settle(
    socket: RouteSocket,
    want: Sequence[Value],
    seen: Iterable[Value],
    journal: UndoJournal,
    stale: Iterable[Value] = (),
) -> None:
    """Add and replace what is wanted, remove what is `stale` unless it is wanted; all else in `seen` stays."""
    keys = {identity(value) for value in want}
    have = {identity(value): value for value in (*stale, *(value for value in seen if identity(value) in keys))}
    requests: list[Request] = diff(have.values(), want)
    if requests:
        for error in journal.did_all(socket, requests, socket.batch(requests), tuple(have.values())):
            raise error


def _write_all(settings: Sequence[Sysctl], netns_fd: int | None) -> None:
    if settings:
        with inside(netns_fd):
            for path, value in settings:
                sysctl.write(path, value)


def _write_in_pod(settings: Sequence[Sysctl], pod: RouteSocket, netns_fd: int) -> None:
    """Only what differs. Every file below /proc/sys that was ever opened in any pod makes opening one slower, in every
    namespace: the kernel looks through all pods' entries of that name."""
    if settings:
        links = pod.ipv6_settings()
        with inside(netns_fd):
            for path, value in sysctl.differing(settings, links):
                sysctl.write(path, value)


def _restore_later(settings: Sequence[Sysctl], netns_fd: int | None, journal: UndoJournal) -> None:
    """Write settings of a link that was there before us, remembering what they were."""
    if settings:
        with inside(netns_fd):
            before = [(path, sysctl.read(path)) for path, _ in settings]
        for path, value in before:
            if value is not None:
                journal.did_sysctl((path, value), netns_fd)
        _write_all(settings, netns_fd)
