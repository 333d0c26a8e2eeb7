# SPDX-License-Identifier: Apache-2.0
"""Where a trace or a capture takes place: the lab that is up, or the node that this process runs on.

Knows how each of them names its pods and how it is observed. Must never change anything. The commands ask it first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from vpccni.lab import control, nodes, ownnode, world
from vpccni.lab.probe import Endpoint, endpoints, owners
from vpccni.lab.state import LabState
from vpccni.lab.world import LabWorld


@dataclass(frozen=True, slots=True)
class Scene:
    """Who can be named, whose an address is, and how to see everything; `drops` are the VPC's counters."""

    known: Sequence[Endpoint]
    names: Mapping[str, str]
    observe: Callable[[], LabWorld]
    drops: Callable[[], Mapping[str, int]]


def scene(state: LabState) -> Scene:
    """The lab when one is up, else this machine."""
    if not state.exists():
        here = ownnode.observe()
        known = ownnode.endpoints(here)
        names = {address: f"{end.kind} {end.name}" for end in known for address in end.addresses}
        return Scene(known, names, lambda: here, dict)
    nodes.load_topology(state)
    inventory, pods = control.ask(state, "GET", "/status"), list(state.pods())

    def observe() -> LabWorld:
        return world.observe(state, inventory, control.ask(state, "GET", "/groups"), pods)

    def drops() -> Mapping[str, int]:
        counted: Mapping[str, int] = control.ask(state, "GET", "/status")["dropped"]
        return counted

    return Scene(endpoints(state, inventory, pods), owners(inventory, pods), observe, drops)
