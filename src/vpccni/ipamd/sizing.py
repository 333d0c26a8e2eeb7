# SPDX-License-Identifier: Apache-2.0
"""Settings and instance limits -> mode, limits and targets of this node's pool.

Knows which settings an instance type cannot follow, and says so. Must never ask EC2 nor touch the pool.
`ipamd.bringup` calls it once the instance type is known.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vpccni.aws.values import InstanceLimits
from vpccni.core.block import Mode
from vpccni.core.maxpods import max_pods
from vpccni.core.targets import NodeLimits, Targets
from vpccni.errors import SettingsError
from vpccni.settings import Settings

# Families without trunk interfaces although they are Nitro (EKS user guide, security groups for pods).
_TRUNKLESS = ("t1.", "t2.", "t3.", "t3a.", "t4g.")


@dataclass(frozen=True, slots=True)
class Sizing:
    """`version`: IP version of pods, 4 or 6. `notes`: what was asked for and cannot be, for the log."""

    mode: Mode
    version: int
    limits: NodeLimits
    targets: Targets
    notes: tuple[str, ...] = ()


def sizing(settings: Settings, known: InstanceLimits) -> Sizing:
    """Raises SettingsError when IPv6 is asked of a type without IPv6 or prefixes: there is nothing to fall back to."""
    notes: list[str] = []
    version = settings.versions[0]
    prefixes = settings.enable_prefix_delegation and known.supports_prefixes
    if 6 in settings.versions:
        _demand_ipv6(known)
    if settings.enable_prefix_delegation and not prefixes:
        notes.append(f"{known.instance_type} ({known.hypervisor}) cannot hold prefixes: secondary addresses are used")
    cards = tuple(card.card for card in known.cards) if settings.enable_multi_nic else (0,)
    trunk = settings.enable_pod_eni and takes_trunk(known)
    if settings.enable_pod_eni and not trunk:
        notes.append(f"{known.instance_type} takes no trunk interface: no slot is kept for one")
    computed = max_pods(
        known,
        prefix_delegation=prefixes,
        custom_networking=settings.custom_networking,
        max_eni=settings.max_eni,
        bare_metal_prefixes=True,
    )
    limits = NodeLimits(
        max_enis=known.max_enis,
        ips_per_eni=known.ipv4_per_eni,
        cards=cards,
        card_enis={card.card: card.max_enis for card in known.cards if card.card},
        reserve_trunk=trunk,
    )
    targets = Targets(
        warm_eni=settings.warm_eni_target,
        warm_ip=settings.warm_ip_target or None,
        minimum_ip=settings.minimum_ip_target or None,
        warm_prefix=settings.warm_prefix_target,
        max_eni=settings.max_eni or None,
        max_pods=settings.max_pods or computed.uncapped,
    )
    return Sizing(Mode.PREFIX if prefixes else Mode.SECONDARY, version, limits, targets, tuple(notes))


def _demand_ipv6(known: InstanceLimits) -> None:
    if not known.supports_prefixes:
        raise SettingsError(
            "give pods IPv6 addresses",
            f"{known.instance_type} cannot hold prefixes",
            code="type-without-prefixes",
            hint="use a Nitro or bare-metal instance type",
            evidence={"hypervisor": known.hypervisor},
        )
    if known.ipv6_per_eni < 1:
        raise SettingsError(
            "give pods IPv6 addresses",
            f"interfaces of {known.instance_type} take no IPv6 address",
            code="type-without-ipv6",
            hint="use an instance type with IPv6: vpccni instance-types FAMILY.*",
            evidence={"instance_type": known.instance_type},
        )


def takes_trunk(known: InstanceLimits) -> bool:
    """Whether a trunk interface may be attached; an unknown hypervisor counts as capable, as in Amazon VPC CNI."""
    return known.hypervisor != "xen" and not known.instance_type.startswith(_TRUNKLESS)


def cordoned(settings: Settings) -> str:
    """Why the node neither grows nor frees ENIs, "" when it does.

    Until the Node object's taints are read, a file says so: the node is cordoned while it exists.
    """
    path = settings.cordon_file
    if settings.manage_enis_non_schedulable or not path or not Path(path).exists():
        return ""
    return f"the node is cordoned ({path} exists) and AWS_MANAGE_ENIS_NON_SCHEDULABLE is false"
