# SPDX-License-Identifier: Apache-2.0
"""Settings that an instance type or a subnet cannot follow: each with its code, why, and the next step.

Knows what a type can hold (`core.maxpods`) and what a subnet of some size offers. Must never ask EC2: limits and size
are arguments. The daemon logs the findings once it knows its type, `vpccni settings lint` prints them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from vpccni.aws.values import InstanceLimits
from vpccni.core.findings import Finding, Given
from vpccni.core.maxpods import ADDRESSES_PER_PREFIX, MaxPods, max_pods
from vpccni.settings import Settings

RESERVED_BY_VPC = 5  # the first four addresses of a subnet and the last one


def for_type(
    settings: Settings, given: Mapping[str, str], limits: InstanceLimits, branches: int | None
) -> list[Finding]:
    """What the instance type cannot follow. `branches`: branch interfaces of the type, None when nobody knows."""
    capacity = _capacity(settings, limits, branches)
    return [
        *_modes(settings, limits, branches),
        *_counts(settings, Given(given), limits, capacity),
        *_cards(settings, Given(given), limits),
    ]


def for_subnet(settings: Settings, limits: InstanceLimits, branches: int | None, prefix_length: int) -> list[Finding]:
    """What an otherwise empty IPv4 subnet of that prefix length cannot give to a single node."""
    free = 2 ** (32 - prefix_length) - RESERVED_BY_VPC
    capacity = _capacity(settings, limits, branches)
    found = []
    at_rest, full = _at_rest(settings, limits, capacity), capacity.enis + capacity.addresses
    if at_rest > free:
        found.append(
            _small("subnet-too-small", "unusable", prefix_length, free, at_rest, "before the first pod", limits)
        )
    elif full > free:
        what = "when it runs all the pods that its type allows"
        found.append(_small("subnet-below-one-full-node", "warning", prefix_length, free, full, what, limits))
    if capacity.prefixes and prefix_length > 28 - 2:
        found.append(
            Finding(
                "subnet-without-prefixes",
                "contradiction",
                ("ENABLE_PREFIX_DELEGATION",),
                f"a /{prefix_length} subnet has hardly a free /28",
                "its first and last block hold the addresses that the VPC reserves, nodes take the others apart",
                "use a subnet of /24 or larger, with a reservation of type prefix",
            )
        )
    return found


def _capacity(s: Settings, limits: InstanceLimits, branches: int | None) -> MaxPods:
    return max_pods(
        limits,
        prefix_delegation=s.enable_prefix_delegation,
        custom_networking=s.custom_networking,
        max_eni=s.max_eni,
        bare_metal_prefixes=True,
        branches=(branches or 0) if s.enable_pod_eni else 0,
    )


def _modes(s: Settings, limits: InstanceLimits, branches: int | None) -> Iterator[Finding]:
    name = limits.instance_type
    if (s.enable_prefix_delegation or 6 in s.versions) and not limits.supports_prefixes:
        ipv6 = 6 in s.versions
        why = (
            "EC2 delegates them on Nitro and bare metal only: the daemon takes single addresses, and the node runs "
            f"{max_pods(limits).uncapped} pods instead of what kubelet may have been told"
        )
        yield Finding(
            "prefixes-need-nitro",
            "unusable" if ipv6 else "contradiction",
            ("VPCCNI_DUAL_STACK" if s.dual_stack else "ENABLE_PREFIX_DELEGATION",),
            f"{name} ({limits.hypervisor}) cannot have prefixes",
            "the daemon refuses IPv6 without prefixes" if ipv6 else why,
            "use a Nitro instance type" + ("" if ipv6 else ", or unset it and lower kubelet's maxPods"),
        )
    if 6 in s.versions and limits.ipv6_per_eni < 1:
        yield Finding(
            "type-has-no-ipv6",
            "unusable",
            ("VPCCNI_DUAL_STACK" if s.dual_stack else "ENABLE_IPv6",),
            f"{name} takes no IPv6 address",
            "pods get theirs from a prefix of the node's interfaces",
            "use an instance type with IPv6",
        )
    if s.enable_pod_eni and branches == 0:
        yield Finding(
            "no-trunk-on-this-type",
            "contradiction",
            ("ENABLE_POD_ENI",),
            f"{name} takes no trunk interface",
            "pods that a SecurityGroupPolicy selects stay pending on such a node",
            "use a type with branch interfaces: vpccni instance-types FAMILY.*",
        )


def _counts(s: Settings, given: Given, limits: InstanceLimits, capacity: MaxPods) -> Iterator[Finding]:
    name, type_of = limits.instance_type, f"a {limits.instance_type} holds at most {capacity.addresses} pod addresses"
    if s.max_eni > limits.max_enis:
        yield Finding(
            "max-eni-above-type",
            "contradiction",
            ("MAX_ENI",),
            f"MAX_ENI={s.max_eni} has no effect",
            f"{name} takes {limits.max_enis} interfaces",
            f"set MAX_ENI to {limits.max_enis} or less, or unset it",
        )
    if not capacity.enis:
        if not s.max_eni:  # with MAX_ENI it is a contradiction of the settings alone
            why = f"{name} takes {limits.max_enis} interfaces, and those are reserved for other ends"
            step = "use a larger instance type"
            yield Finding("no-eni-for-pods", "unusable", (), "no interface is left for pods", why, step)
        return
    for variable, value in (
        ("MINIMUM_IP_TARGET", s.minimum_ip_target),
        ("WARM_IP_TARGET", s.warm_ip_target),
        ("VPCCNI_MAX_PODS", s.max_pods),
    ):
        if value > capacity.addresses:
            code = f"{variable.removeprefix('VPCCNI_').lower().replace('_', '-')}-too-large"
            yield Finding(
                code,
                "contradiction",
                (variable,),
                f"{variable}={value} is never reached",
                f"{type_of} ({capacity.formula.partition(' + ')[0]})",
                f"set it to {capacity.addresses} or less, or use a larger type",
            )
    if s.ip_targets_defined:
        return
    slots = capacity.enis * capacity.slots_per_eni
    if capacity.prefixes:
        if s.warm_prefix_target > slots:
            why = f"{name} holds {slots} prefixes"
            yield _too_large("WARM_PREFIX_TARGET", s.warm_prefix_target, why, slots)
    elif "WARM_ENI_TARGET" in given and s.warm_eni_target >= capacity.enis and not 0 < s.max_eni <= s.warm_eni_target:
        why = f"{name} takes {capacity.enis} ENIs for pods, the first pod uses one of them"
        yield _too_large("WARM_ENI_TARGET", s.warm_eni_target, why, capacity.enis - 1)


def _too_large(variable: str, value: int, why: str, most: int) -> Finding:
    code = f"{variable.lower().replace('_', '-')}-too-large"
    what, step = f"{variable}={value} is never reached", f"set it to {most} or less, or use a larger type"
    return Finding(code, "contradiction", (variable,), what, why, step)


def _cards(s: Settings, given: Given, limits: InstanceLimits) -> Iterator[Finding]:
    if s.enable_multi_nic and len(limits.cards) == 1:
        yield Finding(
            "one-network-card",
            "contradiction",
            ("ENABLE_MULTI_NIC",),
            "ENABLE_MULTI_NIC has no effect",
            f"{limits.instance_type} has one network card",
            "unset it, or use a type with several cards",
        )
    if s.enable_multi_nic and "MAX_ENI" in given and len(limits.cards) > 1:
        yield Finding(
            "max-eni-per-card",
            "warning",
            ("MAX_ENI", "ENABLE_MULTI_NIC"),
            f"MAX_ENI={s.max_eni} bounds each of {len(limits.cards)} network cards",
            f"the node may take {s.max_eni * len(limits.cards)} interfaces in all",
            "nothing to do when that is meant",
        )


def _at_rest(s: Settings, limits: InstanceLimits, capacity: MaxPods) -> int:
    """Addresses of the subnet that one node without pods takes, the primary ones of its ENIs included."""
    size = ADDRESSES_PER_PREFIX if capacity.prefixes else 1
    if s.ip_targets_defined:
        wanted = max(s.warm_ip_target, s.minimum_ip_target, 1)
    elif capacity.prefixes:
        wanted = max(1, s.warm_prefix_target) * size
    else:
        wanted = max(1, s.warm_eni_target * capacity.slots_per_eni)
    wanted = min(wanted, capacity.addresses)
    blocks = -(-wanted // size)
    enis = -(-blocks // max(1, capacity.slots_per_eni)) + s.custom_networking
    return blocks * size + max(1, enis)


def _small(
    code: str, severity: str, prefix_length: int, free: int, needed: int, when: str, limits: InstanceLimits
) -> Finding:
    return Finding(
        code,
        "unusable" if severity == "unusable" else "warning",
        ("WARM_ENI_TARGET", "WARM_IP_TARGET", "MINIMUM_IP_TARGET"),
        f"a /{prefix_length} subnet has {free} addresses",
        f"one {limits.instance_type} takes {needed} {when}",
        "use a larger subnet, tag a second one with kubernetes.io/role/cni=1, or lower targets and MAX_ENI",
    )
