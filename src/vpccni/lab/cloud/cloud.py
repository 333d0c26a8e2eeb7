# SPDX-License-Identifier: Apache-2.0
"""`Cloud`: the whole EC2 model as one object.

Knows how its parts are put together and where instance limits come from by default. Must never do I/O of its own;
`lab.ec2` calls it for HTTP clients, `lab.cloud.direct` for unit tests, the lab's daemon drives its time.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from ipaddress import IPv4Network

from vpccni.aws.values import InstanceLimits
from vpccni.lab.cloud.faults import NO_FAULTS, Faults
from vpccni.lab.cloud.metadata import InstanceMetadata
from vpccni.lab.cloud.profile import INSTANT, Profile
from vpccni.lab.cloud.tags import TagOperations
from vpccni.lab.cloud.tenants import Tenants
from vpccni.lab.cloud.topology import TopologyOperations
from vpccni.lab.cloud.trunks import TrunkOperations
from vpccni.lab.cloud.view import instance_metadata
from vpccni.lab.cloud.world import PUBLIC_POOL, LimitsOf


def known_limits(instance_type: str) -> InstanceLimits | None:
    """The product's own table of instance types; None for a type that is not in it."""
    from vpccni.core.limits import find  # here, because a test with its own table needs no data file

    return find(instance_type)


def known_types() -> Iterable[InstanceLimits]:
    """All of the product's own table."""
    from vpccni.core.limits import matching

    return matching()


def known_branches(instance_type: str) -> int | None:
    """The product's own table of branch interfaces; None for a type without a trunk."""
    from vpccni.core.limits import branches

    return branches(instance_type)


class Cloud(TopologyOperations, TrunkOperations, TagOperations):
    """VPCs, subnets, groups, instances and interfaces, with EC2's rules, delays and refusals.

    Operations raise `ApiError` and have then changed nothing. Time passes when an operation is called (transitions that
    are due happen first) and in `advance(now)`, which also returns the events; `next_event_at()` says when to call it.
    """

    def __init__(
        self,
        now: Callable[[], float],
        rng: random.Random,
        profile: Profile = INSTANT,
        *,
        limits: LimitsOf = known_limits,
        types: Callable[[], Iterable[InstanceLimits]] = known_types,
        region: str = "us-west-2",
        account_id: str = "123456789012",
        public_pool: IPv4Network = PUBLIC_POOL,
        branches: Callable[[str], int | None] = known_branches,
    ) -> None:
        super().__init__(
            now,
            rng,
            profile,
            limits=limits,
            region=region,
            account_id=account_id,
            public_pool=public_pool,
            branches=branches,
        )
        self.all_limits = types
        self.tenants = Tenants(self, self.fault_rng)
        self.tenants.live(profile.faults.tenants)

    @property
    def faults(self) -> Faults:
        """What goes wrong at this moment."""
        return self.gate.faults

    def set_faults(self, faults: Faults) -> None:
        """Let other things go wrong from now on. Without any fault at all the other tenants move out."""
        self.settle()
        self.gate.faults = faults
        self.tenants.live(faults.tenants)
        if faults == NO_FAULTS:
            self.tenants.leave()

    def set_profile(self, profile: Profile) -> None:
        """Another kind of day from now on, delays and faults. Delays that run already keep their length."""
        self.profile = profile
        self.set_faults(profile.faults)

    def instance_metadata(self, instance_id: str) -> InstanceMetadata | None:
        """What the instance's metadata service shows at this moment; None: no such running instance."""
        self.settle()
        return instance_metadata(self, instance_id)
