# SPDX-License-Identifier: Apache-2.0
"""The daemon's EC2 protocols over a `Cloud` in the same process: the fake of unit tests and of the simulator.

Knows how the protocols of `aws.ec2` map to operations of the model, with the same refusals as over HTTP. Must never
know more of EC2 than the protocols promise. One contract suite runs against this and against the boto3 client.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from vpccni.aws import failure, values
from vpccni.aws import tags as ownership
from vpccni.aws.boto import PAGE_SIZE
from vpccni.aws.values import InstanceLimits, Interface, IPAddress, IPNetwork
from vpccni.lab.cloud import resources
from vpccni.lab.cloud.addresses import Granted, Wanted
from vpccni.lab.cloud.cloud import Cloud
from vpccni.lab.cloud.errors import ApiError
from vpccni.lab.cloud.gate import Lost
from vpccni.lab.cloud.interfaces import InterfaceChange, NewInterface


def interface(eni: resources.Eni) -> Interface:
    """An interface of the model as the protocols' value."""
    return Interface(
        eni_id=eni.eni_id,
        mac=eni.mac,
        subnet_id=eni.subnet_id,
        primary_address=eni.primary,
        addresses=(*eni.addresses, *eni.ipv6),
        prefixes=(*eni.prefixes, *eni.ipv6_prefixes),
        status=eni.status,
        attachment=None if eni.attachment is None else _attachment(eni.attachment),
        interface_type=eni.interface_type,
        description=eni.description,
        security_groups=eni.group_ids,
        vpc_id=eni.vpc_id,
        availability_zone=eni.zone,
        source_dest_check=eni.source_dest_check,
        tags=dict(eni.tags),
    )


def _attachment(attachment: resources.Attachment) -> values.Attachment:
    return values.Attachment(
        attachment_id=attachment.attachment_id,
        instance_id=attachment.instance_id,
        device=attachment.device,
        card=attachment.card,
        status=attachment.status,
        delete_on_termination=attachment.delete_on_termination,
    )


def _wanted(address_count: int, prefix_count: int) -> Wanted:
    return Wanted(count=address_count or None, prefix_count=prefix_count or None)


class DirectEc2:
    """`Interfaces`, `Addresses` and `Inventory` of `aws.ec2` over a model. Synchronous, without latency.

    `before` is called with the API action's name ahead of each call and may raise `ApiError`; then the cloud's own gate
    is asked (throttling, denials, scripts, lost requests and replies), as the endpoint does for HTTP clients.
    """

    def __init__(self, cloud: Cloud, before: Callable[[str], None] = lambda action: None) -> None:
        self.cloud, self._before = cloud, before

    @contextmanager
    def _calling(self, action: str) -> Iterator[None]:
        """One API call: due transitions happen first, refusals become the same errors as over HTTP."""
        try:
            self._before(action)
            self.cloud.settle()
            self.cloud.gate.before(action, self.cloud.now)
            yield
            self.cloud.gate.after(action)
        except Lost as lost:
            raise failure.unreachable(action, "the model", str(lost)) from None
        except ApiError as error:
            raise failure.classify(action, error.code, error.message, status=error.status) from None

    # -- Interfaces

    def create(
        self,
        subnet_id: str,
        security_groups: Sequence[str],
        *,
        description: str,
        tags: Mapping[str, str],
        address_count: int = 0,
        prefix_count: int = 0,
        ip_version: int = 4,
        beside_prefix_count: int = 0,
        client_token: str = "",
    ) -> Interface:
        """CreateNetworkInterface."""
        wanted, beside = _wanted(address_count, prefix_count), _wanted(0, beside_prefix_count)
        request = NewInterface(
            subnet_id,
            tuple(security_groups),
            description,
            ipv4=wanted if ip_version == 4 else beside,
            ipv6=wanted if ip_version == 6 else beside,
            tags=dict(tags),
        )
        with self._calling("CreateNetworkInterface"):
            return interface(self.cloud.create_network_interface(request, client_token))

    def attach(self, eni_id: str, instance_id: str, device: int, card: int = 0) -> str:
        """AttachNetworkInterface."""
        with self._calling("AttachNetworkInterface"):
            return self.cloud.attach_network_interface(eni_id, instance_id, device, card).attachment_id

    def delete_on_termination(self, eni_id: str, attachment_id: str) -> None:
        """ModifyNetworkInterfaceAttribute, the attachment."""
        change = InterfaceChange(attachment_id=attachment_id, delete_on_termination=True)
        with self._calling("ModifyNetworkInterfaceAttribute"):
            self.cloud.modify_network_interface(eni_id, change)

    def detach(self, attachment_id: str) -> None:
        """DetachNetworkInterface; an attachment that is gone is success."""
        with failure.missing_is_fine(), self._calling("DetachNetworkInterface"):
            self.cloud.detach_network_interface(attachment_id)

    def delete(self, eni_id: str) -> None:
        """DeleteNetworkInterface; an interface that is gone is success."""
        with failure.missing_is_fine(), self._calling("DeleteNetworkInterface"):
            self.cloud.delete_network_interface(eni_id)

    def tag(self, eni_id: str, tags: Mapping[str, str]) -> None:
        """CreateTags; no call without tags."""
        if tags:
            with self._calling("CreateTags"):
                self.cloud.create_tags([eni_id], tags)

    def set_security_groups(self, eni_id: str, security_groups: Sequence[str]) -> None:
        """ModifyNetworkInterfaceAttribute, the groups."""
        with self._calling("ModifyNetworkInterfaceAttribute"):
            self.cloud.modify_network_interface(eni_id, InterfaceChange(group_ids=tuple(security_groups)))

    # -- Addresses

    def assign(
        self, eni_id: str, *, address_count: int = 0, prefix_count: int = 0, ip_version: int = 4
    ) -> tuple[IPNetwork, ...]:
        """AssignPrivateIpAddresses or AssignIpv6Addresses: the new blocks only."""
        if not address_count and not prefix_count:
            return ()
        count, prefixes = address_count or None, prefix_count or None
        if ip_version == 4:
            with self._calling("AssignPrivateIpAddresses"):
                return _networks(self.cloud.assign_private_ip_addresses(eni_id, count=count, prefix_count=prefixes))
        with self._calling("AssignIpv6Addresses"):
            return _networks(self.cloud.assign_ipv6_addresses(eni_id, count=count, prefix_count=prefixes))

    def unassign(self, eni_id: str, addresses: Sequence[IPAddress] = (), prefixes: Sequence[IPNetwork] = ()) -> None:
        """UnassignPrivateIpAddresses and UnassignIpv6Addresses, one call for each of kind and family in use."""
        v4 = [address for address in addresses if isinstance(address, IPv4Address)]
        v4_prefixes = [prefix for prefix in prefixes if isinstance(prefix, IPv4Network)]
        v6 = [address for address in addresses if isinstance(address, IPv6Address)]
        v6_prefixes = [prefix for prefix in prefixes if isinstance(prefix, IPv6Network)]
        if v4:
            with self._calling("UnassignPrivateIpAddresses"):
                self.cloud.unassign_private_ip_addresses(eni_id, v4)
        if v4_prefixes:
            with self._calling("UnassignPrivateIpAddresses"):
                self.cloud.unassign_private_ip_addresses(eni_id, (), v4_prefixes)
        if v6:
            with self._calling("UnassignIpv6Addresses"):
                self.cloud.unassign_ipv6_addresses(eni_id, v6)
        if v6_prefixes:
            with self._calling("UnassignIpv6Addresses"):
                self.cloud.unassign_ipv6_addresses(eni_id, (), v6_prefixes)

    # -- Inventory

    def attached(self, instance_id: str) -> tuple[Interface, ...]:
        """Interfaces of an instance by card and device index."""
        with self._calling("DescribeNetworkInterfaces"):
            return tuple(interface(self.cloud.described(eni)) for eni in self.cloud.enis_of(instance_id))

    def interfaces(self, eni_ids: Sequence[str]) -> tuple[Interface, ...]:
        """The given interfaces, without those that do not exist."""
        if not eni_ids:
            return ()
        with self._calling("DescribeNetworkInterfaces"):
            known = (self.cloud.enis.get(eni_id) for eni_id in dict.fromkeys(eni_ids))
            seen = [eni for eni in known if eni is not None and eni.visible_at <= self.cloud.now]
            return tuple(interface(self.cloud.described(eni)) for eni in seen)

    def owned(self, instance_id: str = "", *, cluster: str = "", vpc_id: str = "") -> tuple[Interface, ...]:
        """Interfaces with the ownership tag, of one instance or of any, by id."""

        def ours(eni: resources.Eni) -> bool:
            owner = eni.tags.get(ownership.INSTANCE_TAG)
            if owner is None or (instance_id and owner != instance_id) or (vpc_id and eni.vpc_id != vpc_id):
                return False
            return not cluster or eni.tags.get(ownership.CLUSTER_TAG) == cluster

        with self._calling("DescribeNetworkInterfaces"):
            found = sorted(self.cloud.listed_enis().items())
            return tuple(interface(eni) for _, eni in found if ours(eni))

    def occupied_slots(self, instance_id: str) -> frozenset[tuple[int, int]]:
        """(card, device index) in use, from DescribeInstances."""
        with self._calling("DescribeInstances"):
            self.cloud.instance(instance_id)
            return self._slots(instance_id)

    def launched(self, since: float, until: float) -> tuple[values.Launched, ...]:
        """Instances with a cluster's tag that were launched in that time, from DescribeInstances."""
        with self._calling("DescribeInstances"):
            pattern = ownership.CLUSTER_TAG_PATTERN.removesuffix("*")
            return tuple(
                values.Launched(each.instance_id, each.launched_at, self._slots(each.instance_id))
                for each in self.cloud.instances.values()
                if each.state in ("pending", "running")
                and since <= each.launched_at <= min(until, self.cloud.now)
                and any(key.startswith(pattern) for key in each.tags)
            )[:PAGE_SIZE]

    def _slots(self, instance_id: str) -> frozenset[tuple[int, int]]:
        attachments = (eni.attachment for eni in self.cloud.enis_of(instance_id))
        return frozenset((attachment.card, attachment.device) for attachment in attachments if attachment)

    def subnets(self, vpc_id: str, availability_zone: str) -> tuple[values.Subnet, ...]:
        """Subnets of a VPC in a zone, by id."""
        with self._calling("DescribeSubnets"):
            found = [s for s in self.cloud.subnets.values() if s.vpc_id == vpc_id and s.zone == availability_zone]
            return tuple(_subnet(subnet) for subnet in sorted(found, key=lambda subnet: subnet.subnet_id))

    def instance_limits(self, instance_type: str) -> InstanceLimits:
        """DescribeInstanceTypes for one type."""
        with self._calling("DescribeInstanceTypes"):
            return self.cloud.instance_type(instance_type)


def _networks(granted: Granted) -> tuple[IPNetwork, ...]:
    return (*map(values.alone, granted.addresses), *granted.prefixes)


def _subnet(subnet: resources.Subnet) -> values.Subnet:
    cidr, ipv6 = subnet.v4.network, subnet.v6
    return values.Subnet(
        subnet_id=subnet.subnet_id,
        vpc_id=subnet.vpc_id,
        availability_zone=subnet.zone,
        cidr=cidr if isinstance(cidr, IPv4Network) else None,
        free_addresses=subnet.v4.free_count,
        ipv6_cidrs=(ipv6.network,) if ipv6 is not None and isinstance(ipv6.network, IPv6Network) else (),
        tags=dict(subnet.tags),
    )
