# SPDX-License-Identifier: Apache-2.0
"""The kernel work of pods as the wiring thread runs it.

Knows which function of `host` does what. Must never decide anything; it is the seam that `ipamd.attachments` calls
through, and the place where a link's true MACs are read back when it was there before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from vpccni.core.podnet import PodAddress, PodWiring
from vpccni.core.podnet import wiring as wiring_of
from vpccni.host import podcheck
from vpccni.host.kernel import NodeKernel


class PodWires:
    """All methods run in the wiring thread."""

    def __init__(self, kernel: NodeKernel) -> None:
        self._kernel = kernel
        self.mtus: dict[int, int] = {}  # of host veths by index, as they were made

    def wire(self, wirings: Sequence[PodWiring], netns_fd: int, *, repeated: bool) -> tuple[PodWiring, ...]:
        """Connect all interfaces of a pod, or raise and leave nothing. Returns the wirings with the MACs in force."""
        self._kernel.wire_all(wirings, netns_fd, fresh=not repeated)
        if repeated:
            return tuple(_in_force(wiring, netns_fd) for wiring in wirings)
        self.mtus |= {wiring.link.index: wiring.link.mtu for wiring in wirings}
        return tuple(wirings)

    def unwire(self, links: Mapping[str, Sequence[PodAddress]], container_id: str) -> dict[int, str]:
        """Remove a pod's rules and routes, and nothing that belongs to another sandbox. `links`: by name of host veth.

        Returns the host veths that are still there (index -> name); they die with the pod's namespace.
        """
        left = {self._kernel.pod_link(name, container_id): name for name in links}
        for name, addresses in links.items():
            self._kernel.unwire(addresses, name, container_id)
        for index in left:
            self.mtus.pop(index, None)
        return {index: name for index, name in left.items() if index}

    def check(self, wirings: Sequence[PodWiring], netns_fd: int | None) -> list[str]:
        """What is missing or different, one sentence each."""
        return [problem for wiring in wirings for problem in podcheck.check(wiring, netns_fd)]


def _in_force(wiring: PodWiring, netns_fd: int) -> PodWiring:
    found = podcheck.ends(wiring, netns_fd)
    host_mac, pod_mac = (link.mac if link else "" for link in (found.outer, found.inner))
    return wiring_of(wiring.attachment, replace(wiring.plan, host_mac=host_mac, pod_mac=pod_mac))
