# SPDX-License-Identifier: Apache-2.0
"""The entry point: reads the environment and the arguments once, imports only the program that was asked for.

Knows the names of the programs. Must never do their work. This is the only module that touches `os.environ` and
`sys.argv`; everything below gets them as arguments.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence

Program = Callable[[Sequence[str], Mapping[str, str]], int]


def program(name: str) -> Program:
    """The program of that name; anything that is not a daemon belongs to the command line."""
    if name == "ipamd":
        from vpccni.ipamd.program import main as ipamd

        return ipamd
    if name == "lab-daemon":
        from vpccni.lab.daemon import main as lab_daemon

        return lab_daemon
    from vpccni.cli.app import main as cli

    return cli


def main() -> int:
    """Run the program that the first argument names and return its exit code."""
    arguments = sys.argv[1:]
    chosen = arguments[0] if arguments else ""
    # The daemons' own help and errors come from the command line's parser, which knows all commands.
    if chosen in ("ipamd", "lab-daemon") and not {"-h", "--help"} & set(arguments):
        return program(chosen)(arguments[1:], dict(os.environ))
    return program("")(arguments, dict(os.environ))


if __name__ == "__main__":
    sys.exit(main())
