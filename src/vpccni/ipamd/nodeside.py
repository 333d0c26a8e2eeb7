# SPDX-License-Identifier: Apache-2.0
"""The node's kernel state: ENI links, tables, rules, and its pods' routes and rules, kept as EC2, the grants and the
settings say.

Knows which ENIs the node has and turns them into `core.nodenet` values. Must never decide which ENIs there should be.
The engine calls it after every attach and detach, `ipamd.watch` when somebody else changed something; the work runs in
the wiring thread. The firewall is `ipamd.nodefirewall`'s.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import ip_interface
from typing import Protocol

from vpccni.aws.values import Interface, IPAddress, IPNetwork
from vpccni.clock import Clock
from vpccni.core import conventions
from vpccni.core.difference import Difference, ObjectState, object_states
from vpccni.core.drift import Known
from vpccni.core.nodenet import EniNet, NodeNet, sysctls
from vpccni.core.podnet import host_sysctls
from vpccni.errors import HostError
from vpccni.host import node as host_node
from vpccni.host.kernel import NodeKernel
from vpccni.host.node import Pods
from vpccni.ipamd.marks import FormerMarks
from vpccni.ipamd.nodefirewall import NodeFirewall
from vpccni.ipamd.repair import Repairs
from vpccni.ipamd.worker import Job, Worker
from vpccni.netlink.values import Link
from vpccni.settings import Settings

log = logging.getLogger(__name__)

LINK_WAIT_S = 60.0
LINK_POLL_S = 0.05


class Tenants(Protocol):
    """Who lives on the node's ENIs (`ipamd.attachments`)."""

    def pods(self) -> Pods:
        """What the kernel should hold for pods at this moment."""

    def sources(self) -> dict[IPNetwork, int]:
        """Every block that pods have or may get addresses of, with its ENI's route table."""

    def held(self, address: IPAddress) -> bool:
        """Whether a pod at rest has the address."""

    def wired(self, alias: conventions.PodAlias) -> bool:
        """Whether the attachment that a link's alias names is wired and at rest."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was done, and whether it follows from news: otherwise somebody else had changed the kernel."""

    done: Difference
    news: bool


class NodeSide:
    """Keeps the node's kernel state. `subnets` maps a subnet id to its CIDRs."""

    def __init__(
        self,
        settings: Settings,
        primary_mac: str,
        worker: Worker,
        kernel: NodeKernel,
        firewall: NodeFirewall,
        clock: Clock,
        tenants: Tenants,
        repairs: Repairs,
    ) -> None:
        self._settings, self._primary_mac = settings, primary_mac
        self._tenants, self.repairs = tenants, repairs
        self._worker, self._kernel, self.firewall, self._clock = worker, kernel, firewall, clock
        self._enis: dict[str, Interface] = {}
        self._former: tuple[IPAddress, ...] = ()
        self.marks = FormerMarks(settings, worker, kernel)
        self._expected: dict[IPNetwork, str] = {}  # blocks that the pool will have in a moment, and their ENIs
        self._wanted: NodeNet | None = None
        self._mtus: dict[int, int] = {}
        self.subnets: dict[str, tuple[IPNetwork, ...]] = {}

    async def attached(self, interface: Interface) -> None:
        """Wait for the link of a new ENI, then bring the node up to date. Raises HostError and forgets the ENI."""
        self._enis[interface.eni_id] = interface
        try:
            await self._await_links([interface.mac])
            blocks = [*map(conventions.host_network, interface.addresses), *interface.prefixes]
            self._expected |= dict.fromkeys(blocks, interface.eni_id)
            await self.converge()
        except BaseException:
            del self._enis[interface.eni_id]
            raise

    async def arriving(self, eni_id: str, networks: Sequence[IPNetwork]) -> None:
        """EC2 has assigned these to an ENI; after this they may be handed out."""
        if self._settings.rule_layout == "shared":
            self._expected |= dict.fromkeys(networks, eni_id)
            await self.converge()

    async def keep(self, interfaces: Iterable[Interface], arriving: frozenset[str] = frozenset()) -> None:
        """These are the node's ENIs now, and those that are `arriving`; state of others is removed.

        Links that are missing are left for later.
        """
        kept = {eni_id: each for eni_id, each in self._enis.items() if eni_id in arriving}
        kept |= {each.eni_id: each for each in interfaces}
        gone = [each for eni_id, each in self._enis.items() if eni_id not in kept]
        self._former += tuple(address for each in gone for address in _own(each))
        self._enis = kept
        await self.converge()

    async def forget(self, eni_id: str) -> None:
        """An ENI leaves: its table and rules go."""
        if eni_id in self._enis:
            await self.keep([each for each in self._enis.values() if each.eni_id != eni_id])

    async def converge(self, *, in_pauses: bool = False) -> None:
        """Make the kernel equal to what is known, the pods' routes and rules with it; what is fought about only when
        its pause is over, or `in_pauses`.

        Every change is logged as the command it equals. One that follows from no news is a repair, and counted.
        """
        pods, sources = self._tenants.pods(), self._sources()
        held = frozenset() if in_pauses else self.repairs.held()
        outcome = await self._worker.submit(Job(lambda: self._converge(pods, sources, held)))
        assert isinstance(outcome, Outcome)
        self._mtus = pods.mtus
        if not outcome.news:
            self.repairs.made(outcome.done.changes)
            return
        for command in outcome.done.commands:
            log.info("node: %s", command)

    async def _difference(self) -> Difference:
        """What differs from what is known, without changing it."""
        pods, sources = self._tenants.pods(), self._sources()
        found = await self._worker.submit(
            Job(lambda: host_node.compare(self._kernel, self._net_now(pods, sources), pods))
        )
        assert isinstance(found, Difference)
        return found

    async def states(self) -> list[ObjectState]:
        """Every object that the node should have or should not, without changing anything."""
        return object_states(await self._difference()) + await self.firewall.states()

    async def primary_name(self) -> str:
        """The name of the primary ENI's link. Raises HostError (`primary-link-missing`)."""
        links = await self._links()
        link = links.get(self._primary_mac)
        if link is None:
            raise HostError(
                "find the primary ENI's link",
                f"no link has the MAC {self._primary_mac}",
                code="primary-link-missing",
                hint="run the daemon in the node's own network namespace (hostNetwork: true)",
                evidence={"links": " ".join(sorted(each.name for each in links.values()))},
            )
        return link.name

    async def sysctls_differ(self) -> bool:
        """Whether a kernel setting of the node or of a host veth has another value than it should."""
        pods = self._tenants.pods()
        settings = list(sysctls(self._wanted)) if self._wanted is not None else []
        for pod in pods.attachments:
            settings += host_sysctls(pod, pods.veth_prefix)
        return bool(await self._worker.submit(Job(lambda: self._kernel.differing_sysctls(settings))))

    def known(self) -> Known:
        """What events are judged by."""
        enis = self._wanted.enis if self._wanted is not None else ()
        return Known(
            enis={eni.link.index: None if eni.primary else eni.interfaces for eni in enis},
            tables=frozenset(eni.table for eni in enis if not eni.primary),
            mtu=self._settings.eni_mtu,
            mtus=self._mtus,
            held=self._tenants.held,
            wired=self._tenants.wired,
        )

    def _sources(self) -> dict[IPNetwork, int]:
        """Every block that pods may have addresses of, with its ENI's table; what arrives is not in the pool yet."""
        if self._settings.rule_layout != "shared":
            return {}
        known = self._tenants.sources()
        self._expected = {
            network: eni_id
            for network, eni_id in self._expected.items()
            if network not in known and eni_id in self._enis
        }
        return {network: _table(self._enis[eni_id]) for network, eni_id in self._expected.items()} | known

    def _converge(self, pods: Pods, sources: dict[IPNetwork, int], held: frozenset[str]) -> Outcome:
        wanted = self._net_now(pods, sources)
        news = wanted != self._wanted
        found = host_node.compare(self._kernel, wanted, pods).without(held)
        host_node.apply(self._kernel, found)
        self._wanted = wanted
        return Outcome(found, news)

    def _net_now(self, pods: Pods, sources: dict[IPNetwork, int]) -> NodeNet:
        settings = self._settings
        # Pods that started under other settings keep what they have.
        versions = tuple(sorted({*settings.versions, *_spoken(pods)}))
        links = self._kernel.links_by_mac()
        enis = tuple(net for each in self._enis.values() if (net := self._net(each, links, versions)) is not None)
        return NodeNet(
            enis=enis,
            mtu=settings.eni_mtu,
            mark=settings.connmark,
            external_snat=settings.external_snat,
            node_port_support=settings.node_port_support,
            external_services=settings.external_service_cidrs,
            former=self._former,
            former_marks=self.marks.values,
            tcp_early_demux=False if settings.disable_tcp_early_demux else None,
            versions=versions,
            egress=self.firewall.egress_from.version if self.firewall.egress_from is not None else 0,
            layout=settings.rule_layout,
            sources=sources,
        )

    def _net(self, interface: Interface, links: dict[str, Link], versions: Sequence[int]) -> EniNet | None:
        link, attachment = links.get(interface.mac), interface.attachment
        cidrs = self.subnets.get(interface.subnet_id, ())
        if link is None or attachment is None or not cidrs or interface.primary_address is None:
            return None
        addresses = tuple(
            ip_interface(f"{address}/{cidr.prefixlen}")
            for address in _own(interface)
            for cidr in cidrs
            if address in cidr and address.version in versions
        )
        # Of the link only what stays: how it is just now must not look like news.
        link = Link(link.name, index=link.index, mac=link.mac)
        return EniNet(link, addresses, _table(interface), primary=interface.mac == self._primary_mac)

    async def _links(self) -> dict[str, Link]:
        found = await self._worker.submit(Job(self._kernel.links_by_mac))
        assert isinstance(found, dict)
        return found

    async def _await_links(self, macs: Sequence[str]) -> None:
        deadline = self._clock.now() + LINK_WAIT_S
        pause_s = LINK_POLL_S
        while missing := [mac for mac in macs if mac not in await self._links()]:
            if self._clock.now() >= deadline:
                raise HostError(
                    "use the new ENI",
                    f"EC2 says attached, but no link with MAC {missing[0]} appeared within {LINK_WAIT_S:g} s",
                    code="link-missing",
                    hint="see the machine's kernel log (ena driver); the ENI is detached and tried again",
                )
            await self._clock.sleep(pause_s)
            pause_s = min(1.0, pause_s * 1.3)


def _table(interface: Interface) -> int:
    place = interface.attachment
    return conventions.route_table(place.card, place.device) if place is not None else conventions.TABLE_MAIN


def _own(interface: Interface) -> list[IPAddress]:
    """An ENI's own addresses: its primary one, and what it has of IPv6 outside of prefixes."""
    return [
        address
        for address in (interface.primary_address, *interface.addresses)
        if address is not None and (address == interface.primary_address or address.version == 6)
    ]


def _spoken(pods: Pods) -> set[int]:
    """The IP versions of the VPC addresses that pods have."""
    wired = (place.address for pod in pods.attachments for place in pod.addresses)
    return {address.version for address in (*wired, *pods.spared) if not conventions.is_egress(address)}
