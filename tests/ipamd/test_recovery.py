# SPDX-License-Identifier: Apache-2.0
"""After a restart the kernel is right: no live pod is forgotten, no dead one keeps its address."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, ip_address

from vpccni.core import conventions
from vpccni.core.grant import Grant, GrantedAddress, PodIdentity, PodKey
from vpccni.core.podnet import PodAddress
from vpccni.core.podseen import ObservedPod
from vpccni.ipamd import records
from vpccni.ipamd.checkpoint import Allocation, Metadata
from vpccni.ipamd.records import Intent, JournalState
from vpccni.ipamd.recovery import UNKNOWN, allocation_of, recover
from vpccni.netlink.values import Link

NOW = 1000.0


def grant(name: str = "web-0", address: str = "10.0.0.5", container: str = "abc") -> Grant:
    place = GrantedAddress(ip_address(address), "eni-1", 0, 1, 2)
    return Grant(PodKey("aws-cni", container, "eth0"), PodIdentity("default", name), (place,), 900.0)


def wired(of: Grant, *, alias: bool = True) -> ObservedPod:
    key, pod = of.key, of.pod
    text = conventions.PodAlias(key.network, key.container_id, key.ifname, pod.namespace, pod.name)
    link = Link(conventions.host_link_name("eni", pod.namespace, pod.name), index=7, kind="veth")
    places = tuple(PodAddress(at.address, at.table, at.device) for at in of.addresses)
    return ObservedPod(link, text if alias else None, places)


def journal(*grants: Grant) -> JournalState:
    return records.replay([records.granted(each) for each in grants])


def entry(of: Grant) -> Allocation:
    return allocation_of(of)[0]


def test_a_journalled_grant_that_is_wired_is_kept_as_it_was() -> None:
    found = recover(journal(grant()), [], [wired(grant())], NOW)
    assert found.grants == [grant()]
    assert found.released == {}
    assert found.notes == []


def test_a_grant_without_wiring_is_released_into_the_cooldown() -> None:
    found = recover(journal(grant()), [], [], NOW)
    assert found.grants == []
    assert found.released == {IPv4Address("10.0.0.5"): NOW}
    assert "not wired" in found.notes[0]


def test_a_lost_journal_is_rebuilt_from_the_aliases_of_the_links() -> None:
    found = recover(JournalState(), [], [wired(grant()), wired(grant("web-1", "10.0.0.6", "def"))], NOW)
    assert [each.key for each in found.grants] == [PodKey("aws-cni", "abc", "eth0"), PodKey("aws-cni", "def", "eth0")]
    assert [each.addresses[0].table for each in found.grants] == [2, 2]
    assert {str(each.pod) for each in found.grants} == {"default/web-0", "default/web-1"}


def test_pods_of_the_go_daemon_are_taken_over_from_its_file() -> None:
    found = recover(JournalState(), [entry(grant())], [wired(grant(), alias=False)], NOW)
    assert [each.key for each in found.grants] == [PodKey("aws-cni", "abc", "eth0")]
    assert found.grants[0].assigned_at == 900.0


def test_a_pod_of_the_go_daemon_with_several_interfaces_keeps_all_its_addresses() -> None:
    one = grant()
    both = replace(one, addresses=(*one.addresses, GrantedAddress(IPv4Address("10.0.1.5"), "", 1, 1, 10101)))
    at = PodAddress(IPv4Address("10.0.1.5"), 10101, 1, 1)
    second = Link(conventions.host_link_name("eni", one.pod.namespace, one.pod.name, 1), index=8, kind="veth")
    kernel = [wired(one, alias=False), ObservedPod(second, None, (at,))]
    found = recover(JournalState(), allocation_of(both), kernel, NOW)
    assert [each.key for each in found.grants] == [one.key]
    assert {each.address for each in found.grants[0].addresses} == {each.address for each in both.addresses}
    other = replace(kernel[1], link=replace(second, name="eni00000000000"))
    assert "released" in recover(JournalState(), allocation_of(both), [kernel[0], other], NOW).notes[0]


def test_an_entry_of_the_go_daemon_whose_pod_is_gone_is_dropped() -> None:
    found = recover(JournalState(), [entry(grant())], [wired(grant("other"), alias=False)], NOW)
    keys = [each.key for each in found.grants]
    assert PodKey("aws-cni", "abc", "eth0") not in keys
    assert keys[0].network == UNKNOWN  # the other pod's address stays reserved


def test_the_newer_owner_of_an_address_wins_over_a_stale_entry() -> None:
    old, new = grant("web-0", container="old"), grant("web-0", container="new")
    found = recover(journal(old, new), [], [wired(new)], NOW)
    assert [each.key.container_id for each in found.grants] == ["new"]
    assert found.released == {}


def test_a_wired_pod_nobody_remembers_keeps_its_address_reserved() -> None:
    found = recover(JournalState(), [], [wired(grant(), alias=False)], NOW)
    assert found.grants[0].key == PodKey(UNKNOWN, wired(grant()).link.name, UNKNOWN)
    assert found.grants[0].addresses[0].address == IPv4Address("10.0.0.5")
    assert allocation_of(found.grants[0]) == []  # not the Go daemon's business


def test_an_entry_without_a_pod_name_is_kept_while_something_is_wired_to_its_address() -> None:
    nameless = Allocation("aws-cni", "abc", "eth0", ipv4="10.0.0.5", allocationTimestamp=5, metadata=Metadata())
    found = recover(JournalState(), [nameless], [wired(grant(), alias=False)], NOW)
    assert found.grants[0].key.container_id == "abc"


def test_journal_records_replay_to_the_state_they_were_made_from() -> None:
    intent = Intent("token-1", "attach", 5.0, "eni-9", "subnet-1", "pool empty")
    lines = [records.granted(grant()), records.granted(grant("web-1", "10.0.0.6", "def")), records.intended(intent)]
    lines += [records.released(grant("web-1", "10.0.0.6", "def"), 50.0)]
    state = records.replay(lines)
    assert list(state.grants.values()) == [grant()]
    assert state.released == {IPv4Address("10.0.0.6"): 50.0}
    assert state.intents == {"token-1": intent}
    assert records.replay(records.snapshot(state)) == state
    assert records.replay([*lines, records.finished("token-1")]).intents == {}
