# SPDX-License-Identifier: Apache-2.0
"""Whether the metadata service's list of interfaces contradicts the pool, which is when EC2 has to be asked.

Knows that metadata are hints: they cost nothing and can be stale, so that they may raise a doubt but never settle one.
Must never correct anything. `ipamd.view` asks before each reconcile; a thousand nodes that asked EC2 every minute
instead would take most of the reads that an account has (20 a second).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from vpccni.aws.values import IPNetwork, MetadataInterface, alone
from vpccni.core.eni import HeldEni
from vpccni.core.pool import Pool


def contradiction(pool: Pool, listed: Sequence[MetadataInterface], cards: Collection[int] = (0,)) -> str:
    """What the pool and the list do not agree on, in half a sentence; "" when nothing speaks against the pool.

    Interfaces on network cards that are not in `cards` are none of the pool's business.
    """
    seen = {each.eni_id: each for each in listed if each.card in cards}
    held = {each.eni.id: each for each in pool.held()}
    for eni_id in seen.keys() - held.keys():
        return f"the metadata service lists {eni_id}, which the pool does not have"
    for eni_id, ours in held.items():
        interface = seen.get(eni_id)
        if interface is None:
            return f"the metadata service does not list {eni_id}"
        if ours.withdrawn or not all(each.confirmed for each in ours.blocks.values()):
            return f"something of {eni_id} is on its way out"
        blocks = _blocks(interface)
        if blocks != _held(ours):
            return f"the metadata service lists {len(blocks)} blocks on {eni_id}, the pool has {len(_held(ours))}"
    return ""


def _blocks(interface: MetadataInterface) -> set[IPNetwork]:
    # An IPv6 address that is no prefix is the ENI's own, never a pod's.
    singles = {alone(address) for address in interface.addresses[1:] if address.version == 4}
    return singles | set(interface.prefixes)


def _held(eni: HeldEni) -> set[IPNetwork]:
    return set(eni.blocks)
