# SPDX-License-Identifier: Apache-2.0
"""What the cloud says, made real: its events become ports, routes and checks of the VPC router.

Knows which interface owns which addresses and which of them is attached where. Must never decide anything about EC2;
the model has. The lab daemon passes every event here, in order; each call leaves the data plane as the events say.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from vpccni.aws.values import IPNetwork
from vpccni.lab import ruleset
from vpccni.lab.cloud.events import (
    AddressesChanged,
    Event,
    LinkAppears,
    LinkVanishes,
    PublicAddressChanged,
    SourceDestCheckChanged,
    SubnetCreated,
    SubnetDeleted,
    VpcChanged,
)
from vpccni.lab.discovery import Discovery
from vpccni.lab.guard import DIRECTIONS, Guard, counter
from vpccni.lab.router import JUMBO_MTU, Port, Router, make_outside, owned_route
from vpccni.lab.sockets import namespace_handle
from vpccni.lab.state import LabState
from vpccni.lab.topology import HostSpec
from vpccni.netlink.values import Link, delete, replace

_IGW_MACS = ("02:00:00:00:fe:01", "02:00:00:00:fe:02")
_SITE_MACS = ("02:00:00:00:fd:01", "02:00:00:00:fd:02")


def port_name(eni_id: str) -> str:
    """The router's end of an interface: `p` and the last ten digits of its id."""
    return f"p{eni_id[-10:]}"


def device_name(card: int, device_index: int) -> str:
    """The instance's end, as the lab's machine image names it."""
    return f"eth{device_index}" if card == 0 else f"eth{card}c{device_index}"


class Fabric:
    """The router, what hangs on it, and who owns what."""

    def __init__(self, state: LabState, hosts: Sequence[HostSpec], versions: Sequence[int] = (4,)) -> None:
        """Make the router's namespace and those of the hosts outside. Nothing is attached yet."""
        self.router = Router(state.fabric_namespace, versions)
        self._nodes: dict[str, Path] = {}  # instance id: its namespace
        self._ports: dict[str, Port] = {}  # by ENI id
        self._owned: dict[str, tuple[IPNetwork, ...]] = {}  # by ENI id, attached or not
        self._unchecked: set[str] = set()  # ENI ids
        self._public: dict[IPv4Address, IPv4Address] = {}  # private: public
        self._gateways: dict[str, IPv4Address] = {}  # by subnet id
        self._guard = Guard(versions)
        self.discovery = Discovery(self.router.fd, self._neighbour) if 6 in versions else None
        internet, site = (
            [address for host in hosts if host.via == via for address in host.addresses if address.version in versions]
            for via in ("internet", "private")
        )
        make_outside(self.router, state.internet_namespace, ruleset.IGW_PORT, _IGW_MACS, internet)
        if site:
            make_outside(self.router, state.site_namespace, ruleset.SITE_PORT, _SITE_MACS, site)
        translated = [address for address in internet if isinstance(address, IPv4Address)]
        self.router.nft("".join(ruleset.internet_host(address) for address in translated) or "# no hosts\n")

    def place(self, instance_id: str, netns: Path) -> None:
        """An instance is this namespace. To be said before its first link appears."""
        self._nodes[instance_id] = netns

    def port_of(self, eni_id: str) -> str:
        """Name of the port of an attached interface, empty when it is not attached."""
        port = self._ports.get(eni_id)
        return port.name if port else ""

    def apply(self, events: Iterable[Event]) -> None:
        """Bring the data plane to where these events leave it. Rule changes of one call are one transaction."""
        rules: list[str] = []
        for event in events:
            match event:
                case LinkAppears():
                    rules.append(self._plug(event))
                case LinkVanishes():
                    rules.append(self._unplug(event))
                case AddressesChanged():
                    rules.append(self._own(event.eni_id, event.addresses))
                case PublicAddressChanged():
                    rules.append(self._publish(event.private, event.public))
                case SourceDestCheckChanged():
                    rules.append(self._check_source(event.eni_id, event.enabled))
                case VpcChanged():
                    for cidr in event.networks:
                        self.router.blackhole(cidr)
                case SubnetCreated():
                    self._gateways[event.subnet_id] = event.cidr.network_address + 1
                    self.router.answer_as(self._gateways[event.subnet_id])
                case SubnetDeleted():
                    self.router.answer_no_more(self._gateways.pop(event.subnet_id))
                case _:
                    pass  # instances have no device of their own, and security groups are the guard's
            rules.append(self._guard.follow(event, self._port_name(event)))
        text = "".join(rules)
        if text:
            self.router.nft(text)

    def dropped(self) -> dict[str, int]:
        """Packets dropped so far, by the names of `ruleset.COUNTERS`."""
        found = self._counters()
        return {name: found.get(name, 0) for name in ruleset.COUNTERS}

    def refused(self) -> list[dict[str, object]]:
        """Which interfaces' security groups have refused packets: out as well as in."""
        found = self._counters()
        counted = [
            {"eni_id": eni_id, "direction": direction, "packets": found.get(counter(port.name, direction), 0)}
            for eni_id, port in self._ports.items()
            for direction in DIRECTIONS
        ]
        return [row for row in counted if row["packets"]]

    def _counters(self) -> dict[str, int]:
        answer = json.loads(self.router.counters())
        return {
            row["counter"]["name"]: int(row["counter"]["packets"]) for row in answer["nftables"] if "counter" in row
        }

    @staticmethod
    def _port_name(event: Event) -> str:
        return port_name(event.eni_id) if isinstance(event, LinkAppears) else ""

    def _neighbour(self, port: str, target: IPv6Address) -> str | None:
        """The router's own MAC on that port, if another attached interface than the one behind it owns the target."""
        asking, owner = None, None
        for eni_id, one in self._ports.items():
            asking = one if one.name == port else asking
            if one.name != port and any(target in network for network in self._owned[eni_id]):
                owner = one
        return asking.own_mac if asking and owner else None

    # -- one event each ---------------------------------------------------------------------------------------------
    def _plug(self, event: LinkAppears) -> str:
        name = port_name(event.eni_id)
        with namespace_handle(self._nodes[event.instance_id]) as node_fd:
            far = Link(
                device_name(event.card, event.device_index), mac=event.mac, mtu=JUMBO_MTU, queues=1, netns_fd=node_fd
            )
            port = self.router.plug(name, far)
        self._ports[event.eni_id] = port
        self._owned.pop(event.eni_id, None)
        text = ruleset.port(name, event.mac) + self._own(event.eni_id, event.addresses)
        return text + ("" if event.source_dest_check else self._check_source(event.eni_id, enabled=False))

    def _unplug(self, event: LinkVanishes) -> str:
        port = self._ports.pop(event.eni_id)
        self.router.unplug(port)
        owned = self._owned.get(event.eni_id, ())
        text = ruleset.port(port.name, port.mac, verb="delete") + ruleset.sources(port.name, owned, verb="delete")
        if event.eni_id in self._unchecked:
            self._unchecked.discard(event.eni_id)
            text += ruleset.source_check(port.name, enabled=True)
        return text

    def _own(self, eni_id: str, addresses: Iterable[IPNetwork]) -> str:
        """An interface owns exactly these. Without a port there is nothing to deliver to, so it is only noted."""
        want = tuple(addresses)
        have = self._owned.get(eni_id, ())
        self._owned[eni_id] = want
        port = self._ports.get(eni_id)
        if port is None:
            return ""
        gained = [network for network in want if network not in have]
        lost = [network for network in have if network not in want]
        # A route that another port has taken over in the meantime is left alone: the device is part of the deletion.
        routes = [delete(owned_route(network, port)) for network in lost]
        self.router.change([*routes, *(replace(owned_route(network, port)) for network in gained)])
        return ruleset.sources(port.name, lost, verb="delete") + ruleset.sources(port.name, gained)

    def _publish(self, private: IPv4Address, public: IPv4Address | None) -> str:
        old = self._public.pop(private, None)
        text = ruleset.public_address(private, old, verb="delete") if old is not None else ""
        if public is not None:
            self._public[private] = public
            text += ruleset.public_address(private, public)
        return text

    def _check_source(self, eni_id: str, enabled: bool) -> str:
        port = self._ports.get(eni_id)
        if port is None or enabled == (eni_id not in self._unchecked):
            return ""
        (self._unchecked.discard if enabled else self._unchecked.add)(eni_id)
        return ruleset.source_check(port.name, enabled=enabled)
