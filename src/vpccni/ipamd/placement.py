# SPDX-License-Identifier: Apache-2.0
"""Where a new ENI may be made: candidate subnets, best first, and its security groups.

Knows subnet discovery and custom networking, and keeps EC2's list of subnets for a minute. Must never create anything
nor decide that an ENI is needed. `ipamd.steprunner` asks before it attaches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vpccni.aws.values import NodeIdentity, Subnet
from vpccni.clock import Clock
from vpccni.core import subnets
from vpccni.errors import CloudError, InputError
from vpccni.ipamd.cloudcalls import CloudCalls
from vpccni.ipamd.eniconfigs import EniConfigs
from vpccni.ipamd.view import NodeView
from vpccni.settings import Settings

SUBNETS_TTL_S = 60.0


@dataclass(frozen=True, slots=True)
class Choice:
    """Subnets to try in this order, all with the same security groups."""

    subnets: tuple[Subnet, ...]
    security_groups: tuple[str, ...]


class Placement:
    """`configs` is None without custom networking."""

    def __init__(
        self,
        node: NodeIdentity,
        settings: Settings,
        calls: CloudCalls,
        view: NodeView,
        configs: EniConfigs | None,
        clock: Clock,
    ) -> None:
        self._node, self._settings, self._calls = node, settings, calls
        self._view, self._configs, self._clock = view, configs, clock
        self._listed: tuple[Subnet, ...] = ()
        self._listed_at = float("-inf")

    async def choose(self) -> Choice:
        """Candidates for a new ENI. Raises VpcCniError: CloudError, or an `eniconfig-...` code."""
        if self._configs is not None:
            config = self._configs.mine()
            listed = {subnet.subnet_id: subnet for subnet in await self.listed()}
            if config.subnet_id not in listed:
                raise self._elsewhere(config.name, config.subnet_id, sorted(listed))
            groups = config.security_groups or self._view.security_groups
            return Choice(self._of_families([listed[config.subnet_id]]), groups)
        found = subnets.eligible(
            await self.listed(),
            self._node.subnet_id,
            discovery=self._settings.enable_subnet_discovery,
            cluster=self._settings.cluster_name,
        )
        return Choice(self._of_families(found), self._view.security_groups)

    async def listed(self, *, fresh: bool = False) -> tuple[Subnet, ...]:
        """The subnets of the node's zone; asked again when `fresh` is wanted or the answer is a minute old."""
        now = self._clock.now()
        if fresh or not 0 <= now - self._listed_at < SUBNETS_TTL_S:
            vpc_id, zone = self._node.vpc_id, self._node.availability_zone
            self._listed = await self._calls.run("DescribeSubnets", lambda: self._calls.inventory.subnets(vpc_id, zone))
            self._listed_at = now
            self._view.learn(self._listed)
        return self._listed

    def _of_families(self, found: Sequence[Subnet]) -> tuple[Subnet, ...]:
        """Those that have every family that pods get. Raises CloudError when that leaves none of some."""
        left = tuple(subnet for subnet in found if subnet.ipv6_cidrs or 6 not in self._settings.versions)
        if found and not left:
            raise CloudError(
                "create an ENI for IPv6 pods",
                f"none of the {len(found)} subnets that may be used has an IPv6 CIDR",
                code="subnet-without-ipv6",
                hint="give the VPC and the subnet an IPv6 CIDR: aws ec2 associate-subnet-cidr-block --ipv6-cidr-block",
                evidence={"subnets": " ".join(subnet.subnet_id for subnet in found)},
            )
        return left

    def none_left(self, tried: Sequence[Subnet], *, fragmented: bool = False) -> CloudError:
        """The refusal when no candidate has two free addresses, or (`fragmented`) those that have lack a /28."""
        shown = " ".join(f"{subnet.subnet_id}:{subnet.free_addresses}" for subnet in tried)
        if fragmented:
            return CloudError(
                "create an ENI",
                f"no subnet of {self._node.vpc_id} in {self._node.availability_zone} that may be used has a free /28",
                code="subnet-fragmented",
                aws_code="InsufficientCidrBlocks",
                hint="reserve a range for prefixes in the subnet: aws ec2 create-subnet-cidr-reservation",
                evidence={"subnets": shown},
            )
        return CloudError(
            "create an ENI",
            f"no subnet of {self._node.vpc_id} in {self._node.availability_zone} may be used and has enough free"
            " addresses",
            code="subnet-empty",
            aws_code="InsufficientFreeAddressesInSubnet",
            hint="free addresses, or tag another subnet of this zone with kubernetes.io/role/cni=1",
            evidence={"subnets": shown or "none eligible"},
        )

    def _elsewhere(self, name: str, subnet_id: str, present: Sequence[str]) -> InputError:
        return InputError(
            "make an ENI for pods",
            f"subnet {subnet_id} of ENIConfig {name} is not in {self._node.availability_zone} of {self._node.vpc_id}",
            code="eniconfig-subnet",
            retryable=True,
            hint="an ENI must be in the zone of its instance: name a subnet of this zone in the ENIConfig",
            evidence={"eniconfig": name, "subnets_here": " ".join(present)},
        )
