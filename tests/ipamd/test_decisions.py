# SPDX-License-Identifier: Apache-2.0
"""The journal of decisions: causes are linked, repetitions counted, memory bounded."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpccni.core.block import BlockKind
from vpccni.core.steps import AssignBlocks, AttachEni, Wait
from vpccni.errors import CloudError, DaemonNotReady, HostError, InputError, NoAddress
from vpccni.ipamd.decisions import Decision, Decisions

ASSIGN = AssignBlocks("eni-1", 3, BlockKind.ADDRESS, "0 of 9 addresses available")
ATTACH = AttachEni(0, 9, BlockKind.ADDRESS, "no more room")
FULL = CloudError(
    "call ec2:AssignPrivateIpAddresses", "InsufficientFreeAddressesInSubnet: as EC2 words it",
    code="subnet-empty", aws_code="InsufficientFreeAddressesInSubnet", hint="free addresses",
    evidence={"subnet": "s-1"},
)  # fmt: skip
THROTTLED = CloudError("call ec2:X", "RequestLimitExceeded", code="ec2-throttled", aws_code="RequestLimitExceeded")


class Clock:
    def __init__(self) -> None:
        self.at = 1000.0

    def __call__(self) -> float:
        self.at += 0.001
        return self.at


def made(capacity: int = 2000) -> Decisions:
    return Decisions(Clock(), capacity)


def refusal(code: str = "all-assigned") -> NoAddress:
    return NoAddress("assign an address to default/a", "all are in use", code=code, hint="wait", evidence={"total": 9})


def chain(decisions: Decisions, pod: str = "default/a") -> list[Decision]:
    head = [each for each in decisions.newest() if each.pod == pod][-1]
    return [head, *decisions.causes(head)]


def kinds(found: list[Decision]) -> list[tuple[str, str]]:
    return [(each.kind, each.code) for each in found]


def fill_the_subnet(decisions: Decisions) -> None:
    with decisions.step(ASSIGN):
        decisions.ec2_failed(FULL)
    decisions.waiting([Wait("subnet-hold", 1010.0, "s-1 had no room")])


def test_a_refusal_leads_to_the_wait_to_ec2_and_to_the_step() -> None:
    decisions = made()
    fill_the_subnet(decisions)
    decisions.refused(refusal("subnet-empty"), "default/a", "c1")
    found = chain(decisions)
    assert kinds(found) == [
        ("refusal", "subnet-empty"), ("wait", "subnet-hold"), ("ec2", "subnet-empty"), ("step", "AssignBlocks"),
    ]  # fmt: skip
    assert "as EC2 words it" in found[2].what and found[2].evidence["aws_code"] == "InsufficientFreeAddressesInSubnet"
    assert found[0].evidence == {"total": "9"} and found[2].hint == "free addresses"
    assert found[3].outcome == "EC2 could not give what was asked for" and found[3].ended_at is not None


def test_without_an_obstacle_the_running_step_is_the_cause() -> None:
    decisions = made()
    with decisions.step(ATTACH):
        decisions.refused(refusal(), "default/a")
        assert kinds(chain(decisions)) == [("refusal", "all-assigned"), ("step", "AttachEni")]
        decisions.ec2_failed(THROTTLED)  # the call is made again while the step runs
        decisions.refused(refusal(), "default/a")
        assert kinds(chain(decisions))[1] == ("ec2", "ec2-throttled")
    assert chain(decisions)[-1].outcome == "done"


def test_a_refusal_that_has_its_own_reason_has_no_cause() -> None:
    decisions = made()
    fill_the_subnet(decisions)
    decisions.refused(refusal("all-cooling"), "default/a")
    decisions.refused(HostError("wire the pod", "no", code="namespace-missing"), "default/b")
    assert len(chain(decisions)) == len(chain(decisions, "default/b")) == 1


def test_each_wait_has_the_failure_of_its_own_kind_of_step() -> None:
    decisions = made()
    with decisions.step(ASSIGN):
        decisions.ec2_failed(FULL)
    with pytest.raises(CloudError), decisions.step(ATTACH):
        raise THROTTLED
    decisions.waiting(
        [Wait("subnet-hold", None, "s-1"), Wait("attach-blocked", None, "none"), Wait("eni-limit", None, "")]
    )
    waits = {each.code: each for each in decisions.newest() if each.kind == "wait"}
    assert kinds(decisions.causes(waits["subnet-hold"])) == [("ec2", "subnet-empty"), ("step", "AssignBlocks")]
    assert kinds(decisions.causes(waits["attach-blocked"])) == [("failure", "ec2-throttled"), ("step", "AttachEni")]
    assert decisions.causes(waits["eni-limit"]) == []


def test_a_step_that_succeeds_ends_what_its_kind_failed_of() -> None:
    decisions = made()
    with pytest.raises(CloudError), decisions.step(ATTACH):
        raise THROTTLED
    with decisions.step(ATTACH):
        pass
    decisions.waiting([Wait("attach-blocked", None, "of another reason")])
    (wait,) = [each for each in decisions.newest() if each.kind == "wait"]
    assert wait.because == 0


def test_refusals_of_ec2_outside_of_steps_keep_no_pod_waiting() -> None:
    decisions = made()
    decisions.ec2_failed(THROTTLED)
    decisions.waiting([Wait("throttled", None, "")])
    (wait,) = [each for each in decisions.newest() if each.kind == "wait"]
    assert wait.because == 0


def test_steps_that_run_at_once_keep_their_own_refusals() -> None:
    decisions = made()

    async def step(which: AssignBlocks | AttachEni, error: CloudError) -> None:
        with decisions.step(which):
            await asyncio.sleep(0)
            decisions.ec2_failed(error)

    async def both() -> None:
        await asyncio.gather(step(ASSIGN, FULL), step(ATTACH, THROTTLED))

    asyncio.run(both())
    ec2 = {each.code: decisions.causes(each)[0].code for each in decisions.newest() if each.kind == "ec2"}
    assert ec2 == {"subnet-empty": "AssignBlocks", "ec2-throttled": "AttachEni"}


def test_a_repeated_refusal_is_counted_and_ends_when_the_pod_is_served() -> None:
    decisions = made()
    for number in range(50):
        decisions.refused(refusal(), "default/a", f"c{number}")
    (entry,) = decisions.newest()
    assert entry.times == 50 and entry.container == "c49" and entry.last_at > entry.at and entry.ended_at is None
    decisions.served("default/a")
    assert entry.ended_at is not None and entry.outcome == "the pod got an address"
    decisions.served("default/a")
    decisions.refused(refusal(), "default/a")
    assert [each.times for each in decisions.newest()] == [50, 1]


def test_a_wait_is_over_when_the_plan_no_longer_names_it() -> None:
    decisions = made()
    decisions.waiting([Wait("eni-limit", None, "full")])
    decisions.waiting([Wait("eni-limit", None, "still full")])
    (entry,) = decisions.newest()
    assert entry.what == "still full" and entry.ended_at is None
    decisions.waiting([])
    assert entry.ended_at is not None


def test_a_start_that_is_held_up_explains_the_refusals_meanwhile() -> None:
    decisions = made()
    decisions.held_up(
        "the metadata service", CloudError("ask IMDS", "timeout", code="imds-unreachable", hint="hop limit")
    )
    decisions.held_up(
        "the metadata service", CloudError("ask IMDS", "timeout", code="imds-unreachable", hint="hop limit")
    )
    decisions.refused(DaemonNotReady("serve the request", "it is starting", code="daemon-starting"), "default/a")
    found = chain(decisions)
    assert kinds(found) == [("refusal", "daemon-starting"), ("start", "imds-unreachable")]
    assert found[1].times == 2 and "the metadata service" in found[1].what


def test_the_oldest_are_forgotten_and_the_causes_of_the_fresh_are_kept() -> None:
    decisions = made(capacity=20)
    fill_the_subnet(decisions)
    for number in range(200):
        decisions.corrected(f"Correction{number}")
        decisions.refused(refusal("subnet-empty"), "default/a")
    assert len(decisions.newest()) == 20
    assert kinds(chain(decisions))[1:] == [("wait", "subnet-hold"), ("ec2", "subnet-empty"), ("step", "AssignBlocks")]
    assert decisions.document({})["dropped"] == 184


def test_pods_that_are_forgotten_leave_no_trace() -> None:
    decisions = made(capacity=10)
    for number in range(100):
        decisions.refused(refusal(), f"default/p{number}")
    assert len(decisions._refused) == 10
    decisions.served("default/p0")  # long forgotten
    assert all(each.ended_at is None for each in decisions.newest())


def test_entries_are_asked_for_by_pod_time_and_number() -> None:
    decisions = made()
    fill_the_subnet(decisions)
    decisions.refused(refusal("subnet-empty"), "default/a")
    middle = decisions._now()
    decisions.refused(refusal("subnet-empty"), "default/b")
    assert {each.pod for each in decisions.newest(pod="default/a")} == {"", "default/a"}
    assert [each.pod for each in decisions.newest(since=middle)] == ["default/b"]
    assert [each.pod for each in decisions.newest(limit=1)] == ["default/b"]
    assert decisions.newest(limit=0) == [] and decisions.newest(pod="default/zzz") == []
    for query in ({"since": "x"}, {"limit": "many"}):
        with pytest.raises(InputError):
            decisions.document(query)


def test_long_texts_are_cut() -> None:
    decisions = made()
    decisions.refused(NoAddress("x", "y" * 5000, evidence={"z": "w" * 5000}), "default/a")
    (entry,) = decisions.newest()
    assert len(entry.what) == len(entry.evidence["z"]) == 1000


EVENTS = st.one_of(
    st.tuples(st.just("refuse"), st.integers(0, 5)),
    st.tuples(st.just("serve"), st.integers(0, 5)),
    st.tuples(st.just("wait"), st.sets(st.sampled_from(["subnet-hold", "attach-blocked", "eni-limit", "throttled"]))),
    st.tuples(st.just("fail"), st.sampled_from([FULL, THROTTLED])),
    st.tuples(st.just("work"), st.just(0)),
)


@given(st.lists(EVENTS, max_size=60), st.integers(1, 12))
def test_whatever_happens_the_ring_is_bounded_and_chains_end(events: list[tuple[str, object]], capacity: int) -> None:
    decisions = made(capacity)
    for kind, value in events:
        match kind:
            case "refuse":
                decisions.refused(refusal("subnet-empty"), f"default/p{value}")
            case "serve":
                decisions.served(f"default/p{value}")
            case "wait":
                assert isinstance(value, set)
                decisions.waiting([Wait(code, None, code) for code in sorted(value)])
            case "fail":
                assert isinstance(value, CloudError)
                with pytest.raises(CloudError), decisions.step(ASSIGN):
                    decisions.ec2_failed(value)
                    raise value
            case _:
                with decisions.step(ATTACH):
                    pass
        entries = decisions.newest()
        assert len(entries) <= capacity
        for each in entries:
            causes = decisions.causes(each)
            assert len({cause.seq for cause in causes}) == len(causes) and each.seq not in {c.seq for c in causes}
