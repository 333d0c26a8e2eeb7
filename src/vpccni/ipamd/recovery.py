# SPDX-License-Identifier: Apache-2.0
"""What is true after a restart: journal, `ipam.json` and the kernel compared, the kernel being right.

Knows that a pod owns an address when, and only when, the host has a route to it over the pod's own link. Must never
read a file or the kernel itself, and never drops an address that such a route leads to. `ipamd.program` calls
`recover` once, before the first request is served.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from vpccni.aws.values import IPAddress
from vpccni.core import conventions
from vpccni.core.grant import Grant, GrantedAddress, PodIdentity, PodKey
from vpccni.core.podseen import ObservedPod
from vpccni.ipamd.checkpoint import Allocation, Metadata
from vpccni.ipamd.records import JournalState

# A pod that somebody wired without telling us who: its address is reserved under its link's name.
UNKNOWN = "_unknown"
# Amazon VPC CNI before 1.7 kept no key of the attachment; its entries carry these names (and DEL must find them).
MIGRATED_NETWORK, MIGRATED_IFNAME = "_migrated-from-cri", "unknown"


@dataclass(slots=True)
class Recovered:
    """State to start with. `released` maps an address to when it was released; `notes` say what was corrected."""

    grants: list[Grant] = field(default_factory=list)
    released: dict[IPAddress, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def recover(
    journal: JournalState, allocations: Iterable[Allocation], pods: Sequence[ObservedPod], now: float
) -> Recovered:
    """Compare what files remember with the pods that the kernel shows.

    A remembered grant is kept when the kernel routes one of its addresses to its pod and none to another; otherwise it
    is released at `now`. A pod that only the kernel knows gets its grant back from its link's alias, or a reservation
    when it has none.
    """
    found = Recovered(released=dict(journal.released))
    wired = {place.address: pod for pod in pods for place in pod.addresses}
    local = {_key_of(pod): pod.egress for pod in pods}
    taken: set[IPAddress] = set()
    for grant in _remembered(journal, allocations):
        addresses = {granted.address for granted in grant.addresses}
        seen = [_is_wired(grant, wired[address]) for address in addresses if address in wired]
        if seen and all(seen) and not addresses & taken:
            found.grants.append(replace(grant, egress=local.get(grant.key) or grant.egress))
            taken |= addresses
        else:
            found.notes.append(f"{grant} is not wired any more: released")
            found.released.update(dict.fromkeys(addresses - wired.keys(), now))
    for pod in pods:
        left = tuple(place for place in pod.addresses if place.address not in taken)
        if left:
            places = tuple(GrantedAddress(at.address, "", at.card, at.device, at.table) for at in left)
            grant = Grant(_key_of(pod), _identity_of(pod), places, now, pod.egress)
            found.grants.append(grant)
            found.notes.append(f"{grant} was found in the kernel only: its grant is restored")
            taken |= {place.address for place in left}
    for address in taken:
        found.released.pop(address, None)
    return found


def unknown_key(link_name: str) -> PodKey:
    """The key under which the address of a pod without known attachment is reserved."""
    return PodKey(UNKNOWN, link_name, UNKNOWN)


def fallback_keys(key: PodKey, link_name: str) -> tuple[PodKey, ...]:
    """Where else the grant of an attachment may be filed when its own key has none."""
    return (PodKey(MIGRATED_NETWORK, key.container_id, MIGRATED_IFNAME), unknown_key(link_name))


def allocation_of(grant: Grant) -> list[Allocation]:
    """A grant in the Go daemon's file: one entry an address."""
    metadata = Metadata(grant.pod.namespace, grant.pod.name, grant.interfaces)
    at_ns = int(grant.assigned_at * 1_000_000_000)
    key = grant.key
    return [
        Allocation(
            networkName=key.network,
            containerID=key.container_id,
            ifName=key.ifname,
            ipv4=str(granted.address) if granted.address.version == 4 else "",
            ipv6=str(granted.address) if granted.address.version == 6 else "",
            allocationTimestamp=at_ns,
            metadata=metadata,
        )
        for granted in grant.addresses
        if key.network != UNKNOWN
    ]


def _remembered(journal: JournalState, allocations: Iterable[Allocation]) -> list[Grant]:
    """The journal's grants, then those that only the other daemon's file has."""
    grants = dict(journal.grants)
    merged: dict[PodKey, Grant] = {}
    for entry in allocations:
        key = PodKey(entry.networkName, entry.containerID, entry.ifName)
        if key in grants:
            continue
        metadata = entry.metadata or Metadata()
        place = (GrantedAddress(entry.address),)
        before = merged.get(key)
        merged[key] = Grant(
            key,
            PodIdentity(metadata.k8sPodNamespace, metadata.k8sPodName),
            (before.addresses if before else ()) + place,
            entry.allocationTimestamp / 1_000_000_000,
        )
    return [*grants.values(), *merged.values()]


def _is_wired(grant: Grant, pod: ObservedPod) -> bool:
    if pod.alias is not None:
        return pod.alias.is_of(grant.key.network, grant.key.container_id, grant.key.ifname)
    # Wired by the Go implementation: only the name of the pod is in the link's name. Without one nothing contradicts.
    nics = range(len(grant.addresses))
    suffixes = tuple(conventions.name_suffix(grant.pod.namespace, grant.pod.name, nic) for nic in nics)
    return not grant.pod.name or pod.link.name.endswith(suffixes)


def _key_of(pod: ObservedPod) -> PodKey:
    if pod.alias is None:
        return unknown_key(pod.link.name)
    return PodKey(pod.alias.network, pod.alias.container_id, pod.alias.ifname)


def _identity_of(pod: ObservedPod) -> PodIdentity:
    if pod.alias is None:
        return PodIdentity("", pod.link.name)
    return PodIdentity(pod.alias.namespace, pod.alias.pod)
