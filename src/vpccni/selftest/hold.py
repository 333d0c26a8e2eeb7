# SPDX-License-Identifier: Apache-2.0
"""Holds a node's daemon while an object of the node is away, because it would put it back.

Knows how a process is stopped, and when it really is. Must never end it, and lets it go on whatever happens. Only a run
with negatives uses it.
"""

from __future__ import annotations

import os
import signal
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vpccni.errors import HostError
from vpccni.paths import RELAY_SOCKET
from vpccni.selftest.node import Node

REST_S = 10.0
_PROC = Path("/proc")


@contextmanager
def held_daemon(node: Node) -> Iterator[None]:
    """The node's daemon is stopped (SIGSTOP) and continued at the end. Its answer to a connection says which it is.

    A thread in mid-request finishes that first, and so does a program that the daemon runs: what they do to the kernel
    must not happen later, between an object's removal and its return.
    """
    path = node.run_dir / RELAY_SOCKET.name
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
            sock.connect(str(path))
            credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        pid = struct.unpack("3i", credentials)[0]
        handle = os.pidfd_open(pid)
    except OSError as error:  # also pid 0: a process of a namespace that this one does not see
        evidence = {"socket": path}
        raise HostError("hold the daemon", str(error), evidence=evidence, code="no-daemon") from error
    try:
        signal.pidfd_send_signal(handle, signal.SIGSTOP)
        try:
            _await_rest(pid)
            yield
        finally:
            signal.pidfd_send_signal(handle, signal.SIGCONT)
    finally:
        os.close(handle)


def at_rest(pid: int) -> bool:
    """Whether every thread of a process is stopped, and every child of it has ended."""
    try:
        tasks = [*(_PROC / str(pid) / "task").iterdir()]
    except OSError:
        return True  # it is gone
    children = (child for task in tasks for child in _text(task / "children").split())
    return all(_state(task) in "TtZX" for task in tasks) and all(_state(_PROC / child) in "ZX" for child in children)


def _await_rest(pid: int) -> None:
    deadline = time.monotonic() + REST_S
    while not at_rest(pid):
        if time.monotonic() > deadline:
            why = f"process {pid} is still at work {REST_S:g} s after SIGSTOP"
            hint = f"see what it waits for: ps -L -o stat,wchan {pid}"
            raise HostError("hold the daemon", why, code="daemon-busy", hint=hint)
        time.sleep(0.001)


def _state(task: Path) -> str:
    """The letter of proc(5); a task that is gone counts as dead."""
    return _text(task / "stat").rpartition(")")[2][1:2] or "X"


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
