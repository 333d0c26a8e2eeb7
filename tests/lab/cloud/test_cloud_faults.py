# SPDX-License-Identifier: Apache-2.0
"""Faults as words, as a gate before calls, and as answers that are behind the truth."""

from __future__ import annotations

import random
from collections import Counter
from ipaddress import IPv4Network

import pytest

from vpccni.errors import CloudError
from vpccni.lab.cloud.addresses import Wanted
from vpccni.lab.cloud.cloud import Cloud
from vpccni.lab.cloud.direct import DirectEc2
from vpccni.lab.cloud.errors import ApiError
from vpccni.lab.cloud.faults import NO_FAULTS, SETTINGS, Faults, Lag, Tenancy, actions_of, change, render
from vpccni.lab.cloud.gate import Gate, Lost, is_filtered
from vpccni.lab.cloud.interfaces import NewInterface
from vpccni.lab.cloud.invariants import violations
from vpccni.lab.cloud.profile import INSTANT, load, names
from vpccni.lab.cloud.resources import Subnet

EXAMPLES = {
    "throttle": "0.2",
    "latency": "3",
    "deny": "AttachNetworkInterface,CreateTags",
    "error": "AttachNetworkInterface:InternalError:0.25,*:Unavailable:#3,CreateTags:Unavailable:2x",
    "lost-request": "*:0.02",
    "lost-reply": "CreateNetworkInterface:0.1,*:0.5",
    "new-id": "0.2:2",
    "stale": "1:0.5",
    "tenants": "5/s:60%",
}


class World:
    """A cloud, its clock, one subnet."""

    def __init__(self, faults: Faults = NO_FAULTS, cidr: str = "10.0.0.0/24", seed: int = 3) -> None:
        self.time = 0.0
        self.cloud = Cloud(lambda: self.time, random.Random(seed), INSTANT)
        vpc = self.cloud.create_vpc([IPv4Network("10.0.0.0/16")])
        self.subnet: Subnet = self.cloud.create_subnet(vpc.vpc_id, IPv4Network(cidr))
        self.cloud.set_faults(faults)

    def create(self, **ipv4: int) -> str:
        return self.cloud.create_network_interface(NewInterface(self.subnet.subnet_id, ipv4=Wanted(**ipv4))).eni_id


def codes(gate: Gate, action: str, calls: int, now: float = 0.0) -> list[str]:
    found = []
    for _ in range(calls):
        try:
            gate.before(action, now)
            gate.after(action)
            found.append("")
        except ApiError as error:
            found.append(error.code)
        except Lost as lost:
            found.append("after" if lost.effect else "before")
    return found


# -- words


def test_every_fault_reads_back_what_it_prints() -> None:
    assert set(EXAMPLES) == set(SETTINGS)
    faults = change(NO_FAULTS, EXAMPLES)
    assert render(faults) == EXAMPLES
    assert change(NO_FAULTS, render(faults)) == faults
    assert change(faults, dict.fromkeys(SETTINGS, "off")) == NO_FAULTS
    assert render(NO_FAULTS) == {name: "1" if name == "latency" else "off" for name in SETTINGS}
    assert actions_of(faults) == {"AttachNetworkInterface", "CreateNetworkInterface", "CreateTags"}


def test_one_setting_replaces_only_itself() -> None:
    faults = change(change(NO_FAULTS, EXAMPLES), {"deny": "DeleteTags", "throttle": "on"})
    assert render(faults) == EXAMPLES | {"deny": "DeleteTags", "throttle": "on"}


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("throtle", "on", "throttle, latency, deny"),
        ("throttle", "yes", "on, or a factor"),
        ("throttle", "0", "0.01 to 100"),
        ("latency", "-1", "0 to 100"),
        ("latency", "nan", "0 to 100"),
        ("deny", "attach please", "ACTION,..."),
        ("deny", "", "ACTION"),
        ("error", "AttachNetworkInterface", "ACTION:CODE:WHEN"),
        ("error", "AttachNetworkInterface:InternalError:#0", "the number of a call"),
        ("error", "AttachNetworkInterface:InternalError:1.5", "a probability is 0 to 1"),
        ("lost-reply", "CreateTags:2", "a probability is 0 to 1"),
        ("new-id", "0.1", "PROBABILITY:SECONDS"),
        ("stale", "0.1:-3", "the lag is 0 to 3600"),
        ("tenants", "5", "RATE/s"),
        ("tenants", "5/s:60", "SHARE%"),
        ("tenants", "5/s:160%", "a share is 0 to 100"),
    ],
)
def test_a_wrong_word_is_refused_with_what_is_accepted(name: str, text: str, said: str) -> None:
    with pytest.raises(ValueError, match=name) as refused:
        change(NO_FAULTS, {name: text})
    assert said in str(refused.value)


def test_all_wrong_words_are_named_at_once() -> None:
    with pytest.raises(ValueError, match=r"stale=no.*latency=slow"):
        change(NO_FAULTS, {"stale": "no", "latency": "slow", "deny": "CreateTags"})


def test_the_profiles_get_worse_from_calm_to_bad_day() -> None:
    assert names() == ["bad-day", "busy", "calm"]
    calm, busy, bad = (load(name) for name in ("calm", "busy", "bad-day"))
    assert calm.faults == NO_FAULTS
    assert busy.faults.throttle == 1.0 and not busy.faults.lost_reply
    assert bad.faults.throttle is not None and bad.faults.throttle < 1 and bad.faults.lost_reply and bad.faults.error
    for name in ("create", "attach", "link", "detach", "metadata_change"):
        assert getattr(calm, name).mean_s < getattr(busy, name).mean_s < getattr(bad, name).mean_s


# -- the gate


def test_a_scaled_bucket_refuses_and_refills() -> None:
    gate = Gate(random.Random(1), Faults(throttle=0.1))
    assert codes(gate, "AttachNetworkInterface", 7) == [""] * 5 + ["RequestLimitExceeded"] * 2
    assert codes(gate, "AttachNetworkInterface", 2, now=2.0) == ["", "RequestLimitExceeded"]
    assert codes(gate, "DescribeSubnets", 3) == [""] * 3
    assert set(codes(Gate(random.Random(1)), "AttachNetworkInterface", 500)) == {""}


def test_a_script_fails_the_nth_call_or_the_first_ones_of_its_action_only() -> None:
    gate = Gate(random.Random(1), change(NO_FAULTS, {"error": "CreateTags:Unavailable:#3,DeleteTags:InternalError:2x"}))
    assert codes(gate, "CreateTags", 5) == ["", "", "Unavailable", "", ""]
    assert codes(gate, "DeleteTags", 4) == ["InternalError", "InternalError", "", ""]
    assert codes(gate, "DescribeTags", 4) == [""] * 4
    with pytest.raises(ApiError) as caught:
        Gate(random.Random(1), change(NO_FAULTS, {"error": "*:Unavailable"})).before("CreateTags", 0.0)
    assert caught.value.status == 503


def test_a_denied_action_answers_403_and_others_pass() -> None:
    gate = Gate(random.Random(1), Faults(deny=("CreateTags",)))
    with pytest.raises(ApiError) as caught:
        gate.before("CreateTags", 0.0)
    assert (caught.value.code, caught.value.status) == ("UnauthorizedOperation", 403)
    assert codes(gate, "DeleteTags", 1) == [""]


def test_probabilities_are_met_and_the_actions_own_wins() -> None:
    gate = Gate(
        random.Random(5), change(NO_FAULTS, {"lost-reply": "*:0.5,CreateTags:0", "lost-request": "DeleteTags:1"})
    )
    found = Counter(codes(gate, "DescribeTags", 2000))
    assert 900 < found["after"] < 1100 and found["after"] + found[""] == 2000
    assert set(codes(gate, "CreateTags", 200)) == {""}
    assert set(codes(gate, "DeleteTags", 20)) == {"before"}


def test_a_describe_without_any_restriction_is_not_filtered() -> None:
    assert not is_filtered({}) and not is_filtered({"DryRun": True})
    assert is_filtered({"Filters": []}) and is_filtered({"MaxResults": 5}) and is_filtered({"NetworkInterfaceIds": []})


def test_the_direct_adapter_loses_replies_after_the_effect_and_requests_before_it() -> None:
    world = World(change(NO_FAULTS, {"lost-reply": "CreateNetworkInterface:1"}))
    ec2 = DirectEc2(world.cloud)
    with pytest.raises(CloudError) as caught:
        ec2.create(world.subnet.subnet_id, [], description="", tags={}, client_token="once")
    assert caught.value.error_code == "ec2-unreachable" and len(world.cloud.enis) == 1
    world.cloud.set_faults(NO_FAULTS)
    assert (
        ec2.create(world.subnet.subnet_id, [], description="", tags={}, client_token="once").eni_id in world.cloud.enis
    )
    assert len(world.cloud.enis) == 1
    world.cloud.set_faults(change(NO_FAULTS, {"lost-request": "CreateNetworkInterface:1"}))
    with pytest.raises(CloudError):
        ec2.create(world.subnet.subnet_id, [], description="", tags={})
    assert len(world.cloud.enis) == 1


# -- answers behind the truth


def test_a_new_id_is_unknown_for_a_while_and_then_known_for_good() -> None:
    world = World(Faults(new_id=Lag(1.0, 2.0)))
    eni_id = world.create()
    ec2 = DirectEc2(world.cloud)
    with pytest.raises(ApiError, match=r"InvalidNetworkInterfaceID\.NotFound"):
        world.cloud.attach_network_interface(eni_id, "i-0123456789abcdef0", 1)
    assert ec2.interfaces([eni_id]) == () and eni_id not in world.cloud.listed_enis()
    assert violations(world.cloud) == []
    world.time += 60
    assert [found.eni_id for found in ec2.interfaces([eni_id])] == [eni_id]
    assert eni_id in world.cloud.listed_enis()


def test_a_repeated_create_finds_the_interface_that_describes_do_not_see_yet() -> None:
    world = World(Faults(new_id=Lag(1.0, 2.0)))
    request = NewInterface(world.subnet.subnet_id)
    first = world.cloud.create_network_interface(request, "once")
    assert world.cloud.create_network_interface(request, "once") is first


def test_a_describe_after_a_change_may_show_the_old_addresses_while_the_books_are_right() -> None:
    world = World()
    eni_id, ec2 = world.create(count=2), DirectEc2(world.cloud)
    (before,) = ec2.interfaces([eni_id])
    world.cloud.set_faults(Faults(stale=Lag(1.0, 2.0)))
    (new,) = ec2.assign(eni_id, address_count=1)
    assert ec2.interfaces([eni_id]) == (before,), "stale"
    ec2.unassign(eni_id, [before.addresses[0]])
    assert ec2.interfaces([eni_id]) == (before,), "still that of before the first change"
    assert violations(world.cloud) == []
    world.time += 60
    (now,) = ec2.interfaces([eni_id])
    assert set(now.addresses) == {before.addresses[1], new.network_address}


def test_without_the_fault_every_describe_is_up_to_date() -> None:
    world = World()
    eni_id, ec2 = world.create(count=2), DirectEc2(world.cloud)
    (new,) = ec2.assign(eni_id, address_count=1)
    assert new.network_address in ec2.interfaces([eni_id])[0].addresses
    assert world.cloud.listed_enis()[eni_id] is world.cloud.enis[eni_id]


def test_switching_a_fault_on_changes_no_id_and_no_address() -> None:
    calm, hurt = World(), World(Faults(stale=Lag(1.0, 5.0), lost_reply=(("*", 0.5),)))
    for world in (calm, hurt):
        for _ in range(5):
            world.create(count=3)
    networks = [[(eni.eni_id, eni.networks) for eni in world.cloud.enis.values()] for world in (calm, hurt)]
    assert networks[0] == networks[1]


# -- other tenants


def test_tenants_fill_and_fragment_a_subnet_up_to_their_share() -> None:
    world = World(Faults(tenants=Tenancy(5.0, 0.3)))
    peak = 0
    for _ in range(600):
        world.time += 1
        world.cloud.settle()
        peak = max(peak, 251 - world.subnet.v4.free_count)
    assert violations(world.cloud) == []
    assert 0.2 * 256 < peak <= 0.3 * 256 + 10
    assert {eni.requester for eni in world.cloud.enis.values()} >= {"amazon-elb", "aws-lambda", "amazon-rds"}
    with pytest.raises(ApiError, match="InsufficientCidrBlocks"):
        world.create(prefix_count=8)  # 128 of more than 170 free addresses, but not one in four blocks is whole


def test_tenants_come_at_the_rate_that_was_asked_for_and_stay_when_it_is_stopped() -> None:
    world = World(Faults(tenants=Tenancy(2.0, 1.0)), "10.0.0.0/20")
    world.time = 500.0
    world.cloud.settle()
    assert 900 < world.cloud._serial < 3500 and len(world.cloud.enis) > 100
    world.cloud.set_faults(Faults(stale=Lag(0.0, 1.0), tenants=Tenancy(0.0, 1.0)))
    held = len(world.cloud.enis)
    world.time += 100
    world.cloud.settle()
    assert len(world.cloud.enis) == held and world.cloud.next_event_at() is not None  # events wait to be fetched
    world.cloud.advance(world.time)
    assert world.cloud.next_event_at() is None


def test_tenants_leave_when_all_faults_are_cleared_and_take_nothing_of_others_with_them() -> None:
    world = World(Faults(tenants=Tenancy(5.0, 0.5)))
    world.time = 30.0
    mine = world.create(count=3)
    assert len(world.cloud.enis) > 10
    world.cloud.set_faults(NO_FAULTS)
    assert list(world.cloud.enis) == [mine] and violations(world.cloud) == []
    assert world.subnet.v4.free_count == 251 - 4
