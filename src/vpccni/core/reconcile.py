# SPDX-License-Identifier: Apache-2.0
"""The pool against EC2 and the kernel: what is wrong with it, in the order in which to correct it.

Knows that EC2 decides which addresses the node holds and the kernel which pods live. Must never erase the grant of a
live pod, and never believes a view that is older than our own last change. The engine calls it on a timer of its own.

Removals come first, so that an address that EC2 moved to another ENI can be added there.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import replace

from vpccni.aws.values import IPAddress, IPNetwork
from vpccni.core.block import Block, HeldBlock
from vpccni.core.corrections import (
    AddBlocks,
    AddEni,
    Confirm,
    Correction,
    OrphanGrant,
    ReleaseGrant,
    RemoveBlocks,
    RemoveEni,
    RestoreGrant,
    Suspect,
    UpdateEni,
    apply,
)
from vpccni.core.eni import Eni, HeldEni
from vpccni.core.grant import Grant, GrantedAddress, PodIdentity, PodKey
from vpccni.core.podseen import ObservedPod
from vpccni.core.pool import Pool
from vpccni.core.view import NodePolicy, View, eni_of

__all__ = [
    "AddBlocks",
    "AddEni",
    "Confirm",
    "Correction",
    "OrphanGrant",
    "ReleaseGrant",
    "RemoveBlocks",
    "RemoveEni",
    "RestoreGrant",
    "Suspect",
    "UpdateEni",
    "apply",
    "reconcile",
    "reconcile_pods",
]

# EC2 reads may lag behind EC2 writes; an ENI that we changed shorter ago than this is left for the next pass.
SETTLE_S = 10.0
# A grant without a pod in the kernel may be an ADD in progress; the runtime's and the relay's patience is 90 s.
UNWIRED_S = 120.0
# Network name of the reservation of an address whose pod nobody told us about.
UNKNOWN = "_unknown"

_NOTHING: Mapping[str | IPNetwork, float] = {}


def reconcile(
    pool: Pool, view: View, policy: NodePolicy, now: float, *, changed_at: Mapping[str | IPNetwork, float] = _NOTHING
) -> list[Correction]:
    """Corrections, in order. Empty when pool, EC2 and kernel agree, and again after `apply` of what this returned.

    `changed_at`: ENI id or network of a block -> when we last asked EC2 to change it, `inf` while that is under way.
    Those are left alone until a view is taken `SETTLE_S` after it. Upstream compares nothing for 60 s after any change
    of the pool, so churn starves it for ever (Amazon VPC CNI 1.23).
    """
    seen: dict[str, Eni] = {}
    for listed in view.interfaces:
        eni = eni_of(listed, policy, view, view.created.get(listed.eni_id, now))
        if eni is not None:
            seen[eni.id] = eni
    held = {each.eni.id: each for each in pool.held()}
    if not any(eni.primary for eni in seen.values()):
        reason = (
            f"EC2 lists {len(seen)} interfaces for {policy.instance_id} and none is the primary; nothing is believed"
        )
        return [Suspect("EC2's answer", reason)]
    unsettled = {name for name, at in changed_at.items() if at + SETTLE_S > view.observed_at}
    settled = {eni_id for eni_id in (*seen, *held) if eni_id not in unsettled}
    places = {block.network: eni.id for eni in seen.values() for block in eni.blocks}
    corrections: list[Correction] = []
    for eni_id, each in held.items():
        if eni_id in settled:
            corrections += _removals(pool, each, seen.get(eni_id), places, unsettled)
    for eni_id, eni in seen.items():
        if eni_id in settled:
            corrections += _additions(held.get(eni_id), eni, unsettled)
    return corrections + reconcile_pods(pool, view, now)


def _removals(
    pool: Pool, held: HeldEni, seen: Eni | None, places: Mapping[IPNetwork, str], unsettled: Container[object]
) -> list[Correction]:
    eni_id = held.eni.id
    if seen is None:
        reason = f"EC2 does not list it on this node any more; it held {len(held.blocks)} blocks"
        return [RemoveEni(eni_id, reason), *_orphaned(pool, held.blocks.values(), places)]
    listed = {block.network for block in seen.blocks}
    gone = [each for network, each in held.blocks.items() if network not in listed and network not in unsettled]
    if not gone:
        return []
    reason = f"EC2 lists {len(listed)} blocks on it, we had {len(held.blocks)}"
    return [RemoveBlocks(eni_id, tuple(each.block for each in gone), reason), *_orphaned(pool, gone, places)]


def _orphaned(pool: Pool, gone: Iterable[HeldBlock], places: Mapping[IPNetwork, str]) -> list[Correction]:
    corrections: list[Correction] = []
    for held in gone:
        elsewhere = places.get(held.block.network)
        if elsewhere is None:
            what = f"EC2 does not list it on {held.eni_id} any more: its traffic is lost"
            then = "the address stays reserved and works again when EC2 lists it; delete the pod to get another one"
        else:
            what = f"EC2 moved it from {held.eni_id} to {elsewhere}: its rules point to the old one"
            then = "the grant follows; wire the pod again"
        for offset in sorted(held.owned):
            address = held.address(offset)
            key = pool.owner(address)
            grant = None if key is None else pool.grant(key)
            if grant is not None:
                corrections.append(OrphanGrant(grant.key, address, f"{grant.pod} uses it, but {what}; {then}"))
    return corrections


def _additions(held: HeldEni | None, seen: Eni, unsettled: Container[object]) -> list[Correction]:
    seen = replace(seen, blocks=tuple(block for block in seen.blocks if block.network not in unsettled))
    if held is None:
        return [AddEni(seen, f"EC2 lists it on this node, with {len(seen.blocks)} blocks")]
    corrections: list[Correction] = []
    as_known = replace(seen, blocks=(), created_at=held.eni.created_at, subnet=seen.subnet or held.eni.subnet)
    if as_known != held.eni:
        fields = ("mac", "card", "device", "subnet_id", "subnet", "primary_address", "table")
        flags = ("primary", "usable_for_pods", "trunk", "efa", "efa_only", "managed")
        changes = [
            f"{name} is {getattr(as_known, name)}, was {getattr(held.eni, name)}"
            for name in (*fields, *flags)
            if getattr(as_known, name) != getattr(held.eni, name)
        ]
        corrections.append(UpdateEni(as_known, ", ".join(changes)))
    new = tuple(block for block in seen.blocks if block.network not in held.blocks)
    if new:
        corrections.append(AddBlocks(seen.id, new, f"EC2 lists {len(seen.blocks)} blocks, we had {len(held.blocks)}"))
    back = tuple(block for block in seen.blocks if _withdrawn(held, block))
    if held.withdrawn or back:
        reason = "on its way out, but EC2 still lists it and no request of ours is under way"
        corrections.append(Confirm(seen.id, None if held.withdrawn else back, reason))
    return corrections


def _withdrawn(held: HeldEni, block: Block) -> bool:
    known = held.blocks.get(block.network)
    return known is not None and not known.confirmed


def reconcile_pods(pool: Pool, view: View, now: float) -> list[Correction]:
    """The corrections that the kernel's pods alone call for, when EC2 was not asked."""
    if view.pods is None:
        return []
    corrections: list[Correction] = []
    cooling = pool.cooling(now)
    wired: set[IPAddress] = set()
    for pod in view.pods:
        wired |= {place.address for place in pod.addresses}
        unowned = [place for place in pod.addresses if pool.owner(place.address) is None]
        if unowned and all(cooling.get(place.address, float("-inf")) < view.observed_at for place in unowned):
            grant = _grant_of(pod, now)
            reason = "the kernel routes its address to a live pod, but the pool had no owner for it"
            corrections.append(_restored(pool, grant, reason))
        corrections += _contradictions(pool, pod)
    for grant in pool.grants():
        idle_s = view.observed_at - grant.assigned_at
        if idle_s >= UNWIRED_S and not any(granted.address in wired for granted in grant.addresses):
            reason = f"no link or route of {grant.pod} is left in the kernel, {idle_s:.0f} s after the assignment"
            corrections.append(ReleaseGrant(grant.key, reason))
    return corrections


def _restored(pool: Pool, grant: Grant, reason: str) -> Correction:
    known = pool.grant(grant.key)
    if known is None:
        return RestoreGrant(grant, reason)
    return Suspect(str(grant), f"{reason}; its attachment already owns {known}")


def _contradictions(pool: Pool, pod: ObservedPod) -> list[Correction]:
    """A link that says whose it is, over an address that the pool gave to somebody else."""
    if pod.alias is None:
        return []
    key = PodKey(pod.alias.network, pod.alias.container_id, pod.alias.ifname)
    owners = {place.address: pool.owner(place.address) for place in pod.addresses}
    return [
        Suspect(str(address), f"{pod.link.name} belongs to {key}, but the pool gave the address to {owner}")
        for address, owner in owners.items()
        if owner is not None and owner != key and owner.network != UNKNOWN
    ]


def _grant_of(pod: ObservedPod, now: float) -> Grant:
    alias = pod.alias
    key = PodKey(UNKNOWN, pod.link.name, UNKNOWN)
    identity = PodIdentity("", "")
    if alias is not None:
        key = PodKey(alias.network, alias.container_id, alias.ifname)
        identity = PodIdentity(alias.namespace, alias.pod)
    places = tuple(GrantedAddress(at.address, "", at.card, at.device, at.table) for at in pod.addresses)
    return Grant(key, identity, places, now, pod.egress)
