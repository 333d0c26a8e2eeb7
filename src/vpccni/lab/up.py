# SPDX-License-Identifier: Apache-2.0
"""`lab up`: from nothing to nodes that take pods.

Knows the order: check, prepare the machine, start the lab daemon, start the nodes' daemons, wait for each. Must never
leave half a lab: what fails takes everything down again. Called by the CLI, the demo and the tests.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from vpccni.errors import HostError, TopologyError
from vpccni.lab import control, launch, machine, nodes
from vpccni.lab.down import take_down
from vpccni.lab.state import LAB_NAME_VARIABLE, LabState, write_json
from vpccni.lab.topology import Topology, encode

DAEMON_WITHIN_S = 20.0
NODE_WITHIN_S = 60.0

Progress = Callable[[str], None]


def bring_up(state: LabState, topology: Topology, environ: Mapping[str, str], progress: Progress) -> float:
    """Bring a lab up and return the seconds it took. `progress` is told each step as a line.

    Raises InputError (not root, a lab is up, bad settings) before anything is changed, HostError after cleaning up.
    """
    started = time.monotonic()
    machine.require_root()
    machine.require_tools()
    nodes.check_settings(topology)
    try:
        state.create()
    except FileExistsError as error:
        raise TopologyError(
            "bring a lab up", "one is up already, or was not taken down", evidence={"state": state.root},
            hint="vpccni lab status, or vpccni lab down", code="lab-exists",
        ) from error  # fmt: skip
    try:
        _bring_up(state, topology, environ, progress)
    except BaseException as error:
        progress("failed; removing what was made")
        kept = _keep_logs(state)
        take_down(state)
        if isinstance(error, HostError) and kept:
            error.evidence["logs kept in"] = kept
        raise
    return time.monotonic() - started


def _bring_up(state: LabState, topology: Topology, environ: Mapping[str, str], progress: Progress) -> None:
    machine.prepare(state)
    write_json(state.topology, encode(topology))
    nodes.prepare(state, topology)
    progress(f"VPC {', '.join(map(str, topology.vpc.networks))} in {topology.region}, {len(topology.subnet)} subnets")
    _start_daemon(state, environ)
    for node in topology.node:
        progress(f"node {node.name} ({node.type}) in subnet {node.subnet}: starting ipamd")
        nodes.start(state, node.name)
    for node in topology.node:
        waited_s = nodes.wait_ready(state, node.name, NODE_WITHIN_S)
        progress(f"node {node.name} takes pods ({waited_s:.1f} s)")


def _start_daemon(state: LabState, environ: Mapping[str, str]) -> None:
    passed = {LAB_NAME_VARIABLE: environ[LAB_NAME_VARIABLE]} if LAB_NAME_VARIABLE in environ else {}
    argv = [sys.executable, "-m", "vpccni", "lab-daemon"]
    pid = launch.spawn(None, argv, launch.program_environ(passed), state.daemon_log)
    record = state.record_process("daemon", pid)
    deadline = time.monotonic() + DAEMON_WITHIN_S
    while not state.control_socket.exists():
        launch.reap(pid)
        if not record.alive() or time.monotonic() > deadline:
            tail = nodes.log_tail(state.daemon_log)
            raise HostError(
                "start the lab daemon", tail.splitlines()[-1] if tail else "it said nothing",
                evidence={"log": f"{state.daemon_log}\n{tail}"}, hint="read the log above", code="lab-daemon-failed",
            )  # fmt: skip
        time.sleep(0.005)
    control.ask(state, "GET", "/status")


def _keep_logs(state: LabState) -> str:
    """Copy the logs of a lab that failed to where `down` does not reach; returns the directory."""
    target = Path("/tmp") / f"{state.root.name}-failed"
    shutil.rmtree(target, ignore_errors=True)
    for log in [*state.root.glob("*.log"), *state.root.glob("nodes/*/log/*")]:
        copy = target / log.relative_to(state.root)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(log, copy)
    return str(target) if target.exists() else ""
