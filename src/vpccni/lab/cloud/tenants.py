# SPDX-License-Identifier: Apache-2.0
"""The other users of the same subnets: load balancers, databases, functions that come and go.

Knows how to take addresses at random places and to give some back, so that subnets fill and fragment as they do in
accounts. Must never touch an interface that is not its own. `Cloud` starts it by the fault `tenants`.
"""

from __future__ import annotations

import random

from vpccni.lab.cloud.addresses import Wanted
from vpccni.lab.cloud.errors import ApiError
from vpccni.lab.cloud.faults import Tenancy
from vpccni.lab.cloud.interfaces import InterfaceOperations, NewInterface
from vpccni.lab.cloud.resources import Subnet

COMES = 0.6  # of the changes below the share: the others leave, so that holes appear
# (who made it, how it describes itself, how often of 100, addresses besides the primary one at most)
KINDS = (
    ("amazon-elb", "ELB app/shop-{}", 25, 0),
    ("amazon-rds", "RDSNetworkInterface", 15, 0),
    ("aws-lambda", "AWS Lambda VPC ENI-orders-{}", 35, 0),
    ("amazon-vpc", "VPC Endpoint Interface vpce-0{}", 10, 0),
    ("amazon-ecs", "arn:aws:ecs:attachment/{}", 10, 3),
    ("amazon-emr", "EMR task group {}", 5, 9),
)


class Tenants:
    """Everybody else in the account."""

    def __init__(self, cloud: InterfaceOperations, rng: random.Random) -> None:
        """Nobody is there yet."""
        self._cloud, self._rng = cloud, rng
        self._tenancy = Tenancy()
        self._run = 0
        self._held: dict[str, list[str]] = {}  # subnet id -> interfaces

    def live(self, tenancy: Tenancy) -> None:
        """Come and go at this rate from now on; at rate 0 they keep what they have."""
        if tenancy == self._tenancy:
            return
        self._tenancy = tenancy
        self._run += 1
        self._plan()

    def leave(self) -> int:
        """Give everything back; the number of interfaces."""
        gone = [eni_id for held in self._held.values() for eni_id in held if eni_id in self._cloud.enis]
        for eni_id in gone:
            self._delete(eni_id)
        self._held.clear()
        return len(gone)

    def interfaces(self, subnet_id: str) -> list[str]:
        """Their interfaces in a subnet, that somebody else may have deleted meanwhile not among them."""
        kept = [eni_id for eni_id in self._held.get(subnet_id, ()) if eni_id in self._cloud.enis]
        self._held[subnet_id] = kept
        return kept

    def _plan(self) -> None:
        if self._tenancy.rate_per_s > 0:
            run = self._run
            self._cloud.later(self._rng.expovariate(self._tenancy.rate_per_s), lambda: self._step(run))

    def _step(self, run: int) -> None:
        if run != self._run:
            return  # the rate has been changed: another sequence of steps is running
        if self._cloud.subnets:
            self._change(self._rng.choice(list(self._cloud.subnets.values())))
        self._plan()

    def _change(self, subnet: Subnet) -> None:
        held = self.interfaces(subnet.subnet_id)
        taken = sum(1 + len(self._cloud.enis[eni_id].addresses) for eni_id in held)
        below = taken < self._tenancy.share * subnet.v4.network.num_addresses
        if below and (not held or self._rng.random() < COMES):
            self._come(subnet)
        elif held:
            eni_id = held.pop(self._rng.randrange(len(held)))
            self._delete(eni_id)

    def _come(self, subnet: Subnet) -> None:
        requester, text, _, most = self._rng.choices(KINDS, [kind[2] for kind in KINDS])[0]
        count = self._rng.randint(0, most)
        request = NewInterface(
            subnet.subnet_id,
            description=text.format(f"{self._rng.getrandbits(32):08x}"),
            ipv4=Wanted(count=count or None),
            requester=requester,
        )
        try:
            eni = self._cloud.new_interface(request)  # not as a call: this is a transition, time does not move in it
        except ApiError:
            return  # the subnet is full: they do not get it either
        eni.status = "available"
        self._held[subnet.subnet_id].append(eni.eni_id)

    def _delete(self, eni_id: str) -> None:
        eni = self._cloud.enis[eni_id]
        if eni.attachment is None:
            self._cloud.remove(eni)
