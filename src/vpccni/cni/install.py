# SPDX-License-Identifier: Apache-2.0
"""Puts the plugin into the CNI binary directory.

Knows where the compiled relay and its Python twin lie in this package. Must never touch the network configuration,
which is `cni.conflist`'s. The daemon calls it at every start, so that plugin and daemon are of one version.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vpccni.cni.atomic import replace_file
from vpccni.errors import HostError
from vpccni.paths import CNI_BIN_DIR, PLUGIN_NAME

COMPILED = Path(__file__).parent / "_relay" / PLUGIN_NAME
TWIN = Path(__file__).parent / "relay.py"
DEFAULT_PYTHON = "/usr/bin/python3"


@dataclass(frozen=True, slots=True)
class InstalledRelay:
    """Where the plugin is now and which of the two it is."""

    path: Path
    kind: Literal["compiled", "python"]


def install_relay(
    bin_dir: Path = CNI_BIN_DIR, *, compiled: Path = COMPILED, python: str = DEFAULT_PYTHON
) -> InstalledRelay:
    """Install the compiled relay, or without one the twin run by `python` (an absolute path on the node).

    In one step: a pod that starts meanwhile executes the old file or the new one, and both are executable. Raises
    HostError when the directory cannot be written, or when neither a compiled relay nor an interpreter is there.
    """
    path = bin_dir / PLUGIN_NAME
    if compiled.is_file():
        replace_file(path, compiled.read_bytes(), 0o755)
        return InstalledRelay(path, "compiled")
    if not Path(python).is_file():
        raise HostError(
            f"install the plugin {path}",
            f"neither {compiled} nor the interpreter {python} exists",
            hint="compile the plugin with `make -C relay` (needs musl-gcc or gcc), or install Python",
            code="no-relay",
        )
    replace_file(path, f"#!{python} -IS\n".encode() + TWIN.read_bytes(), 0o755)
    return InstalledRelay(path, "python")
