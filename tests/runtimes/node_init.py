# SPDX-License-Identifier: Apache-2.0
"""Process 1 of a node's machine: makes the mount namespace that it was started in look like a node, and waits.

Knows mounts. Must never start anything itself: what runs on the node enters later, and dies with this process, because
it is the first of its pid namespace. `node_machine` starts it with one JSON argument and reads "ready" from its output.

    {"binds": [[source, target], ...], "scratch": [directory, ...], "host_name": name}
"""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from pathlib import Path

STAGING = Path("/mnt")


def mount(*words: str) -> None:
    subprocess.run(["mount", *words], check=True)


def main() -> None:
    wanted = json.loads(sys.argv[1])
    socket.sethostname(wanted["host_name"])
    # A node's own directories lie below /run, which the node does not see: they are held elsewhere meanwhile.
    mount("-t", "tmpfs", "tmpfs", str(STAGING))
    for number, (source, _) in enumerate(wanted["binds"]):
        (STAGING / str(number)).mkdir()
        mount("--bind", source, str(STAGING / str(number)))
    for folder in ["/run", *wanted["scratch"]]:
        Path(folder).mkdir(parents=True, exist_ok=True)
        mount("-t", "tmpfs", "tmpfs", folder)
    Path("/run/netns").mkdir()
    Path("/run/lock").mkdir()
    for number, (_, target) in enumerate(wanted["binds"]):
        Path(target).mkdir(parents=True, exist_ok=True)
        mount("--bind", str(STAGING / str(number)), target)
    resolver = Path("/run/resolv.conf")  # a runtime copies it into pods; nothing here may wait for a name server
    resolver.write_text("nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")
    mount("--bind", str(resolver), "/etc/resolv.conf")
    # Shims and conmon outlive who started them and end up as children of process 1.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    while True:
        signal.pause()


if __name__ == "__main__":
    main()
