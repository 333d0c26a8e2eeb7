# SPDX-License-Identifier: Apache-2.0
"""Which place a name of the command line means: a node, a pod, a host outside or the fabric.

Knows the order in which names are looked up. Must never start anything. `lab exec` uses it.
"""

from __future__ import annotations

from pathlib import Path

from vpccni.errors import InputError
from vpccni.lab import launch, nodes
from vpccni.lab.pods import Pods
from vpccni.lab.state import LabState
from vpccni.netlink.namespace import NETNS_DIR


def place_of(state: LabState, name: str) -> launch.Place:
    """The place called `name`; `node/NAME` and `pod/NAME` settle what both could mean. InputError if none."""
    plan = nodes.load_topology(state)
    names = [node.name for node in plan.node]
    if name.removeprefix("node/") in names and not name.startswith("pod/"):
        return launch.node_place(state, name.removeprefix("node/"), own_sysfs=True)
    if name == "fabric":
        return _bare(state.fabric_namespace)
    for host in plan.host:
        if name in (host.name, f"host/{host.name}", *map(str, host.addresses)):
            return _bare(state.internet_namespace if host.via == "internet" else state.site_namespace)
    try:
        return launch.Place(Path(Pods(state).find(name.removeprefix("pod/")).netns), own_sysfs=True)
    except InputError as error:
        pods = ", ".join(pod.label for pod in state.pods()) or "none"
        raise InputError(
            f"find {name!r}", "it is no node, pod or host",
            evidence={"nodes": ", ".join(names), "pods": pods, "hosts": ", ".join(host.name for host in plan.host)},
        ) from error  # fmt: skip


def _bare(namespace: str) -> launch.Place:
    return launch.Place(NETNS_DIR / namespace, own_sysfs=True)
