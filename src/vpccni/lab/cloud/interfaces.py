# SPDX-License-Identifier: Apache-2.0
"""The life of network interfaces: create, attach, modify, detach, delete, and what time does to them.

Knows EC2's life cycle and its refusals. Must never know how a link is made: it emits `LinkAppears` and
`LinkVanishes`. Part of `Cloud`; every operation checks everything before it changes anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address

from vpccni.lab.cloud.addresses import NOTHING, AddressOperations, Granted, Wanted
from vpccni.lab.cloud.errors import ApiError, combination, invalid, not_found
from vpccni.lab.cloud.events import (
    AddressesChanged,
    LinkAppears,
    LinkVanishes,
    PublicAddressChanged,
    SecurityGroupsChanged,
    SourceDestCheckChanged,
)
from vpccni.lab.cloud.resources import Attachment, Eni, Instance, Owned, Subnet
from vpccni.lab.cloud.tags import check_tags

INTERFACE_TYPES = ("interface", "efa", "efa-only", "trunk", "branch")
MAX_GROUPS = 5  # EC2's default quota of security groups per interface


@dataclass(frozen=True, slots=True)
class NewInterface:
    """What CreateNetworkInterface asks for. `primary` None: EC2 chooses. Empty `group_ids`: the VPC's default group."""

    subnet_id: str
    group_ids: tuple[str, ...] = ()
    description: str = ""
    primary: IPv4Address | None = None
    ipv4: Wanted = NOTHING
    ipv6: Wanted = NOTHING
    interface_type: str = "interface"
    tags: Mapping[str, str] = field(default_factory=dict)
    requester: str = ""  # a service that makes it in the account's name


@dataclass(frozen=True, slots=True)
class InterfaceChange:
    """What ModifyNetworkInterfaceAttribute sets: exactly one of these."""

    description: str | None = None
    source_dest_check: bool | None = None
    group_ids: tuple[str, ...] | None = None
    attachment_id: str | None = None  # goes with delete_on_termination
    delete_on_termination: bool | None = None
    associate_public_ip: bool | None = None


class InterfaceOperations(AddressOperations):
    """Create to delete."""

    def create_network_interface(self, request: NewInterface, client_token: str = "") -> Eni:
        """CreateNetworkInterface; the same token with the same request answers with the interface made before."""
        self.settle()
        before = self.tokens.get(("CreateNetworkInterface", client_token)) if client_token else None
        if before is not None:
            if before[0] != request:
                raise ApiError(
                    "IdempotentParameterMismatch",
                    "Arguments on this idempotent request are inconsistent with arguments used in previous request(s).",
                )
            if before[1] not in self.enis:
                raise not_found("eni", before[1])
            return self.enis[before[1]]
        eni = self.new_interface(request)
        self.hide_for_a_while(eni)
        if client_token:
            self.tokens["CreateNetworkInterface", client_token] = (request, eni.eni_id)
        self.after(self.profile.create, lambda: self._becomes_available(eni))
        return eni

    def new_interface(self, request: NewInterface) -> Eni:
        """Check, choose, claim: an interface that is still `pending`."""
        subnet = self.subnet(request.subnet_id)
        if request.interface_type not in INTERFACE_TYPES:
            raise invalid(f"Value ({request.interface_type}) for parameter interfaceType is invalid.")
        request.ipv4.check("IPv4", required=False)
        request.ipv6.check("IPv6", required=False)
        check_tags(request.tags)
        group_ids = self._groups(request.group_ids, subnet.vpc_id)
        eni_id = self.new_id("eni")
        self.check_slots(eni_id, 1 + request.ipv4.slots, 4, None)
        self.check_slots(eni_id, request.ipv6.slots, 6, None)
        primary, ipv4, ipv6 = self._chosen(subnet, request)
        eni = Eni(
            eni_id=eni_id,
            serial=self.next_serial(),
            owner_id=self.account_id,
            mac=self.new_mac(),
            subnet_id=subnet.subnet_id,
            vpc_id=subnet.vpc_id,
            zone=subnet.zone,
            primary=primary,
            group_ids=group_ids,
            created_at=self.now,
            description=request.description,
            interface_type=request.interface_type,
            tags=dict(request.tags),
            requester=request.requester,
        )
        subnet.v4.claim(int(primary), eni_id)
        self.enis[eni_id] = eni
        self.hold(eni, ipv4)
        self.hold(eni, ipv6)
        eni.stale = None  # there is no older state to be shown
        self.addresses_changed(eni)
        self.emit(SecurityGroupsChanged(eni_id, group_ids))
        return eni

    def _chosen(self, subnet: Subnet, request: NewInterface) -> tuple[IPv4Address, Granted, Granted]:
        asked = {int(address) for address in request.ipv4.addresses}
        asked_bases = {int(prefix.network_address) for prefix in request.ipv4.prefixes}
        if request.primary is not None:
            value = subnet.v4.check_single(request.primary)
        else:
            # Not where a prefix or an address of the same request is about to go.
            others = {v for base in asked_bases for v in range(base, base + subnet.v4.block_size)} | asked
            value = subnet.v4.pick_singles(1, self.rng, others)[0]
        ipv4 = self._choose(subnet.v4, request.ipv4, [value])
        ipv6 = self._choose(self.ipv6_space(subnet), request.ipv6) if request.ipv6.slots else Granted()
        return IPv4Address(value), ipv4, ipv6

    def _groups(self, group_ids: Sequence[str], vpc_id: str) -> tuple[str, ...]:
        if not group_ids:
            return tuple(g.group_id for g in self.groups.values() if g.vpc_id == vpc_id and g.name == "default")
        for group_id in group_ids:
            if group_id not in self.groups:
                # CreateNetworkInterface and Modify say this; DescribeSecurityGroups says InvalidGroup.NotFound.
                message = f"The securityGroup ID '{group_id}' does not exist"
                raise ApiError("InvalidSecurityGroupID.NotFound", message)
            if self.groups[group_id].vpc_id != vpc_id:
                raise invalid("You have specified two resources that belong to different networks.")
        if len(set(group_ids)) > MAX_GROUPS:
            raise ApiError("SecurityGroupsPerInterfaceLimitExceeded", "The maximum number of groups is reached.")
        return tuple(dict.fromkeys(group_ids))

    def _becomes_available(self, eni: Eni) -> None:
        if eni.status == "pending":
            eni.status = "available"

    def attach_network_interface(self, eni_id: str, instance_id: str, device: int, card: int = 0) -> Attachment:
        """AttachNetworkInterface: `attaching` now, the rest in its time."""
        self.settle()
        eni, instance = self.eni(eni_id), self.instance(instance_id)
        self._check_attach(eni, instance, device, card)
        attachment = self.hang(eni, instance, device, card)
        self.after(self.profile.attach, lambda: self._attached(eni, attachment))
        return attachment

    def _check_attach(self, eni: Eni, instance: Instance, device: int, card: int) -> None:
        limits = instance.limits
        if instance.state != "running":
            message = f"Instance '{instance.instance_id}' is not in a state that allows it: {instance.state}"
            raise ApiError("IncorrectInstanceState", message)
        if eni.attachment is not None:
            raise in_use(eni)
        if eni.zone != instance.zone:
            raise combination(
                "You may not attach a network interface to an instance if they are not in the same availability zone"
            )
        if limits.card_limit(card) == 0:
            raise invalid(f"Network card index '{card}' is not valid for instance type {limits.instance_type}.")
        if device < 0:
            raise invalid(f"Value ({device}) for parameter deviceIndex is invalid.")
        peers = [peer.attachment for peer in self.enis_of(instance.instance_id) if peer.attachment]
        on_card = [peer for peer in peers if peer.card == card]
        if any(peer.device == device for peer in on_card):
            raise invalid(
                f"Instance '{instance.instance_id}' already has an interface attached at device index '{device}'."
            )
        if len(on_card) >= limits.card_limit(card):
            message = f"Interface count {len(peers) + 1} exceeds the limit for {limits.instance_type}"
            raise ApiError("AttachmentLimitExceeded", message)
        self.check_slots(eni.eni_id, eni.ipv4_slots, 4, limits)
        self.check_slots(eni.eni_id, eni.ipv6_slots, 6, limits)
        if (eni.prefixes or eni.ipv6_prefixes) and not limits.supports_prefixes:
            raise ApiError("UnsupportedOperation", f"{limits.instance_type} does not support prefix delegation")

    def hang(self, eni: Eni, instance: Instance, device: int, card: int) -> Attachment:
        """An interface gets its attachment, still `attaching`."""
        attachment = Attachment(self.new_id("eni-attach"), instance.instance_id, device, card, self.now)
        eni.attachment, eni.status = attachment, "in-use"
        self.attachments[attachment.attachment_id] = eni.eni_id
        self.by_instance.setdefault(instance.instance_id, {})[eni.eni_id] = eni
        return attachment

    def _attached(self, eni: Eni, attachment: Attachment) -> None:
        if eni.attachment is attachment and attachment.status == "attaching":
            attachment.status = "attached"
            self.after(self.profile.link, lambda: self.plug(eni, attachment))

    def plug(self, eni: Eni, attachment: Attachment) -> None:
        """The device shows up; the metadata service follows in two steps."""
        if eni.attachment is not attachment or attachment.status != "attached":
            return  # detached meanwhile
        attachment.has_link = True
        self.emit(
            LinkAppears(
                instance_id=attachment.instance_id,
                eni_id=eni.eni_id,
                mac=eni.mac,
                device_index=attachment.device,
                card=attachment.card,
                subnet_id=eni.subnet_id,
                vpc_id=eni.vpc_id,
                addresses=eni.networks,
                source_dest_check=eni.source_dest_check,
            )
        )
        self.after(self.profile.metadata_mac, lambda: self._listed(eni, attachment))

    def _listed(self, eni: Eni, attachment: Attachment) -> None:
        # Seen in public logs: the MAC is listed with the primary address alone, the others come later.
        if eni.attachment is attachment and attachment.has_link:
            attachment.shown = Owned(-1, eni.primary, (), (), (), (), eni.group_ids, None)
            self.after(self.profile.metadata_addresses, lambda: self._listed_in_full(eni, attachment))

    def _listed_in_full(self, eni: Eni, attachment: Attachment) -> None:
        if eni.attachment is attachment and attachment.shown is not None:
            attachment.shown = eni.owned()

    def detach_network_interface(self, attachment_id: str, *, force: bool = False) -> None:
        """DetachNetworkInterface: `detaching` now; the link goes first, the attachment last. `force` only hurries."""
        self.settle()
        eni, attachment = self.attached_eni(attachment_id)
        if self.instances[attachment.instance_id].primary_eni_id == eni.eni_id:
            raise ApiError(
                "OperationNotPermitted",
                f"The network interface at device index 0 and networkCard index {attachment.card} cannot be detached.",
            )
        if attachment.status == "detaching":
            return  # asked for again: it is under way
        attachment.status = "detaching"
        if force:
            self.unplug(eni, attachment)
        self.after(self.profile.unplug, lambda: self.unplug(eni, attachment))
        self.after(self.profile.detach, lambda: self.detached(eni, attachment))

    def unplug(self, eni: Eni, attachment: Attachment) -> None:
        """The link is gone; the metadata service forgets the MAC after its lag."""
        if eni.attachment is attachment and attachment.has_link:
            attachment.has_link = False
            self.emit(
                LinkVanishes(attachment.instance_id, eni.eni_id, eni.mac, attachment.device, attachment.card),
            )
            self.after(self.profile.metadata_change, lambda: _forget(attachment))

    def detached(self, eni: Eni, attachment: Attachment) -> None:
        """The attachment is gone; the interface is free again."""
        if eni.attachment is not attachment:
            return
        self.unplug(eni, attachment)
        del self.attachments[attachment.attachment_id]
        del self.by_instance[attachment.instance_id][eni.eni_id]
        eni.attachment, eni.status = None, "available"

    def delete_network_interface(self, eni_id: str) -> None:
        """DeleteNetworkInterface: refused while there is an attachment, `detaching` included."""
        self.settle()
        eni = self.eni(eni_id)
        if eni.attachment is not None or any(one.trunk_id == eni_id for one in self.trunks.values()):
            raise in_use(eni)
        self.remove(eni)

    def remove(self, eni: Eni) -> None:
        """Give everything back that an interface holds, and forget it."""
        self.set_public(eni, None)
        self.drop(eni, Granted((*eni.addresses, *eni.ipv6), (*eni.prefixes, *eni.ipv6_prefixes)))
        self.subnets[eni.subnet_id].v4.release(int(eni.primary))
        del self.enis[eni.eni_id]
        self._macs.discard(eni.mac)
        self.forget_relations(eni.eni_id)
        self.emit(AddressesChanged(eni.eni_id, eni.vpc_id, ()))

    def set_public(self, eni: Eni, public: IPv4Address | None) -> None:
        """Associate a public address with the primary one, or end it."""
        if eni.public != public:
            eni.public = public
            eni.version += 1
            self.emit(PublicAddressChanged(eni.eni_id, eni.vpc_id, eni.primary, public))
            self.metadata_changed(eni)

    def modify_network_interface(self, eni_id: str, change: InterfaceChange) -> None:
        """ModifyNetworkInterfaceAttribute: one attribute per call."""
        self.settle()
        eni = self.eni(eni_id)
        self._check_change(eni, change)
        if change.description is not None:
            eni.description = change.description
        elif change.source_dest_check is not None:
            eni.source_dest_check = change.source_dest_check
            self.emit(SourceDestCheckChanged(eni_id, change.source_dest_check))
        elif change.group_ids is not None:
            eni.group_ids = self._groups(change.group_ids, eni.vpc_id)
            eni.version += 1
            self.emit(SecurityGroupsChanged(eni_id, eni.group_ids))
            self.metadata_changed(eni)
        elif change.associate_public_ip is not None:
            self.set_public(eni, (eni.public or self.free_public_address()) if change.associate_public_ip else None)
        elif eni.attachment is not None and change.delete_on_termination is not None:
            eni.attachment.delete_on_termination = change.delete_on_termination

    @staticmethod
    def _check_change(eni: Eni, change: InterfaceChange) -> None:
        attachment = change.attachment_id is not None or change.delete_on_termination is not None
        given = (change.description, change.source_dest_check, change.group_ids, change.associate_public_ip)
        number = sum(item is not None for item in given) + attachment
        if number == 0:
            raise combination("No attributes specified.")
        if number > 1:
            raise combination("Fields for multiple attribute types specified")
        if change.group_ids == ():
            raise invalid("Value () for parameter groupId is invalid. The list cannot be empty.")
        if not attachment:
            return
        if change.attachment_id is None or change.delete_on_termination is None:
            raise ApiError(
                "MissingParameter", "The request must contain the parameters attachmentId, deleteOnTermination"
            )
        if eni.attachment is None or eni.attachment.attachment_id != change.attachment_id:
            raise not_found("eni-attach", change.attachment_id)


def in_use(eni: Eni) -> ApiError:
    """The refusal for an interface that is attached (attaching, detaching)."""
    return invalid(f"Network interface '{eni.eni_id}' is currently in use.")


def _forget(attachment: Attachment) -> None:
    attachment.shown = None
