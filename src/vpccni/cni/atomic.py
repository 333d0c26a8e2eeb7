# SPDX-License-Identifier: Apache-2.0
"""Files that others watch or execute, put in place in one step.

Knows how a reader never sees half a file. Must never know what is in it. Called by `cni.conflist` and `cni.install`.
"""

from __future__ import annotations

import os
from pathlib import Path

from vpccni.errors import HostError


def replace_file(path: Path, content: bytes, mode: int) -> None:
    """Write a temporary file beside `path`, with its final mode and on disk, then rename it over `path`.

    The same directory, because containerd sees a rename only inside the directory that it watches. The name starts with
    a dot and ends in .tmp, so that no runtime takes it for a configuration (*.conf, *.conflist, *.json) or a plugin.
    Raises HostError.
    """
    temporary = path.parent / f".{path.name}.{os.getpid()}.tmp"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            with os.fdopen(fd, "wb", closefd=False) as stream:
                stream.write(content)
            os.fchmod(fd, mode)
            os.fsync(fd)
        finally:
            os.close(fd)
        temporary.rename(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise HostError(
            f"write {path}",
            error.strerror or str(error),
            hint=f"make {path.parent} writable for the daemon",
            code="file-unwritable",
        ) from error
