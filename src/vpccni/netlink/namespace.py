# SPDX-License-Identifier: Apache-2.0
"""Network namespaces: open, create, remove, and enter for a moment.

Knows nsfs, setns and the directory of named namespaces that it shares with `ip netns`. Must never start a thread or a
process: entering is per thread, and a thread started inside would stay there for ever. `RouteSocket`, `host` and `lab`
use it. Only the calling thread moves; the rest of the process stays where it is.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from vpccni.errors import HostError

NETNS_DIR = Path("/run/netns")

_CLONE_NEWNET = 0x40000000
_NS_GET_NSTYPE = 0xB703
_MS_BIND, _MS_REC, _MS_SHARED, _MNT_DETACH = 0x1000, 0x4000, 0x100000, 2
_OWN = "/proc/thread-self/ns/net"
_OPEN_FLAGS = os.O_RDONLY | os.O_CLOEXEC

_libc = ctypes.CDLL(None, use_errno=True)
_setns = _libc.setns
_setns.argtypes = (ctypes.c_int, ctypes.c_int)

_Result = TypeVar("_Result")


def open_namespace(where: str | os.PathLike[str] | int) -> int:
    """A new descriptor of a network namespace, given by path, by name (no slash: in /run/netns) or by descriptor.

    The caller closes it. HostError `namespace-missing` when there is none, `not-a-namespace` when it is something else.
    """
    if isinstance(where, int):
        fd = os.dup(where)
    else:
        text = os.fspath(where)
        path = Path(text) if "/" in text else NETNS_DIR / text
        try:
            fd = os.open(path, _OPEN_FLAGS)
        except OSError as error:
            raise HostError(
                f"open network namespace {path}",
                error.strerror or str(error),
                code="namespace-missing",
                hint="the sandbox may be gone already; list named namespaces with `ip netns`",
            ) from error
    try:
        kind = fcntl.ioctl(fd, _NS_GET_NSTYPE)
    except OSError:
        kind = 0
    if kind != _CLONE_NEWNET:
        os.close(fd)
        raise HostError(f"open network namespace {where}", "it is not a network namespace", code="not-a-namespace")
    return fd


def identity(fd: int | None = None) -> tuple[int, int]:
    """What tells namespaces apart (device, inode); None means the calling thread's own. Compare for equality."""
    found = Path(_OWN).stat() if fd is None else os.fstat(fd)
    return found.st_dev, found.st_ino


def own_namespace() -> int:
    """A new descriptor of the calling thread's namespace, which the caller closes."""
    return os.open(_OWN, _OPEN_FLAGS)


class inside:
    """`with inside(fd):` runs the block with the calling thread in that network namespace, then returns it.

    Nests. None stays where it is. Must not enclose an `await`: another task would run in the wrong namespace.
    `home_fd` says where to return to; without it the thread's namespace is opened each time, which is most of the cost
    (7 of 10 us). Pass it only where nothing else ever moves the thread.
    """

    __slots__ = ("_fd", "_given", "_home")

    def __init__(self, fd: int | None, home_fd: int | None = None) -> None:
        self._fd, self._given, self._home = fd, home_fd, -1

    def __enter__(self) -> None:
        if self._fd is None:
            return
        self._home = own_namespace() if self._given is None else self._given
        if _setns(self._fd, _CLONE_NEWNET):
            number = ctypes.get_errno()
            self._forget()
            action = f"enter the network namespace of descriptor {self._fd}"
            raise HostError(action, os.strerror(number), code="namespace-enter")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._home < 0:
            return
        returned = _setns(self._home, _CLONE_NEWNET)
        number = ctypes.get_errno()
        self._forget()
        if returned:
            # Whatever this thread did next would hit the wrong machine.
            raise HostError(
                "return to the thread's own network namespace",
                os.strerror(number),
                code="namespace-stranded",
                hint="the process must be restarted",
            )

    def _forget(self) -> None:
        if self._given is None:
            os.close(self._home)
        self._home = -1


def run_inside(fd: int | None, function: Callable[[], _Result]) -> _Result:
    """`function()` with the calling thread in that network namespace."""
    with inside(fd):
        return function()


def names() -> list[str]:
    """The named namespaces, sorted, as `ip netns` lists them."""
    try:
        return sorted(entry.name for entry in NETNS_DIR.iterdir())
    except FileNotFoundError:
        return []


def create(name: str) -> int:
    """A new namespace, bind mounted at /run/netns/NAME as `ip netns add` does; its `lo` is down.

    Returns a descriptor of it, which the caller closes. HostError `namespace-exists` when the name is taken.
    """
    action = f"create network namespace {name}"
    if not name or "/" in name or name in (".", ".."):
        raise HostError(action, "not usable as a file name", code="namespace-name")
    _prepare_directory()
    path = NETNS_DIR / name
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0))
    except FileExistsError as error:
        raise HostError(action, "the name is taken", code="namespace-exists") from error
    try:
        home = own_namespace()
        try:
            with inside(home, home):  # entering is idle; it is the way back that counts
                _call("unshare", action, _CLONE_NEWNET)
                _call("mount", action, _OWN.encode(), os.fsencode(path), b"none", _MS_BIND, None)
                return own_namespace()
        finally:
            os.close(home)
    except BaseException:
        remove(name)
        raise


def remove(name: str) -> None:
    """Take the name away; the namespace dies with its last process, descriptor and mount. No error when absent."""
    path = NETNS_DIR / name
    if _libc.umount2(os.fsencode(path), _MNT_DETACH):
        number = ctypes.get_errno()
        if number not in (errno.ENOENT, errno.EINVAL):  # EINVAL: not a mount point, a leftover file
            raise HostError(f"remove network namespace {name}", os.strerror(number), code="namespace-remove")
    path.unlink(missing_ok=True)


def _prepare_directory() -> None:
    """Make /run/netns a shared mount, so that a namespace named in one mount namespace is seen in the others."""
    directory = os.fsencode(NETNS_DIR)
    NETNS_DIR.mkdir(mode=0o755, parents=True, exist_ok=True)
    if not _libc.mount(b"", directory, b"none", _MS_SHARED | _MS_REC, None):
        return
    if ctypes.get_errno() != errno.EINVAL:
        raise HostError(f"share {NETNS_DIR}", os.strerror(ctypes.get_errno()), code="namespace-directory")
    _call("mount", f"mount {NETNS_DIR}", directory, directory, b"none", _MS_BIND | _MS_REC, None)
    _call("mount", f"share {NETNS_DIR}", b"", directory, b"none", _MS_SHARED | _MS_REC, None)


def _call(function: str, action: str, *arguments: int | bytes | None) -> None:
    if getattr(_libc, function)(*arguments):
        raise HostError(action, os.strerror(ctypes.get_errno()), code=f"namespace-{function}")
