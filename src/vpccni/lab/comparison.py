# SPDX-License-Identifier: Apache-2.0
"""The same two pods with addresses of the VPC and over a VXLAN overlay, and their nodes without pods, side by side.

Knows which paths are compared, in which order, and how figures are made of repetitions. Must never judge them. The CLI
calls `compare`; `lab.overlay` makes the overlay, `lab.traffic` measures.

The repetitions of the three paths alternate, so that a busy moment of the machine hits all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from statistics import median
from typing import Any

from vpccni.core import limits
from vpccni.core.maxpods import SMALL_NODE_CAP, max_pods
from vpccni.errors import HostError, InputError, VpcCniError
from vpccni.lab import traffic
from vpccni.lab.overlay import Member, Overlay
from vpccni.lab.pods import Pods
from vpccni.lab.router import JUMBO_MTU
from vpccni.lab.state import LabState, PodRecord
from vpccni.lab.traffic import End
from vpccni.netlink.namespace import NETNS_DIR

NAMESPACE = "overlay-comparison"
BARE, NATIVE, OVERLAY = "node to node", "VPC addresses", "VXLAN overlay"


@dataclass(frozen=True, slots=True)
class Route:
    """A way that traffic takes, and its two ends."""

    name: str
    client: End
    server: End


@dataclass(frozen=True, slots=True)
class Figures:
    """What one path costs. `frame_bytes` is the size on the wire of a datagram with `traffic.SAMPLE_BYTES` in it;
    rates are medians over the repetitions, `*_share` are by those of the bare nodes."""

    path: str
    mtu: int
    max_pods: int | None
    max_pods_by: str
    frame_bytes: int
    headers: str
    round_trips_per_s: float
    round_trip_p50_us: float
    round_trip_p99_us: float
    bits_per_s: float
    seen_by_node: str
    seen_by_internet: str
    round_trips_share: float = 1.0
    bandwidth_share: float = 1.0


@dataclass(frozen=True, slots=True)
class _Site:
    """A node of the comparison with its pod."""

    inventory: Mapping[str, Any]
    netns: Path
    pod: PodRecord


def compare(
    state: LabState,
    inventory: Mapping[str, Any],
    seconds: float,
    repetitions: int,
    progress: Callable[[str], None],
) -> list[Figures]:
    """Add two pods, build the overlay, measure, and remove all of it again. `inventory` is the lab's `/status`."""
    chosen = inventory["nodes"][:2]
    if len(chosen) < 2:
        raise InputError("compare with an overlay", "it takes two nodes", hint="vpccni lab up --nodes 2")
    with _pods(state, [node["name"] for node in chosen]) as pods:
        sites = [
            _Site(node, NETNS_DIR / state.node_namespace(node["name"]), pod)
            for node, pod in zip(chosen, pods, strict=True)
        ]
        members = [
            Member(number, site.netns, IPv4Address(site.inventory["private_address"]), Path(site.pod.netns))
            for number, site in enumerate(sites, 1)
        ]
        cidrs = [IPv4Network(cidr) for cidr in inventory["vpc_cidrs"]]
        with Overlay(members, cidrs, JUMBO_MTU) as overlay:
            addresses = [str(overlay.pod_address(member)) for member in members]
            return _measure(_paths(sites, addresses), sites, inventory, overlay.mtu, seconds, repetitions, progress)


@contextmanager
def _pods(state: LabState, nodes: list[str]) -> Iterator[list[PodRecord]]:
    """One pod on each node, removed at the end."""
    pods = Pods(state)
    made: list[PodRecord] = []
    try:
        for number, node in enumerate(nodes, 1):
            made.append(pods.add(f"pod-{number}", NAMESPACE, node, retry_s=10.0))
        yield made
    finally:
        failures = pods.remove_many(made)
    if failures:
        raise failures[0]


def _paths(sites: list[_Site], overlay: list[str]) -> list[Route]:
    bare = [End(site.netns, site.inventory["private_address"]) for site in sites]
    native = [End(Path(site.pod.netns), site.pod.addresses[0]) for site in sites]
    wrapped = [End(Path(site.pod.netns), address) for site, address in zip(sites, overlay, strict=True)]
    return [Route(BARE, *bare), Route(NATIVE, *native), Route(OVERLAY, *wrapped)]


def _measure(
    paths: list[Route],
    sites: list[_Site],
    inventory: Mapping[str, Any],
    overlay_mtu: int,
    seconds: float,
    repetitions: int,
    progress: Callable[[str], None],
) -> list[Figures]:
    trips: dict[str, list[traffic.RoundTrips]] = {path.name: [] for path in paths}
    bits: dict[str, list[float]] = {path.name: [] for path in paths}
    for repetition in range(repetitions):
        progress(f"repetition {repetition + 1} of {repetitions}")
        for path in paths:
            trips[path.name].append(traffic.round_trips(path.client, path.server, seconds))
            bits[path.name].append(traffic.bandwidth(path.client, path.server, seconds))
    pods_by = _max_pods(sites[0].inventory["instance_type"])
    found = []
    for path in paths:
        frame = traffic.frame_on_wire(path.client, path.server, sites[0].netns, lambda name: name.startswith("eth"))
        runs = trips[path.name]
        found.append(
            Figures(
                path=path.name,
                mtu=overlay_mtu if path.name == OVERLAY else JUMBO_MTU,
                max_pods=pods_by[path.name][0],
                max_pods_by=pods_by[path.name][1],
                frame_bytes=len(frame),
                headers=headers(frame),
                round_trips_per_s=median(run.per_s for run in runs),
                round_trip_p50_us=median(run.p50_us for run in runs),
                round_trip_p99_us=median(run.p99_us for run in runs),
                bits_per_s=median(bits[path.name]),
                seen_by_node=_seen(path.client, End(sites[1].netns, sites[1].inventory["private_address"])),
                seen_by_internet=_seen_outside(path.client, inventory),
            )
        )
    return _with_shares(found)


def _with_shares(found: list[Figures]) -> list[Figures]:
    bare = found[0]
    return [
        Figures(
            **asdict(each)
            | {
                "round_trips_share": each.round_trips_per_s / bare.round_trips_per_s,
                "bandwidth_share": each.bits_per_s / bare.bits_per_s,
            }
        )
        for each in found
    ]


def _max_pods(instance_type: str) -> dict[str, tuple[int | None, str]]:
    native = max_pods(limits.limits(instance_type))
    prefixes = max_pods(limits.limits(instance_type), prefix_delegation=True)
    return {
        BARE: (None, ""),
        NATIVE: (native.recommended, f"{native.formula}; with prefixes {prefixes.recommended}"),
        OVERLAY: (SMALL_NODE_CAP, "what kubelet allows by default; no ENI bounds it"),
    }


def _seen(client: End, server: End) -> str:
    try:
        return traffic.seen_source(client, server)
    except (VpcCniError, OSError) as error:
        raise HostError("see a source address", f"{client.address} does not reach {server.address}: {error}") from error


def _seen_outside(client: End, inventory: Mapping[str, Any]) -> str:
    """As whom a host behind the internet gateway sees the client; "" when the lab has no such host."""
    for host in inventory["hosts"]:
        if host["via"] == "internet" and ":" not in host["address"]:
            return _seen(client, End(NETNS_DIR / host["namespace"], host["address"]))
    return ""


def headers(frame: bytes) -> str:
    """The headers of an Ethernet frame with IPv4 and UDP, outermost first, such as `Ethernet 14, IPv4 20, UDP 8`."""
    words, at = ["Ethernet 14"], 14
    while True:
        length = (frame[at] & 0x0F) * 4
        words += [f"IPv4 {length}", "UDP 8"]
        port = int.from_bytes(frame[at + length + 2 : at + length + 4], "big")
        at += length + 8
        if port != 4789:
            return ", ".join(words)
        words += ["VXLAN 8", "Ethernet 14"]
        at += 8 + 14
