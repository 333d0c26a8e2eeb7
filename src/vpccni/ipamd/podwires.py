# SPDX-License-Identifier: Apache-2.0
"""The kernel work of pods as the wiring thread runs it.

Knows which function of `host` does what. Must never decide anything; it is the seam that `ipamd.attachments` calls
through, and the place where a link's true MACs are read back when it was there before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from vpccni.aws.values import IPAddress
from vpccni.core import conventions, podseen
from vpccni.core.podnet import PodAddress, PodAttachment, PodWiring
from vpccni.core.podnet import wiring as wiring_of
from vpccni.core.podseen import ObservedPod
from vpccni.host import podcheck
from vpccni.host.kernel import NodeKernel
from vpccni.netlink.values import Link, Route, Rule, Value


class PodWires:
    """All methods run in the wiring thread."""

    def __init__(self, kernel: NodeKernel, veth_prefix: str) -> None:
        self._kernel, self._veth_prefix = kernel, veth_prefix

    def wire(self, wiring: PodWiring, netns_fd: int, *, repeated: bool) -> PodWiring:
        """Connect one interface of a pod, or raise and leave nothing. Returns the wiring with the MACs in force."""
        self._kernel.wire(wiring, netns_fd, fresh=not repeated)
        if not repeated:
            return wiring
        found = podcheck.ends(wiring, netns_fd)
        host_mac, pod_mac = (link.mac if link else "" for link in (found.outer, found.inner))
        return wiring_of(wiring.attachment, replace(wiring.plan, host_mac=host_mac, pod_mac=pod_mac))

    def unwire(self, addresses: Sequence[PodAddress], link_name: str, container_id: str) -> int:
        """Remove a pod's rules and routes, and nothing that belongs to another sandbox.

        Returns the index of the host veth, which dies with the pod's namespace; 0 when it is gone already.
        """
        index = self._kernel.pod_link(link_name, container_id)
        self._kernel.unwire(addresses, link_name, container_id)
        return index

    def repair(self, pods: Sequence[PodAttachment], busy: frozenset[IPAddress]) -> list[str]:
        """Make pod routes and rules those of `pods`, and of nobody else; addresses that are `busy` are left alone.

        Pods whose link is gone are left alone too: their DEL is on its way. Returns what was changed.
        """
        places = {place.address: (pod, place) for pod in pods for place in pod.addresses}
        live: dict[PodAddress, Link] = {}
        for seen in self._kernel.pods(self._veth_prefix):
            for pod in pods:
                if _is_of(seen, pod):
                    live |= {places[place.address][1]: seen.link for place in pod.addresses}
        spared = busy | (places.keys() - {place.address for place in live})
        observed = [value for value in self._kernel.observe((4, 6)) if _address_of(value) not in spared]
        requests = podseen.repairs(observed, live)
        self._kernel.apply(requests)
        return [str(request) for request in requests]

    def check(self, wiring: PodWiring, netns_fd: int | None) -> list[str]:
        """What is missing or different, one sentence each."""
        return podcheck.check(wiring, netns_fd)


def _is_of(seen: ObservedPod, pod: PodAttachment) -> bool:
    if seen.alias is not None:
        return seen.alias.is_of(pod.network, pod.container_id, pod.ifname)
    return seen.link.name.endswith(conventions.name_suffix(pod.namespace, pod.pod))


def _address_of(value: Value) -> IPAddress | None:
    """The single address that a route or rule is about."""
    network = value.dst if isinstance(value, Route) else (value.src or value.dst) if isinstance(value, Rule) else None
    return network.network_address if network is not None and network.num_addresses == 1 else None
