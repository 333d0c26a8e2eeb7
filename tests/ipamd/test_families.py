# SPDX-License-Identifier: Apache-2.0
"""Pods of an IPv6 cluster and pods with an address of each family, on engine and EC2 model in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path

import pytest
import virtual
from lives import Life
from rig import Process, Rig

from vpccni.core.steps import Wait
from vpccni.errors import NoAddress, SettingsError
from vpccni.ipamd import checkpoint, introspection, recovery
from vpccni.ipamd.metrics import Metrics
from vpccni.ipamd.sizing import sizing
from vpccni.lab.cloud.cloud import known_limits
from vpccni.lab.cloud.direct import DirectEc2
from vpccni.lab.cloud.errors import ApiError
from vpccni.lab.cloud.space import AddressSpace
from vpccni.settings import parse

IPV6 = {"ENABLE_IPv4": "false", "ENABLE_IPv6": "true", "ENABLE_PREFIX_DELEGATION": "true"}
DUAL = {"VPCCNI_DUAL_STACK": "true"}


def play(story: Callable[[], Awaitable[None]]) -> None:
    virtual.run(story())


async def refused(node: Process) -> NoAddress:
    with pytest.raises(NoAddress) as refusal:
        await node.add(1)
    return refusal.value


def test_a_dual_stack_pod_has_an_address_of_each_family_from_one_eni() -> None:
    async def story() -> None:
        rig = Rig("m5.large", ipv6=True, **DUAL)
        node = await rig.started()
        made = await node.add(2)
        await asyncio.sleep(30)
        first, second = rig.interfaces()
        assert [prefix.prefixlen for each in (first, second) for prefix in each.prefixes] == [80, 80]
        assert rig.mutations().count("AssignIpv6Addresses") == 1, "the second ENI came with its prefix, in one call"
        made += await node.add(10)
        for grant in made:
            assert [at.address.version for at in grant.addresses] == [4, 6]
            assert len({(at.eni_id, at.table) for at in grant.addresses}) == 1
            assert {rig.home(at.address) for at in grant.addresses} == {grant.addresses[0].eni_id}
        assert {grant.addresses[0].table for grant in made} == {254, 2}
        shown = introspection.enis(node.pool, rig.clock.now())["0"]
        assert isinstance(shown, dict) and (shown["AssignedIPs"], shown["TotalIPs"]) == (12, 18), "pods, not addresses"
        (cidr,) = shown["ENIs"][first.eni_id]["IPv6Cidrs"].values()
        assert cidr["IsPrefix"] and len(cidr["IPAddresses"]) == 9
        (listed,) = {tuple(pod["IPs"]) for name, pod in introspection.pods(node.pool).items() if name.startswith("c0_")}  # type: ignore[index,call-overload]
        assert listed == tuple(str(at.address) for at in made[0].addresses)
        meter = Metrics()
        meter.bind_pool(node.pool, lambda: (3, 27))
        assert b"awscni_total_ipv6_prefixes 2.0" in meter.render()
        assert b"awscni_assigned_ip_addresses 12.0" in meter.render()
        lowest = [int(grant.addresses[1].address) for grant in made if grant.addresses[0].table == 254]
        assert lowest == [int(IPv6Network(first.prefixes[0])[0]) + n for n in range(9)], "ascending, the first one too"
        await asyncio.sleep(30)
        rig.check()

    play(story)


@pytest.mark.parametrize("more", [{}, {"ENABLE_PREFIX_DELEGATION": "true"}, {"WARM_IP_TARGET": "1"}])
def test_a_dual_stack_node_grows_restarts_and_shrinks(more: dict[str, str]) -> None:
    async def story() -> None:
        life = Life(Rig("m5.large", "10.0.0.0/22", ipv6=True, **DUAL, **more))
        await life.sleep(30)
        assert await life.arrive(20) == 20
        before = {key: [at.address for at in grant.addresses] for key, grant in life.rig.wired.items()}
        await life.restart()
        node = await life.daemon()
        assert {grant.key: [at.address for at in grant.addresses] for grant in node.pool.grants()} == before
        await life.sleep(60)
        life.check()
        await life.drop(19)
        await life.sleep(200)
        assert len(life.rig.interfaces()) <= 2
        await life.rest()

    play(story)


def test_an_eni_without_its_prefix_serves_no_dual_stack_pod_and_says_why() -> None:
    async def story() -> None:
        rig = Rig("m5.large", ipv6=True, WARM_IP_TARGET="3")
        await (await rig.started()).kill()

        def refuse(action: str) -> None:
            if action == "AssignIpv6Addresses":
                raise ApiError("UnauthorizedOperation", "as the test wants", status=403)

        rig.refuse = refuse
        node = await rig.started(VPCCNI_DUAL_STACK="true", MAX_ENI="1")
        refusal = await refused(node)
        assert refusal.error_code == "ipv6-prefix-missing" and refusal.hint
        (wait,) = [step for step in node.engine.plan() if step.code == "ipv6-prefix-refused"]  # type: ignore[union-attr]
        assert isinstance(wait, Wait) and wait.until is not None
        assert node.holds.last_error is not None and node.holds.last_error.error_code == "ec2-denied"
        assert sum(held.total for held in node.pool.held()) == 0
        asked = [at for at, name in rig.calls if name == "AssignIpv6Addresses"]
        assert 1 <= len(asked) < 8, "ever less often"
        rig.refuse = lambda action: None
        await asyncio.sleep(130)
        (grant,) = await node.add(1)
        assert len(grant.addresses) == 2 and node.holds.last_error is None
        rig.check()

    play(story)


def test_a_prefix_that_somebody_took_leaves_the_pods_their_ipv4_and_is_asked_for_again() -> None:
    async def story() -> None:
        rig = Rig("m5.large", ipv6=True, WARM_IP_TARGET="2", **DUAL)
        node = await rig.started()
        (grant,) = await node.add(1)
        await asyncio.sleep(20)
        (prefix,) = rig.interfaces()[0].prefixes
        DirectEc2(rig.cloud).unassign(rig.node.eni_id, [], [prefix])
        await asyncio.sleep(120)
        assert node.pool.orphans() == (grant.addresses[1].address,)
        assert node.pool.owner(grant.addresses[0].address) == grant.key
        (other,) = rig.interfaces()[0].prefixes
        assert other != prefix
        (later,) = await node.add(1)
        assert later.addresses[1].address in other
        rig.check(taken=frozenset({prefix}))

    play(story)


def test_an_ipv6_node_whose_prefix_was_taken_gets_another_one() -> None:
    async def story() -> None:
        rig = Rig("m5.large", ipv6=True, **IPV6)
        node = await rig.started()
        (grant,) = await node.add(1)
        (prefix,) = rig.interfaces()[0].prefixes
        DirectEc2(rig.cloud).unassign(rig.node.eni_id, [], [prefix])
        await asyncio.sleep(120)
        assert node.pool.orphans() == (grant.addresses[0].address,)
        (other,) = rig.interfaces()[0].prefixes
        (later,) = await node.add(1)
        assert later.addresses[0].address in other and other != prefix
        assert rig.mutations() == ["AssignIpv6Addresses"] * 2

    play(story)


@pytest.mark.parametrize("environ", [IPV6, DUAL])
def test_a_subnet_without_ipv6_is_named_with_the_command_that_helps(environ: dict[str, str]) -> None:
    async def story() -> None:
        rig = Rig("m5.large", ipv6=False, **environ)
        node = await rig.started()
        error = node.holds.last_error
        assert error is not None and error.error_code == "subnet-without-ipv6"
        assert "associate-subnet-cidr-block" in error.hint and rig.subnet.subnet_id in str(error.evidence)
        assert (await refused(node)).error_code == "pool-empty"
        assert rig.mutations() == [], "nothing is created that could carry no pod"
        assert await _grants(Rig("m5.large", ipv6=True, **environ)) == 1

    async def _grants(rig: Rig) -> int:
        return len(await (await rig.started()).add(1))

    play(story)


@pytest.mark.parametrize("environ", [IPV6, DUAL])
def test_types_without_prefixes_or_ipv6_are_refused_by_code(environ: dict[str, str]) -> None:
    xen, nitro = known_limits("t2.medium"), known_limits("m5.large")
    assert xen is not None and nitro is not None
    assert sizing(parse(environ), nitro).version == parse(environ).versions[0]
    for limits, code in ((xen, "type-without-prefixes"), (replace(nitro, ipv6_per_eni=0), "type-without-ipv6")):
        with pytest.raises(SettingsError) as refusal:
            sizing(parse(environ), limits)
        assert refusal.value.error_code == code and refusal.value.hint
        assert sizing(parse({}), limits).version == 4


def test_a_dual_stack_grant_is_one_key_in_the_go_daemons_file_and_comes_back_whole() -> None:
    async def story() -> None:
        rig = Rig("m5.large", ipv6=True, **DUAL)
        node = await rig.started()
        (grant,) = await node.add(1)
        entries = recovery.allocation_of(grant)
        assert [(bool(entry.ipv4), bool(entry.ipv6)) for entry in entries] == [(True, False), (False, True)]
        assert {entry.metadata.interfacesCount for entry in entries if entry.metadata} == {1}
        assert checkpoint.encode(entries).count(b'"containerID":"c0"') == 2
        found = recovery.recover(recovery.JournalState(), entries, rig.pods(), rig.clock.now())
        (back,) = found.grants
        assert back.key == grant.key and [at.address for at in back.addresses] == [at.address for at in grant.addresses]

    play(story)


def test_a_pod_whose_ipv6_route_was_removed_keeps_both_addresses() -> None:
    async def story() -> None:
        rig = Rig("m5.large", ipv6=True, **DUAL)
        node = await rig.started()
        (grant,) = await node.add(1)
        (pod,) = rig.pods()
        half = replace(pod, addresses=pod.addresses[:1])
        found = recovery.recover(_remembering(grant), [], [half], rig.clock.now())
        assert found.grants == [grant] and found.released == {}
        gone = recovery.recover(_remembering(grant), [], [], rig.clock.now())
        assert gone.grants == [] and len(gone.released) == 2

    def _remembering(grant: object) -> recovery.JournalState:
        return recovery.JournalState(grants={grant.key: grant})  # type: ignore[attr-defined,dict-item]

    play(story)


def test_a_node_recovers_when_its_subnet_is_given_ipv6() -> None:
    async def story() -> None:
        rig = Rig("m5.large", ipv6=False, WARM_IP_TARGET="2", **DUAL)
        node = await rig.started()
        assert (await refused(node)).error_code == "pool-empty"
        rig.subnet.v6 = AddressSpace(IPv6Network("2001:db8:0:5::/64"))
        await asyncio.sleep(400)
        (grant,) = await node.add(1)
        assert grant.addresses[1].address in IPv6Network("2001:db8:0:5::/64")
        await node.kill()
        node = await rig.started()
        await asyncio.sleep(200)
        assert [step for step in node.engine.plan() if not isinstance(step, Wait)] == []
        rig.check()

    play(story)


def test_dual_stack_with_several_network_cards_gives_each_card_its_own_prefix() -> None:
    async def story() -> None:
        rig = Rig("p4d.24xlarge", ipv6=True, WARM_IP_TARGET="3", ENABLE_MULTI_NIC="true", **DUAL)
        node = await rig.started()
        (grant,) = await node.add(1, cards=(0, 1, 2, 3))
        assert [(at.card, at.address.version) for at in grant.addresses] == [
            (card, version) for card in range(4) for version in (4, 6)
        ]
        assert grant.interfaces == 4 and len({at.eni_id for at in grant.addresses}) == 4
        rig.check()

    play(story)


def test_dual_stack_with_custom_networking_takes_both_addresses_from_the_pods_subnet(tmp_path: Path) -> None:
    async def story() -> None:
        on = {"AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG": "true", "VPCCNI_ENI_CONFIG_DIR": str(tmp_path)}
        rig = Rig("m5.large", ipv6=True, WARM_IP_TARGET="3", **on, **DUAL)
        wide = IPv6Network("2001:db8:0:9::/64")
        subnet = rig.cloud.create_subnet(rig.vpc.vpc_id, IPv4Network("10.0.8.0/24"), ipv6_cidr=wide).subnet_id
        manifest = "apiVersion: crd.k8s.amazonaws.com/v1alpha1\nkind: ENIConfig\nmetadata: {name: default}\n"
        (tmp_path / "default.yaml").write_text(f"{manifest}spec: {{subnet: {subnet}}}\n")
        node = await rig.started()
        primary, secondary = rig.interfaces()
        assert primary.prefixes == () and len(secondary.prefixes) == 1, "the primary ENI needs none"
        (grant,) = await node.add(1)
        assert grant.addresses[0].address in IPv4Network("10.0.8.0/24") and grant.addresses[1].address in wide
        rig.check()

    play(story)


@pytest.mark.parametrize("code", ["InsufficientCidrBlocks", "InsufficientFreeAddressesInSubnet"])
def test_an_ipv6_subnet_that_has_no_prefix_left_is_asked_ever_less_often_and_named(code: str) -> None:
    async def story() -> None:
        rig = Rig("m5.large", ipv6=True, MAX_ENI="1", **IPV6)

        def refuse(action: str) -> None:
            if action == "AssignIpv6Addresses":
                raise ApiError(code, "as the test wants", status=400)

        rig.refuse = refuse
        node = await rig.started()
        await asyncio.sleep(270)
        assert 3 <= rig.mutations().count("AssignIpv6Addresses") <= 9
        assert "subnet-fragmented" in {step.code for step in node.engine.plan() if isinstance(step, Wait)}
        rig.refuse = lambda action: None
        await asyncio.sleep(130)
        assert len(await node.add(1)) == 1
        rig.check()

    play(story)
