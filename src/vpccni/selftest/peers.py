# SPDX-License-Identifier: Apache-2.0
"""Who there is to talk to beyond the node: the other nodes and hosts of a lab, or what the caller names.

Knows the lab's inventory. Must never open a socket. The result is the cast of `expect`, without the node's own pods.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from typing import Any

from vpccni.errors import InputError
from vpccni.lab import control
from vpccni.lab.nodes import node_names
from vpccni.lab.state import LabState
from vpccni.netlink.namespace import NETNS_DIR
from vpccni.netlink.values import IPAddress
from vpccni.selftest.expect import Actor, Cast
from vpccni.selftest.matrix import Party
from vpccni.selftest.node import Facts, Node, of_lab
from vpccni.selftest.pods import TestPod

METADATA = Actor(Party.METADATA, ip_address("169.254.169.254"), port=80)
NEEDED_PODS = ((Party.POD, Party.OTHER_POD), (Party.ENI_POD, Party.OTHER_ENI_POD))


@dataclass(frozen=True, slots=True)
class Peers:
    """Everybody but the node and its pods. `far`: a node to make the pod on another node on."""

    actors: tuple[Actor, ...] = ()
    absent: Mapping[Party, str] = field(default_factory=dict)
    public: Mapping[str, str] | None = None
    far: Node | None = None


def of_lab_node(state: LabState, name: str) -> Peers:
    """The lab's hosts and one other node."""
    inventory = control.ask(state, "GET", "/status")
    rows = {row["name"]: row for row in inventory["nodes"]}
    others = [other for other in node_names(state) if other != name]
    actors = [METADATA]
    for host in inventory["hosts"]:
        party = Party.INTERNET if host["via"] == "internet" else Party.SITE
        for address in _addresses(host):
            actors.append(Actor(party, address, NETNS_DIR / host["namespace"]))
    for other in others[:1]:
        netns = NETNS_DIR / state.node_namespace(other)
        for address in _addresses(rows[other]):
            actors.append(Actor(Party.VPC_HOST, address, netns))
    absent = {} if others else dict.fromkeys((Party.VPC_HOST, Party.FAR_POD), "the lab has one node")
    public = {row["private_address"]: row["public_address"] for row in rows.values() if row["public_address"]}
    return Peers(tuple(actors), absent, public, of_lab(state, others[0]) if others else None)


def named(targets: Mapping[Party, str]) -> Peers:
    """What the caller named as ADDRESS:PORT for a real node; InputError when it is none."""
    actors = [METADATA]
    absent = {}
    for party in (Party.FAR_POD, Party.VPC_HOST, Party.SITE, Party.INTERNET):
        text = targets.get(party, "")
        if not text:
            absent[party] = f"no address given (--{option(party)})"
            continue
        host, _, port = text.rpartition(":")
        try:
            actors.append(Actor(party, ip_address(host.strip("[]")), port=int(port)))
        except ValueError:
            raise InputError(f"use {text!r}", f"--{option(party)} takes ADDRESS:PORT") from None
    return Peers(tuple(actors), absent)


def option(party: Party) -> str:
    """The option of the command line that names this party on a real node."""
    return party.name.lower().replace("_", "-")


def cast(
    node: Node, facts: Facts, pods: Sequence[TestPod], far: TestPod | None, peers: Peers, version: int
) -> Cast | None:
    """Everybody of one address family; None when the node has no address of it."""
    own = _first(facts.primary.addresses, version)
    if own is None:
        return None
    actors: dict[Party, Actor] = {}
    absent = dict(peers.absent)
    for parties, secondary in zip(NEEDED_PODS, (False, True), strict=True):
        alike = [pod for pod in pods if (pod.device != 0) is secondary and pod.address(version) is not None]
        for party, pod in zip(parties, alike, strict=False):
            actors[party] = _pod(party, pod, facts, version)
        kind = "a secondary ENI" if secondary else "the primary ENI"
        absent.update(dict.fromkeys(parties[len(alike) :], f"no test pod got an address of {kind}"))
    if far is not None and (address := far.address(version)) is not None:
        actors[Party.FAR_POD] = Actor(Party.FAR_POD, address, far.netns)
    actors[Party.NODE] = Actor(Party.NODE, own, node.netns)
    second = [eni for eni in facts.enis.values() if eni.device and _first(eni.addresses, version)]
    for eni in second[:1]:
        address = _first(eni.addresses, version)
        assert address is not None  # it was chosen by that
        actors[Party.NODE_ENI] = Actor(Party.NODE_ENI, address, node.netns)
    for actor in peers.actors:
        if actor.address.version == version:
            actors.setdefault(actor.party, actor)
    for party in Party:
        if party not in actors:
            absent.setdefault(party, f"there is none with an IPv{version} address")
    return Cast(version, actors, absent, facts.primary.link, own, peers.public)


def listening(cast_: Cast, ports: Mapping[Party, int]) -> Cast:
    """The same cast, with the ports at which servers answer."""
    actors = {
        party: replace(actor, port=ports.get(party, actor.port)) for party, actor in cast_.actors.items()
    }  # fmt: skip
    return replace(cast_, actors=actors)


def _pod(party: Party, pod: TestPod, facts: Facts, version: int) -> Actor:
    address = pod.address(version)
    assert address is not None  # it was chosen by that
    eni = facts.enis.get(pod.device)
    link = pod.link(facts.policy.veth_prefix)
    return Actor(party, address, pod.netns, link=link, eni=eni.link if eni else "")


def _first(addresses: Sequence[IPAddress], version: int) -> IPAddress | None:
    return next((each for each in addresses if each.version == version), None)


def _addresses(row: Mapping[str, Any]) -> list[IPAddress]:
    """The addresses of a host or node of the lab's inventory."""
    texts = [row.get("private_address") or row.get("address"), row.get("ipv6_address")]
    return [ip_address(text) for text in texts if text]
