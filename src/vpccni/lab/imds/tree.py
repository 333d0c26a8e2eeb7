# SPDX-License-Identifier: Apache-2.0
"""The metadata tree of an instance as nested mappings: keys, listings and documents.

Knows the category names of the instance metadata service (EC2 user guide). Must never know HTTP or tokens, and has no
state: the tree is computed from an `InstanceMetadata` for each request. `lab.imds.service` calls it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from vpccni.lab.cloud.metadata import InstanceMetadata, InterfaceMetadata

VERSIONS = ("2016-09-02", "2020-10-27", "2021-03-23", "2022-09-24", "latest")
CREDENTIALS_LIFE = timedelta(hours=6)
Tree = Mapping[str, Any]  # values are texts or trees; empty texts and empty trees are not there


def find(metadata: InstanceMetadata, path: str, now: float) -> str | None:
    """The text at an absolute path: a value, a document, or the listing of a category. None where there is nothing.

    A trailing slash makes no difference, as with the real service for categories.
    """
    words = [word for word in path.split("/") if word]
    if not words:
        return "\n".join(VERSIONS)
    if words[0] not in VERSIONS:
        return None
    node: Any = _version(metadata, now)
    for word in words[1:]:
        if not isinstance(node, dict) or word not in node:
            return None
        node = node[word]
    return _listing(node) if isinstance(node, dict) else str(node)


def _listing(tree: Tree) -> str:
    # Roles are listed without a slash although they are asked for with the same word: they are values.
    return "\n".join(f"{name}/" if isinstance(node, dict) else name for name, node in sorted(tree.items()))


def _pruned(tree: Mapping[str, Any]) -> dict[str, Any]:
    """The tree without empty values; what is empty is not listed and answers 404."""
    nodes = {name: _pruned(node) if isinstance(node, dict) else node for name, node in tree.items()}
    return {name: node for name, node in nodes.items() if node not in ("", {})}


def _version(metadata: InstanceMetadata, now: float) -> dict[str, Any]:
    return _pruned(
        {
            "dynamic": {"instance-identity": {"document": _identity_document(metadata)}},
            "meta-data": _meta_data(metadata, now),
            "user-data": metadata.user_data,
        }
    )


def _meta_data(metadata: InstanceMetadata, now: float) -> dict[str, Any]:
    several_cards = any(interface.network_card for interface in metadata.interfaces)
    primary = next((one for one in metadata.interfaces if one.mac == metadata.mac), None)
    return {
        "ami-id": metadata.ami_id,
        "ami-launch-index": str(metadata.ami_launch_index),
        "hostname": metadata.hostname,
        "iam": _iam(metadata, now),
        "instance-action": "none",
        "instance-id": metadata.instance_id,
        "instance-life-cycle": "on-demand",
        "instance-type": metadata.instance_type,
        "ipv6": str(metadata.ipv6 or ""),
        "local-hostname": metadata.local_hostname,
        "local-ipv4": str(metadata.local_ipv4 or ""),
        "mac": metadata.mac,
        "network": {
            "interfaces": {"macs": {one.mac: _interface(one, several_cards) for one in metadata.interfaces}},
        },
        "placement": {
            "availability-zone": metadata.availability_zone,
            "availability-zone-id": metadata.availability_zone_id,
            "region": metadata.region,
        },
        "public-hostname": metadata.public_hostname,
        "public-ipv4": str(metadata.public_ipv4 or ""),
        "reservation-id": metadata.reservation_id,
        "security-groups": _lines(metadata.security_group_names or (primary.security_group_names if primary else ())),
        "services": {"domain": metadata.services_domain, "partition": metadata.partition},
        "tags": {"instance": dict(metadata.tags) if metadata.instance_metadata_tags else {}},
    }


def _interface(interface: InterfaceMetadata, several_cards: bool) -> dict[str, Any]:
    return {
        "device-number": str(interface.device_number),
        "interface-id": interface.interface_id,
        "ipv4-associations": {
            str(public): _lines(private) for public, private in interface.ipv4_associations.items()
        },
        "ipv4-prefix": _lines(interface.ipv4_prefixes),
        "ipv6-prefix": _lines(interface.ipv6_prefixes),
        "ipv6s": _lines(interface.ipv6s),
        "local-hostname": interface.local_hostname,
        "local-ipv4s": _lines(interface.local_ipv4s),
        "mac": interface.mac,
        # Types with one card do not show the key, so that readers must have a default.
        "network-card": str(interface.network_card) if several_cards else "",
        "owner-id": interface.owner_id,
        "public-hostname": interface.public_hostname,
        "public-ipv4s": _lines(interface.public_ipv4s),
        "security-group-ids": _lines(interface.security_group_ids),
        "security-groups": _lines(interface.security_group_names),
        "subnet-id": interface.subnet_id,
        "subnet-ipv4-cidr-block": str(interface.subnet_ipv4_cidr_block or ""),
        "subnet-ipv6-cidr-blocks": _lines(interface.subnet_ipv6_cidr_blocks),
        "vpc-id": interface.vpc_id,
        "vpc-ipv4-cidr-block": str(interface.vpc_ipv4_cidr_block or ""),
        "vpc-ipv4-cidr-blocks": _lines(interface.vpc_ipv4_cidr_blocks),
        "vpc-ipv6-cidr-blocks": _lines(interface.vpc_ipv6_cidr_blocks),
    }  # fmt: skip


def _iam(metadata: InstanceMetadata, now: float) -> dict[str, Any]:
    """Temporary credentials of the instance's role, good for the lab's EC2 endpoint and nothing else."""
    if not metadata.iam_role:
        return {}
    updated = datetime.fromtimestamp(now - now % 3600, UTC)
    digest = hashlib.sha256(f"{metadata.instance_id}/{updated.isoformat()}".encode()).hexdigest()
    profile = f"arn:{metadata.partition}:iam::{metadata.account_id}:instance-profile/{metadata.iam_role}"
    role = {"Code": "Success", "LastUpdated": _moment(updated), "InstanceProfileArn": profile}
    credentials = {
        "Code": "Success",
        "LastUpdated": _moment(updated),
        "Type": "AWS-HMAC",
        "AccessKeyId": "ASIALAB" + digest[:13].upper(),
        "SecretAccessKey": digest[:40],
        "Token": digest,
        "Expiration": _moment(updated + CREDENTIALS_LIFE),
    }
    return {
        "info": json.dumps(role, indent=2),
        "security-credentials": {metadata.iam_role: json.dumps(credentials, indent=2)},
    }


def _identity_document(metadata: InstanceMetadata) -> str:
    document = {
        "accountId": metadata.account_id,
        "architecture": metadata.architecture,
        "availabilityZone": metadata.availability_zone,
        "imageId": metadata.ami_id,
        "instanceId": metadata.instance_id,
        "instanceType": metadata.instance_type,
        "pendingTime": _moment(datetime.fromtimestamp(metadata.launched_at, UTC)),
        "privateIp": str(metadata.local_ipv4 or ""),
        "region": metadata.region,
        "version": "2017-09-30",
    }
    return json.dumps(document, indent=2)


def _lines(values: Iterable[object]) -> str:
    return "\n".join(str(value) for value in values)


def _moment(when: datetime) -> str:
    return when.strftime("%Y-%m-%dT%H:%M:%SZ")
