# SPDX-License-Identifier: Apache-2.0
"""`lab down`: nothing of the lab is left, checked and said.

Knows the state directory and the names of the namespaces, and needs no process of the lab to be alive. Must never end
a process that is not the lab's: recorded ones are known by their start time, others by the namespace that they are in.
Twice in a row is fine, and so is a lab that crashed anywhere.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from vpccni.lab import launch, machine
from vpccni.lab.state import LabState, ProcessRecord, read_json
from vpccni.netlink import namespace
from vpccni.netlink.namespace import NETNS_DIR

STOP_WITHIN_S = 3.0


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that must be gone: what was looked at, what was removed, what is left (must be empty)."""

    what: str
    removed: int
    left: tuple[str, ...]


def take_down(state: LabState) -> list[Check]:
    """Remove everything and report it. A check with something left means that the lab is not quite gone."""
    names = state.owned_namespaces()
    inodes = {_inode(NETNS_DIR / name): name for name in names}
    inodes.pop(0, None)
    before = read_json(state.machine)["network"] if state.machine.exists() else None
    processes = _end_processes(state, inodes)
    living = _living(processes, inodes)  # now: the kernel gives the number of a dead namespace to the next one
    for name in names:
        namespace.remove(name)
    mounts = _unmount(state.root)
    stayed = machine.restore(state)
    existed = state.exists()
    state.remove()
    _wait_until_dead(inodes)
    return [
        Check("processes", len(processes), tuple(living)),
        Check("network namespaces", len(names), tuple(state.owned_namespaces() + _pinned(inodes))),
        *_network_checks(state, before),
        Check("mounts", mounts, tuple(_mounts(state.root) + _mounts(NETNS_DIR / f"{state.prefix}-"))),
        Check("directories", int(existed), tuple([str(state.root)] * state.exists() + stayed)),
    ]


def _end_processes(state: LabState, inodes: dict[int, str]) -> list[ProcessRecord]:
    """End what the lab started and whoever else lives in its namespaces, politely first."""
    found = {record.pid: record for record in _inside(inodes)}
    found.update({record.pid: record for record in state.processes() if record.alive()})
    records = list(found.values())
    for number in (signal.SIGTERM, signal.SIGKILL):
        for record in records:
            record.signal(number)
        deadline = time.monotonic() + STOP_WITHIN_S
        for record in records:
            record.wait_gone(max(deadline - time.monotonic(), 0.0))
    for record in records:
        launch.reap(record.pid)
    return records


def _inside(inodes: dict[int, str]) -> list[ProcessRecord]:
    """Processes whose network is one of these namespaces."""
    records = []
    for pid in _pids():
        name = inodes.get(_inode(Path(f"/proc/{pid}/ns/net")))
        if name is not None:
            try:
                records.append(ProcessRecord.of(f"in {name}", pid))
            except ProcessLookupError:
                continue
    return records


def _living(processes: Iterable[ProcessRecord], inodes: dict[int, str]) -> list[str]:
    living = [record for record in processes if record.alive()]
    return [f"{record.role} (pid {record.pid})" for record in [*living, *_inside(inodes)]]


def _network_checks(state: LabState, before: dict[str, list[str]] | None) -> list[Check]:
    """The machine's own links, rules and tables: the lab never adds any, so what is new and ours is a fault."""
    now = machine.network()
    ours = tuple(link for link in now["links"] if link.startswith(f"{state.prefix}-"))
    if before is None:
        return [Check("links on the machine", 0, ours)]
    return [
        Check("links on the machine", 0, ours),
        *(Check(f"{kind} on the machine", 0, _new(before[kind], now[kind])) for kind in ("rules", "tables")),
    ]


def _new(before: Iterable[object], now: Iterable[object]) -> tuple[str, ...]:
    old = set(before)
    return tuple(str(item) for item in now if item not in old)


def _unmount(root: Path) -> int:
    points = _mounts(root)
    for point in reversed(points):
        launch.unmount(Path(point))
    return len(points)


def _mounts(start: Path) -> list[str]:
    """Mount points at, below or (for a namespace prefix) beginning with a path."""
    points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    whole = str(start)
    if whole.endswith("-"):
        return [point for point in points if point.startswith(whole)]
    return [point for point in points if point == whole or point.startswith(f"{whole}/")]


def _pinned(inodes: dict[int, str]) -> list[str]:
    """Namespaces that have no name any more but are kept alive by a mount in some process's view.

    The mount carries the name as well: the kernel gives the number of a dead namespace to the next new one.
    """
    if not inodes:
        return []
    kept = set()
    for pid in _pids():
        try:
            lines = Path(f"/proc/{pid}/mountinfo").read_text().splitlines()
        except OSError:
            continue
        for line in lines:
            root, point = line.split()[3:5]
            if root.startswith("net:["):
                name = inodes.get(int(root[5:-1]))
                if name is not None and Path(point).name == name:
                    kept.add(f"{name} (kept by pid {pid})")
    return sorted(kept)


def _wait_until_dead(inodes: dict[int, str], timeout_s: float = 2.0) -> None:
    """A killed process lets go of its mounts a moment after it is gone."""
    deadline = time.monotonic() + timeout_s
    while _pinned(inodes) and time.monotonic() < deadline:
        time.sleep(0.02)


def _pids() -> list[int]:
    own = os.getpid()
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit() and int(entry.name) != own]


def _inode(path: Path) -> int:
    try:
        return path.stat().st_ino
    except OSError:
        return 0
