# SPDX-License-Identifier: Apache-2.0
"""A pod's addresses -> the kernel objects that connect it, in the pod and on the host, for any address family.

Knows which link, addresses, routes, rules and neighbours one interface of a pod needs (Amazon VPC CNI 1.23, with our
order of operations) and what the kernel's objects say about the pods they belong to. Must never know how requests reach
the kernel or where addresses come from. `ipamd` calls `wiring`, `host.kernel` runs it.

Routes inside the pod are left untagged (protocol boot), so that a pod's `ip route` is what people know from upstream;
routes and rules on the host carry our protocol number.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from ipaddress import IPv4Interface, IPv6Interface
from typing import Literal

from vpccni.core import conventions as c
from vpccni.core import egress
from vpccni.netlink.values import (
    Address,
    IPAddress,
    IPInterface,
    Link,
    Neighbour,
    Request,
    Route,
    Rule,
    Value,
    add,
    delete,
    set_link,
)

# How the host's routing finds pods. "per-pod", the Amazon VPC CNI's way: each has a route in main and rules of its own.
# "shared": each has a route in the pods' table, and a few rules of the node (`nodenet`) serve them all.
Layout = Literal["per-pod", "shared"]
Sysctl = tuple[str, str]  # path below /proc/sys and its value; a path, because device names may contain dots


@dataclass(frozen=True, slots=True)
class PodAddress:
    """One address of a pod: on which ENI it lives and on which of the pod's interfaces (`nic`) it goes.

    The interface for egress in the other family has the number `conventions.EGRESS_NIC` and a node-local address.
    """

    address: IPAddress
    table: int = c.TABLE_MAIN
    device: int = 0
    card: int = 0
    nic: int = 0


@dataclass(frozen=True, slots=True)
class PodAttachment:
    """Whose interface this is and the addresses of all interfaces of the pod."""

    network: str
    container_id: str
    ifname: str
    namespace: str
    pod: str
    addresses: tuple[PodAddress, ...]

    @property
    def nics(self) -> tuple[int, ...]:
        """The numbers of its interfaces, in the order in which they are wired."""
        return tuple(dict.fromkeys(each.nic for each in self.addresses))

    def on(self, nic: int) -> tuple[PodAddress, ...]:
        """The addresses of one interface."""
        return tuple(each for each in self.addresses if each.nic == nic)

    def link_name(self, veth_prefix: str, nic: int = 0) -> str:
        """Name of the host end of interface number `nic`."""
        if nic == c.EGRESS_NIC:
            return c.egress_link_name(self.network, self.container_id, self.ifname)
        return c.host_link_name(veth_prefix, self.namespace, self.pod, nic)

    def links(self, veth_prefix: str) -> dict[str, tuple[PodAddress, ...]]:
        """The addresses of each interface by the name of its host end."""
        return {self.link_name(veth_prefix, nic): self.on(nic) for nic in self.nics}


@dataclass(frozen=True, slots=True)
class PodLinkPlan:
    """What is chosen, not derived, for interface number `nic`: indexes, MACs (the pod's: empty = kernel's choice), MTU.

    Chosen indexes let everything after the link be encoded without asking the kernel. `pod_index` 2 is what the kernel
    gives the first device of a new namespace.
    """

    host_index: int
    host_mac: str
    mtu: int = c.DEFAULT_MTU
    veth_prefix: str = c.VETH_PREFIX
    pod_mac: str = ""
    pod_index: int = 2
    nic: int = 0
    layout: Layout = "per-pod"


@dataclass(frozen=True, slots=True)
class PodWiring:
    """One interface of a pod as requests, in the order in which `host.kernel` runs them.

    `link` first and alone, and down; `link_requests` as one batch on the host, which ends with it up; `sysctls` on the
    host and `pod_sysctls` in the pod; `pod_requests` as one batch inside; `host_requests`, the routes, as one batch on
    the host. The descriptor of the pod's namespace is filled in by the executor.

    The link works once both ends are up. Then the kernel tells everybody, in a thread of its own and under the one lock
    that most requests need, which takes the longer the more IPv6 routes the node has. What needs no link that is up
    therefore comes before.
    """

    attachment: PodAttachment
    plan: PodLinkPlan
    link: Link
    link_requests: tuple[Request, ...]
    sysctls: tuple[Sysctl, ...]
    pod_sysctls: tuple[Sysctl, ...]
    pod_requests: tuple[Request, ...]
    host_requests: tuple[Request, ...]

    @property
    def addresses(self) -> tuple[PodAddress, ...]:
        """The addresses of this interface."""
        return self.attachment.on(self.plan.nic)

    @property
    def alias(self) -> str:
        """The text that says on the host end whose veth it is."""
        pod = self.attachment
        return c.pod_alias(pod.network, pod.container_id, pod.ifname, pod.namespace, pod.pod)

    @property
    def host_values(self) -> list[Value]:
        """What the host has for this interface besides the link: addresses, rules and routes."""
        requests = (*self.link_requests, *self.host_requests)
        return [request.value for request in requests if not isinstance(request.value, Link)]

    @property
    def undo_requests(self) -> tuple[Request, ...]:
        """What takes a complete wiring back: rules, routes, then the link, whose end in the pod goes with it."""
        return (*self.unwire_requests, delete(Link(self.link.name, index=self.link.index)))

    @property
    def unwire_requests(self) -> tuple[Request, ...]:
        """What DEL removes from the host: rules and routes. The link dies with the pod's namespace."""
        return unwire(self.addresses, self.link.index, self.link.name)

    @property
    def inside(self) -> Link:
        """The end in the pod."""
        assert self.link.peer is not None
        return self.link.peer

    def over(self, outer: Link, inner: Link) -> PodWiring:
        """The same wiring over a veth that is there: with its indexes and MAC."""
        plan = replace(self.plan, host_index=outer.index, host_mac=outer.mac, pod_index=inner.index)
        return wiring(self.attachment, plan)


def wiring(pod: PodAttachment, plan: PodLinkPlan) -> PodWiring:
    """What connects interface `plan.nic` of `pod`. A pod with several interfaces has one wiring for each."""
    name, addresses = pod.link_name(plan.veth_prefix, plan.nic), pod.on(plan.nic)
    local = addresses[0].address if plan.nic == c.EGRESS_NIC else None
    inside = Link(
        c.EGRESS_INTERFACES[local.version] if local else c.pod_link_name(pod.ifname, plan.nic),
        index=plan.pod_index,
        mac=plan.pod_mac,
        mtu=plan.mtu,
        txqlen=0,
        queues=1,
    )
    link = Link(
        name,
        index=plan.host_index,
        kind="veth",
        mac=plan.host_mac,
        mtu=plan.mtu,
        txqlen=0,
        queues=1,  # the kernel's default is one per possible CPU, which costs a third of the ADD even with two
        peer=inside,
    )
    alias = c.pod_alias(pod.network, pod.container_id, pod.ifname, pod.namespace, pod.pod)
    outside = _outside(addresses, link, plan.layout)
    routes = tuple(request for request in outside if isinstance(request.value, Route))
    if local is None:
        pod_sysctls, pod_requests = _pod_sysctls(addresses, inside.name), _inside(addresses, inside, plan)
    else:
        pod_sysctls = egress.pod_sysctls(local, inside.name, pod.ifname)
        pod_requests = egress.inside(local, inside, plan.host_mac)
    named = _named(link, alias, own_link_local=local is None and _speaks_ipv6(addresses))
    prepared = (request for request in outside if request not in routes)
    opened = (named, *prepared, set_link(Link(name, index=link.index, up=True), "up"))
    sysctls = tuple(each for each in link_sysctls(name, addresses) if not each[0].endswith("/addr_gen_mode"))
    return PodWiring(pod, plan, link, opened, sysctls, pod_sysctls, pod_requests, routes)


def link_sysctls(name: str, addresses: Collection[PodAddress]) -> tuple[Sysctl, ...]:
    """Kernel settings of the host veth of an interface with these addresses.

    The pod must not make the host a listener of router advertisements. Towards an IPv4 pod the host speaks no IPv6 at
    all, and towards an IPv6 pod the kernel makes no address of its own: at every change of a link it walks through the
    IPv6 routes of all links, and would add three for each veth.
    """
    if any(each.nic == c.EGRESS_NIC for each in addresses):
        return egress.host_sysctls(name)
    conf = f"net/ipv6/conf/{name}/"
    if not _speaks_ipv6(addresses):
        return ((conf + "disable_ipv6", "1"),)
    values = {"accept_ra": "0", "accept_redirects": "1", "forwarding": "0", "addr_gen_mode": "1"}
    return tuple((conf + key, value) for key, value in values.items())


@lru_cache(maxsize=1024)  # asked every second about every pod
def host_sysctls(pod: PodAttachment, veth_prefix: str) -> tuple[Sysctl, ...]:
    """Kernel settings of all host veths of a pod."""
    links = pod.links(veth_prefix).items()
    return tuple(setting for name, addresses in links for setting in link_sysctls(name, addresses))


def _named(link: Link, alias: str, *, own_link_local: bool) -> Request:
    """Whose the link is and, if the kernel shall make no link-local address, that.

    The kernel takes these in a change only, and tells nobody of it while the link is down: a change of one that is up
    makes it walk through the routes of all pods. Until then the link is nobody's, and no watcher takes it for one that
    has gone down. The kernel's own setting says the same as the message, but writing it takes five times as long.
    """
    ours = Link(link.name, index=link.index, group=c.VETH_GROUP, alias=alias, addr_gen_none=own_link_local)
    fields = ["group", *(["alias"] if alias else []), *(["addr_gen_none"] if own_link_local else [])]
    return set_link(ours, *fields)


def _speaks_ipv6(addresses: Collection[PodAddress]) -> bool:
    """Whether the host speaks IPv6 to the interface that has these."""
    return any(each.address.version == 6 for each in addresses)


def _pod_sysctls(addresses: Sequence[PodAddress], name: str) -> tuple[Sysctl, ...]:
    if not _speaks_ipv6(addresses):
        return ()
    return tuple((f"net/ipv6/conf/{device}/disable_ipv6", "0") for device in (name, "lo"))


def _inside(addresses: Sequence[PodAddress], link: Link, plan: PodLinkPlan) -> tuple[Request, ...]:
    """Addresses, up, then gateway and default route, neighbour and, beyond interface 0, the rule of each family."""
    index, name, nic = link.index, link.name, plan.nic
    requests: list[Request] = []
    for each in addresses:
        version = each.address.version
        requests.append(add(Address(_host_interface(each.address), index, name, nodad=version == 6)))
    requests.append(set_link(Link(name, index=index, up=True), "up"))
    table = nic or c.TABLE_MAIN
    for version in dict.fromkeys(each.address.version for each in addresses):
        gateway = c.pod_gateway(version, nic)
        near, far = c.host_network(gateway), c.everything(version)
        requests.append(add(Route(near, index, name, table=table, scope="link")))
        requests.append(add(Route(far, index, name, gateway=gateway, table=table)))
        requests.append(add(Neighbour(gateway, index, name, mac=plan.host_mac)))
    if nic:
        requests += [add(Rule(c.POD_RULE_FROM_NIC, table, src=c.host_network(each.address))) for each in addresses]
    return tuple(requests)


def _outside(addresses: Sequence[PodAddress], link: Link, layout: Layout) -> list[Request]:
    values = [value for each in addresses for value in host_objects(each, link, layout)]
    return [add(value) for value in dict.fromkeys(values)]


def host_objects(each: PodAddress, link: Link, layout: Layout) -> list[Value]:
    """What the host needs for one address of a pod behind `link`: its route, and rules if they are the pod's own."""
    local = egress.outside(each.address, link) if each.nic == c.EGRESS_NIC else _ask_from(each.address, link)
    return [*local, pod_route(each.address, link.index, link.name, layout), *pod_rules(each, layout)]


def _ask_from(address: IPAddress, link: Link) -> tuple[Address, ...]:
    """The link-local address from which the host asks an IPv6 pod for its MAC: at once (`nodad`), and without routes to
    all link-local addresses and to the anycast address of their network, of which there would be two per veth."""
    if address.version == 4:
        return ()
    own = IPv6Interface((egress.link_local(link.mac), 128))
    return (Address(own, link.index, link.name, nodad=True, noprefixroute=True),)


def pod_route(address: IPAddress, index: int, dev: str = "", layout: Layout = "per-pod") -> Route:
    """The host's route to a pod. To a local address, which no rule is about, it is in main in either layout."""
    table = c.POD_TABLE if layout == "shared" and not c.is_egress(address) else c.TABLE_MAIN
    return Route(c.host_network(address), index, dev, table=table, scope="link", protocol=c.PROTOCOL)


def pod_rules(each: PodAddress, layout: Layout = "per-pod") -> list[Rule]:
    """512: to the pod by main; 1536, on a secondary ENI: from the pod by the ENI's table.

    None for a local address, nor in the shared layout.
    """
    if layout == "shared" or c.is_egress(each.address):
        return []
    network = c.host_network(each.address)
    rules = [Rule(c.RULE_TO_POD, c.TABLE_MAIN, dst=network, protocol=c.PROTOCOL)]
    if not c.is_main(each.table):
        rules.append(Rule(c.RULE_FROM_POD, each.table, src=network, protocol=c.PROTOCOL))
    return rules


def unwire(addresses: Iterable[PodAddress], index: int, dev: str = "") -> tuple[Request, ...]:
    """Removal of rules, then routes, of `addresses`, in whichever layout; untagged ones of the Go implementation match
    as well. A pod may have been wired in the other layout, and its node be on its way from one to the other."""
    requests: list[Request] = []
    for each in addresses:
        # Protocol 0 is a wildcard in a deletion.
        requests += [delete(replace(rule, protocol=0)) for rule in pod_rules(each)]
        requests += unroute(each.address, index, dev)
    return tuple(requests)


def unroute(address: IPAddress, index: int, dev: str = "") -> tuple[Request, ...]:
    """Removal of the host's route to a pod over one link, from main and from the shared layout's table."""
    layouts: tuple[Layout, ...] = ("per-pod", "shared")
    routes = dict.fromkeys(pod_route(address, index, dev, layout) for layout in layouts)  # a local address has one
    return tuple(delete(replace(route, protocol=0)) for route in routes)


def _host_interface(address: IPAddress) -> IPInterface:
    return IPv4Interface((address, 32)) if address.version == 4 else IPv6Interface((address, 128))
