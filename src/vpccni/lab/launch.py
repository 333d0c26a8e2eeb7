# SPDX-License-Identifier: Apache-2.0
"""Starts a program where it belongs: in a network namespace and, on a node, in a mount namespace of its own.

Knows setns, unshare and bind mounts; nothing of what the program does. Must never change the caller's own namespaces:
everything happens in the child between fork and exec. Nodes, pods, `lab exec` and the CNI runtime start programs here.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vpccni import paths
from vpccni.errors import HostError
from vpccni.lab.state import LabState
from vpccni.netlink.namespace import NETNS_DIR

CLONE_NEWNS, CLONE_NEWNET = 0x00020000, 0x40000000
MS_BIND, MS_REC, MS_SLAVE = 4096, 16384, 1 << 19
MNT_DETACH = 2
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

_libc = ctypes.CDLL(None, use_errno=True)

# What a node sees in these places is its own; the same four that the daemon's host mounts bring in on EC2.
NODE_BINDS = {
    paths.RUN_DIR: "run",
    paths.CNI_CONF_DIR: "netd",
    paths.CNI_BIN_DIR: "bin",
    paths.LOG_DIR: "log",
}


@dataclass(frozen=True, slots=True)
class Place:
    """Where a program runs. Empty `binds` means the machine's own file system, unshared.

    `hide_namespaces` takes /run/netns out of the program's view: a process that lives on with a private copy of those
    mounts would keep every pod's namespace, and with it the pod's links, alive after the pod is gone.
    """

    namespace: Path
    binds: tuple[tuple[Path, Path], ...] = ()
    hide_namespaces: bool = False
    own_sysfs: bool = False

    def enter(self) -> None:
        """Move the calling process there; for a child between fork and exec. A failure is written to its stderr."""
        try:
            self._enter()
        except OSError as error:
            os.write(2, f"cannot enter {self.namespace}: {error}\n".encode())
            raise

    def _enter(self) -> None:
        handle = os.open(self.namespace, os.O_RDONLY | os.O_CLOEXEC)
        _check(_libc.setns(handle, CLONE_NEWNET), "setns", self.namespace)
        os.close(handle)
        if not self.binds and not self.own_sysfs:
            return
        _check(_libc.unshare(CLONE_NEWNS), "unshare", Path("/"))
        # Slave, not private: pods' namespaces that the machine unmounts later vanish from here too.
        _mount(None, "/", MS_REC | MS_SLAVE)
        for source, target in self.binds:
            _mount(str(source), str(target), MS_BIND)
        if self.own_sysfs:  # /sys/class/net shows the namespace of whoever mounted it
            _libc.umount2(b"/sys", MNT_DETACH)
            _libc.mount(b"sysfs", b"/sys", b"sysfs", ctypes.c_ulong(0), None)
        if self.hide_namespaces:
            _hide(NETNS_DIR)


def node_place(state: LabState, node: str, *, hide_namespaces: bool = False, own_sysfs: bool = False) -> Place:
    """A node's view of the machine: its network and its four directories."""
    binds = tuple((state.node_dir(node) / name, target) for target, name in NODE_BINDS.items())
    return Place(NETNS_DIR / state.node_namespace(node), binds, hide_namespaces, own_sysfs)


def run(
    place: Place, argv: Sequence[str], environ: Mapping[str, str], stdin: bytes = b"", timeout_s: float | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Run a program there to its end and collect its output. Raises HostError when it cannot be started."""
    try:
        return subprocess.run(
            argv, env=dict(environ), input=stdin, capture_output=True, timeout=timeout_s, check=False,
            preexec_fn=place.enter,  # the child only makes system calls before it execs
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError) as error:
        raise _not_started(place, argv, error) from error


def attach(place: Place, argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """Run a program there on the caller's own terminal; its exit code, 128 + n when signal n ended it."""
    try:
        child = subprocess.Popen(argv, env=dict(environ), preexec_fn=place.enter)  # noqa: PLW1509
    except (OSError, subprocess.SubprocessError) as error:
        raise _not_started(place, argv, error) from error
    while True:
        try:
            code = child.wait()
            return code if code >= 0 else 128 - code
        except KeyboardInterrupt:  # the terminal sent it to the child too, which decides
            continue


def spawn(place: Place | None, argv: Sequence[str], environ: Mapping[str, str], log: Path) -> int:
    """Start a program that outlives the caller (own session, output appended to `log`) and return its pid."""
    with log.open("ab") as stream:
        try:
            child = subprocess.Popen(
                argv, env=dict(environ), stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, cwd="/",
                start_new_session=True, preexec_fn=place.enter if place else None,  # noqa: PLW1509
            )  # fmt: skip
        except (OSError, subprocess.SubprocessError) as error:
            raise _not_started(place, argv, error, log) from error
    return child.pid


def reap(pid: int) -> None:
    """Collect the exit status of an own child that has ended, so that it is not seen as running; else do nothing."""
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return


def program_environ(extra: Mapping[str, str]) -> dict[str, str]:
    """A clean environment for a program of the lab: nothing of the caller's own shell leaks in."""
    return {"PATH": SYSTEM_PATH, "LANG": "C.UTF-8", "HOME": "/root", **extra}


def unmount(path: Path) -> bool:
    """Detach what is mounted at a path in the caller's own mount namespace; False when nothing is."""
    return bool(_libc.umount2(str(path).encode(), MNT_DETACH) == 0)


def _check(result: int, call: str, path: Path) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{call}: {os.strerror(number)}", str(path))


def _mount(source: str | None, target: str, flags: int) -> None:
    encoded = source.encode() if source else b"none"
    _check(_libc.mount(encoded, target.encode(), None, ctypes.c_ulong(flags), None), "mount", Path(target))


def _hide(directory: Path) -> None:
    """Detach everything mounted at or below a directory in this mount namespace, the last mounted first."""
    points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for point in reversed(points):
        if point == str(directory) or point.startswith(f"{directory}/"):
            unmount(Path(point))


def _not_started(place: Place | None, argv: Sequence[str], error: Exception, log: Path | None = None) -> HostError:
    evidence: dict[str, object] = {"namespace": place.namespace} if place else {}
    if log is not None:
        evidence["log"] = log
    return HostError(
        f"run {argv[0]}", str(error), evidence=evidence, hint="check that the lab is up: `vpccni lab status`"
    )
