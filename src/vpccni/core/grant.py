# SPDX-License-Identifier: Apache-2.0
"""Who owns which addresses: the key of a pod's sandbox interface, and the grant made for it.

Knows names and addresses as plain values. Must never know whether an address is free; that is the pool's business.
The pool makes grants, the journal stores them, `podnet` wires them.
"""

from __future__ import annotations

from dataclasses import dataclass

from vpccni.aws.values import IPAddress


@dataclass(frozen=True, slots=True)
class PodKey:
    """What a CNI runtime identifies an attachment by: network name, container id and interface name."""

    network: str
    container_id: str
    ifname: str

    def __str__(self) -> str:
        return f"{self.network}/{self.container_id}/{self.ifname}"


@dataclass(frozen=True, slots=True)
class PodIdentity:
    """The pod's Kubernetes name; `uid` may be empty, since a CNI runtime need not pass it."""

    namespace: str
    name: str
    uid: str = ""

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class GrantedAddress:
    """One address of a pod and where it lives. `table` is the ENI's route table (254 = main).

    A grant restored from a checkpoint that does not record the place carries an empty `eni_id`; the pool fills
    the four fields in as soon as an ENI is seen to hold the address.
    """

    address: IPAddress
    eni_id: str = ""
    card: int = 0
    device: int = 0
    table: int = 254


@dataclass(frozen=True, slots=True)
class Grant:
    """The addresses of one attachment, at least one; `assigned_at` in Unix seconds.

    `egress` is its node-local address for egress in the other family, which is no address of the pool.
    """

    key: PodKey
    pod: PodIdentity
    addresses: tuple[GrantedAddress, ...]
    assigned_at: float
    egress: IPAddress | None = None

    @property
    def interfaces(self) -> int:
        """How many interfaces the pod gets: one a network card; addresses of both families share it."""
        return len({granted.card for granted in self.addresses})

    def __str__(self) -> str:
        return f"{self.pod} {' '.join(str(granted.address) for granted in self.addresses)}"
