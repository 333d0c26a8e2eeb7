# SPDX-License-Identifier: Apache-2.0
"""How many pods a node can take: the one max-pods formula, in both forms in use.

Knows the arithmetic of Amazon's classic max-pods calculator. Must never know where the limits come from.
The daemon bounds its pool with it, the command line and the capacity planner print it.
"""

from __future__ import annotations

from dataclasses import dataclass

from vpccni.aws.values import InstanceLimits

HOST_NETWORK_PODS = 2  # aws-node and kube-proxy need no address of the pool
ADDRESSES_PER_PREFIX = 16
SMALL_NODE_CAP = 110
LARGE_NODE_CAP = 250
LARGE_NODE_VCPUS = 30  # the cap is the larger one above this; managed node groups say "30 and more"


@dataclass(frozen=True, slots=True)
class MaxPods:
    """The result with its parts: `addresses` that pods can have, `cap` advised for the node's size."""

    enis: int  # interfaces that carry pods
    addresses: int
    uncapped: int
    cap: int
    prefixes: bool  # whether prefixes were counted

    @property
    def recommended(self) -> int:
        """The value for kubelet's `maxPods`."""
        return min(self.uncapped, self.cap)


def max_pods(
    limits: InstanceLimits,
    *,
    prefix_delegation: bool = False,
    custom_networking: bool = False,
    max_eni: int = 0,
    bare_metal_prefixes: bool = False,
) -> MaxPods:
    """ENIs x (addresses - 1) + 2, with prefixes 16 times the addresses, with custom networking one ENI fewer.

    `max_eni` lowers the number of ENIs before custom networking takes its one; 0 means no limit of its own. Only the
    default network card counts. A type that cannot have prefixes is computed without them, as the CNI falls back.

    The classic calculator also denies prefixes to bare metal, because EC2 reports no hypervisor for it, while the CNI
    allows them; `bare_metal_prefixes` follows the CNI. No cap is exceeded and the result is never negative.
    """
    enis = min(limits.max_enis, max_eni) if max_eni > 0 else limits.max_enis
    enis = max(0, enis - 1) if custom_networking else enis
    possible = limits.supports_prefixes and (bare_metal_prefixes or not limits.bare_metal)
    prefixes = prefix_delegation and possible
    addresses = enis * limits.pod_addresses_per_eni * (ADDRESSES_PER_PREFIX if prefixes else 1)
    # An unpublished number of vCPUs counts as small: fewer pods than possible is the harmless mistake.
    cap = LARGE_NODE_CAP if limits.vcpus > LARGE_NODE_VCPUS else SMALL_NODE_CAP
    return MaxPods(enis, addresses, addresses + HOST_NETWORK_PODS, cap, prefixes)
