# SPDX-License-Identifier: Apache-2.0
"""Max pods against nodes that are really filled: the plan grows a pool on a model of EC2 until it refuses."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from ipaddress import IPv4Network

import pytest

from vpccni.aws.values import Interface
from vpccni.core import limits as types
from vpccni.core.block import Block, BlockKind, Mode
from vpccni.core.grant import PodIdentity, PodKey
from vpccni.core.maxpods import max_pods
from vpccni.core.plan import plan
from vpccni.core.pool import Eni, Pool
from vpccni.core.steps import AssignBlocks, AttachEni, Wait
from vpccni.core.targets import NodeLimits, Targets
from vpccni.errors import CloudError, NoAddress
from vpccni.lab.cloud.cloud import Cloud
from vpccni.lab.cloud.direct import DirectEc2
from vpccni.lab.cloud.topology import NewInstance


@dataclass
class Node:
    """One instance of a type, its pool, and the steps of the plan done at once."""

    instance_type: str
    prefixes: bool = False
    custom: bool = False
    max_eni: int = 0
    trunk: bool = False

    def __post_init__(self) -> None:
        self.now = 1_700_000_000.0
        self.cloud = Cloud(lambda: self.now, random.Random(1))
        vpc = self.cloud.create_vpc([IPv4Network("10.0.0.0/16")])
        self.subnet = self.cloud.create_subnet(vpc.vpc_id, IPv4Network("10.0.0.0/17"))
        self.instance = self.cloud.run_instance(NewInstance(self.instance_type, self.subnet.subnet_id))
        self.ec2 = DirectEc2(self.cloud)
        known = types.limits(self.instance_type)
        self.limits = NodeLimits(known.max_enis, known.ipv4_per_eni, reserve_trunk=self.trunk)
        self.targets = Targets(warm_ip=1, warm_prefix=1, max_eni=self.max_eni or None)
        self.pool = Pool(30.0, Mode.PREFIX if self.prefixes else Mode.SECONDARY)
        (primary,) = self.ec2.attached(self.instance.instance_id)
        self.add(primary, primary=True)

    def add(self, interface: Interface, *, primary: bool = False) -> None:
        assert interface.attachment is not None
        self.pool.add_eni(
            Eni(
                interface.eni_id,
                device=interface.attachment.device,
                subnet_id=interface.subnet_id,
                primary=primary,
                usable_for_pods=not (primary and self.custom),
                blocks=tuple(
                    Block(network) for network in (*map(IPv4Network, interface.addresses), *interface.prefixes)
                ),
            )
        )

    def grow(self) -> list[str]:
        """Do what the plan says until it has nothing more to do; the codes of what it waits for."""
        while True:
            steps = plan(self.pool, self.targets, self.limits, self.now)
            acts = [step for step in steps if isinstance(step, AssignBlocks | AttachEni)]
            if not acts:
                return [step.code for step in steps if isinstance(step, Wait)]
            for step in acts:
                counts = {"prefix_count" if step.kind is BlockKind.PREFIX else "address_count": step.count}
                if isinstance(step, AssignBlocks):
                    self.pool.add_blocks(step.eni_id, map(Block, self.ec2.assign(step.eni_id, **counts)))
                else:
                    self.attach(counts)

    def attach(self, counts: dict[str, int]) -> None:
        made = self.ec2.create(self.subnet.subnet_id, (), description="", tags={}, **counts)
        used = {device for _, device in self.ec2.occupied_slots(self.instance.instance_id)}
        device = min(set(range(100)) - used)
        self.ec2.attach(made.eni_id, self.instance.instance_id, device)
        self.add(*self.ec2.interfaces([made.eni_id]))

    def fill(self) -> tuple[int, list[str]]:
        """Pods with an address when the node refuses for good, and why it does not grow."""
        for number in range(20_000):
            waits = self.grow()
            try:
                self.pool.assign(
                    PodKey("aws-cni", f"c{number}", "eth0"), PodIdentity("default", f"p{number}"), self.now
                )
            except NoAddress:
                return number, waits
        raise AssertionError("the node never refuses")


@pytest.mark.parametrize("name", ["m5.large", "t3.small", "c5.4xlarge", "m4.xlarge", "t2.micro", "m5.xlarge"])
def test_a_node_refuses_at_max_pods_less_the_host_network_pods(name):
    pods, waits = Node(name).fill()
    assert pods == max_pods(types.limits(name)).uncapped - 2
    assert waits == ["eni-limit"]


@pytest.mark.parametrize("name", ["m7g.large", "t3.small", "m7g.medium"])
def test_with_prefixes_a_node_refuses_at_sixteen_times_as_many(name):
    pods, _ = Node(name, prefixes=True).fill()
    assert pods == max_pods(types.limits(name), prefix_delegation=True).uncapped - 2


@pytest.mark.parametrize("prefixes", [False, True])
@pytest.mark.parametrize("name", ["m5.large", "t3.medium"])
def test_with_custom_networking_the_primary_eni_carries_none(name, prefixes):
    pods, _ = Node(name, custom=True, prefixes=prefixes).fill()
    assert pods == max_pods(types.limits(name), custom_networking=True, prefix_delegation=prefixes).uncapped - 2


@pytest.mark.parametrize("max_eni", [1, 2, 3, 99])
def test_max_eni_is_where_a_node_stops(max_eni):
    pods, waits = Node("m5.xlarge", max_eni=max_eni).fill()
    assert pods == max_pods(types.limits("m5.xlarge"), max_eni=max_eni).uncapped - 2
    assert waits == ["max-eni" if max_eni < 4 else "eni-limit"]


def test_the_place_of_a_trunk_is_left_free():
    pods, _ = Node("m5.large", trunk=True).fill()
    assert pods == max_pods(types.limits("m5.large"), branches=9).uncapped - 2 == 18


def test_ec2_itself_takes_not_one_address_or_interface_more():
    node = Node("t3.small")
    node.fill()
    with pytest.raises(CloudError, match="PrivateIpAddressLimitExceeded"):
        node.ec2.assign(node.pool.enis()[0].id, address_count=1)
    with pytest.raises(CloudError, match="AttachmentLimitExceeded"):
        node.attach({"address_count": 1})


def test_a_node_of_another_size_gives_another_number():
    node = Node("m5.large")
    node.limits = replace(node.limits, max_enis=2)
    pods, _ = node.fill()
    assert pods != max_pods(types.limits("m5.large")).uncapped - 2
