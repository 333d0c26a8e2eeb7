# SPDX-License-Identifier: Apache-2.0
"""The daemon's EC2 protocols over a `Cloud` in the same process: the fake of unit tests and of the simulator.

Knows how the protocols of `aws.ec2` map to operations of the model, with the same refusals as over HTTP. Must never
know more of EC2 than the protocols promise. One contract suite runs against this and against the boto3 client.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import ParamSpec, TypeVar

from vpccni.aws import tags as ownership
from vpccni.aws import values
from vpccni.aws.values import InstanceLimits, Interface, IPAddress, IPNetwork
from vpccni.errors import CloudError
from vpccni.lab.cloud import resources
from vpccni.lab.cloud.addresses import Granted, Wanted
from vpccni.lab.cloud.cloud import Cloud
from vpccni.lab.cloud.errors import ApiError
from vpccni.lab.cloud.interfaces import InterfaceChange, NewInterface

P = ParamSpec("P")
R = TypeVar("R")


def _answering(call: Callable[P, R]) -> Callable[P, R]:
    """EC2's refusals as the product's error, named after the method."""

    @functools.wraps(call)
    def answer(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return call(*args, **kwargs)
        except ApiError as error:
            why = f"EC2 answered {error.code}: {error.message}"
            retryable = error.status >= 500
            raise CloudError(call.__name__, why, aws_code=error.code, retryable=retryable) from error

    return answer


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

    `before` is called with the API action's name ahead of each call, and may raise `ApiError` (faults, throttling).
    """

    def __init__(self, cloud: Cloud, before: Callable[[str], None] = lambda action: None) -> None:
        self.cloud, self._before = cloud, before

    # -- Interfaces

    @_answering
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
        client_token: str = "",
    ) -> Interface:
        """CreateNetworkInterface."""
        self._before("CreateNetworkInterface")
        wanted = _wanted(address_count, prefix_count)
        request = NewInterface(
            subnet_id,
            tuple(security_groups),
            description,
            ipv4=wanted if ip_version == 4 else Wanted(),
            ipv6=wanted if ip_version == 6 else Wanted(),
            tags=dict(tags),
        )
        return interface(self.cloud.create_network_interface(request, client_token))

    @_answering
    def attach(self, eni_id: str, instance_id: str, device: int, card: int = 0) -> str:
        """AttachNetworkInterface."""
        self._before("AttachNetworkInterface")
        return self.cloud.attach_network_interface(eni_id, instance_id, device, card).attachment_id

    @_answering
    def delete_on_termination(self, eni_id: str, attachment_id: str) -> None:
        """ModifyNetworkInterfaceAttribute, the attachment."""
        self._before("ModifyNetworkInterfaceAttribute")
        change = InterfaceChange(attachment_id=attachment_id, delete_on_termination=True)
        self.cloud.modify_network_interface(eni_id, change)

    @_answering
    def detach(self, attachment_id: str) -> None:
        """DetachNetworkInterface; an attachment that is gone is success."""
        self._before("DetachNetworkInterface")
        try:
            self.cloud.detach_network_interface(attachment_id)
        except ApiError as error:
            if error.code != "InvalidAttachmentID.NotFound":
                raise

    @_answering
    def delete(self, eni_id: str) -> None:
        """DeleteNetworkInterface; an interface that is gone is success."""
        self._before("DeleteNetworkInterface")
        try:
            self.cloud.delete_network_interface(eni_id)
        except ApiError as error:
            if error.code != "InvalidNetworkInterfaceID.NotFound":
                raise

    @_answering
    def tag(self, eni_id: str, tags: Mapping[str, str]) -> None:
        """CreateTags."""
        self._before("CreateTags")
        self.cloud.create_tags([eni_id], tags)

    @_answering
    def set_security_groups(self, eni_id: str, security_groups: Sequence[str]) -> None:
        """ModifyNetworkInterfaceAttribute, the groups."""
        self._before("ModifyNetworkInterfaceAttribute")
        self.cloud.modify_network_interface(eni_id, InterfaceChange(group_ids=tuple(security_groups)))

    # -- Addresses

    @_answering
    def assign(
        self, eni_id: str, *, address_count: int = 0, prefix_count: int = 0, ip_version: int = 4
    ) -> tuple[IPNetwork, ...]:
        """AssignPrivateIpAddresses or AssignIpv6Addresses: the new blocks only."""
        wanted = _wanted(address_count, prefix_count)
        if ip_version == 4:
            self._before("AssignPrivateIpAddresses")
            granted = self.cloud.assign_private_ip_addresses(
                eni_id, count=wanted.count, prefix_count=wanted.prefix_count
            )
        else:
            self._before("AssignIpv6Addresses")
            granted = self.cloud.assign_ipv6_addresses(eni_id, count=wanted.count, prefix_count=wanted.prefix_count)
        return _networks(granted)

    @_answering
    def unassign(self, eni_id: str, addresses: Sequence[IPAddress] = (), prefixes: Sequence[IPNetwork] = ()) -> None:
        """UnassignPrivateIpAddresses and UnassignIpv6Addresses, each only when there is something for it."""
        v4 = [address for address in addresses if isinstance(address, IPv4Address)]
        v4_prefixes = [prefix for prefix in prefixes if isinstance(prefix, IPv4Network)]
        v6 = [address for address in addresses if isinstance(address, IPv6Address)]
        v6_prefixes = [prefix for prefix in prefixes if isinstance(prefix, IPv6Network)]
        if v4 or v4_prefixes:
            self._before("UnassignPrivateIpAddresses")
            self.cloud.unassign_private_ip_addresses(eni_id, v4, v4_prefixes)
        if v6 or v6_prefixes:
            self._before("UnassignIpv6Addresses")
            self.cloud.unassign_ipv6_addresses(eni_id, v6, v6_prefixes)

    # -- Inventory

    @_answering
    def attached(self, instance_id: str) -> tuple[Interface, ...]:
        """Interfaces of an instance by card and device index."""
        self._describe("DescribeNetworkInterfaces")
        return tuple(interface(eni) for eni in self.cloud.enis_of(instance_id))

    @_answering
    def interfaces(self, eni_ids: Sequence[str]) -> tuple[Interface, ...]:
        """The given interfaces, without those that do not exist."""
        if not eni_ids:
            return ()
        self._describe("DescribeNetworkInterfaces")
        return tuple(interface(self.cloud.enis[eni_id]) for eni_id in eni_ids if eni_id in self.cloud.enis)

    @_answering
    def owned(self, instance_id: str = "", *, cluster: str = "", vpc_id: str = "") -> tuple[Interface, ...]:
        """Interfaces with the ownership tag, of one instance or of any."""
        self._describe("DescribeNetworkInterfaces")

        def ours(eni: resources.Eni) -> bool:
            owner = eni.tags.get(ownership.INSTANCE_TAG)
            if owner is None or (instance_id and owner != instance_id) or (vpc_id and eni.vpc_id != vpc_id):
                return False
            return not cluster or eni.tags.get(ownership.CLUSTER_TAG) == cluster

        return tuple(interface(eni) for eni in self.cloud.enis.values() if ours(eni))

    @_answering
    def occupied_slots(self, instance_id: str) -> frozenset[tuple[int, int]]:
        """(card, device index) in use, from DescribeInstances."""
        self._describe("DescribeInstances")
        self.cloud.instance(instance_id)
        attachments = [eni.attachment for eni in self.cloud.enis_of(instance_id)]
        return frozenset((attachment.card, attachment.device) for attachment in attachments if attachment)

    @_answering
    def subnets(self, vpc_id: str, availability_zone: str) -> tuple[values.Subnet, ...]:
        """Subnets of a VPC in a zone, by id."""
        self._describe("DescribeSubnets")
        found = [s for s in self.cloud.subnets.values() if s.vpc_id == vpc_id and s.zone == availability_zone]
        return tuple(_subnet(subnet) for subnet in sorted(found, key=lambda subnet: subnet.subnet_id))

    @_answering
    def instance_limits(self, instance_type: str) -> InstanceLimits:
        """DescribeInstanceTypes for one type."""
        self._describe("DescribeInstanceTypes")
        found = self.cloud.limits_of(instance_type)
        if found is None:
            message = f"The following supplied instance types do not exist: [{instance_type}]"
            raise ApiError("InvalidInstanceType", message)
        return found

    def _describe(self, action: str) -> None:
        self._before(action)
        self.cloud.settle()


def _networks(granted: Granted) -> tuple[IPNetwork, ...]:
    singles: list[IPNetwork] = [
        IPv4Network(address) if isinstance(address, IPv4Address) else IPv6Network(address)
        for address in granted.addresses
    ]
    return (*singles, *granted.prefixes)


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
