# SPDX-License-Identifier: Apache-2.0
"""Running the few external programs that have no kernel interface of their own: iptables and nft.

Knows where system programs lie and how their failures read. Must never use the environment's PATH (a daemon's is often
empty) or a shell. A child inherits the network namespace of the calling thread. `host.firewall` calls it.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from vpccni.errors import HostError

DIRECTORIES = ("/usr/sbin", "/sbin", "/usr/bin", "/bin", "/usr/local/sbin", "/usr/local/bin")
TIMEOUT_S = 30.0


def find_program(name: str, directories: tuple[str, ...] = DIRECTORIES) -> Path | None:
    """Absolute path of a program, or None."""
    candidates = (Path(directory) / name for directory in directories)
    return next((path for path in candidates if path.is_file() and os.access(path, os.X_OK)), None)


def run_program(
    action: str, name: str, *arguments: str, stdin: str = "", directories: tuple[str, ...] = DIRECTORIES
) -> str:
    """Run `name` and return what it printed. `action` says in an error what could not be done.

    Raises HostError (`program-missing`, `program-timeout`, `program-failed`) with the program's own message.
    """
    program = find_program(name, directories)
    if program is None:
        raise HostError(
            action,
            f"{name} is in none of {', '.join(directories)}",
            code="program-missing",
            hint=f"install it (Debian, Ubuntu: apt-get install {_package(name)}) and try again",
        )
    try:
        done = subprocess.run(
            [str(program), *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
            env={"PATH": ":".join(directories), "LC_ALL": "C"},
        )
    except subprocess.TimeoutExpired:
        why = f"{program} did not finish within {TIMEOUT_S:g} s"
        hint = "see whether another program holds the xtables lock (lsof /run/xtables.lock)"
        raise HostError(action, why, code="program-timeout", hint=hint, retryable=True) from None
    except OSError as error:
        raise HostError(action, f"{program} does not start: {error.strerror}", code="program-failed") from error
    if done.returncode:
        said = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
        raise HostError(
            action, said, code="program-failed", evidence={"program": program, "exit_code": done.returncode}
        )
    return done.stdout


def _package(name: str) -> str:
    return "nftables" if name == "nft" else "iptables"
