# SPDX-License-Identifier: Apache-2.0
"""Filters of the describe operations: which names each kind of resource has, and EC2's wildcards.

Knows filter names (EC2 API reference) and what they look at in the model. Must never page or render. `describe` uses
it; a name that EC2 does not document for the kind is refused, so that a misspelt filter is found.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from vpccni.aws.values import InstanceLimits
from vpccni.lab.cloud.errors import ApiError, invalid
from vpccni.lab.cloud.resources import Eni, Instance, SecurityGroup, Subnet, Vpc
from vpccni.lab.cloud.view import private_name, public_name, zone_id
from vpccni.lab.cloud.world import World
from vpccni.lab.ec2.rows import STATE_CODES

Values = Iterable[object]
Table = Mapping[str, Callable[[World, Any], Values]]
MAX_VALUES = 200
LAUNCH_TIME = "%Y-%m-%dT%H:%M:%S.000Z"


def _attachment(name: str) -> Callable[[World, Eni], Values]:
    return lambda world, eni: () if eni.attachment is None else (getattr(eni.attachment, name),)


INTERFACE: Table = {
    "network-interface-id": lambda world, eni: (eni.eni_id,),
    "subnet-id": lambda world, eni: (eni.subnet_id,),
    "vpc-id": lambda world, eni: (eni.vpc_id,),
    "availability-zone": lambda world, eni: (eni.zone,),
    "availability-zone-id": lambda world, eni: (zone_id(eni.zone),),
    "owner-id": lambda world, eni: (eni.owner_id,),
    "requester-managed": lambda world, eni: (bool(eni.requester),),
    "requester-id": lambda world, eni: (eni.requester,) if eni.requester else (),
    "status": lambda world, eni: (eni.status,),
    "description": lambda world, eni: (eni.description,),
    "mac-address": lambda world, eni: (eni.mac,),
    "interface-type": lambda world, eni: (eni.interface_type,),
    "source-dest-check": lambda world, eni: (eni.source_dest_check,),
    "group-id": lambda world, eni: eni.group_ids,
    "group-name": lambda world, eni: (world.groups[group_id].name for group_id in eni.group_ids),
    "private-ip-address": lambda world, eni: (eni.primary, *eni.addresses),
    "private-dns-name": lambda world, eni: (private_name(eni.primary, world.region),),
    "addresses.private-ip-address": lambda world, eni: (eni.primary, *eni.addresses),
    "addresses.primary": lambda world, eni: (True, False) if eni.addresses else (True,),
    "addresses.association.public-ip": lambda world, eni: (eni.public,) if eni.public else (),
    "association.public-ip": lambda world, eni: (eni.public,) if eni.public else (),
    "ipv6-addresses.ipv6-address": lambda world, eni: eni.ipv6,
    "attachment.attachment-id": _attachment("attachment_id"),
    "attachment.instance-id": _attachment("instance_id"),
    "attachment.device-index": _attachment("device"),
    "attachment.network-card-index": _attachment("card"),
    "attachment.status": _attachment("status"),
    "attachment.delete-on-termination": _attachment("delete_on_termination"),
    "attachment.instance-owner-id": lambda world, eni: () if eni.attachment is None else (eni.owner_id,),
}

SUBNET: Table = {
    "subnet-id": lambda world, subnet: (subnet.subnet_id,),
    "vpc-id": lambda world, subnet: (subnet.vpc_id,),
    "availability-zone": lambda world, subnet: (subnet.zone,),
    "availabilityZone": lambda world, subnet: (subnet.zone,),
    "availability-zone-id": lambda world, subnet: (zone_id(subnet.zone),),
    "available-ip-address-count": lambda world, subnet: (subnet.v4.free_count,),
    "cidr-block": lambda world, subnet: (subnet.v4.network,),
    "cidr": lambda world, subnet: (subnet.v4.network,),
    "default-for-az": lambda world, subnet: (False,),
    "map-public-ip-on-launch": lambda world, subnet: (subnet.map_public_ip,),
    "owner-id": lambda world, subnet: (subnet.owner_id,),
    "state": lambda world, subnet: ("available",),
    "ipv6-cidr-block-association.ipv6-cidr-block": lambda world, subnet: (subnet.v6.network,) if subnet.v6 else (),
}

VPC: Table = {
    "vpc-id": lambda world, vpc: (vpc.vpc_id,),
    "cidr": lambda world, vpc: (vpc.cidrs[0],),
    "cidr-block-association.cidr-block": lambda world, vpc: vpc.cidrs,
    "cidr-block-association.state": lambda world, vpc: ("associated",),
    "ipv6-cidr-block-association.ipv6-cidr-block": lambda world, vpc: vpc.ipv6_cidrs,
    "is-default": lambda world, vpc: (False,),
    "owner-id": lambda world, vpc: (vpc.owner_id,),
    "state": lambda world, vpc: ("available",),
}

GROUP: Table = {
    "group-id": lambda world, group: (group.group_id,),
    "group-name": lambda world, group: (group.name,),
    "description": lambda world, group: (group.description,),
    "owner-id": lambda world, group: (group.owner_id,),
    "vpc-id": lambda world, group: (group.vpc_id,),
}


def _primary(world: World, instance: Instance) -> tuple[Eni, ...]:
    return (world.enis[instance.primary_eni_id],) if instance.primary_eni_id in world.enis else ()


INSTANCE: Table = {
    "instance-id": lambda world, instance: (instance.instance_id,),
    "instance-type": lambda world, instance: (instance.instance_type,),
    "instance-state-name": lambda world, instance: (instance.state,),
    "instance-state-code": lambda world, instance: (STATE_CODES[instance.state],),
    "launch-time": lambda world, instance: (datetime.fromtimestamp(instance.launched_at, UTC).strftime(LAUNCH_TIME),),
    "image-id": lambda world, instance: (instance.image_id,),
    "availability-zone": lambda world, instance: (instance.zone,),
    "subnet-id": lambda world, instance: (instance.subnet_id,),
    "vpc-id": lambda world, instance: (instance.vpc_id,),
    "owner-id": lambda world, instance: (instance.owner_id,),
    "reservation-id": lambda world, instance: (instance.reservation_id,),
    "private-ip-address": lambda world, instance: (eni.primary for eni in _primary(world, instance)),
    "ip-address": lambda world, instance: (eni.public for eni in _primary(world, instance) if eni.public),
    "private-dns-name": lambda world, instance: (
        private_name(eni.primary, world.region) for eni in _primary(world, instance)
    ),
    "dns-name": lambda world, instance: (
        public_name(eni.public, world.region) for eni in _primary(world, instance) if eni.public
    ),
    "instance.group-id": lambda world, instance: (g for eni in _primary(world, instance) for g in eni.group_ids),
    "network-interface.network-interface-id": lambda world, instance: (
        eni.eni_id for eni in world.enis_of(instance.instance_id)
    ),
    "network-interface.subnet-id": lambda world, instance: (
        eni.subnet_id for eni in world.enis_of(instance.instance_id)
    ),
    "network-interface.addresses.private-ip-address": lambda world, instance: (
        address for eni in world.enis_of(instance.instance_id) for address in (eni.primary, *eni.addresses)
    ),
}

INSTANCE_TYPE: Table = {
    "instance-type": lambda world, limits: (limits.instance_type,),
    "bare-metal": lambda world, limits: (limits.bare_metal,),
    "hypervisor": lambda world, limits: (limits.hypervisor,),
    "network-info.maximum-network-interfaces": lambda world, limits: (limits.total_enis,),
    "network-info.maximum-network-cards": lambda world, limits: (len(limits.cards),),
    "network-info.ipv4-addresses-per-interface": lambda world, limits: (limits.ipv4_per_eni,),
    "network-info.ipv6-addresses-per-interface": lambda world, limits: (limits.ipv6_per_eni,),
    "network-info.ipv6-supported": lambda world, limits: (limits.ipv6_per_eni > 0,),
    "vcpu-info.default-vcpus": lambda world, limits: (limits.vcpus,),
}

TAG: Table = {
    "resource-id": lambda world, tag: (tag[0],),
    "resource-type": lambda world, tag: (tag[1],),
    "key": lambda world, tag: (tag[2],),
    "value": lambda world, tag: (tag[3],),
}

TRUNK: Table = {
    "gre-key": lambda world, one: (one.gre_key,) if one.gre_key is not None else (),
    "interface-protocol": lambda world, one: (one.protocol,),
}

PERMISSION: Table = {
    "network-interface-permission.network-interface-permission-id": lambda world, one: (one.permission_id,),
    "network-interface-permission.network-interface-id": lambda world, one: (one.eni_id,),
    "network-interface-permission.aws-account-id": lambda world, one: (one.account_id,),
    "network-interface-permission.aws-service": lambda world, one: (one.service,),
    "network-interface-permission.permission": lambda world, one: (one.permission,),
}

GROUP_RULE: Table = {
    "group-id": lambda world, row: (row["GroupId"],),
    "security-group-rule-id": lambda world, row: (row["SecurityGroupRuleId"],),
}

RESERVATION: Table = {
    "reservationType": lambda world, one: (one.kind,),
    "subnet-id": lambda world, one: (one.subnet_id,),
}

Filterable = Eni | Subnet | Vpc | SecurityGroup | Instance | InstanceLimits | tuple[str, str, str, str]
UNTAGGED = (TAG, INSTANCE_TYPE, TRUNK, PERMISSION, RESERVATION, GROUP_RULE)
Test = Callable[[World, Any], bool]


def compile_filters(table: Table, filters: Sequence[Mapping[str, Any]]) -> list[Test]:
    """One test per filter: a resource passes when all say yes. Values of one filter are alternatives."""
    return [_test(table, item) for item in filters]


def _test(table: Table, item: Mapping[str, Any]) -> Test:
    name, patterns = item.get("Name"), item.get("Values", ())
    if not name:
        raise ApiError("MissingParameter", "The filter needs a name")
    if not patterns:
        raise invalid(f"The filter '{name}' needs values")
    if len(patterns) > MAX_VALUES:
        raise ApiError("FilterLimitExceeded", f"The maximum number of filter values is {MAX_VALUES}")
    tagged = all(table is not other for other in UNTAGGED)
    if tagged and name.startswith("tag:"):
        key = name.removeprefix("tag:")
        return lambda world, resource: key in resource.tags and matches(patterns, (resource.tags[key],))
    if tagged and name == "tag-key":
        return lambda world, resource: matches(patterns, resource.tags)
    if name not in table:
        raise invalid(f"The filter '{name}' is invalid")
    look = table[name]
    return lambda world, resource: matches(patterns, look(world, resource))


def matches(patterns: Sequence[str], values: Values) -> bool:
    """Whether any value fits any pattern: `*` any text, `?` one letter, a backslash takes the next one literally."""
    texts = [_text(value) for value in values]
    return any(_compiled(pattern)(text) for pattern in patterns for text in texts)


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


@functools.lru_cache(maxsize=1024)
def _compiled(pattern: str) -> Callable[[str], bool]:
    if not any(letter in pattern for letter in "*?\\"):
        return pattern.__eq__
    special = {"*": ".*", "?": "."}
    pieces = re.findall(r"\\.|.", pattern, re.DOTALL)
    text = "".join(special.get(piece) or re.escape(piece[-1]) for piece in pieces)
    expression = re.compile(text, re.DOTALL)
    return lambda value: expression.fullmatch(value) is not None
