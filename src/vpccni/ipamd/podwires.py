# SPDX-License-Identifier: Apache-2.0
"""The kernel work of pods as the wiring thread runs it.

Knows which function of `host` does what. Must never decide anything; it is the seam that `ipamd.attachments` calls
through, and the place where a link's true MACs are read back when it was there before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from vpccni.core.podnet import PodAddress, PodWiring
from vpccni.core.podnet import wiring as wiring_of
from vpccni.host import podcheck
from vpccni.host.kernel import NodeKernel


class PodWires:
    """All methods run in the wiring thread."""

    def __init__(self, kernel: NodeKernel) -> None:
        self._kernel = kernel

    def wire(self, wiring: PodWiring, netns_fd: int, *, repeated: bool) -> PodWiring:
        """Connect one interface of a pod, or raise and leave nothing. Returns the wiring with the MACs in force."""
        self._kernel.wire(wiring, netns_fd)
        if not repeated:
            return wiring
        found = podcheck.ends(wiring, netns_fd)
        host_mac, pod_mac = (link.mac if link else "" for link in (found.outer, found.inner))
        return wiring_of(wiring.attachment, replace(wiring.plan, host_mac=host_mac, pod_mac=pod_mac))

    def unwire(self, addresses: Sequence[PodAddress], link_name: str, container_id: str) -> object:
        """Remove a pod's rules and routes, and nothing that belongs to another sandbox."""
        return self._kernel.unwire(addresses, link_name, container_id)

    def check(self, wiring: PodWiring, netns_fd: int | None) -> list[str]:
        """What is missing or different, one sentence each."""
        return podcheck.check(wiring, netns_fd)
