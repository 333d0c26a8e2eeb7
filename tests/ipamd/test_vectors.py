# SPDX-License-Identifier: Apache-2.0
"""The warm-pool vectors of Amazon VPC CNI 1.23, executed: pool, engine, sagas and the model of EC2 in virtual time."""

from __future__ import annotations

import asyncio
from ipaddress import IPv4Network
from pathlib import Path

import pytest
import virtual
from rig import Rig
from vectors import PREFIX, SECONDARY, SHORT, STEADY, env, pd, states

from vpccni.aws import tags
from vpccni.core.grant import Grant, GrantedAddress, PodIdentity, PodKey
from vpccni.ipamd import records
from vpccni.lab.cloud.addresses import Wanted
from vpccni.lab.cloud.errors import ApiError
from vpccni.lab.cloud.interfaces import InterfaceChange, NewInterface


async def equip(rig: Rig, enis: list[tuple[int, list[int]]], *, prefixes: bool) -> None:
    """ENIs with so many blocks each; of each block so many addresses are in use."""
    for device, (count, used) in enumerate(enis):
        if device:
            wanted = Wanted(prefix_count=count or None) if prefixes else Wanted(count=count or None)
            request = NewInterface(
                rig.subnet.subnet_id,
                description=f"aws-K8S-{rig.node.instance_id}",
                ipv4=wanted,
                tags=tags.creation(rig.node.instance_id, rig.clock.now()),
            )
            eni_id = rig.cloud.create_network_interface(request).eni_id
            attachment = rig.cloud.attach_network_interface(eni_id, rig.node.instance_id, device, 0)
            change = InterfaceChange(attachment_id=attachment.attachment_id, delete_on_termination=True)
            rig.cloud.modify_network_interface(eni_id, change)
        elif count:
            number = {"prefix_count": count} if prefixes else {"count": count}
            rig.cloud.assign_private_ip_addresses(rig.node.eni_id, **number)
        await asyncio.sleep(2)
        eni = rig.interfaces()[device]
        blocks = [list(prefix) for prefix in eni.prefixes] if prefixes else [[address] for address in eni.addresses]
        for block, pods in zip(blocks, used, strict=False):
            for address in block[:pods]:
                key = PodKey("aws-cni", f"old{rig.serial}", "eth0")
                rig.serial += 1
                grant = Grant(key, PodIdentity("default", key.container_id), (GrantedAddress(address),), 0.0)
                rig.wired[key] = grant
                rig.journal.append(records.granted(grant))
    await asyncio.sleep(200)  # no ENI is young
    rig.calls.clear()


async def one_tick(rig: Rig) -> tuple[list[int], list[str]]:
    """What the node holds once it has come to rest, and by which calls."""
    await rig.started()
    rig.check()
    return rig.held(), sorted(SHORT[name] for name in rig.mutations() if name in SHORT)


@pytest.mark.parametrize(
    ("environ", "state", "held", "calls"), [row[1:5] for row in SECONDARY], ids=[row[0] for row in SECONDARY]
)
def test_secondary_vectors_end_to_end(environ: dict[str, str], state: str, held: list[int], calls: list[str]) -> None:
    async def story() -> None:
        rig = Rig(**environ)
        await equip(rig, states(state), prefixes=False)
        assert await one_tick(rig) == (held, calls)

    virtual.run(story())


@pytest.mark.parametrize(("environ", "held"), [(env(), [0, 9]), (env(1, 2, 3), [0, 3]), (pd(wp=1), [0, 1])],
                         ids=["A25", "A26", "P22"])  # fmt: skip
def test_custom_networking_vectors_end_to_end(environ: dict[str, str], held: list[int], tmp_path: Path) -> None:
    async def story() -> None:
        on = {"AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG": "true", "VPCCNI_ENI_CONFIG_DIR": str(tmp_path)}
        rig = Rig(**environ, **on)
        manifest = "apiVersion: crd.k8s.amazonaws.com/v1alpha1\nkind: ENIConfig\nmetadata: {name: default}\n"
        (tmp_path / "c.yaml").write_text(f"{manifest}spec: {{subnet: {rig.subnet.subnet_id}}}\n")
        assert await one_tick(rig) == (held, ["attach"])

    virtual.run(story())


@pytest.mark.parametrize(
    ("name", "environ", "state", "held", "calls"), [row[:5] for row in PREFIX], ids=[row[0] for row in PREFIX]
)
def test_prefix_vectors_end_to_end(
    name: str, environ: dict[str, str], state: list[list[int]], held: list[int], calls: list[str]
) -> None:
    async def story() -> None:
        rig = Rig("t3.small" if name == "P17" else "m5.large", **environ)
        await equip(rig, [(len(pods), pods) for pods in state], prefixes=True)
        assert await one_tick(rig) == (held, calls)

    virtual.run(story())


@pytest.mark.parametrize(("kind", "environ", "expected"), [row[1:] for row in STEADY], ids=[row[0] for row in STEADY])
def test_steady_states_end_to_end(kind: str, environ: dict[str, str], expected: dict[int, list[int]]) -> None:
    async def story() -> None:
        rig = Rig(kind, "10.0.0.0/21", **environ)
        node = await rig.started()
        seen = {}
        for pods in range(max(expected) + 1):
            if pods:
                await node.arrive(1)
                await asyncio.sleep(5)
            if pods in expected:
                seen[pods] = rig.held()
        assert seen == expected
        rig.check()

    virtual.run(story())


@pytest.mark.parametrize(
    ("kind", "environ", "pods", "left", "stay", "held"),
    [
        ("p3dn.24xlarge", env(1, 5, 10), 45, 1, [49, 1], [10]),
        ("t3.small", env(1, 1, 1), 9, 0, [3, 3, 3], [1]),
        ("t3.small", env(), 9, 0, [3, 3, 3], [3]),
        ("t3.small", pd(wp=1), 58, 0, [3, 2], [1]),
    ],
)
def test_difference_a_shrinking_node_waits_for_the_cooldown_and_always_ends_on_the_primary(
    kind: str, environ: dict[str, str], pods: int, left: int, stay: list[int], held: list[int]
) -> None:
    """Upstream gives cooling addresses back at once, and by chance keeps two ENIs for ever."""

    async def story() -> None:
        rig = Rig(kind, "10.0.0.0/21", **environ)
        node = await rig.started()
        await node.arrive(pods)
        await asyncio.sleep(120)
        await node.drop(list(rig.wired)[left:])
        await asyncio.sleep(29)
        assert rig.held() == stay
        await asyncio.sleep(120)
        assert rig.held() == held
        rig.check()

    virtual.run(story())


def crowd(rig: Rig, free: int) -> None:
    """Others take the subnet but for so many addresses."""
    while (count := min(49, rig.subnet.v4.free_count - free - 1)) >= 0:
        wanted = Wanted(count=count or None)
        rig.cloud.create_network_interface(NewInterface(rig.subnet.subnet_id, ipv4=wanted))


def test_difference_the_rest_of_a_subnet_is_taken_in_two_calls_and_then_it_is_left_alone() -> None:
    """Upstream needs eight failed calls for four addresses, and two more every 125 s."""

    async def story() -> None:
        rig = Rig(ENABLE_SUBNET_DISCOVERY="false", **env())
        crowd(rig, 4)
        await rig.process().start()
        await asyncio.sleep(3)
        assert rig.held() == [4]
        assert rig.mutations().count("AssignPrivateIpAddresses") == 2, "nine, refused; four"
        await asyncio.sleep(600)
        assert len(rig.mutations()) <= 16

    virtual.run(story())


def refusing(action: str, code: str):  # type: ignore[no-untyped-def]
    def refuse(called: str) -> None:
        if called == action:
            raise ApiError(code, "for ever", status=503 if code == "RequestLimitExceeded" else 400)

    return refuse


@pytest.mark.parametrize("code", ["RequestLimitExceeded", "PrivateIpAddressLimitExceeded"])
def test_difference_a_call_that_is_always_refused_is_made_ever_less_often_and_reconcile_goes_on(code: str) -> None:
    """Upstream repeats it every 5 s; with the second code its reconcile never runs again."""

    async def story() -> None:
        rig = Rig(MAX_ENI="1", **env())
        rig.refuse = refusing("AssignPrivateIpAddresses", code)
        node = await rig.started()
        await asyncio.sleep(600)
        assert 3 <= rig.mutations().count("AssignPrivateIpAddresses") <= 20, "upstream: 240"
        rig.cloud.assign_private_ip_addresses(rig.node.eni_id, count=3)
        await asyncio.sleep(70)
        await node.add(3)
        rig.refuse = lambda action: None
        await asyncio.sleep(400)
        assert rig.held() == [9], "and it recovers by itself"

    virtual.run(story())


def test_difference_warm_eni_target_0_attaches_once() -> None:
    """Upstream: a new ENI at 0 s, freed at 60 s, a new one at 65 s, and so on."""

    async def story() -> None:
        rig = Rig(**env(0))
        node = await rig.started()
        await node.arrive(9)
        await asyncio.sleep(1000)
        assert rig.mutations().count("CreateNetworkInterface") == 1
        assert "DetachNetworkInterface" not in rig.mutations()

    virtual.run(story())


def test_addresses_removed_behind_our_back_are_noticed_with_one_describe() -> None:
    async def story() -> None:
        rig = Rig(**env())
        node = await rig.started()
        gone = rig.interfaces()[0].addresses[:4]
        rig.cloud.unassign_private_ip_addresses(rig.node.eni_id, gone)  # type: ignore[arg-type]
        await asyncio.sleep(70)
        made = await node.arrive(5)
        assert not {grant.addresses[0].address for grant in made} & set(gone)
        rig.check()

    virtual.run(story())


def test_difference_pods_of_a_vanished_eni_keep_their_grants_and_the_numbers_are_right() -> None:
    """Upstream drops the allocations and miscounts from then on."""

    async def story() -> None:
        rig = Rig(**env(1, 1, 1))
        node = await rig.started()
        await node.arrive(12)
        secondary = rig.interfaces()[1]
        assert secondary.attachment is not None
        rig.cloud.detach_network_interface(secondary.attachment.attachment_id)
        await asyncio.sleep(70)
        stats = node.pool.stats(rig.clock.now())
        assert (stats.grants, stats.orphans) == (12, 3)
        assert stats.total == sum(rig.held()) and stats.assigned == 9

    virtual.run(story())


def test_an_empty_subnet_is_asked_with_growing_pauses_and_the_network_given_is_used_when_it_frees() -> None:
    async def story() -> None:
        rig = Rig(ENABLE_SUBNET_DISCOVERY="false", **env())
        crowd(rig, 0)
        await rig.started()
        await asyncio.sleep(600)
        assert rig.held() == [0] and len(rig.mutations()) <= 16
        other = next(eni for eni in rig.cloud.enis.values() if eni.attachment is None and len(eni.addresses) > 9)
        rig.cloud.delete_network_interface(other.eni_id)
        await asyncio.sleep(130)
        assert rig.held() == [9]
        assert all(address in IPv4Network("10.0.0.0/24") for address in rig.interfaces()[0].addresses)

    virtual.run(story())
