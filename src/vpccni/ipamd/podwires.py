# SPDX-License-Identifier: Apache-2.0
"""The kernel work of pods as the wiring thread runs it.

Knows which function of `host` does what. Must never decide anything; it is the seam that `ipamd.attachments` calls
through, and the place where a link's true MACs are read back when it was there before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from vpccni.aws.values import IPAddress
from vpccni.core import podseen
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

    def wire(self, wirings: Sequence[PodWiring], netns_fd: int, *, repeated: bool) -> tuple[PodWiring, ...]:
        """Connect all interfaces of a pod, or raise and leave nothing. Returns the wirings with the MACs in force."""
        self._kernel.wire_all(wirings, netns_fd, fresh=not repeated)
        return tuple(_in_force(wiring, netns_fd) for wiring in wirings) if repeated else tuple(wirings)

    def unwire(self, links: Mapping[str, Sequence[PodAddress]], container_id: str) -> dict[int, str]:
        """Remove a pod's rules and routes, and nothing that belongs to another sandbox. `links`: by name of host veth.

        Returns the host veths that are still there (index -> name); they die with the pod's namespace.
        """
        left = {self._kernel.pod_link(name, container_id): name for name in links}
        for name, addresses in links.items():
            self._kernel.unwire(addresses, name, container_id)
        return {index: name for index, name in left.items() if index}

    def repair(self, pods: Sequence[PodAttachment], busy: frozenset[IPAddress]) -> list[str]:
        """Make pod routes and rules those of `pods`, and of nobody else; addresses that are `busy` are left alone.

        Pods whose link is gone are left alone too: their DEL is on its way. Returns what was changed.
        """
        places = {place.address for pod in pods for place in pod.addresses}
        live: dict[PodAddress, Link] = {}
        for seen in self._kernel.pods(self._veth_prefix):
            for pod in pods:
                if _is_of(seen, pod):
                    live |= _live(seen, pod)
        spared = busy | (places - {place.address for place in live})
        observed = [value for value in self._kernel.observe((4, 6)) if _address_of(value) not in spared]
        requests = podseen.repairs(observed, live)
        self._kernel.apply(requests)
        return [str(request) for request in requests]

    def check(self, wirings: Sequence[PodWiring], netns_fd: int | None) -> list[str]:
        """What is missing or different, one sentence each."""
        return [problem for wiring in wirings for problem in podcheck.check(wiring, netns_fd)]


def _in_force(wiring: PodWiring, netns_fd: int) -> PodWiring:
    found = podcheck.ends(wiring, netns_fd)
    host_mac, pod_mac = (link.mac if link else "" for link in (found.outer, found.inner))
    return wiring_of(wiring.attachment, replace(wiring.plan, host_mac=host_mac, pod_mac=pod_mac))


def _is_of(seen: ObservedPod, pod: PodAttachment) -> bool:
    if seen.alias is not None:
        return seen.alias.is_of(pod.network, pod.container_id, pod.ifname)
    return any(seen.link.name.endswith(suffix) for suffix in pod.links(""))


def _live(seen: ObservedPod, pod: PodAttachment) -> dict[PodAddress, Link]:
    """Each address of a pod whose veth is there. The prefix of the name may have been another when it was made."""
    live: dict[PodAddress, Link] = {}
    for suffix, addresses in pod.links("").items():
        for link in seen.links:
            if link.name.endswith(suffix):
                live |= dict.fromkeys(addresses, link)
    return live


def _address_of(value: Value) -> IPAddress | None:
    """The single address that a route or rule is about."""
    network = value.dst if isinstance(value, Route) else (value.src or value.dst) if isinstance(value, Rule) else None
    return network.network_address if network is not None and network.num_addresses == 1 else None
