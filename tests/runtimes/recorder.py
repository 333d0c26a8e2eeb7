# SPDX-License-Identifier: Apache-2.0
"""Stands before a plugin of a node and writes down each call: variables, configuration, result.

Installed under a plugin's own name, the real one beside it as `.real-NAME`. Must never change a call: same environment,
same standard input, same output and exit code. Runs on the system's Python, without the package.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

LOG = ".calls.jsonl"


def main() -> int:
    me = Path(sys.argv[0])
    stdin = sys.stdin.buffer.read()
    call = {
        "plugin": me.name,
        "variables": {name: value for name, value in os.environ.items() if name.startswith("CNI_")},
        "stdin": json.loads(stdin or b"null"),
    }
    log = me.with_name(LOG)
    note(log, {**call, "began": time.time()})
    done = subprocess.run([str(me.with_name(f".real-{me.name}"))], input=stdin, capture_output=True, check=False)
    note(log, {**call, "exit_code": done.returncode, "stdout": done.stdout.decode()})
    sys.stdout.buffer.write(done.stdout)
    sys.stderr.buffer.write(done.stderr)
    return done.returncode


def note(log: Path, entry: object) -> None:
    """One line, whole: several plugins may write at once."""
    handle = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(handle, json.dumps(entry).encode() + b"\n")
    os.close(handle)


if __name__ == "__main__":
    sys.exit(main())
