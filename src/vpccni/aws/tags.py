# SPDX-License-Identifier: Apache-2.0
"""Ownership: the tags and the description that mark an interface as created by a node daemon.

Knows the names that the Amazon VPC CNI uses, so that both recognise each other's interfaces. Must never know how
tags are written. `ipamd` tags with these, `aws.boto` and the lab filter by them.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

INSTANCE_TAG = "node.k8s.amazonaws.com/instance_id"
CREATED_TAG = "node.k8s.amazonaws.com/createdAt"
CLUSTER_TAG = "cluster.k8s.amazonaws.com/name"
OWNER_TAG = "eks:eni:owner"
OWNER = "amazon-vpc-cni"
CLUSTER_TAG_PATTERN = "kubernetes.io/cluster/*"  # keys that mark instances as nodes of a cluster, whichever
UNMANAGED_TAG = "node.k8s.amazonaws.com/no_manage"
SAGA_TAG = "vpccni/saga"  # the ClientToken of the create call: finds an interface whose creation was never answered
SUBNET_ROLE_TAG = "kubernetes.io/role/cni"
SUBNET_CLUSTER_TAG_PREFIX = "cni.networking.k8s.aws/cluster/"
DESCRIPTION_PREFIX = "aws-K8S-"


def description(instance_id: str) -> str:
    """The description of an interface made for an instance."""
    return DESCRIPTION_PREFIX + instance_id


def ownership(instance_id: str, cluster: str = "", extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Tags that every managed interface carries, sorted by key; `extra` are the user's additional ones."""
    tags = {INSTANCE_TAG: instance_id}
    if cluster:
        tags |= {CLUSTER_TAG: cluster, OWNER_TAG: OWNER}
    return dict(sorted((tags | dict(extra or {})).items()))


def creation(instance_id: str, now: float, cluster: str = "", extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Tags at creation: ownership and the moment (`now`, Unix seconds) as RFC 3339, sorted by key."""
    created_at = datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return dict(sorted((ownership(instance_id, cluster, extra) | {CREATED_TAG: created_at}).items()))


def created_at(tags: Mapping[str, str]) -> float | None:
    """When the interface was made, in Unix seconds; None without the tag or when it cannot be read."""
    try:
        moment = datetime.fromisoformat(tags[CREATED_TAG])
    except (KeyError, ValueError):
        return None
    return moment.timestamp() if moment.tzinfo else None
