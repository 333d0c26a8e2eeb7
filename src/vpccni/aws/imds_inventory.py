# SPDX-License-Identifier: Apache-2.0
"""The EC2 protocols for a node that may not call EC2 at all: what the metadata service lists, and no changes.

Knows how metadata becomes the values that EC2 would report. Must never call EC2; every change is refused with code
`imds-only`. `ipamd` uses it with ENABLE_IMDS_ONLY_MODE, in which tags, and with them unmanaged ENIs, are not known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NoReturn

from vpccni.aws.imds import Imds
from vpccni.aws.values import (
    Attachment,
    InstanceLimits,
    Interface,
    IPAddress,
    IPNetwork,
    Launched,
    MetadataInterface,
    Subnet,
)
from vpccni.errors import CloudError


class ImdsInventory:
    """`Interfaces`, `Addresses` and `Inventory` of `aws.ec2` over a metadata service. Raises CloudError."""

    def __init__(self, imds: Imds, instance_id: str) -> None:
        self._imds, self._instance_id = imds, instance_id

    # -- Inventory

    def attached(self, instance_id: str) -> tuple[Interface, ...]:
        """The interfaces of this instance; none of another."""
        if instance_id != self._instance_id:
            return ()
        return tuple(self._interface(each) for each in self._imds.interfaces())

    def interfaces(self, eni_ids: Sequence[str]) -> tuple[Interface, ...]:
        """Those of the given interfaces that are attached here."""
        if not eni_ids:
            return ()
        found = {each.eni_id: each for each in self.attached(self._instance_id)}
        return tuple(found[eni_id] for eni_id in dict.fromkeys(eni_ids) if eni_id in found)

    def owned(self, instance_id: str = "", *, cluster: str = "", vpc_id: str = "") -> tuple[Interface, ...]:
        """None: tags are not known, and nothing detached can be seen."""
        return ()

    def occupied_slots(self, instance_id: str) -> frozenset[tuple[int, int]]:
        """Slots of the interfaces that the metadata service lists."""
        places = (each.attachment for each in self.attached(instance_id))
        return frozenset((place.card, place.device) for place in places if place)

    def launched(self, since: float, until: float) -> tuple[Launched, ...]:
        """None: the metadata service knows of no other instance."""
        return ()

    def subnets(self, vpc_id: str, availability_zone: str) -> tuple[Subnet, ...]:
        """The subnets of the attached interfaces, as far as metadata goes: no tags, no free addresses."""
        found: dict[str, Subnet] = {}
        for each in self._imds.interfaces():
            ipv6 = (each.subnet_ipv6_cidr,) if each.subnet_ipv6_cidr else ()
            found[each.subnet_id] = Subnet(each.subnet_id, vpc_id, availability_zone, each.subnet_cidr, 0, ipv6)
        return tuple(found[name] for name in sorted(found))

    def instance_limits(self, instance_type: str) -> InstanceLimits:
        """Refused: only EC2 knows a type that the built-in table lacks."""
        _refuse(f"look {instance_type} up")

    # -- changes

    def create(
        self,
        subnet_id: str,
        security_groups: Sequence[str],
        *,
        description: str,
        tags: Mapping[str, str],
        address_count: int = 0,
        prefix_count: int = 0,
        ip_version: int = 4,
        beside_prefix_count: int = 0,
        client_token: str = "",
    ) -> Interface:
        """Refused."""
        _refuse(f"create an interface in {subnet_id}")

    def attach(self, eni_id: str, instance_id: str, device: int, card: int = 0) -> str:
        """Refused."""
        _refuse(f"attach {eni_id}")

    def delete_on_termination(self, eni_id: str, attachment_id: str) -> None:
        """Refused."""
        _refuse(f"change {eni_id}")

    def detach(self, attachment_id: str) -> None:
        """Refused."""
        _refuse(f"detach {attachment_id}")

    def delete(self, eni_id: str) -> None:
        """Refused."""
        _refuse(f"delete {eni_id}")

    def tag(self, eni_id: str, tags: Mapping[str, str]) -> None:
        """Refused."""
        _refuse(f"tag {eni_id}")

    def set_security_groups(self, eni_id: str, security_groups: Sequence[str]) -> None:
        """Refused."""
        _refuse(f"change {eni_id}")

    def assign(
        self, eni_id: str, *, address_count: int = 0, prefix_count: int = 0, ip_version: int = 4
    ) -> tuple[IPNetwork, ...]:
        """Refused."""
        _refuse(f"assign addresses to {eni_id}")

    def unassign(self, eni_id: str, addresses: Sequence[IPAddress] = (), prefixes: Sequence[IPNetwork] = ()) -> None:
        """Refused."""
        _refuse(f"unassign addresses from {eni_id}")

    def _interface(self, listed: MetadataInterface) -> Interface:
        primary = next(iter(listed.addresses), None)
        return Interface(
            eni_id=listed.eni_id,
            mac=listed.mac,
            subnet_id=listed.subnet_id,
            primary_address=primary,
            addresses=listed.addresses[1:],
            prefixes=listed.prefixes,
            attachment=Attachment("", self._instance_id, listed.device, listed.card),
            security_groups=listed.security_groups,
            vpc_id=listed.vpc_id,
        )


def _refuse(action: str) -> NoReturn:
    raise CloudError(
        action,
        "ENABLE_IMDS_ONLY_MODE=true forbids every EC2 call",
        code="imds-only",
        retryable=False,
        hint="attach interfaces and assign addresses from outside, or unset ENABLE_IMDS_ONLY_MODE",
    )
