# SPDX-License-Identifier: Apache-2.0
"""A node of a lab as a machine on which real container runtimes can be started, killed and started again.

Knows namespaces: the node's network, and mounts, processes and host name of its own that stay while runtimes come and
go. Must never know a runtime. Everything that was started on a node dies with it, and `stop` checks that.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from vpccni.lab import launch
from vpccni.lab.state import LabState, ProcessRecord

CGROUPS = Path("/sys/fs/cgroup")
REFERENCE_PLUGINS = Path("/usr/lib/cni")
# Hard-wired places of libcni, kubelet and podman, and the machine's own storage: a node has its own, empty.
SCRATCH = ("/var/lib/cni", "/var/lib/containers", "/var/log/pods", "/var/log/containers")
START_WITHIN_S = 10.0


class NodeMachine:
    """One node; `work` is a directory of its own that the node sees under the same path."""

    def __init__(self, state: LabState, node: str) -> None:
        self.state, self.node = state, node
        self.work = Path(tempfile.mkdtemp(prefix=f"vpccni-rt-{node}-", dir="/tmp"))
        self.cgroup = f"/{state.prefix}-{node}"
        self._cgroups_before = set(cgroup_folders())
        # Mount points must exist on the machine itself; those that it had not are taken away again.
        self._made = [Path(folder) for folder in SCRATCH if not Path(folder).exists()]
        self._unshare: subprocess.Popen[bytes] | None = None
        self.init: ProcessRecord | None = None

    @property
    def bin_dir(self) -> Path:
        """What the node has as /opt/cni/bin."""
        return self.state.node_dir(self.node) / "bin"

    @property
    def conf_dir(self) -> Path:
        """What the node has as /etc/cni/net.d."""
        return self.state.node_dir(self.node) / "netd"

    def start(self) -> None:
        """Make the namespaces. The node's network is that of the lab."""
        binds = [(str(self.state.node_dir(self.node) / name), str(path)) for path, name in launch.NODE_BINDS.items()]
        wanted = {"binds": binds, "scratch": SCRATCH, "host_name": f"node{self.node}"}
        namespaces = ["--pid", "--fork", "--kill-child", "--mount", "--uts", "--ipc", "--propagation", "slave"]
        argv = [
            "nsenter", f"--net=/run/netns/{self.state.node_namespace(self.node)}",
            "unshare", *namespaces, "--mount-proc",
            "/usr/bin/python3", "-I", str(Path(__file__).with_name("node_init.py")), json.dumps(wanted),
        ]  # fmt: skip
        log = self.work / "init.log"
        with log.open("wb") as stream:
            self._unshare = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=stream)
        assert self._unshare.stdout is not None
        assert self._unshare.stdout.readline() == b"ready\n", f"the node did not start: {log.read_text()}"
        (child,) = children(self._unshare.pid)
        self.init = ProcessRecord.of(f"machine-{self.node}", child)

    def install_plugins(self, *names: str) -> None:
        """Put reference plugins beside ours, as a node image has them."""
        for name in names:
            shutil.copy2(REFERENCE_PLUGINS / name, self.bin_dir / name)

    def run(
        self, *argv: str, stdin: bytes = b"", env: dict[str, str] | None = None, timeout_s: float = 60
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a program on the node to its end."""
        environ = launch.program_environ(env or {})
        return subprocess.run(
            [*self._enter(), *argv], input=stdin, env=environ, capture_output=True, timeout=timeout_s, check=False
        )

    def output(self, *argv: str, env: dict[str, str] | None = None, timeout_s: float = 60) -> str:
        """What a program prints on the node; a failure fails the test with what it said."""
        done = self.run(*argv, env=env, timeout_s=timeout_s)
        assert done.returncode == 0, f"{' '.join(argv)}: {done.stderr.decode()}{done.stdout.decode()}"
        return done.stdout.decode()

    def spawn(self, log: IO[bytes], *argv: str, env: dict[str, str] | None = None) -> Service:
        """Start a program on the node and return a handle on it."""
        environ = launch.program_environ(env or {})
        entered = subprocess.Popen(
            [*self._enter(), *argv], env=environ, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/"
        )
        deadline = time.monotonic() + START_WITHIN_S
        while not (found := children(entered.pid)):
            assert entered.poll() is None and time.monotonic() < deadline, f"{argv[0]} did not start"
            time.sleep(0.005)
        return Service(entered, ProcessRecord.of(argv[0], found[0]))

    def stop(self) -> list[str]:
        """End the node and everything on it; what is left of processes, cgroups and files, which must be nothing."""
        inside = self._inside()
        if self.init is not None:
            self.init.signal(signal.SIGKILL)
        if self._unshare is not None:
            self._unshare.wait(START_WITHIN_S)
            assert self._unshare.stdout is not None
            self._unshare.stdout.close()
        left = [f"process {record.pid}" for record in inside if not record.wait_gone(START_WITHIN_S)]
        for folder in sorted(set(cgroup_folders()) - self._cgroups_before, reverse=True):
            if self.cgroup.strip("/") in str(folder):
                with contextlib.suppress(OSError):
                    folder.rmdir()
        left += [str(folder) for folder in cgroup_folders() if self.cgroup.strip("/") in str(folder)]
        for folder in self._made:
            with contextlib.suppress(OSError):
                folder.rmdir()
        shutil.rmtree(self.work, ignore_errors=True)
        return left + [str(self.work)] * self.work.exists()

    def _enter(self) -> list[str]:
        assert self.init is not None
        spaces = ["--mount", "--pid", "--net", "--uts", "--ipc"]
        return ["nsenter", f"--target={self.init.pid}", *spaces, "--"]

    def _inside(self) -> list[ProcessRecord]:
        """Every process of the node's pid namespace."""
        if self.init is None or not self.init.alive():
            return []
        own = Path(f"/proc/{self.init.pid}/ns/pid").readlink()
        records = []
        for pid in pids():
            with contextlib.suppress(OSError):
                if Path(f"/proc/{pid}/ns/pid").readlink() == own:
                    records.append(ProcessRecord.of("on the node", pid))
        return records


class Service:
    """A program that was started on a node."""

    def __init__(self, entered: subprocess.Popen[bytes], record: ProcessRecord) -> None:
        self._entered, self.record = entered, record

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Send it a signal and wait until it is gone."""
        self.record.signal(number)
        self._entered.wait(START_WITHIN_S)

    def alive(self) -> bool:
        """Whether it runs."""
        return self.record.alive()


def pids() -> Iterator[int]:
    """Every process of the machine."""
    return (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())


def children(parent: int) -> list[int]:
    """The processes whose parent that one is."""
    found = []
    for pid in pids():
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            if int(fields[1]) == parent:
                found.append(pid)
    return found


def cgroup_folders() -> list[Path]:
    """Every cgroup of every hierarchy."""
    return [Path(folder) for folder, _, _ in os.walk(CGROUPS)]
