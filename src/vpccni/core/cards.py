# SPDX-License-Identifier: Apache-2.0
"""Which network cards a pod gets addresses from.

Knows the rules of Amazon VPC CNI 1.23 for pods with several interfaces: an annotation asks for one address per managed
card, and a pod without it takes the first card that has one. Must never know how the annotation came.
`ipamd.attachments` calls `assign`, the planner asks which cards there are.
"""

from __future__ import annotations

from collections.abc import Sequence

from vpccni.core.grant import Grant, PodIdentity, PodKey
from vpccni.core.pool import Pool
from vpccni.errors import NoAddress, Refused


def carrying(pool: Pool, cards: Sequence[int]) -> tuple[int, ...]:
    """Of the managed cards those that carry pods: not those that were given to EFA alone."""
    efa_only = {held.eni.card for held in pool.held() if held.eni.efa_only}
    managed = {held.eni.card for held in pool.held() if held.eni.managed}
    return tuple(card for card in cards if card == 0 or card not in efa_only - managed)


def assign(
    pool: Pool, key: PodKey, pod: PodIdentity, now: float, cards: Sequence[int], *, every: bool = False
) -> Grant:
    """A grant on each of `cards`, or with `every` false on the first one that has an address.

    Raises NoAddress; without `every` it is the refusal of the first card, where nearly all addresses are.
    """
    chosen = carrying(pool, cards)
    if every:
        return pool.assign(key, pod, now, chosen)
    first: NoAddress | None = None
    for card in chosen:
        try:
            return pool.assign(key, pod, now, (card,))
        except NoAddress as refusal:
            first = first or refusal
    assert first is not None
    raise first


def check_allowed(pod: PodIdentity, *, enabled: bool) -> None:
    """Raise Refused (`multi-nic-disabled`) for a pod that asks for every card where only the first one is managed."""
    if not enabled:
        raise Refused(
            f"give {pod} an interface on each network card",
            "this node manages its first network card only",
            code="multi-nic-disabled",
            hint="set ENABLE_MULTI_NIC=true on the node daemon, or drop the annotation k8s.amazonaws.com/nicConfig",
        )
