# SPDX-License-Identifier: Apache-2.0
"""EC2 over boto3: the implementation of the three protocols of `aws.ec2`.

Knows which API call and which parameters make each promise true. Must never decide anything: no retries of its own
beyond the SDK's, no waiting, no choice of subnet. `ipamd` builds one per process and calls it from worker threads.
boto3 is imported when an `Ec2` is made, because the import costs a tenth of a second and most programs need none.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from ipaddress import ip_network
from typing import Any

from vpccni.aws import decode, failure, tags
from vpccni.aws.values import InstanceLimits, Interface, IPAddress, IPNetwork, Launched, Subnet

PAGE_SIZE = 1000
MAX_FILTER_VALUES = 200  # EC2's limit per filter
CallObserver = Callable[[str, float, str], None]


class Ec2:
    """Interfaces, addresses and inventory of one region. Methods: see `aws.ec2`.

    `endpoint` is "" for the region's own. `observe(operation, duration_s, aws_code)` hears of every call, retries of
    the SDK included in its duration; `aws_code` is "" for success and "unreachable" without an answer.
    """

    def __init__(
        self,
        region: str,
        *,
        endpoint: str = "",
        timeout_s: float = 10,
        attempts: int = 3,
        user_agent: str = "vpccni",
        observe: CallObserver | None = None,
    ) -> None:
        import boto3
        from botocore.config import Config

        config = Config(
            connect_timeout=timeout_s,
            read_timeout=timeout_s,
            retries={"mode": "standard", "total_max_attempts": attempts},
            user_agent_extra=user_agent,
            max_pool_connections=16,
        )
        session = boto3.session.Session(region_name=region)
        self._client = session.client("ec2", endpoint_url=endpoint or None, config=config)
        self._observe = observe

    # Interfaces

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
        """CreateNetworkInterface. Tags go along, so that an interface is never without an owner."""
        request: dict[str, Any] = {"SubnetId": subnet_id, "Description": description}
        if security_groups:
            request["Groups"] = list(security_groups)
        if tags:
            request["TagSpecifications"] = [{"ResourceType": "network-interface", "Tags": _tag_list(tags)}]
        if client_token:
            request["ClientToken"] = client_token
        request |= _counts(address_count, prefix_count, ip_version)
        request |= _counts(0, beside_prefix_count, 4 if ip_version == 6 else 6)
        return decode.interface(self._call("CreateNetworkInterface", **request)["NetworkInterface"])

    def attach(self, eni_id: str, instance_id: str, device: int, card: int = 0) -> str:
        """AttachNetworkInterface. The card is always named: EC2's own choice clashed on types with several."""
        answer = self._call(
            "AttachNetworkInterface",
            NetworkInterfaceId=eni_id,
            InstanceId=instance_id,
            DeviceIndex=device,
            NetworkCardIndex=card,
        )
        return str(answer["AttachmentId"])

    def delete_on_termination(self, eni_id: str, attachment_id: str) -> None:
        """ModifyNetworkInterfaceAttribute(Attachment)."""
        attachment = {"AttachmentId": attachment_id, "DeleteOnTermination": True}
        self._call("ModifyNetworkInterfaceAttribute", NetworkInterfaceId=eni_id, Attachment=attachment)

    def detach(self, attachment_id: str) -> None:
        """DetachNetworkInterface."""
        with failure.missing_is_fine():
            self._call("DetachNetworkInterface", AttachmentId=attachment_id)

    def delete(self, eni_id: str) -> None:
        """DeleteNetworkInterface."""
        with failure.missing_is_fine():
            self._call("DeleteNetworkInterface", NetworkInterfaceId=eni_id)

    def tag(self, eni_id: str, tags: Mapping[str, str]) -> None:
        """CreateTags; no call without tags."""
        if tags:
            self._call("CreateTags", Resources=[eni_id], Tags=_tag_list(tags))

    def set_security_groups(self, eni_id: str, security_groups: Sequence[str]) -> None:
        """ModifyNetworkInterfaceAttribute(Groups)."""
        self._call("ModifyNetworkInterfaceAttribute", NetworkInterfaceId=eni_id, Groups=list(security_groups))

    # Addresses

    def assign(
        self, eni_id: str, *, address_count: int = 0, prefix_count: int = 0, ip_version: int = 4
    ) -> tuple[IPNetwork, ...]:
        """AssignPrivateIpAddresses or AssignIpv6Addresses. Never by reassignment, which takes from others."""
        counts = _counts(address_count, prefix_count, ip_version)
        if not counts:
            return ()
        if ip_version == 6:
            answer = self._call("AssignIpv6Addresses", NetworkInterfaceId=eni_id, **counts)
            texts = [*answer.get("AssignedIpv6Addresses", ()), *answer.get("AssignedIpv6Prefixes", ())]
        else:
            answer = self._call("AssignPrivateIpAddresses", NetworkInterfaceId=eni_id, **counts)
            texts = [entry["PrivateIpAddress"] for entry in answer.get("AssignedPrivateIpAddresses", ())]
            texts += [entry["Ipv4Prefix"] for entry in answer.get("AssignedIpv4Prefixes", ())]
        return tuple(ip_network(text) for text in texts)

    def unassign(self, eni_id: str, addresses: Sequence[IPAddress] = (), prefixes: Sequence[IPNetwork] = ()) -> None:
        """UnassignPrivateIpAddresses and UnassignIpv6Addresses, one call for each of kind and family in use."""
        calls = (
            ("UnassignPrivateIpAddresses", "PrivateIpAddresses", 4, addresses),
            ("UnassignPrivateIpAddresses", "Ipv4Prefixes", 4, prefixes),
            ("UnassignIpv6Addresses", "Ipv6Addresses", 6, addresses),
            ("UnassignIpv6Addresses", "Ipv6Prefixes", 6, prefixes),
        )
        for operation, parameter, version, blocks in calls:
            texts = [str(block) for block in blocks if block.version == version]
            if texts:
                self._call(operation, NetworkInterfaceId=eni_id, **{parameter: texts})

    # Inventory

    def attached(self, instance_id: str) -> tuple[Interface, ...]:
        """DescribeNetworkInterfaces with the filter attachment.instance-id."""
        found = self._interfaces({"attachment.instance-id": [instance_id]})
        return tuple(sorted(found, key=_slot))

    def interfaces(self, eni_ids: Sequence[str]) -> tuple[Interface, ...]:
        """DescribeNetworkInterfaces with the filter network-interface-id, which (unlike the ids) takes missing ones."""
        found: dict[str, Interface] = {}
        wanted = list(dict.fromkeys(eni_ids))
        for start in range(0, len(wanted), MAX_FILTER_VALUES):
            ids = wanted[start : start + MAX_FILTER_VALUES]
            found |= {one.eni_id: one for one in self._interfaces({"network-interface-id": ids})}
        return tuple(found[eni_id] for eni_id in wanted if eni_id in found)

    def owned(self, instance_id: str = "", *, cluster: str = "", vpc_id: str = "") -> tuple[Interface, ...]:
        """DescribeNetworkInterfaces filtered by ownership tags."""
        filters = {f"tag:{tags.INSTANCE_TAG}": [instance_id]} if instance_id else {"tag-key": [tags.INSTANCE_TAG]}
        if cluster:
            filters[f"tag:{tags.CLUSTER_TAG}"] = [cluster]
        if vpc_id:
            filters["vpc-id"] = [vpc_id]
        return tuple(sorted(self._interfaces(filters), key=lambda one: one.eni_id))

    def occupied_slots(self, instance_id: str) -> frozenset[tuple[int, int]]:
        """DescribeInstances of the instance itself."""
        answer = self._call("DescribeInstances", InstanceIds=[instance_id])
        found = (decode.launched(raw) for reservation in answer["Reservations"] for raw in reservation["Instances"])
        return frozenset(slot for instance in found for slot in instance.slots)

    def launched(self, since: float, until: float) -> tuple[Launched, ...]:
        """DescribeInstances with the filters tag-key, instance-state-name and launch-time; the first page."""
        filters = {
            "tag-key": [tags.CLUSTER_TAG_PATTERN],
            "instance-state-name": ["pending", "running"],
            "launch-time": _launch_patterns(since, until),
        }
        answer = self._call("DescribeInstances", Filters=_filter_list(filters), MaxResults=PAGE_SIZE)
        return tuple(decode.launched(raw) for reservation in answer["Reservations"] for raw in reservation["Instances"])

    def subnets(self, vpc_id: str, availability_zone: str) -> tuple[Subnet, ...]:
        """DescribeSubnets with the filters vpc-id and availability-zone."""
        filters = _filter_list({"vpc-id": [vpc_id], "availability-zone": [availability_zone]})
        found = [decode.subnet(raw) for raw in self._pages("DescribeSubnets", "Subnets", Filters=filters)]
        return tuple(sorted(found, key=lambda subnet: subnet.subnet_id))

    def instance_limits(self, instance_type: str) -> InstanceLimits:
        """DescribeInstanceTypes of one type."""
        answer = self._call("DescribeInstanceTypes", InstanceTypes=[instance_type])
        if len(answer["InstanceTypes"]) != 1:
            reason = f"{len(answer['InstanceTypes'])} answers for {instance_type}"
            raise failure.classify("DescribeInstanceTypes", "InvalidInstanceType", reason)
        return decode.instance_limits(answer["InstanceTypes"][0])

    def _interfaces(self, filters: Mapping[str, list[str]]) -> Iterator[Interface]:
        pages = self._pages("DescribeNetworkInterfaces", "NetworkInterfaces", Filters=_filter_list(filters))
        return (decode.interface(raw) for raw in pages)

    def _pages(self, operation: str, key: str, **request: Any) -> Iterator[Mapping[str, Any]]:
        token: dict[str, str] = {}
        while True:
            answer = self._call(operation, MaxResults=PAGE_SIZE, **token, **request)
            yield from answer.get(key, ())
            if not answer.get("NextToken"):
                return
            token = {"NextToken": answer["NextToken"]}

    def _call(self, operation: str, **request: Any) -> Mapping[str, Any]:
        """One API call. Raises CloudError whatever went wrong."""
        from botocore import xform_name
        from botocore.exceptions import BotoCoreError, ClientError
        from botocore.parsers import ResponseParserError

        started, outcome = time.monotonic(), "unreachable"
        endpoint = self._client.meta.endpoint_url
        try:
            answer: Mapping[str, Any] = getattr(self._client, xform_name(operation))(**request)
            outcome = ""
            return answer
        except ClientError as error:
            answered, status = error.response["Error"], error.response["ResponseMetadata"]["HTTPStatusCode"]
            outcome = answered["Code"]
            raise failure.classify(operation, outcome, answered["Message"], status=status) from None
        except BotoCoreError as error:
            raise failure.from_sdk(operation, endpoint, type(error).__name__, str(error)) from error
        except ResponseParserError:
            # Something else than EC2 answered, such as a proxy with a page of its own.
            raise failure.unreachable(operation, endpoint, "the answer is not EC2's") from None
        finally:
            if self._observe:
                self._observe(operation, time.monotonic() - started, outcome)


def _slot(interface: Interface) -> tuple[int, int, str]:
    where = interface.attachment
    return (where.card, where.device, interface.eni_id) if where else (0, 0, interface.eni_id)


def _counts(address_count: int, prefix_count: int, ip_version: int) -> dict[str, int]:
    if address_count and prefix_count:
        raise ValueError("EC2 takes a number of addresses or of prefixes, not both in one call")
    names = ("Ipv6AddressCount", "Ipv6PrefixCount") if ip_version == 6 else (
        "SecondaryPrivateIpAddressCount", "Ipv4PrefixCount"
    )  # fmt: skip
    return {name: count for name, count in zip(names, (address_count, prefix_count), strict=True) if count > 0}


def _tag_list(tags: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"Key": key, "Value": value} for key, value in sorted(tags.items())]


def _filter_list(filters: Mapping[str, list[str]]) -> list[dict[str, Any]]:
    return [{"Name": name, "Values": values} for name, values in filters.items()]


def _launch_patterns(since: float, until: float) -> list[str]:
    """Values of the filter launch-time that cover a span, in steps of ten minutes: `2026-01-31T12:4*`."""
    step_s = 600
    first, last = int(since) // step_s, int(until) // step_s
    moments = (datetime.fromtimestamp(number * step_s, UTC) for number in range(first, last + 1))
    return [f"{moment:%Y-%m-%dT%H:%M}"[:-1] + "*" for moment in moments]
