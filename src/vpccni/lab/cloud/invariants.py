# SPDX-License-Identifier: Apache-2.0
"""What must hold in a cloud at every moment, whatever was called and however it ended.

Knows the books (address spaces) and the resources, and compares them. Must never repair anything. Property tests call
it after every step, the lab's probes whenever they like.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import pairwise

from vpccni.aws.values import IPNetwork
from vpccni.lab.cloud.resources import Eni, Subnet
from vpccni.lab.cloud.space import PREFIX_LENGTH, RESERVED_HEAD, RESERVED_TAIL, AddressSpace
from vpccni.lab.cloud.world import World


def violations(world: World) -> list[str]:
    """Every broken rule in one line each; an empty list is what there should be."""
    return [
        *_addresses(world),
        *(line for subnet in world.subnets.values() for line in _books(world, subnet)),
        *(line for eni in world.enis.values() for line in _interface(world, eni)),
        *_slots(world),
        *_trunks(world),
    ]


def _addresses(world: World) -> Iterator[str]:
    for vpc_id in world.vpcs:
        owned = [
            (network, eni.eni_id) for eni in world.enis.values() if eni.vpc_id == vpc_id for network in eni.networks
        ]
        ordered = sorted(owned, key=lambda pair: (pair[0].version, int(pair[0].network_address), pair[0].prefixlen))
        for (network, owner), (other, other_owner) in pairwise(ordered):
            if network.version == other.version and int(network.broadcast_address) >= int(other.network_address):
                yield f"{network} of {owner} and {other} of {other_owner} overlap"


def _books(world: World, subnet: Subnet) -> Iterator[str]:
    enis = [eni for eni in world.enis.values() if eni.subnet_id == subnet.subnet_id]
    for space in (subnet.v4, subnet.v6):
        if space is None:
            continue
        held = {(network, eni.eni_id) for eni in enis for network in eni.networks if _in(space, network)}
        booked = {(_network(space, value), owner) for value, owner in space.owners.items()}
        booked |= {(space.prefix(base), owner) for base, owner in space.block_owners.items()}
        if held != booked:
            yield f"{subnet.subnet_id}: books and interfaces differ: {sorted(map(str, held ^ booked))}"
        if any(space.is_own(value) for value in space.owners):
            yield f"{subnet.subnet_id}: an interface holds an address that EC2 keeps"
        if space.miscounted():
            yield f"{subnet.subnet_id}: the count of addresses per prefix is wrong"
        last = space.block_size - 1
        if any(space.is_own(base) or space.is_own(base + last) for base in space.block_owners):
            yield f"{subnet.subnet_id}: a prefix covers an address that EC2 keeps"
        if any(base % space.block_size for base in space.block_owners):
            yield f"{subnet.subnet_id}: a prefix is not aligned"
    used = len(subnet.v4.owners) + 16 * len(subnet.v4.block_owners)
    size = subnet.v4.network.num_addresses
    if not subnet.v4.reservations and subnet.v4.free_count + used + RESERVED_HEAD + RESERVED_TAIL != size:
        yield f"{subnet.subnet_id}: {subnet.v4.free_count} free + {used} used + 5 is not {size}"
    if subnet.v4.free_count < 0:
        yield f"{subnet.subnet_id}: {subnet.v4.free_count} free addresses"


def _in(space: AddressSpace, network: IPNetwork) -> bool:
    return space.network.version == network.version


def _network(space: AddressSpace, value: int) -> IPNetwork:
    kind = type(space.network)
    return kind((value, space.network.max_prefixlen))


def _interface(world: World, eni: Eni) -> Iterator[str]:
    prefixes: tuple[IPNetwork, ...] = (*eni.prefixes, *eni.ipv6_prefixes)
    if any(prefix.prefixlen != PREFIX_LENGTH[prefix.version] for prefix in prefixes):
        yield f"{eni.eni_id}: a prefix is neither /28 nor /80"
    if (eni.status == "in-use") != (eni.attachment is not None):
        yield f"{eni.eni_id} is {eni.status} with attachment {eni.attachment}"
    limits = world.limits_for(eni)
    if limits is not None and (eni.ipv4_slots > limits.ipv4_per_eni or eni.ipv6_slots > limits.ipv6_per_eni):
        yield f"{eni.eni_id} holds more than {limits.instance_type} allows"
    if eni.attachment is not None and eni.eni_id not in world.by_instance.get(eni.attachment.instance_id, {}):
        yield f"{eni.eni_id} is not among the interfaces of its instance"


def _slots(world: World) -> Iterator[str]:
    for instance_id, enis in world.by_instance.items():
        limits = world.instances[instance_id].limits
        slots = Counter((eni.attachment.card, eni.attachment.device) for eni in enis.values() if eni.attachment)
        if any(number > 1 for number in slots.values()):
            yield f"{instance_id}: a device index is used twice: {slots}"
        for card, number in Counter(card for card, _ in slots).items():
            if number > limits.card_limit(card):
                yield f"{instance_id}: {number} interfaces on card {card} of a {limits.instance_type}"


def _trunks(world: World) -> Iterator[str]:
    branches = Counter(one.branch_id for one in world.trunks.values())
    keys = Counter((one.trunk_id, one.vlan_id, one.gre_key) for one in world.trunks.values())
    for found, number in (*branches.items(), *keys.items()):
        if number > 1:
            yield f"{found} is on {number} trunks or in {number} places of one"
    for one in world.trunks.values():
        trunk, branch = world.enis.get(one.trunk_id), world.enis.get(one.branch_id)
        if trunk is None or trunk.interface_type != "trunk" or branch is None or branch.interface_type != "branch":
            yield f"{one.association_id} does not join a branch to a trunk"
    for permission in world.permissions.values():
        if permission.eni_id not in world.enis:
            yield f"{permission.permission_id} is about an interface that is gone"


def fingerprint(world: World) -> str:
    """The whole state as text, to show that a refused call has changed nothing. Random state is not part of it."""
    things = (world.vpcs, world.groups, world.instances, world.enis, world.attachments)
    relations = (world.tokens, world.trunks, world.permissions)
    spaces = [
        (
            subnet.subnet_id,
            subnet.tags,
            sorted(space.owners.items()),
            sorted(space.block_owners.items()),
            space.reservations,
        )
        for subnet in world.subnets.values()
        for space in (subnet.v4, subnet.v6)
        if space is not None
    ]
    return repr((things, relations, spaces))
