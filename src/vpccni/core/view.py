# SPDX-License-Identifier: Apache-2.0
"""What was observed of a node: its interfaces as EC2 reports them, their subnets, and the pods that the kernel shows.

Knows how an EC2 interface becomes an ENI of the pool: ownership tags, exclusion, custom networking, EFA and trunks.
Must never compare it with the pool (`reconcile` does) nor observe anything itself. The daemon's engine composes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from vpccni.aws.values import Attachment, Interface, IPNetwork, Subnet
from vpccni.core import conventions
from vpccni.core.block import Block
from vpccni.core.eni import Eni
from vpccni.core.podseen import ObservedPod

NO_MANAGE_TAG = "node.k8s.amazonaws.com/no_manage"
INSTANCE_TAG = "node.k8s.amazonaws.com/instance_id"


@dataclass(frozen=True, slots=True)
class View:
    """One observation. `observed_at`: Unix seconds just before the first question was asked, so that whatever this
    daemon changed later is newer than the view.

    `interfaces` is EC2's answer (never the metadata service's, which lags) and must be complete. `pods` is the
    kernel's complete list, or None when the kernel was not asked. `created`: ENI id -> when it was made, in Unix
    seconds, where its tags say so.
    """

    interfaces: tuple[Interface, ...]
    observed_at: float
    subnets: Mapping[str, Subnet] = field(default_factory=dict)
    pods: tuple[ObservedPod, ...] | None = None
    created: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class NodePolicy:
    """Which interfaces of the instance are ours and which carry pods.

    `manage_untagged`: MANAGE_UNTAGGED_ENI. `excluded_subnets`: ids of subnets whose tags forbid pods. `cards`: the
    network cards that are managed. `custom_networking`: pods never use the primary interface. `versions`: the families
    that pods get addresses of.
    """

    instance_id: str
    custom_networking: bool = False
    manage_untagged: bool = True
    excluded_subnets: frozenset[str] = frozenset()
    cards: tuple[int, ...] = (0,)
    versions: tuple[int, ...] = (4,)


def managed(interface: Interface, policy: NodePolicy, *, primary: bool) -> bool:
    """Whether we may change an interface. First match wins, as in Amazon VPC CNI 1.23; the primary always is ours."""
    if interface.interface_type == "efa-only":
        return False
    if primary:
        return True
    if NO_MANAGE_TAG in interface.tags:
        return interface.tags[NO_MANAGE_TAG] != "true"
    return interface.tags.get(INSTANCE_TAG) == policy.instance_id or policy.manage_untagged


def attachment_here(interface: Interface, policy: NodePolicy) -> Attachment | None:
    """The attachment to this instance on a managed card, if it is complete or on its way out."""
    attachment = interface.attachment
    if attachment is None or attachment.instance_id != policy.instance_id or attachment.card not in policy.cards:
        return None
    return attachment if attachment.status in {"attached", "detaching"} else None


def eni_of(interface: Interface, policy: NodePolicy, view: View, created_at: float) -> Eni | None:
    """An EC2 interface as the pool sees it; None when it does not hang on a managed card of this instance.

    An unmanaged one only occupies a slot: pods that use it already keep it, new ones never get it. One that is being
    detached serves no new pods either.
    """
    attachment = attachment_here(interface, policy)
    if attachment is None:
        return None
    primary = attachment.card == 0 and attachment.device == 0
    ours = managed(interface, policy, primary=primary)
    trunk = interface.interface_type == "trunk"
    subnet = view.subnets.get(interface.subnet_id)
    excluded = interface.subnet_id in policy.excluded_subnets or (primary and policy.custom_networking)
    excluded = excluded or (6 in policy.versions and subnet is not None and not subnet.ipv6_cidrs)
    return Eni(
        id=interface.eni_id,
        mac=interface.mac,
        card=attachment.card,
        device=attachment.device,
        subnet_id=interface.subnet_id,
        subnet=_network(interface, subnet),
        primary=primary,
        primary_address=interface.primary_address,
        table=conventions.route_table(attachment.card, attachment.device),
        usable_for_pods=ours and not trunk and not excluded and attachment.status == "attached",
        trunk=trunk,
        efa=interface.interface_type == "efa",
        efa_only=interface.interface_type == "efa-only",
        managed=ours,
        created_at=created_at,
        blocks=blocks_of(interface),
    )


def blocks_of(interface: Interface) -> tuple[Block, ...]:
    """Secondary IPv4 addresses, then prefixes. A single IPv6 address is the interface's own, never a pod's."""
    secondary = (each for each in interface.addresses if each.version == 4 and each != interface.primary_address)
    return (*map(Block.of, secondary), *map(Block, interface.prefixes))


def _network(interface: Interface, subnet: Subnet | None) -> IPNetwork | None:
    if subnet is None:
        return None
    address = interface.primary_address
    if address is not None and address.version == 6:
        return next(iter(subnet.ipv6_cidrs), None)
    return subnet.cidr
