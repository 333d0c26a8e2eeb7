# SPDX-License-Identifier: Apache-2.0
"""Which subnets new ENIs may be made in, best first.

Knows the tags that include and exclude subnets (Amazon VPC CNI 1.23, ENABLE_SUBNET_DISCOVERY). Must never ask EC2: the
subnets of the node's zone are an argument. `ipamd.engine` calls it before it creates an ENI.
"""

from __future__ import annotations

from collections.abc import Iterable

from vpccni.aws.values import Subnet

ROLE_TAG = "kubernetes.io/role/cni"
CLUSTER_TAG_PREFIX = "cni.networking.k8s.aws/cluster/"


def eligible(
    subnets: Iterable[Subnet], primary_subnet_id: str, *, discovery: bool = True, cluster: str = ""
) -> list[Subnet]:
    """Subnets by free addresses, most first (then by id, so that the choice is the same every time).

    Without `discovery` only the primary ENI's subnet counts. A role tag of "0" always excludes; without the tag the
    primary subnet is used and no other; with any other value the cluster tags decide.
    """
    chosen = [
        subnet
        for subnet in subnets
        if (discovery or subnet.subnet_id == primary_subnet_id)
        and _allowed(subnet, primary=subnet.subnet_id == primary_subnet_id, cluster=cluster)
    ]
    return sorted(chosen, key=lambda subnet: (-subnet.free_addresses, subnet.subnet_id))


def excluded(subnet: Subnet, cluster: str = "") -> bool:
    """Whether ENIs that already are in this subnet get no new pods."""
    role = subnet.tags.get(ROLE_TAG, "")
    return role == "0" or (bool(role) and not _for_cluster(subnet, cluster))


def _allowed(subnet: Subnet, *, primary: bool, cluster: str) -> bool:
    role = subnet.tags.get(ROLE_TAG, "")
    if not role:
        return primary
    return role != "0" and _for_cluster(subnet, cluster)


def _for_cluster(subnet: Subnet, cluster: str) -> bool:
    clusters = {tag.removeprefix(CLUSTER_TAG_PREFIX) for tag in subnet.tags if tag.startswith(CLUSTER_TAG_PREFIX)}
    return not cluster or not clusters or cluster in clusters
