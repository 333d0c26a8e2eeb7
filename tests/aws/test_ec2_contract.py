# SPDX-License-Identifier: Apache-2.0
"""One contract for everything that implements the EC2 protocols: boto3 over HTTP, and the model called directly."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Network

import pytest
from loopback import serving

from vpccni.aws import tags
from vpccni.aws.ec2 import Addresses, Ec2, Interfaces, Inventory
from vpccni.aws.values import Interface, IPNetwork
from vpccni.core.limits import limits
from vpccni.errors import CloudError
from vpccni.lab.cloud import profile
from vpccni.lab.cloud.cloud import Cloud
from vpccni.lab.cloud.direct import DirectEc2
from vpccni.lab.cloud.topology import NewInstance
from vpccni.lab.ec2.app import make_app

CALM = profile.parse("slow but certain", "[delays]\ncreate=1\nattach=2\nlink=1\nunplug=1\ndetach=3\n")
GHOST = "eni-0123456789abcdef0"


@dataclass
class World:
    """One implementation, and the cloud behind it whose time the test turns."""

    interfaces: Interfaces
    addresses: Addresses
    inventory: Inventory
    cloud: Cloud
    clock: list[float]
    instance_id: str
    subnet_id: str
    small_subnet_id: str
    vpc_id: str

    def later(self, duration_s: float = 10.0) -> None:
        self.clock[0] += duration_s

    def create(self, **arguments: object) -> Interface:
        """An interface as the daemon creates them."""
        defaults: dict[str, object] = {
            "description": tags.description(self.instance_id),
            "tags": tags.creation(self.instance_id, 1_700_000_000, "blue", {"team": "net"}),
        }
        subnet_id = str(arguments.pop("subnet_id", self.subnet_id))
        return self.interfaces.create(subnet_id, (), **(defaults | arguments))  # type: ignore[arg-type]

    def attached(self, device: int = 1, **arguments: object) -> Interface:
        """An interface that is created and attached."""
        created = self.create(**arguments)
        self.later()
        self.interfaces.attach(created.eni_id, self.instance_id, device)
        self.later()
        return self.inventory.interfaces([created.eni_id])[0]

    def refused(self, call: Callable[[], object], aws_code: str, code: str, can_retry: bool) -> CloudError:
        """The call is refused like this."""
        with pytest.raises(CloudError) as refused:
            call()
        error = refused.value
        assert (error.aws_code, error.error_code, error.can_retry) == (aws_code, code, can_retry)
        assert error.hint
        return error


@pytest.fixture(params=["direct", "http"])
def world(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    clock = [1_700_000_000.0]
    cloud = Cloud(lambda: clock[0], random.Random(7), CALM)
    vpc = cloud.create_vpc([IPv4Network("10.20.0.0/16")], ipv6_cidrs=[IPv6Network("2001:db8::/56")])
    subnet = cloud.create_subnet(
        vpc.vpc_id, IPv4Network("10.20.0.0/24"), "us-west-2a", {"role": "pods"}, ipv6_cidr=IPv6Network("2001:db8::/64")
    )
    small = cloud.create_subnet(vpc.vpc_id, IPv4Network("10.20.1.0/28"), "us-west-2a")
    cloud.create_subnet(vpc.vpc_id, IPv4Network("10.20.2.0/24"), "us-west-2b")
    instance = cloud.run_instance(NewInstance("m5.large", subnet.subnet_id))
    clock[0] += 10
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "lab")

    def made(ec2: DirectEc2 | Ec2) -> World:
        ids = (instance.instance_id, subnet.subnet_id, small.subnet_id, vpc.vpc_id)
        return World(ec2, ec2, ec2, cloud, clock, *ids)

    if request.param == "direct":
        yield made(DirectEc2(cloud))
    else:
        with serving(make_app(cloud)) as url:
            yield made(Ec2("us-west-2", endpoint=url, attempts=1))


def hosts(blocks: tuple[IPNetwork, ...]) -> set[object]:
    return {block.network_address for block in blocks}


def test_a_created_interface_has_its_owner_and_its_addresses_at_once(world):
    created = world.create(address_count=3)
    assert created.status == "pending"
    assert created.tags == {
        "cluster.k8s.amazonaws.com/name": "blue",
        "eks:eni:owner": "amazon-vpc-cni",
        "node.k8s.amazonaws.com/createdAt": "2023-11-14T22:13:20Z",
        "node.k8s.amazonaws.com/instance_id": world.instance_id,
        "team": "net",
    }
    assert created.description == f"aws-K8S-{world.instance_id}"
    assert len(set(created.addresses)) == 3
    assert created.primary_address not in created.addresses
    assert all(address in IPv4Network("10.20.0.0/24") for address in created.addresses)
    assert len(created.security_groups) == 1, "the VPC's default group"
    assert created.attachment is None
    world.later()
    (later,) = world.inventory.interfaces([created.eni_id])
    assert later.status == "available"
    assert (later.addresses, later.tags, later.mac) == (created.addresses, created.tags, created.mac)


def test_prefixes_and_ipv6_addresses_can_come_with_an_interface(world):
    prefixes = world.create(prefix_count=2).prefixes
    assert [block.prefixlen for block in prefixes] == [28, 28]
    assert not prefixes[0].overlaps(prefixes[1])
    (address,) = world.create(address_count=1, ip_version=6).addresses
    assert address.version == 6


def test_the_same_client_token_makes_one_interface_and_another_token_another(world):
    first = world.create(client_token="attach-1")
    assert world.create(client_token="attach-1").eni_id == first.eni_id
    assert world.create(client_token="attach-2").eni_id != first.eni_id


def test_cluster_nodes_launched_in_a_span_are_listed_with_their_slots(world):
    """DescribeInstances, filters tag-key, instance-state-name and launch-time. Spans are coarse: ten minutes."""
    node = {"kubernetes.io/cluster/blue": "owned"}
    young = world.cloud.run_instance(NewInstance("m5.large", world.subnet_id, tags=node))
    world.cloud.run_instance(NewInstance("m5.large", world.subnet_id))  # no cluster's
    gone = world.cloud.run_instance(NewInstance("m5.large", world.subnet_id, tags=node))
    world.cloud.terminate_instance(gone.instance_id)
    now = world.clock[0]
    (found,) = world.inventory.launched(now - 600, now + 600)
    assert (found.instance_id, found.launched_at) == (young.instance_id, now)
    assert found.slots == {(0, 0)}
    assert world.inventory.launched(now - 7200, now - 3600) == ()


def test_attaching_takes_a_slot_and_ends_as_attached(world):
    created = world.create()
    world.later()
    attachment_id = world.interfaces.attach(created.eni_id, world.instance_id, 1)
    assert world.inventory.occupied_slots(world.instance_id) == {(0, 0), (0, 1)}
    primary, ours = world.inventory.attached(world.instance_id)
    assert ours.attachment is not None
    assert (ours.attachment.status, ours.status) == ("attaching", "in-use")
    world.interfaces.delete_on_termination(created.eni_id, attachment_id)
    world.later()
    primary, ours = world.inventory.attached(world.instance_id)
    assert primary.attachment is not None and ours.attachment is not None
    assert (primary.attachment.device, ours.attachment.device) == (0, 1)
    assert (ours.attachment.attachment_id, ours.attachment.instance_id) == (attachment_id, world.instance_id)
    assert (ours.attachment.status, ours.attachment.delete_on_termination) == ("attached", True)


def test_assigning_returns_the_new_blocks_only(world):
    eni = world.attached(address_count=2)
    new = world.addresses.assign(eni.eni_id, address_count=3)
    assert len(new) == 3
    assert all(block.prefixlen == 32 for block in new)
    assert not hosts(new) & set(eni.addresses)
    (now,) = world.inventory.interfaces([eni.eni_id])
    assert set(now.addresses) == set(eni.addresses) | hosts(new)
    (prefix,) = world.addresses.assign(eni.eni_id, prefix_count=1)
    assert prefix.prefixlen == 28
    (prefix,) = world.addresses.assign(eni.eni_id, prefix_count=1, ip_version=6)
    assert (prefix.version, prefix.prefixlen) == (6, 80)


def test_unassigning_takes_addresses_and_prefixes_of_both_families(world):
    eni = world.attached(address_count=2)
    (v4,) = world.addresses.assign(eni.eni_id, prefix_count=1)
    (v6,) = world.addresses.assign(eni.eni_id, prefix_count=1, ip_version=6)
    world.addresses.unassign(eni.eni_id, [eni.addresses[0]], [v4, v6])
    (now,) = world.inventory.interfaces([eni.eni_id])
    assert (now.addresses, now.prefixes) == ((eni.addresses[1],), ())
    world.addresses.unassign(eni.eni_id)
    assert world.inventory.interfaces([eni.eni_id]) == (now,)


def test_detach_and_delete_succeed_also_when_it_is_all_gone(world):
    eni = world.attached()
    assert eni.attachment is not None
    world.interfaces.detach(eni.attachment.attachment_id)
    world.refused(lambda: world.interfaces.delete(eni.eni_id), "InvalidParameterValue", "eni-in-use", True)
    world.later()
    world.interfaces.detach(eni.attachment.attachment_id)
    world.interfaces.delete(eni.eni_id)
    world.interfaces.delete(eni.eni_id)
    assert world.inventory.interfaces([eni.eni_id]) == ()
    assert len(world.inventory.attached(world.instance_id)) == 1


def test_interfaces_are_found_by_the_tags_of_their_owner(world):
    ours = world.create().eni_id
    other = world.interfaces.create(
        world.subnet_id, (), description="x", tags=tags.ownership("i-0123456789abcdef0", "green")
    ).eni_id
    world.interfaces.create(world.subnet_id, (), description="x", tags={"team": "net"})

    def found(*arguments: str, **filters: str) -> set[str]:
        return {one.eni_id for one in world.inventory.owned(*arguments, **filters)}

    assert found() == {ours, other}
    assert found(world.instance_id) == {ours}
    assert found(cluster="green") == {other}
    assert found(world.instance_id, cluster="green") == set()
    assert found(vpc_id=world.vpc_id) == {ours, other}
    assert found(vpc_id="vpc-0123456789abcdef0") == set()


def test_interfaces_asked_for_by_id_come_in_that_order_without_the_unknown(world):
    first, second = world.create().eni_id, world.create().eni_id
    found = world.inventory.interfaces([second, GHOST, first])
    assert [one.eni_id for one in found] == [second, first]
    assert world.inventory.interfaces([]) == ()


def test_tags_and_security_groups_can_be_changed_later(world):
    eni = world.create()
    group = world.cloud.create_security_group(world.vpc_id, "pods", "pods").group_id
    world.interfaces.tag(eni.eni_id, {"team": "new", "more": ""})
    world.interfaces.set_security_groups(eni.eni_id, [group])
    (now,) = world.inventory.interfaces([eni.eni_id])
    assert (now.tags["team"], now.tags["more"]) == ("new", "")
    assert now.tags["cluster.k8s.amazonaws.com/name"] == "blue"
    assert now.security_groups == (group,)


def test_the_subnets_of_one_zone_are_listed_with_what_is_free(world):
    subnets = {subnet.subnet_id: subnet for subnet in world.inventory.subnets(world.vpc_id, "us-west-2a")}
    assert set(subnets) == {world.subnet_id, world.small_subnet_id}
    assert subnets[world.small_subnet_id].free_addresses == 11
    assert subnets[world.subnet_id].free_addresses == 250, "251 less the instance's own"
    assert subnets[world.subnet_id].cidr == IPv4Network("10.20.0.0/24")
    assert subnets[world.subnet_id].ipv6_cidrs == (IPv6Network("2001:db8::/64"),)
    assert subnets[world.subnet_id].tags == {"role": "pods"}


@pytest.mark.parametrize("name", ["m5.large", "p4d.24xlarge", "m5.metal", "t2.micro"])
def test_what_ec2_says_of_a_type_equals_the_built_in_table(world, name):
    assert world.inventory.instance_limits(name) == limits(name)


def test_a_full_subnet_refuses_with_its_own_code_and_gives_nothing(world):
    eni = world.create(subnet_id=world.small_subnet_id)
    error = world.refused(
        lambda: world.create(subnet_id=world.small_subnet_id, address_count=12),
        "InsufficientFreeAddressesInSubnet",
        "subnet-empty",
        True,
    )
    assert "kubernetes.io/role/cni" in error.hint
    assert [one.eni_id for one in world.inventory.owned(world.instance_id)] == [eni.eni_id]


def test_a_subnet_with_free_addresses_but_no_free_block_refuses_prefixes_with_a_code_of_its_own(world):
    # Both halves of a /27 hold a reserved address, so 27 addresses are free and no block of 16 is.
    subnet = world.cloud.create_subnet(world.vpc_id, IPv4Network("10.20.3.0/27"), "us-west-2a")
    error = world.refused(
        lambda: world.create(subnet_id=subnet.subnet_id, prefix_count=1),
        "InsufficientCidrBlocks", "subnet-fragmented", True,
    )  # fmt: skip
    assert "create-subnet-cidr-reservation" in error.hint
    assert world.create(subnet_id=subnet.subnet_id, address_count=9), "single addresses are free"


def test_prefixes_are_refused_by_a_subnet_with_too_few_free_addresses(world):
    world.refused(
        lambda: world.create(subnet_id=world.small_subnet_id, prefix_count=1),
        "InvalidParameterValue", "subnet-empty", True,
    )  # fmt: skip


def test_limits_of_the_type_are_refusals_that_no_repetition_helps(world):
    eni = world.attached(address_count=9)
    world.refused(
        lambda: world.addresses.assign(eni.eni_id, address_count=1),
        "PrivateIpAddressLimitExceeded", "address-limit", False,
    )  # fmt: skip
    world.attached(device=2)
    extra = world.create()
    world.later()
    world.refused(
        lambda: world.interfaces.attach(extra.eni_id, world.instance_id, 3),
        "AttachmentLimitExceeded", "eni-limit", False,
    )  # fmt: skip


def test_a_taken_device_index_and_a_taken_interface_are_told_apart(world):
    eni = world.attached()
    extra = world.create()
    world.later()
    world.refused(
        lambda: world.interfaces.attach(extra.eni_id, world.instance_id, 1),
        "InvalidParameterValue", "device-taken", True,
    )  # fmt: skip
    world.refused(
        lambda: world.interfaces.attach(eni.eni_id, world.instance_id, 2),
        "InvalidParameterValue", "eni-in-use", True,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("call", "aws_code", "can_retry"),
    [
        (lambda w: w.addresses.assign(GHOST, address_count=1), "InvalidNetworkInterfaceID.NotFound", True),
        (lambda w: w.interfaces.attach(GHOST, w.instance_id, 1), "InvalidNetworkInterfaceID.NotFound", True),
        (lambda w: w.create(subnet_id="subnet-0123456789abcdef0"), "InvalidSubnetID.NotFound", False),
        (lambda w: w.inventory.occupied_slots("i-0123456789abcdef0"), "InvalidInstanceID.NotFound", False),
    ],
)
def test_what_does_not_exist_is_not_found_and_only_a_new_interface_may_still_appear(world, call, aws_code, can_retry):
    world.refused(lambda: call(world), aws_code, "ec2-not-found", can_retry)


def test_an_unknown_instance_type_is_refused(world):
    with pytest.raises(CloudError) as refused:
        world.inventory.instance_limits("m99.huge")
    assert refused.value.aws_code == "InvalidInstanceType"


def test_asking_for_nothing_changes_nothing(world):
    eni = world.create()
    assert world.addresses.assign(eni.eni_id) == ()
    world.interfaces.tag(eni.eni_id, {})
    assert world.inventory.interfaces([eni.eni_id])[0].tags == eni.tags


def test_addresses_and_prefixes_are_never_asked_for_in_one_call(world):
    with pytest.raises((ValueError, CloudError)):
        world.create(address_count=1, prefix_count=1)
    assert world.inventory.owned() == ()


def test_the_primary_address_is_never_among_the_secondary_ones(world):
    for one in (world.attached(address_count=4), *world.inventory.attached(world.instance_id)):
        assert isinstance(one.primary_address, IPv4Address)
        assert one.primary_address not in one.addresses
