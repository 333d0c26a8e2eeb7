# SPDX-License-Identifier: Apache-2.0
"""DELs that the relay left on disk because the daemon was away.

Knows the queue's folder and file names. Must never act on an entry. The daemon listens first and drains then, so that a
relay either reaches it or leaves its file before the drain.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from vpccni.cni.wire import MAX_MESSAGE_BYTES, RelayRequest, decode_request
from vpccni.errors import NetconfError, StateError
from vpccni.paths import DEL_QUEUE

_CORRUPT_SUFFIX = ".corrupt"


@dataclass(frozen=True, slots=True)
class QueuedDel:
    """One entry. `queued_at` is in Unix seconds, and matters: a runtime that reuses container ids (podman does, on a
    restart) may have added the same key again since, and an attachment newer than the entry must not be deleted."""

    path: Path
    queued_at: float
    request: RelayRequest


@dataclass(frozen=True, slots=True)
class Queue:
    """What lies in the queue, oldest first, and what was put aside because it could not be understood."""

    entries: tuple[QueuedDel, ...]
    corrupt: tuple[StateError, ...]


def read_queue(folder: Path = DEL_QUEUE) -> Queue:
    """Every queued DEL. A file that is not one is renamed to `.<name>.corrupt`, reported, and never seen again."""
    entries: list[QueuedDel] = []
    corrupt: list[StateError] = []
    try:
        paths = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except FileNotFoundError:
        return Queue((), ())
    except OSError as error:
        return Queue((), (StateError(f"read the queue {folder}", error.strerror or str(error)),))
    for path in paths:
        try:
            entries.append(_read(path))
        except FileNotFoundError:
            continue  # a relay reached the daemon after all and took its file back
        except (OSError, NetconfError) as error:
            corrupt.append(_put_aside(path, error))
    return Queue(tuple(sorted(entries, key=lambda entry: entry.queued_at)), tuple(corrupt))


def drop(entry: QueuedDel) -> None:
    """Remove an entry that is done. Left alone when a later DEL of the same key has replaced it meanwhile."""
    try:
        if entry.path.stat().st_mtime == entry.queued_at:
            entry.path.unlink()
    except FileNotFoundError:
        return
    except OSError as error:
        raise StateError(f"remove the queued DEL {entry.path}", error.strerror or str(error)) from error


def _read(path: Path) -> QueuedDel:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise NetconfError("use a queued request", "it is not a regular file")
        with os.fdopen(fd, "rb", closefd=False) as stream:
            request = decode_request(stream.read(MAX_MESSAGE_BYTES + 1))
    finally:
        os.close(fd)
    if request.command != "DEL":
        raise NetconfError("use a queued request", f"its command is {request.command!r}, not DEL")
    return QueuedDel(path, status.st_mtime, request)


def _put_aside(path: Path, error: Exception) -> StateError:
    aside = path.with_name(f".{path.name}{_CORRUPT_SUFFIX}")
    try:
        path.rename(aside)
    except OSError:
        aside = path
    return StateError(
        f"use the queued DEL {path.name}",
        str(error),
        hint=f"look into {aside}; the pod's address comes back when the daemon compares its state with the kernel",
        code="queued-del-corrupt",
    )
