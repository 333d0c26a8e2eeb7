# SPDX-License-Identifier: Apache-2.0
"""Faults, calls and subnet maps as the lab daemon answers them, and the way from there to the command line."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

import pytest

from vpccni.errors import InputError
from vpccni.lab import control
from vpccni.lab.cloud.addresses import Wanted
from vpccni.lab.cloud.cloud import Cloud
from vpccni.lab.cloud.faults import NO_FAULTS, render
from vpccni.lab.cloud.interfaces import NewInterface
from vpccni.lab.cloud.profile import load
from vpccni.lab.cloud.topology import NewInstance
from vpccni.lab.cloudcontrol import CloudControl
from vpccni.lab.ec2.app import known_actions
from vpccni.lab.ec2.calls import CallLog
from vpccni.lab.servers import Servers
from vpccni.lab.state import LabState


class World:
    """A cloud with a subnet named `a` and one node, and its control."""

    def __init__(self) -> None:
        self.changes = 0
        self.cloud = Cloud(time.time, random.Random(1), load("calm"))
        vpc = self.cloud.create_vpc([IPv4Network("10.0.0.0/16")])
        self.subnet = self.cloud.create_subnet(vpc.vpc_id, IPv4Network("10.0.0.0/24"), tags={"Name": "a"})
        request = NewInstance("m5.large", self.subnet.subnet_id, IPv4Address("10.0.0.20"))
        self.instance = self.cloud.run_instance(request)
        self.calls = CallLog()
        self.control = CloudControl(
            self.cloud, self.calls, lambda: {self.instance.instance_id: "n1"}, known_actions(), self._changed
        )

    def _changed(self) -> None:
        self.changes += 1

    def call(self, action: str, client: str, code: str = "", ago_s: float = 0.0) -> None:
        self.calls.record(
            at=time.time() - ago_s, action=action, client=client, code=code, status=400 if code else 200, took_s=0.1,
            request_id="r",
        )  # fmt: skip


@pytest.fixture
def world() -> World:
    return World()


# -- faults


def test_faults_are_set_one_by_one_and_cleared_by_name_or_all(world: World) -> None:
    assert world.control.faults()["faults"] == render(NO_FAULTS)
    world.control.set_faults({"set": {"deny": "CreateTags", "throttle": "on"}})
    answer = world.control.set_faults({"set": {"throttle": "0.5"}})
    assert (answer["faults"]["deny"], answer["faults"]["throttle"]) == ("CreateTags", "0.5")
    assert world.cloud.faults.throttle == 0.5 and world.changes == 2
    assert world.control.set_faults({"clear": ["deny"]})["faults"]["throttle"] == "0.5"
    assert world.control.set_faults({"clear": []})["faults"] == render(NO_FAULTS)


def test_a_profile_brings_its_delays_and_faults_and_a_setting_beside_it_wins(world: World) -> None:
    answer = world.control.set_faults({"profile": "bad-day", "set": {"throttle": "off"}})
    assert answer["profile"] == "bad-day" and answer["faults"]["throttle"] == "off"
    assert answer["faults"]["lost-reply"] == "*:0.03" and world.cloud.profile.attach == load("bad-day").attach


@pytest.mark.parametrize(
    ("order", "said"),
    [
        ({"set": {"deny": "AttachNetworkInterfaces"}}, "EC2 has no action AttachNetworkInterfaces"),
        ({"set": {"tenants": "many"}}, "RATE/s"),
        ({"clear": ["rain"]}, "there are throttle, latency"),
        ({"profile": "sunny"}, "bad-day, busy, calm"),
    ],
)
def test_an_order_that_cannot_be_changes_nothing(world: World, order: dict[str, Any], said: str) -> None:
    world.control.set_faults({"set": {"latency": "2"}})
    with pytest.raises(InputError, match=said):
        world.control.set_faults({"set": {"latency": "7"}, **order} if "set" not in order else order)
    assert world.control.faults()["faults"]["latency"] == "2" and world.cloud.profile.name == "calm"


# -- calls


def test_calls_are_told_apart_by_caller_and_time(world: World) -> None:
    world.call("AttachNetworkInterface", "10.0.0.20", ago_s=100)
    world.call("AttachNetworkInterface", "10.0.0.20", "AttachmentLimitExceeded")
    world.call("DescribeVpcs", "127.0.0.1")
    both, describe = world.control.calls({})["totals"]
    assert (both["action"], both["calls"], both["succeeded"]) == ("AttachNetworkInterface", 2, 1)
    assert both["codes"] == {"AttachmentLimitExceeded": 1} and both["mean_s"] == pytest.approx(0.1)
    assert describe["codes"] == {}
    assert [entry["caller"] for entry in world.control.calls({})["calls"]] == ["n1", "n1", "machine"]
    assert [row["calls"] for row in world.control.calls({"node": "n1", "since_s": "50"})["totals"]] == [1]
    assert [entry["action"] for entry in world.control.calls({"node": "machine"})["calls"]] == ["DescribeVpcs"]
    assert [entry["number"] for entry in world.control.calls({"after": "1", "last": "1"})["calls"]] == [3]
    with pytest.raises(InputError, match="accepted are n1, machine"):
        world.control.calls({"node": "n2"})


# -- subnets


def _blocks(world: World) -> dict[str, dict[str, Any]]:
    return {block["cidr"]: block for block in world.control.subnet("a")["blocks"]}


def test_the_map_says_of_every_block_what_it_is_and_who_is_in_it(world: World) -> None:
    cloud, subnet_id = world.cloud, world.subnet.subnet_id
    cloud.create_subnet_cidr_reservation(subnet_id, IPv4Network("10.0.0.64/27"), "prefix")
    wanted = Wanted(prefixes=(IPv4Network("10.0.0.128/28"),))
    held = cloud.create_network_interface(
        NewInterface(subnet_id, primary=IPv4Address("10.0.0.40"), ipv4=wanted, requester="amazon-elb", description="x")
    )
    for address in range(16):
        cloud.create_network_interface(NewInterface(subnet_id, primary=IPv4Address("10.0.0.192") + address))
    drawn = world.control.subnet(subnet_id)
    assert drawn["name"] == "a" and drawn["cidr"] == "10.0.0.0/24" and len(drawn["blocks"]) == 16
    assert drawn["blocks_by_state"] == {
        "prefix": 1, "full": 1, "blocked": 2, "edge": 2, "reserved": 2, "free": 8,
    }  # fmt: skip
    blocks = _blocks(world)
    assert blocks["10.0.0.0/28"]["state"] == blocks["10.0.0.240/28"]["state"] == "edge"
    assert (blocks["10.0.0.0/28"]["free"], blocks["10.0.0.240/28"]["free"]) == (12, 15)
    (node,) = blocks["10.0.0.16/28"]["occupants"]
    assert node == {
        "address": "10.0.0.20", "eni_id": world.instance.primary_eni_id, "role": "primary",
        "holder": "node n1, device 0",
    }  # fmt: skip
    (tenant,) = blocks["10.0.0.32/28"]["occupants"]
    assert (tenant["holder"], blocks["10.0.0.32/28"]["free"]) == ("amazon-elb: x", 15)
    (prefix,) = blocks["10.0.0.128/28"]["occupants"]
    assert (prefix["role"], prefix["eni_id"]) == ("prefix", held.eni_id)
    assert blocks["10.0.0.64/28"]["state"] == "reserved" and blocks["10.0.0.64/28"]["reservation"].startswith("prefix")
    assert len(blocks["10.0.0.192/28"]["occupants"]) == 16 and blocks["10.0.0.192/28"]["free"] == 0


def test_the_free_blocks_of_the_map_are_those_that_can_become_prefixes(world: World) -> None:
    world.cloud.create_network_interface(NewInterface(world.subnet.subnet_id, ipv4=Wanted(count=10)))
    whole = world.control.subnet("a")["blocks_by_state"]["free"]
    assert 0 < whole < 14
    eni = world.cloud.create_network_interface(NewInterface(world.subnet.subnet_id, primary=IPv4Address("10.0.0.5")))
    granted = world.cloud.assign_private_ip_addresses(eni.eni_id, prefix_count=whole)
    assert len(granted.prefixes) == whole
    after = world.control.subnet("a")["blocks_by_state"]
    assert after["free"] == 0 and after["prefix"] == whole


def test_an_unknown_subnet_is_refused_with_the_list(world: World) -> None:
    with pytest.raises(InputError, match=rf"a \({world.subnet.subnet_id}\)"):
        world.control.subnet("b")


# -- the way to the command line


@pytest.fixture
def state(world: World, tmp_path: Path) -> Iterator[LabState]:
    """The control API on a socket, in a thread of its own."""
    made = LabState(tmp_path, "none")
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    application = control.make_control(dict, Servers(), world.control)
    runner = asyncio.run_coroutine_threadsafe(control.listen(application, made.control_socket), loop).result(10)
    yield made
    asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(10)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(10)
    loop.close()


def test_orders_and_questions_travel_over_the_socket_and_bad_input_stays_bad_input(
    state: LabState, world: World
) -> None:
    assert control.ask(state, "PUT", "/faults", {"set": {"deny": "CreateTags"}})["faults"]["deny"] == "CreateTags"
    assert control.ask(state, "GET", "/faults")["profile"] == "calm"
    world.call("DescribeVpcs", "127.0.0.1")
    assert control.ask(state, "GET", "/calls?node=machine&last=5")["calls"][0]["action"] == "DescribeVpcs"
    assert control.ask(state, "GET", "/subnets/a")["subnet_id"] == world.subnet.subnet_id
    for method, path, body in (
        ("PUT", "/faults", {"set": {"deny": "Fly"}}),
        ("GET", "/calls?node=n2", None),
        ("GET", "/subnets/b", None),
    ):
        with pytest.raises(InputError) as caught:
            control.ask(state, method, path, body)
        assert caught.value.why and caught.value.message.startswith("cannot ")
