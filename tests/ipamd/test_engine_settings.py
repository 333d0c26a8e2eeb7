# SPDX-License-Identifier: Apache-2.0
"""Settings that say what the engine may touch: provisioning, cordons, unmanaged ENIs, reserved slots, network cards."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import virtual
from rig import Rig

from vpccni.aws import tags
from vpccni.aws.imds_inventory import ImdsInventory
from vpccni.aws.values import MetadataInterface
from vpccni.core.limits import limits
from vpccni.ipamd.sizing import sizing, takes_trunk
from vpccni.lab.cloud.interfaces import NewInterface
from vpccni.settings import parse


async def hang(rig: Rig, device: int, card: int = 0, kind: str = "interface", **eni_tags: str) -> str:
    """Somebody else attaches an ENI to the node; its id."""
    request = NewInterface(rig.subnet.subnet_id, interface_type=kind, tags=eni_tags)
    eni_id = rig.cloud.create_network_interface(request).eni_id
    rig.cloud.attach_network_interface(eni_id, rig.node.instance_id, device, card)
    await asyncio.sleep(2)
    return eni_id


NO_MANAGE = {"node.k8s.amazonaws.com/no_manage": "true"}


def test_without_provisioning_addresses_are_used_and_nothing_is_changed() -> None:
    async def story() -> None:
        rig = Rig(DISABLE_NETWORK_RESOURCE_PROVISIONING="true")
        rig.cloud.assign_private_ip_addresses(rig.node.eni_id, count=4)
        node = await rig.started()
        await node.add(4)
        await asyncio.sleep(120)
        assert rig.mutations() == []
        assert [wait.code for wait in node.engine.waits] == ["paused"]
        rig.cloud.assign_private_ip_addresses(rig.node.eni_id, count=2)
        await asyncio.sleep(70)
        await node.add(2)
        rig.check()

    virtual.run(story())


def test_with_provisioning_the_same_node_grows() -> None:
    async def story() -> None:
        rig = Rig()
        await rig.started()
        assert rig.mutations() == ["AssignPrivateIpAddresses"]

    virtual.run(story())


class Listing:
    """A metadata service that lists what EC2 has."""

    def __init__(self, rig: Rig) -> None:
        self._rig = rig

    def interfaces(self) -> Sequence[MetadataInterface]:
        return [
            MetadataInterface(
                each.mac, each.eni_id, each.attachment.device, each.attachment.card, each.subnet_id,
                self._rig.subnet.v4.network, (each.primary_address, *each.addresses), each.prefixes,  # type: ignore[arg-type]
            )
            for each in self._rig.interfaces()
            if each.attachment
        ]  # fmt: skip


def test_in_imds_only_mode_not_one_call_reaches_ec2() -> None:
    async def story() -> None:
        rig = Rig(ENABLE_IMDS_ONLY_MODE="true")
        rig.cloud.assign_private_ip_addresses(rig.node.eni_id, count=3)
        ec2 = ImdsInventory(Listing(rig), rig.node.instance_id)  # type: ignore[arg-type]
        node = rig.process()
        node.calls.interfaces = node.calls.addresses = node.calls.inventory = ec2
        await node.start()
        await asyncio.sleep(200)
        await node.add(3)
        await asyncio.sleep(200)
        assert rig.calls == []
        assert not node.settings.enable_subnet_discovery
        rig.check()

    virtual.run(story())


def test_a_cordoned_node_neither_grows_nor_frees_enis_but_gives_addresses_back(tmp_path: Path) -> None:
    async def story(environ: dict[str, str], expected: list[str]) -> None:
        cordon = tmp_path / "cordoned"
        cordon.unlink(missing_ok=True)
        rig = Rig(WARM_IP_TARGET="2", VPCCNI_CORDON_FILE=str(cordon), **environ)
        node = await rig.started()
        await node.arrive(12)
        await asyncio.sleep(120)
        assert rig.held() == [9, 5]
        cordon.touch()
        since = rig.clock.now()
        await node.add(2)
        await asyncio.sleep(20)
        grown = rig.held()
        await node.drop(list(rig.wired))
        await asyncio.sleep(200)
        assert [name for name in rig.mutations(since) if name != "UnassignPrivateIpAddresses"] == expected
        assert (grown == [9, 5]) == (len(rig.held()) == 2)
        cordon.unlink()
        node.engine.wake()
        await asyncio.sleep(100)
        assert rig.held() == [2]

    virtual.run(story({}, []))
    free = ["AssignPrivateIpAddresses", "DetachNetworkInterface", "DeleteNetworkInterface"]
    virtual.run(story({"AWS_MANAGE_ENIS_NON_SCHEDULABLE": "true"}, free))


def test_an_unmanaged_eni_keeps_its_slot_and_is_never_touched() -> None:
    async def story(managed: bool, extra: dict[str, str], **environ: str) -> None:
        rig = Rig(WARM_IP_TARGET="20", **environ)
        theirs = await hang(rig, 2, **extra)
        node = await rig.started()
        await asyncio.sleep(60)
        await node.upkeep().round()
        eni = rig.cloud.enis[theirs]
        assert bool(eni.addresses) is managed
        assert (tags.INSTANCE_TAG in eni.tags) is managed
        assert sum(rig.held()) == (20 if managed else 18), "one ENI of three is not ours"

    virtual.run(story(False, NO_MANAGE))
    virtual.run(story(True, {}))
    virtual.run(story(True, {"node.k8s.amazonaws.com/no_manage": "yes"}))
    virtual.run(story(False, {}, MANAGE_UNTAGGED_ENI="false"))


def test_efa_enis_carry_pods_and_stay_and_efa_only_ones_are_left_alone() -> None:
    async def story(kind: str, carries: bool) -> None:
        rig = Rig("c5n.18xlarge", WARM_IP_TARGET="60")
        eni_id = await hang(rig, 1, kind=kind)
        node = await rig.started()
        assert bool(rig.cloud.enis[eni_id].addresses) is carries
        pods = await node.add(55)
        await node.drop([grant.key for grant in pods])
        await node.kill()
        await rig.started(WARM_IP_TARGET="1")
        await asyncio.sleep(200)
        assert eni_id in [each.eni_id for each in rig.interfaces()]
        assert "DetachNetworkInterface" not in rig.mutations() or len(rig.interfaces()) == 2

    virtual.run(story("efa", True))
    virtual.run(story("efa-only", False))


def test_a_slot_is_kept_for_a_trunk_until_it_is_there() -> None:
    async def story(environ: dict[str, str], enis: int) -> None:
        rig = Rig(WARM_IP_TARGET="26", **environ)
        await rig.started()
        assert len(rig.interfaces()) == enis

    virtual.run(story({"ENABLE_POD_ENI": "true"}, 2))
    virtual.run(story({}, 3))
    assert [takes_trunk(limits(name)) for name in ("m8g.12xlarge", "m5.large", "i3.2xlarge", "t3.large")] == [
        True, True, False, False,
    ]  # fmt: skip


def test_every_network_card_gets_an_eni_with_one_spare_address_and_pods_one_address_per_card() -> None:
    async def story() -> None:
        rig = Rig("p4d.24xlarge", WARM_IP_TARGET="3", ENABLE_MULTI_NIC="true")
        node = await rig.started()
        places = [(each.attachment.card, len(each.addresses)) for each in rig.interfaces() if each.attachment]
        assert places == [(0, 3), (1, 1), (2, 1), (3, 1)]
        (grant,) = await node.add(1, cards=(0, 1, 2, 3))
        tables = [(at.card, at.table) for at in grant.addresses]
        assert tables == [(0, 254), (1, 10100), (2, 10200), (3, 10300)]
        await asyncio.sleep(20)
        assert rig.held() == [4, 2, 2, 2]
        rig.check()

    virtual.run(story())


def test_a_card_that_was_given_to_efa_alone_gets_no_eni_for_pods() -> None:
    async def story() -> None:
        rig = Rig("p4d.24xlarge", WARM_IP_TARGET="3", ENABLE_MULTI_NIC="true")
        await hang(rig, 1, card=2, kind="efa-only")
        await rig.started()
        cards = [each.attachment.card for each in rig.interfaces() if each.addresses and each.attachment]
        assert cards == [0, 1, 3]

    virtual.run(story())


def test_prefixes_on_a_further_card_do_not_flap() -> None:
    async def story() -> None:
        rig = Rig("p4d.24xlarge", ENABLE_PREFIX_DELEGATION="true", ENABLE_MULTI_NIC="true")
        await rig.started()
        since = rig.clock.now()
        assert rig.held() == [1, 1, 1, 1]
        await asyncio.sleep(600)
        assert rig.mutations(since) == []

    virtual.run(story())


def test_multi_nic_off_leaves_the_other_cards_alone() -> None:
    size = sizing(parse({}), limits("p4d.24xlarge"))
    assert size.limits.cards == (0,)


def test_tags_of_enis_that_were_there_before_are_completed_once() -> None:
    async def story() -> None:
        rig = Rig(CLUSTER_NAME="blue", ADDITIONAL_ENI_TAGS='{"team": "net"}')
        await hang(rig, 1)
        node = await rig.started()
        upkeep = node.upkeep()
        wanted = {
            "node.k8s.amazonaws.com/instance_id": rig.node.instance_id,
            "cluster.k8s.amazonaws.com/name": "blue",
            "eks:eni:owner": "amazon-vpc-cni",
            "team": "net",
        }
        rig.refuse = refuse_once("CreateTags")
        await upkeep.round()
        await upkeep.round()
        assert all(wanted.items() <= each.tags.items() for each in rig.interfaces())
        calls = rig.mutations().count("CreateTags")
        await upkeep.round()
        await node.runner.reconcile()
        await upkeep.round()
        assert rig.mutations().count("CreateTags") == calls == 3, "one refused, one per ENI"

    virtual.run(story())


def refuse_once(action: str, code: str = "InternalError"):  # type: ignore[no-untyped-def]
    """The first call of an action fails."""
    from vpccni.lab.cloud.errors import ApiError

    left = [action]

    def refuse(called: str) -> None:
        if called in left:
            left.remove(called)
            raise ApiError(code, "as the test wants", status=500)

    return refuse


def test_security_groups_follow_the_primary_eni_where_they_differ_until_it_worked() -> None:
    async def story() -> None:
        rig = Rig(WARM_IP_TARGET="12")
        node = await rig.started()
        assert len(rig.interfaces()) == 2
        new = rig.cloud.create_security_group(rig.vpc.vpc_id, "new").group_id

        async def groups() -> tuple[str, ...]:
            return (new,)

        rig.cloud.enis[rig.node.eni_id].group_ids = (new,)
        await node.runner.reconcile()
        upkeep, since = node.upkeep(groups), rig.clock.now()
        rig.refuse = refuse_once("ModifyNetworkInterfaceAttribute")
        await upkeep.round()
        assert rig.interfaces()[1].security_groups != (new,)
        await upkeep.round()
        assert [each.security_groups for each in rig.interfaces()] == [(new,), (new,)]
        await upkeep.round()
        modified = [name for name in rig.mutations(since) if name.startswith("Modify")]
        assert len(modified) == 2, "the refused one and the one that worked; the primary has them already"

    virtual.run(story())


def test_the_age_of_an_eni_counts_from_its_creation_also_after_a_restart() -> None:
    async def story() -> None:
        rig = Rig(WARM_IP_TARGET="12")
        node = await rig.started()
        made = rig.clock.now()
        await asyncio.sleep(100)
        await node.kill()
        node = await rig.started(WARM_IP_TARGET="1")
        assert len(rig.interfaces()) == 1, "freed at once: it was old enough"
        assert rig.clock.now() - made < 140
        assert node.pool.eni(rig.node.eni_id) is not None

    virtual.run(story())
