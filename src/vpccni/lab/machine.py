# SPDX-License-Identifier: Apache-2.0
"""What a lab needs of the machine itself, and how the machine was before.

Knows the few directories that must exist as mount points, and the tools. Must never change the machine's network.
`lab.up` prepares with it and `lab.down` restores and compares.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vpccni.errors import HostError, InputError
from vpccni.lab.launch import NODE_BINDS, SYSTEM_PATH
from vpccni.lab.state import LabState, read_json, write_json
from vpccni.netlink.namespace import NETNS_DIR
from vpccni.netlink.socket import RouteSocket

TOOLS = {"ip": "iproute2", "nft": "nftables", "iptables": "iptables", "iptables-restore": "iptables"}


def require_root() -> None:
    """Raise unless this process may make namespaces and links."""
    if os.geteuid() != 0:
        raise InputError(
            "run a lab", "network namespaces and mounts need root", evidence={"uid": os.geteuid()},
            hint="run the same command with sudo", code="not-root",
        )  # fmt: skip


def require_tools(tools: Sequence[str] = tuple(TOOLS)) -> None:
    """Raise one error that names every missing tool and the package that has it."""
    missing = [tool for tool in tools if shutil.which(tool, path=SYSTEM_PATH) is None]
    if missing:
        packages = " ".join(sorted({TOOLS[tool] for tool in missing}))
        raise HostError(
            "run a lab", f"not installed: {', '.join(missing)}", evidence={"searched": SYSTEM_PATH},
            hint=f"apt-get install {packages}", code="tools-missing",
        )  # fmt: skip


def prepare(state: LabState) -> None:
    """Make the mount points that are missing, and write down what was made and how the network was before."""
    netns_was_there = NETNS_DIR.is_dir()
    made: list[str] = []
    write_json(state.machine, {"made": made, "netns_was_there": netns_was_there, "network": network()})
    for target in NODE_BINDS:
        missing = [path for path in (target, *target.parents) if not path.exists()]
        made += [str(path) for path in reversed(missing)]
        write_json(state.machine, {"made": made, "netns_was_there": netns_was_there, "network": network()})
        target.mkdir(parents=True, exist_ok=True)


def restore(state: LabState) -> list[str]:
    """Remove the directories that `prepare` made, if they are empty; returns those that had to stay."""
    if not state.machine.exists():
        return []
    before = read_json(state.machine)
    # A directory that is a mount point in another lab's namespace would vanish there: the last lab cleans up.
    others = [path for path in state.root.parent.glob("vpccni-lab*") if path != state.root]
    if others:
        return []
    for path in reversed(before["made"]):
        with contextlib.suppress(OSError):
            Path(path).rmdir()
    if not before["netns_was_there"]:
        _remove_netns_dir()
    return [path for path in before["made"] if Path(path).exists()]


def network() -> dict[str, Any]:
    """Links, rules and routing tables of the machine's own network, as comparable text."""
    with RouteSocket() as kernel:
        rules = [str(rule) for version in (4, 6) for rule in kernel.rules(version)]
        tables = {route.table for version in (4, 6) for route in kernel.routes(version)}
        return {
            "links": sorted(link.name for link in kernel.links()),
            "rules": sorted(rules),
            "tables": sorted(tables),
        }


def _remove_netns_dir() -> None:
    """/run/netns is a mount of its own once a namespace has been named; take it away when nobody uses it."""
    from vpccni.lab.launch import unmount

    if NETNS_DIR.is_dir() and not any(NETNS_DIR.iterdir()):
        unmount(NETNS_DIR)
        with contextlib.suppress(OSError):
            NETNS_DIR.rmdir()
