# SPDX-License-Identifier: Apache-2.0
"""What the account's owner builds: VPCs, subnets, reservations, instances.

Knows EC2's rules for CIDRs and what an instance brings along (its primary interface, attached at once). Must never
know a topology file: `lab` reads those and calls this. Part of `Cloud`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Network

from vpccni.lab.cloud.addresses import Wanted
from vpccni.lab.cloud.errors import ApiError, invalid, not_found
from vpccni.lab.cloud.events import InstanceStarted, InstanceTerminated, SubnetCreated, SubnetDeleted, VpcChanged
from vpccni.lab.cloud.groups import DEFAULT_GROUP, GroupOperations
from vpccni.lab.cloud.interfaces import NewInterface
from vpccni.lab.cloud.resources import DEFAULT_OPTIONS, Instance, MetadataOptions, Subnet, Vpc
from vpccni.lab.cloud.space import AddressSpace, Reservation
from vpccni.lab.cloud.tags import check_tags

MAX_VPC_CIDRS = 5  # Amazon VPC quotas, before anybody asks for more
_LARGEST, _SMALLEST = 16, 28  # IPv4 prefix lengths of VPC and subnet CIDRs


@dataclass(frozen=True, slots=True)
class NewInstance:
    """What RunInstances asks for, of one instance. `public_ip`: an address, True (EC2 chooses), False, or None (as
    the subnet says)."""

    instance_type: str
    subnet_id: str
    private_ip: IPv4Address | None = None
    public_ip: IPv4Address | bool | None = None
    group_ids: tuple[str, ...] = ()
    image_id: str = "ami-0a1b2c3d4e5f60718"
    options: MetadataOptions = DEFAULT_OPTIONS
    ipv6_count: int = 0
    iam_role: str = ""
    user_data: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)


class TopologyOperations(GroupOperations):
    """Build and tear down."""

    def create_vpc(
        self,
        cidrs: Sequence[IPv4Network],
        tags: Mapping[str, str] | None = None,
        ipv6_cidrs: Sequence[IPv6Network] = (),
    ) -> Vpc:
        """A VPC with its default security group. The first CIDR is the primary one."""
        self.settle()
        if not cidrs:
            raise ApiError("MissingParameter", "A VPC needs an IPv4 CIDR block")
        for number, cidr in enumerate(cidrs):
            _check_vpc_cidr(cidr, cidrs[:number])
        check_tags(tags or {})
        vpc = Vpc(
            self.new_id("vpc"), self.next_serial(), self.account_id, list(cidrs), list(ipv6_cidrs), dict(tags or {})
        )
        self.vpcs[vpc.vpc_id] = vpc
        self.emit(VpcChanged(vpc.vpc_id, tuple(vpc.cidrs), tuple(vpc.ipv6_cidrs)))
        self.create_security_group(vpc.vpc_id, DEFAULT_GROUP, "default VPC security group")
        return vpc

    def associate_vpc_cidr_block(self, vpc_id: str, cidr: IPv4Network) -> Vpc:
        """Give a VPC one more CIDR. The metadata of its instances has it at once."""
        self.settle()
        vpc = self.vpc(vpc_id)
        if len(vpc.cidrs) >= MAX_VPC_CIDRS:
            raise ApiError("CidrLimitExceeded", f"This network '{vpc_id}' has met its maximum number of allowed CIDRs")
        _check_vpc_cidr(cidr, vpc.cidrs)
        vpc.cidrs.append(cidr)
        self.emit(VpcChanged(vpc.vpc_id, tuple(vpc.cidrs), tuple(vpc.ipv6_cidrs)))
        return vpc

    def create_subnet(
        self,
        vpc_id: str,
        cidr: IPv4Network,
        zone: str = "",
        tags: Mapping[str, str] | None = None,
        *,
        ipv6_cidr: IPv6Network | None = None,
        map_public_ip: bool = False,
    ) -> Subnet:
        """A subnet in a zone such as us-west-2a (default: the region's first)."""
        self.settle()
        vpc = self.vpc(vpc_id)
        if not _LARGEST <= cidr.prefixlen <= _SMALLEST or not any(cidr.subnet_of(block) for block in vpc.cidrs):
            raise ApiError("InvalidSubnet.Range", f"The CIDR '{cidr}' is invalid.")
        siblings = [subnet for subnet in self.subnets.values() if subnet.vpc_id == vpc_id]
        if any(cidr.overlaps(other.v4.network) for other in siblings):
            raise ApiError("InvalidSubnet.Conflict", f"The CIDR '{cidr}' conflicts with another subnet")
        if ipv6_cidr is not None:
            self._check_ipv6(vpc, ipv6_cidr, siblings)
        zone = zone or f"{self.region}a"
        if not zone.startswith(self.region) or len(zone) != len(self.region) + 1:
            raise invalid(f"Value ({zone}) for parameter availabilityZone is invalid.")
        check_tags(tags or {})
        subnet = Subnet(
            subnet_id=self.new_id("subnet"),
            serial=self.next_serial(),
            owner_id=self.account_id,
            vpc_id=vpc_id,
            zone=zone,
            v4=AddressSpace(cidr),
            v6=AddressSpace(ipv6_cidr) if ipv6_cidr is not None else None,
            map_public_ip=map_public_ip,
            tags=dict(tags or {}),
        )
        self.subnets[subnet.subnet_id] = subnet
        self.emit(SubnetCreated(subnet.subnet_id, vpc_id, cidr, ipv6_cidr))
        return subnet

    @staticmethod
    def _check_ipv6(vpc: Vpc, cidr: IPv6Network, siblings: Sequence[Subnet]) -> None:
        if cidr.prefixlen != 64 or not any(cidr.subnet_of(block) for block in vpc.ipv6_cidrs):
            raise ApiError("InvalidSubnet.Range", f"The CIDR '{cidr}' is invalid.")
        if any(other.v6 is not None and cidr.overlaps(other.v6.network) for other in siblings):
            raise ApiError("InvalidSubnet.Conflict", f"The CIDR '{cidr}' conflicts with another subnet")

    def delete_subnet(self, subnet_id: str) -> None:
        """DeleteSubnet: only without interfaces."""
        self.settle()
        subnet = self.subnet(subnet_id)
        if any(eni.subnet_id == subnet_id for eni in self.enis.values()):
            message = f"The subnet '{subnet_id}' has dependencies and cannot be deleted."
            raise ApiError("DependencyViolation", message)
        del self.subnets[subnet_id]
        self.emit(SubnetDeleted(subnet_id, subnet.vpc_id))

    def create_subnet_cidr_reservation(
        self, subnet_id: str, cidr: IPv4Network, kind: str, description: str = ""
    ) -> Reservation:
        """CreateSubnetCidrReservation: automatic single addresses avoid it from now on."""
        self.settle()
        space = self.subnet(subnet_id).v4
        if kind not in ("prefix", "explicit"):
            raise invalid(f"Value ({kind}) for parameter reservationType is invalid.")
        if not cidr.subnet_of(IPv4Network(space.network)) or any(cidr.overlaps(r.network) for r in space.reservations):
            raise invalid(f"The CIDR '{cidr}' is not within the subnet or overlaps another reservation.")
        reservation = Reservation(self.new_id("scr"), subnet_id, cidr, kind, description)
        space.reservations.append(reservation)
        return reservation

    def delete_subnet_cidr_reservation(self, reservation_id: str) -> Reservation:
        """DeleteSubnetCidrReservation: what lies in it stays assigned."""
        self.settle()
        for subnet in self.subnets.values():
            for found in subnet.v4.reservations:
                if found.reservation_id == reservation_id:
                    subnet.v4.reservations.remove(found)
                    return found
        raise not_found("scr", reservation_id)

    def run_instance(self, request: NewInstance) -> Instance:
        """One instance, running at once, its primary interface attached, linked and listed at once."""
        self.settle()
        limits = self.instance_type(request.instance_type)
        subnet = self.subnet(request.subnet_id)
        public = self._public(request.public_ip, subnet)
        check_tags(request.tags)
        self.check_slots("eni", request.ipv6_count, 6, limits)
        ipv6 = Wanted(count=request.ipv6_count or None)
        wanted = NewInterface(subnet.subnet_id, request.group_ids, primary=request.private_ip, ipv6=ipv6)
        eni = self.new_interface(wanted)
        instance = Instance(
            instance_id=self.new_id("i"),
            serial=self.next_serial(),
            owner_id=self.account_id,
            reservation_id=self.new_id("r"),
            limits=limits,
            image_id=request.image_id,
            subnet_id=subnet.subnet_id,
            vpc_id=subnet.vpc_id,
            zone=subnet.zone,
            launched_at=self.now,
            primary_eni_id=eni.eni_id,
            options=request.options,
            iam_role=request.iam_role,
            user_data=request.user_data,
            tags=dict(request.tags),
        )
        self.instances[instance.instance_id] = instance
        self.emit(
            InstanceStarted(instance.instance_id, instance.instance_type, subnet.vpc_id, subnet.subnet_id, eni.primary)
        )
        attachment = self.hang(eni, instance, 0, limits.default_card)
        attachment.status, attachment.delete_on_termination = "attached", True
        self.set_public(eni, public)
        self.plug(eni, attachment)
        attachment.shown = eni.owned()  # a node boots with its metadata complete
        return instance

    def _public(self, wanted: IPv4Address | bool | None, subnet: Subnet) -> IPv4Address | None:
        if isinstance(wanted, IPv4Address):
            if any(eni.public == wanted for eni in self.enis.values()):
                raise ApiError("InvalidIPAddress.InUse", f"Address {wanted} is in use.")
            return wanted
        return self.free_public_address() if wanted or (wanted is None and subnet.map_public_ip) else None

    def terminate_instance(self, instance_id: str) -> Instance:
        """TerminateInstances, one: links vanish at once; what is not deleted on termination becomes available."""
        self.settle()
        instance = self.instance(instance_id)
        if instance.state != "running":
            return instance
        instance.state = "shutting-down"
        for eni in self.enis_of(instance_id):
            if eni.attachment is not None:
                eni.attachment.status = "detaching"
                self.unplug(eni, eni.attachment)
        self.emit(InstanceTerminated(instance_id))
        self.after(self.profile.terminate, lambda: self._terminated(instance))
        return instance

    def _terminated(self, instance: Instance) -> None:
        instance.state = "terminated"
        for eni in self.enis_of(instance.instance_id):
            attachment = eni.attachment
            if attachment is not None:
                self.detached(eni, attachment)
                if attachment.delete_on_termination:
                    self.remove(eni)


def _check_vpc_cidr(cidr: IPv4Network, others: Sequence[IPv4Network]) -> None:
    if not _LARGEST <= cidr.prefixlen <= _SMALLEST:
        raise ApiError("InvalidVpc.Range", f"The CIDR '{cidr}' is invalid: /16 to /28.")
    if any(cidr.overlaps(other) for other in others):
        raise ApiError("InvalidVpc.Range", f"The CIDR '{cidr}' overlaps another CIDR of the VPC.")
