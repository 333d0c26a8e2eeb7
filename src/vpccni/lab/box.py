# SPDX-License-Identifier: Apache-2.0
"""The running box: the cloud model, the fabric and the metadata services, kept in step as time passes.

Knows how a topology becomes VPC, subnets and instances, and that every event of the cloud goes to the fabric first.
Must never speak HTTP to anybody (`daemon` and `control` do). Owned by the lab daemon, on its one thread.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv6Address
from typing import Any

from vpccni.errors import TopologyError, VpcCniError
from vpccni.lab import boot
from vpccni.lab.cloud import profile as profiles
from vpccni.lab.cloud.cloud import Cloud
from vpccni.lab.cloud.events import Event, LinkAppears, LinkVanishes
from vpccni.lab.cloud.resources import Eni, MetadataOptions
from vpccni.lab.cloud.topology import NewInstance
from vpccni.lab.fabric import Fabric, device_name, port_name
from vpccni.lab.metadata import MetadataEndpoints
from vpccni.lab.sockets import namespace_handle
from vpccni.lab.state import LabState
from vpccni.lab.topology import HostSpec, NodeSpec, Topology
from vpccni.netlink.namespace import NETNS_DIR

log = logging.getLogger(__name__)

CLUSTER_TAG = "kubernetes.io/cluster/lab"  # what marks an instance as a node


@dataclass(frozen=True, slots=True)
class BoxNode:
    """A node as an EC2 instance."""

    spec: NodeSpec
    instance_id: str
    primary: IPv4Address
    public: IPv4Address | None
    ipv6: tuple[IPv6Address, ...]
    zone: str


class Box:
    """Cloud, fabric and metadata of one lab."""

    def __init__(self, state: LabState, topology: Topology) -> None:
        """Make the fabric and everything of the topology; raises TopologyError when EC2 would refuse it."""
        self.state, self.topology = state, topology
        self.problems: list[str] = []
        self.nodes: dict[str, BoxNode] = {}
        self.cloud = Cloud(
            time.time,
            random.Random(topology.seed),
            profiles.load(topology.profile),
            region=topology.region,
            public_pool=topology.public_cidr,
        )
        self.fabric = Fabric(state, topology.host, topology.versions)
        self.metadata = MetadataEndpoints(self.fabric.router.fd, self.cloud.instance_metadata)
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    # -- construction -----------------------------------------------------------------------------------------------
    async def build(self) -> None:
        """Create the VPC and start the instances, their primary interfaces cabled and configured."""
        plan = self.topology.vpc
        vpc = self.cloud.create_vpc(plan.cidrs, {"Name": "vpccni-lab"}, plan.ipv6_cidrs)
        groups = self._make_groups(vpc.vpc_id)
        subnets = {}
        for spec in self.topology.subnet:
            zone = self.topology.zone(spec)
            tags = {"Name": spec.name, **spec.tags}
            made = self.cloud.create_subnet(vpc.vpc_id, spec.cidr, zone, tags, ipv6_cidr=spec.ipv6_cidr)
            subnets[spec.name] = made.subnet_id
        for node in self.topology.node:
            self._launch(node, subnets[node.subnet], tuple(groups[name] for name in node.security_groups))
        events = self.cloud.advance(time.time())
        self.fabric.apply(events)
        for name, node_ in self.nodes.items():
            subnet = self.topology.subnet_of(node_.spec)
            with namespace_handle(NETNS_DIR / self.state.node_namespace(name)) as handle:
                interface = IPv4Interface(f"{node_.primary}/{subnet.cidr.prefixlen}")
                boot.configure(handle, interface, subnet.gateway, node_.ipv6)
        for event in events:
            if isinstance(event, LinkAppears):
                await self.metadata.open(event.instance_id, port_name(event.eni_id))
        if self.fabric.discovery is not None:
            asyncio.get_running_loop().add_reader(self.fabric.discovery, self.fabric.discovery.answer)
        self.pump()

    def _make_groups(self, vpc_id: str) -> dict[str, str]:
        """Security groups, name -> id. Their rules come last, because they may name each other."""
        ids = {group.name: group.group_id for group in self.cloud.groups.values()}
        for spec in self.topology.groups:
            ids[spec.name] = self.cloud.create_security_group(vpc_id, spec.name, f"{spec.name} of the lab").group_id
        for spec in self.topology.groups:
            rules = spec.parsed(ids)
            if any(rule.egress for rule in rules):
                self.cloud.revoke(ids[spec.name], rule_ids=list(self.cloud.group(ids[spec.name]).rules))
            if rules:
                self.cloud.authorize(ids[spec.name], rules)
        return ids

    def _launch(self, node: NodeSpec, subnet_id: str, group_ids: tuple[str, ...]) -> None:
        options = MetadataOptions(http_put_response_hop_limit=self.topology.http_put_response_hop_limit)
        tags = {"Name": node.name, CLUSTER_TAG: "owned"}
        request = NewInstance(
            node.type, subnet_id, node.private_ip, node.public, group_ids, options=options, tags=tags,
            ipv6_count=int(self.topology.subnet_of(node).ipv6_cidr is not None),
        )  # fmt: skip
        try:
            instance = self.cloud.run_instance(request)
        except VpcCniError:
            raise
        except Exception as error:
            raise TopologyError(
                f"start node {node.name}", str(error), hint="change the node's type or address"
            ) from error
        name = self.state.node_namespace(node.name)
        boot.power_on(name)
        self.fabric.place(instance.instance_id, NETNS_DIR / name)
        eni = self.cloud.enis[instance.primary_eni_id]
        ipv6 = tuple(eni.ipv6)
        self.nodes[node.name] = BoxNode(node, instance.instance_id, eni.primary, eni.public, ipv6, instance.zone)

    # -- time -------------------------------------------------------------------------------------------------------
    def pump(self) -> None:
        """Let the cloud catch up with the clock, make its events real, and be called again when the next is due."""
        self._apply(self.cloud.advance(time.time()))
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due = self.cloud.next_event_at()
        if due is not None:
            self._timer = asyncio.get_running_loop().call_later(max(due - time.time(), 0.0), self.pump)

    def _apply(self, events: Iterable[Event]) -> None:
        for event in events:
            try:
                self.fabric.apply([event])
            except (VpcCniError, OSError, KeyError) as error:
                # One device that cannot be made must not take the other nodes' network down; it is shown instead.
                log.exception("the fabric could not follow %s", event)
                self.problems.append(f"{type(event).__name__}: {error}")
                continue
            if isinstance(event, LinkAppears):
                self._start(self.metadata.open(event.instance_id, port_name(event.eni_id)))
            elif isinstance(event, LinkVanishes):
                self._start(self.metadata.close(port_name(event.eni_id)))

    def _start(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("metadata endpoint: %s", task.exception())
            self.problems.append(f"metadata endpoint: {task.exception()}")

    # -- what there is ----------------------------------------------------------------------------------------------
    def inventory(self) -> dict[str, Any]:
        """Nodes with their interfaces, subnets, hosts outside and drop counters, as plain values for JSON."""
        self.cloud.settle()
        return {
            "region": self.topology.region,
            "profile": self.topology.profile,
            "vpc_cidrs": [str(cidr) for vpc in self.cloud.vpcs.values() for cidr in vpc.cidrs],
            "vpc_ipv6_cidrs": [str(cidr) for cidr in self.topology.vpc.ipv6_cidrs],
            "nodes": [self._node(node) for node in self.nodes.values()],
            "subnets": [
                {
                    "subnet_id": subnet.subnet_id,
                    "cidr": str(subnet.v4.network),
                    "ipv6_cidr": str(subnet.v6.network) if subnet.v6 else None,
                    "zone": subnet.zone,
                }
                for subnet in self.cloud.subnets.values()
            ],
            "hosts": [self._host(host) for host in self.topology.host],
            "dropped": self.fabric.dropped(),
            "refused": self._refused(),
            "problems": list(self.problems),
        }  # fmt: skip

    def _refused(self) -> list[dict[str, Any]]:
        """What security groups refused, by node, device and direction."""
        devices = {
            eni["eni_id"]: {"node": node["name"], "device": eni["device"]}
            for node in map(self._node, self.nodes.values())
            for eni in node["enis"]
        }
        return [{**row, **devices.get(str(row["eni_id"]), {})} for row in self.fabric.refused()]

    def names(self) -> dict[str, str]:
        """Instance id -> node name."""
        return {node.instance_id: name for name, node in self.nodes.items()}

    def host_namespace(self, via: str) -> str:
        """Name of the namespace in which hosts of that kind live."""
        return self.state.internet_namespace if via == "internet" else self.state.site_namespace

    def _host(self, host: HostSpec) -> dict[str, Any]:
        return {
            "name": host.name,
            "address": str(host.address),
            "ipv6_address": str(host.ipv6_address) if host.ipv6_address else None,
            "via": host.via,
            "namespace": self.host_namespace(host.via),
        }

    def _node(self, node: BoxNode) -> dict[str, Any]:
        enis = self.cloud.enis_of(node.instance_id)
        return {
            "name": node.spec.name,
            "instance_id": node.instance_id,
            "instance_type": node.spec.type,
            "zone": node.zone,
            "private_address": str(node.primary),
            "public_address": str(node.public) if node.public else None,
            "ipv6_address": str(node.ipv6[0]) if node.ipv6 else None,
            "enis": [self._eni(eni) for eni in enis],
        }

    def _eni(self, eni: Eni) -> dict[str, Any]:
        attachment = eni.attachment
        assert attachment is not None  # it was found by its instance
        return {
            "eni_id": eni.eni_id,
            "mac": eni.mac,
            "device": device_name(attachment.card, attachment.device),
            "port": self.fabric.port_of(eni.eni_id) or None,
            "status": attachment.status,
            "subnet_id": eni.subnet_id,
            "source_dest_check": eni.source_dest_check,
            "primary_address": str(eni.primary),
            "addresses": [str(address) for address in eni.addresses],
            "prefixes": [str(prefix) for prefix in eni.prefixes],
            "ipv6_addresses": [str(address) for address in eni.ipv6],
            "ipv6_prefixes": [str(prefix) for prefix in eni.ipv6_prefixes],
        }
