# SPDX-License-Identifier: Apache-2.0
"""The node daemon on each node: start, stop, restart, and whether the node takes pods.

Knows a node's directories and the environment that a DaemonSet would give. Must never know what the daemon does inside;
readiness is what a container runtime sees, the presence of a network configuration. `lab.up` and the CLI use it.
"""

from __future__ import annotations

import http.client
import json
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vpccni.errors import HostError, TopologyError
from vpccni.lab import launch, topology
from vpccni.lab.sockets import NamespaceHttp
from vpccni.lab.state import LabState, ProcessRecord, read_json, write_json
from vpccni.netlink.namespace import NETNS_DIR
from vpccni.paths import CONFLIST_NAME
from vpccni.settings import parse as parse_settings

INTROSPECTION_URL = "http://127.0.0.1:61679"
STOP_WITHIN_S = 10.0
LOG_LINES = 12

# Where the programs on a node find EC2, and who they are there. The lab's endpoint checks no signature.
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE",
    "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
}
_ENDPOINTS = {
    "AWS_ENDPOINT_URL_EC2": "http://169.254.169.250",
    "AWS_EC2_METADATA_SERVICE_ENDPOINT": "http://169.254.169.254",
}


def load_topology(state: LabState) -> topology.Topology:
    """The topology of the running lab; raises TopologyError when no lab is up."""
    if not state.topology.exists():
        raise TopologyError(
            "use the lab", "none is up", evidence={"state": state.root}, hint="vpccni lab up", code="no-lab"
        )
    return topology.decode(read_json(state.topology))


def node_names(state: LabState) -> list[str]:
    """The nodes of the running lab, in the topology's order."""
    return [node.name for node in load_topology(state).node]


def require_node(state: LabState, name: str) -> str:
    """`name` (or `node/NAME`) when there is such a node, else TopologyError with those that there are."""
    names = node_names(state)
    plain = name.removeprefix("node/")
    if plain not in names:
        raise TopologyError(f"use node {name!r}", f"there is none; nodes are {', '.join(names)}", code="no-such-node")
    return plain


def check_settings(plan: topology.Topology) -> None:
    """Raise SettingsError, all problems at once, when a node's daemon would refuse its settings."""
    for node in plan.node:
        parse_settings(plan.settings_of(node))


def prepare(state: LabState, plan: topology.Topology) -> None:
    """Make the directories of every node and write down its settings."""
    for node in plan.node:
        for name in launch.NODE_BINDS.values():
            (state.node_dir(node.name) / name).mkdir(parents=True, exist_ok=True)
        write_json(state.node_dir(node.name) / "env.json", plan.settings_of(node))


def settings_of(state: LabState, node: str) -> dict[str, str]:
    """The settings that the node's daemon was last started with."""
    return dict(read_json(state.node_dir(node) / "env.json"))


def check_overrides(state: LabState, node: str, overrides: Mapping[str, str]) -> None:
    """Raise SettingsError when the node's daemon would refuse these changes of its settings."""
    parse_settings({**settings_of(state, node), **overrides})


def start(state: LabState, node: str, overrides: Mapping[str, str] | None = None) -> ProcessRecord:
    """Start the node's daemon as it is installed: its network, its four directories, a clean environment."""
    if overrides:
        check_overrides(state, node, overrides)
        write_json(state.node_dir(node) / "env.json", {**settings_of(state, node), **overrides})
    region = load_topology(state).region
    environ = launch.program_environ(
        {
            **_ENDPOINTS, **CREDENTIALS, "AWS_REGION": region, "AWS_DEFAULT_REGION": region, "MY_NODE_NAME": node,
            **settings_of(state, node),
        }
    )  # fmt: skip
    place = launch.node_place(state, node, hide_namespaces=True)
    log = state.node_dir(node) / "log" / "stdout.log"
    pid = launch.spawn(place, [sys.executable, "-m", "vpccni", "ipamd"], environ, log)
    return state.record_process(f"ipamd-{node}", pid)


def stop(state: LabState, node: str, number: signal.Signals = signal.SIGTERM) -> bool:
    """End the node's daemon and wait for it; after `STOP_WITHIN_S` it is killed. False when none ran."""
    record = state.process(f"ipamd-{node}")
    if record is None or not record.signal(number):
        return False
    if not record.wait_gone(STOP_WITHIN_S):
        record.signal(signal.SIGKILL)
        record.wait_gone(STOP_WITHIN_S)
    launch.reap(record.pid)
    return True


def conflist(state: LabState, node: str) -> Path:
    """The node's network configuration; it exists while the node takes pods."""
    return state.node_dir(node) / "netd" / CONFLIST_NAME


def wait_ready(state: LabState, node: str, timeout_s: float) -> float:
    """Wait until the node takes pods and return the seconds it took; HostError with the log's end when it will not."""
    started = time.monotonic()
    record = state.process(f"ipamd-{node}")
    while not conflist(state, node).exists():
        waited = time.monotonic() - started
        if record is None or not record.alive():
            raise _not_ready(state, node, "its ipamd has ended")
        if waited > timeout_s:
            raise _not_ready(state, node, f"no {CONFLIST_NAME} after {timeout_s:.0f} s")
        time.sleep(0.01)
    return time.monotonic() - started


def introspect(state: LabState, node: str, path: str) -> Any:
    """The decoded answer of the node daemon's introspection API, asked from inside the node."""
    connection = NamespaceHttp(NETNS_DIR / state.node_namespace(node), "127.0.0.1", 61679)
    try:
        connection.request("GET", path)
        return json.loads(connection.getresponse().read())
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise HostError(
            f"ask node {node} for {path}", str(error), hint=f"vpccni lab restart ipamd --node {node}"
        ) from error
    finally:
        connection.close()


def log_tail(path: Path, lines: int = LOG_LINES) -> str:
    """The last lines of a log, empty when there is none."""
    try:
        return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])
    except OSError:
        return ""


def _not_ready(state: LabState, node: str, why: str) -> HostError:
    log = state.node_dir(node) / "log"
    tail = log_tail(log / "stdout.log") or log_tail(log / "ipamd.log")
    return HostError(
        f"bring node {node} up",
        why,
        evidence={"log": f"{log}\n{tail}"},
        hint="read the log above",
        code="node-not-ready",
    )
