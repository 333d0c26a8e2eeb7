# SPDX-License-Identifier: Apache-2.0
"""The seam to EC2: three narrow protocols, as the node daemon needs them.

Knows the vocabulary of EC2 and what each call promises; says nothing about transport. Must never know pools, pods or
netlink. `ipamd` calls these from worker threads (all are synchronous), `aws.boto` and the lab's cloud implement them.

Every call raises `CloudError` with `aws_code` set to EC2's own error code. A failed call has changed nothing, except
that a timed-out one may have been executed: repeat `create` with the same `client_token` to get the same interface.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from vpccni.aws.boto import Ec2
from vpccni.aws.values import InstanceLimits, Interface, IPAddress, IPNetwork, Launched, Subnet

__all__ = ["Addresses", "Ec2", "Interfaces", "Inventory"]


class Interfaces(Protocol):
    """The life of network interfaces."""

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
        """Create an interface with so many secondary addresses or prefixes (one of the two), all in one call.

        `beside_prefix_count`: so many prefixes of the other family as well.
        The same non-empty `client_token` with the same arguments returns the interface made before.
        """

    def attach(self, eni_id: str, instance_id: str, device: int, card: int = 0) -> str:
        """Attach at a device index of a network card; returns the attachment id. The link appears later."""

    def delete_on_termination(self, eni_id: str, attachment_id: str) -> None:
        """Make EC2 delete the interface together with its instance."""

    def detach(self, attachment_id: str) -> None:
        """Begin to detach, never by force. Success also when the attachment is already gone."""

    def delete(self, eni_id: str) -> None:
        """Delete a detached interface. Success also when it is already gone."""

    def tag(self, eni_id: str, tags: Mapping[str, str]) -> None:
        """Add or overwrite tags."""

    def set_security_groups(self, eni_id: str, security_groups: Sequence[str]) -> None:
        """Replace the interface's security groups."""


class Addresses(Protocol):
    """Secondary addresses and delegated prefixes of an interface."""

    def assign(
        self, eni_id: str, *, address_count: int = 0, prefix_count: int = 0, ip_version: int = 4
    ) -> tuple[IPNetwork, ...]:
        """Let EC2 choose so many; returns only the new blocks (/32 or /128 each, /28 or /80 for prefixes)."""

    def unassign(self, eni_id: str, addresses: Sequence[IPAddress] = (), prefixes: Sequence[IPNetwork] = ()) -> None:
        """Give back addresses and prefixes of any family. Nothing to give back: no call is made."""


class Inventory(Protocol):
    """What EC2 says is there."""

    def attached(self, instance_id: str) -> tuple[Interface, ...]:
        """All interfaces attached (or attaching, detaching) to an instance, by card and device index."""

    def interfaces(self, eni_ids: Sequence[str]) -> tuple[Interface, ...]:
        """The given interfaces in the given order; unknown ids are left out. An empty list makes no call."""

    def owned(self, instance_id: str = "", *, cluster: str = "", vpc_id: str = "") -> tuple[Interface, ...]:
        """Interfaces that carry our ownership tag: of one instance, or of any when `instance_id` is empty."""

    def occupied_slots(self, instance_id: str) -> frozenset[tuple[int, int]]:
        """(card, device index) pairs in use, also by interfaces that `attached` cannot see (other accounts)."""

    def launched(self, since: float, until: float) -> tuple[Launched, ...]:
        """Cluster nodes of the account that were launched in that time (Unix seconds, coarsely): one page, of a
        thousand."""

    def subnets(self, vpc_id: str, availability_zone: str) -> tuple[Subnet, ...]:
        """All subnets of a VPC in one zone, by subnet id."""

    def instance_limits(self, instance_type: str) -> InstanceLimits:
        """What EC2 says an instance type allows (for a type that the built-in table lacks)."""


def _conforms(ec2: Ec2) -> tuple[Interfaces, Addresses, Inventory]:
    """Never called: the type checker compares `Ec2` with the protocols here."""
    return ec2, ec2, ec2
