# SPDX-License-Identifier: Apache-2.0
"""How many pods a node can take: the one max-pods formula, and the rules of the programs that set kubelet's value.

Knows the arithmetic of Amazon's classic max-pods calculator, of nodeadm and of security groups for pods. Must never
know where the limits come from. The daemon bounds its pool with it, the command line and the capacity planner print it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from vpccni.aws.values import InstanceLimits
from vpccni.core.maxpods_expression import ExpressionError, evaluate
from vpccni.errors import InputError

HOST_NETWORK_PODS = 2  # aws-node and kube-proxy need no address of the pool
ADDRESSES_PER_PREFIX = 16
SMALL_NODE_CAP = 110
LARGE_NODE_CAP = 250
LARGE_NODE_VCPUS = 30  # the cap is the larger one above this; managed node groups say "30 and more"
FIRST_WITH_PREFIXES = (1, 9)
_VERSION = re.compile(r"v?([0-9]{1,6})\.([0-9]{1,6})\.[0-9]{1,6}(-[0-9A-Za-z.-]+)?")
_INT32_MAX = 2**31 - 1


@dataclass(frozen=True, slots=True)
class MaxPods:
    """The result with its parts: `addresses` that pods can have, `cap` advised for the node's size.

    `branches`: pods that a SecurityGroupPolicy selects take branch interfaces of the trunk, beside `addresses`.
    """

    enis: int  # interfaces that carry pods
    addresses: int
    uncapped: int
    cap: int
    prefixes: bool  # whether prefixes were counted
    slots_per_eni: int = 0  # secondary addresses or prefixes of one interface
    branches: int = 0
    notes: tuple[str, ...] = ()  # what was asked for and does not count, and why

    @property
    def recommended(self) -> int:
        """The value for kubelet's `maxPods`."""
        return min(self.uncapped, self.cap)

    @property
    def formula(self) -> str:
        """The computation in one line, such as `3 ENIs x 9 addresses + 2 = 29`."""
        size = f"{self.slots_per_eni} addresses"
        if self.prefixes:
            size = f"{self.slots_per_eni} prefixes x {ADDRESSES_PER_PREFIX}"
        return f"{self.enis} ENIs x {size} + {HOST_NETWORK_PODS} = {self.uncapped}"


def max_pods(
    limits: InstanceLimits,
    *,
    prefix_delegation: bool = False,
    custom_networking: bool = False,
    max_eni: int = 0,
    bare_metal_prefixes: bool = False,
    branches: int = 0,
) -> MaxPods:
    """ENIs x (addresses - 1) + 2, with prefixes 16 times the addresses, with custom networking one ENI fewer.

    `max_eni` lowers the number of ENIs before custom networking takes its one; 0 means no limit of its own. Only the
    default network card counts. A type that cannot have prefixes is computed without them, as the CNI falls back.
    `branches`: branch interfaces of the type when security groups for pods are on; above 0 the trunk takes an ENI's
    place and carries no addresses for pods.

    The classic calculator also denies prefixes to bare metal, because EC2 reports no hypervisor for it, while the CNI
    allows them; `bare_metal_prefixes` follows the CNI. No cap is exceeded and the result is never negative.
    """
    notes = []
    enis = min(limits.max_enis, max_eni) if max_eni > 0 else limits.max_enis
    enis = max(0, enis - custom_networking - (branches > 0))
    prefixes = prefix_delegation and limits.supports_prefixes and (bare_metal_prefixes or not limits.bare_metal)
    if prefix_delegation and not limits.supports_prefixes:
        notes.append(f"no prefixes: {limits.instance_type} is neither Nitro nor bare metal, the CNI takes addresses")
    elif prefix_delegation and not prefixes:
        notes.append("no prefixes: the classic calculator counts none on bare metal, although the CNI assigns them")
    addresses = enis * limits.pod_addresses_per_eni * (ADDRESSES_PER_PREFIX if prefixes else 1)
    # An unpublished number of vCPUs counts as small: fewer pods than possible is the harmless mistake.
    cap = LARGE_NODE_CAP if limits.vcpus > LARGE_NODE_VCPUS else SMALL_NODE_CAP
    return MaxPods(
        enis,
        addresses,
        addresses + HOST_NETWORK_PODS,
        cap,
        prefixes,
        limits.pod_addresses_per_eni,
        branches,
        tuple(notes),
    )


def pods_on_every_card(limits: InstanceLimits, *, prefix_delegation: bool = False) -> int:
    """Pods that can have an address on each network card (ENABLE_MULTI_NIC): what the smallest card can give."""
    size = ADDRESSES_PER_PREFIX if prefix_delegation and limits.supports_prefixes else 1
    return min((card.max_enis for card in limits.cards), default=0) * limits.pod_addresses_per_eni * size


def has_prefixes(cni_version: str) -> bool:
    """Whether that version of the CNI (`major.minor.patch`, as `1.18.0` or `v1.10.1-eksbuild.1`) assigns prefixes.

    Raises InputError for text that is no version.
    """
    match = _VERSION.fullmatch(cni_version)
    if match is None:
        raise InputError(
            "use the CNI version", f"{cni_version!r} is not MAJOR.MINOR.PATCH", hint="for example --cni-version 1.18.0"
        )
    return (int(match[1]), int(match[2])) >= FIRST_WITH_PREFIXES


@dataclass(frozen=True, slots=True)
class NodeadmPods:
    """What nodeadm (AL2023) hands to kubelet; `warning` says why an expression was not used."""

    value: int
    standard: int
    warning: str = ""


def nodeadm(limits: InstanceLimits, expression: str = "") -> NodeadmPods:
    """ENIs x (addresses - 1) + 2 without caps, prefixes or custom networking, or what `maxPodsExpression` makes of it.

    The expression knows `default_enis`, `ips_per_eni` and `max_pods` (the standard value); a result that is no number
    from 1 to 2^31-1 is not used.
    """
    standard = max_pods(limits).uncapped
    if not expression:
        return NodeadmPods(standard, standard)
    variables = {"default_enis": limits.max_enis, "ips_per_eni": limits.ipv4_per_eni, "max_pods": standard}
    try:
        value = evaluate(expression, variables)
    except ExpressionError as error:
        return NodeadmPods(standard, standard, f"the expression is not used: {error}")
    if not 0 < value <= _INT32_MAX:
        return NodeadmPods(standard, standard, f"the expression is not used: {value} is not from 1 to {_INT32_MAX}")
    return NodeadmPods(value, standard)


def reserved_memory_mib(pods: int) -> int:
    """Memory that EKS nodes keep for kubelet and the container runtime, in MiB."""
    return 11 * pods + 255


def reserved_cpu_millicores(vcpus: int) -> int:
    """CPU that EKS nodes keep: 6 % of the first core, 1 % of the second, 0.5 % of two more, 0.25 % of the rest."""
    tenths_of_percent = [(1, 600), (1, 100), (2, 50), (vcpus, 25)]
    left, total = vcpus, 0
    for cores, share in tenths_of_percent:
        counted = min(left, cores)
        total += counted * 1000 * share // 10000
        left -= counted
    return total
