# SPDX-License-Identifier: Apache-2.0
"""A lab whose nodes run real container runtimes, and what the tests look at in it.

Knows the lab's command line and the node daemon's introspection. Must never reach into the product's state. The
fixtures of this folder make one per module and take it down whatever happens.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import images
from containerd import Containerd, seen, wait_until
from node_machine import NodeMachine

from vpccni.lab import nodes
from vpccni.lab.sockets import namespace_handle, tcp_socket
from vpccni.lab.state import LabState, ProcessRecord
from vpccni.netlink.namespace import NETNS_DIR

RECORDER = Path(__file__).with_name("recorder.py")
CALLS = ".calls.jsonl"
PLUGINS = ("loopback", "portmap", "bandwidth", "tuning")
_serial = itertools.count(1)


class Box:
    """One lab. `machine(node)` makes a node ready for runtimes, `containerd(node)` starts one there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environ = {**os.environ, "VPCCNI_LAB_NAME": f"r{os.getpid()}x{next(_serial)}"}
        self.state = LabState.from_environ(self.environ)
        self.image = folder / "box.tar"
        self._machines: dict[str, NodeMachine] = {}
        self._containerds: dict[str, Containerd] = {}

    # -- the lab ----------------------------------------------------------------------------------------------------
    def lab(self, *argv: str, ok: bool = True) -> str:
        """`vpccni lab ...`; a failure fails the test with all that was printed."""
        done = subprocess.run(
            [sys.executable, "-m", "vpccni", "lab", *argv],
            check=False, env=self.environ, capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert not ok or done.returncode == 0, f"vpccni lab {' '.join(argv)}: {done.stdout}{done.stderr}"
        return done.stdout

    def up(self, node_count: int, instance_type: str, plugins: Sequence[str] = PLUGINS, **settings: str) -> None:
        """Bring it up with reference plugins on every node. Settings come with a second start of the daemons, because
        some ask for plugins that a fresh node of the lab has not."""
        self.lab("up", "--nodes", str(node_count), "--instance-type", instance_type)
        for node in nodes.node_names(self.state):
            self.machine(node).install_plugins(*plugins)
            self.restart_daemon(node, **settings)

    def status(self) -> dict[str, Any]:
        """What there is: nodes, hosts outside, subnets."""
        status: dict[str, Any] = json.loads(self.lab("status", "-o", "json"))
        return status

    def node(self, name: str) -> dict[str, Any]:
        """Instance, addresses and interfaces of a node."""
        rows = json.loads(self.lab("nodes", "-o", "json"))
        return next(row for row in rows if row["name"] == name)

    def restart_daemon(self, node: str, **settings: str) -> None:
        """Stop the node's daemon as a DaemonSet's update does, and start it with changed settings."""
        self.stop_daemon(node)
        self.start_daemon(node, **settings)

    def stop_daemon(self, node: str) -> None:
        """SIGTERM, and its conflist goes."""
        nodes.stop(self.state, node)
        assert not nodes.conflist(self.state, node).exists()

    def start_daemon(self, node: str, **settings: str) -> None:
        """Start it and wait for its conflist, also when an old one lies there."""
        nodes.start(self.state, node, settings)
        wait_until(lambda: self._serves(node), 30, f"node {node}'s daemon serves")
        nodes.wait_ready(self.state, node, 30)

    def insist_on_daemon(self, node: str) -> None:
        """Start the node's daemon if a test left it dead."""
        record = self.state.process(f"ipamd-{node}")
        if record is None or not record.alive():
            self.start_daemon(node)

    def _serves(self, node: str) -> bool:
        try:
            return bool(nodes.introspect(self.state, node, "/v1/enis")) and nodes.conflist(self.state, node).exists()
        except Exception:
            return False

    def daemon(self, node: str) -> ProcessRecord:
        """The process of the node's daemon."""
        record = self.state.process(f"ipamd-{node}")
        assert record is not None and record.alive()
        return record

    @contextlib.contextmanager
    def daemon_frozen(self, node: str) -> Iterator[None]:
        """The node's daemon stands still meanwhile; its socket is there, and nobody answers."""
        record = self.daemon(node)
        record.signal(signal.SIGSTOP)
        try:
            yield
        finally:
            record.signal(signal.SIGCONT)

    def in_use(self, node: str) -> set[str]:
        """Addresses that the node's daemon says pods have."""
        return {pod["IP"] for pod in nodes.introspect(self.state, node, "/v1/pods").values()}

    def free(self, node: str) -> int:
        """Addresses of the node that no pod has; some may be cooling."""
        pools = nodes.introspect(self.state, node, "/v1/enis").values()
        return sum(int(pool["TotalIPs"]) - int(pool["AssignedIPs"]) for pool in pools)

    def addresses_by_device(self, node: str) -> dict[int, set[str]]:
        """Device number of each ENI of the node: the pod addresses that EC2 has given it."""
        enis = self.node(node)["enis"]
        return {int(eni["device"].removeprefix("eth")): set(eni["addresses"]) for eni in enis}

    # -- runtimes ---------------------------------------------------------------------------------------------------
    def machine(self, node: str) -> NodeMachine:
        """The node as a machine."""
        if node not in self._machines:
            self._machines[node] = NodeMachine(self.state, node)
            self._machines[node].start()
        return self._machines[node]

    def containerd(self, node: str) -> Containerd:
        """containerd of the node, started at the first call."""
        if node not in self._containerds:
            self._containerds[node] = Containerd(self.machine(node), self.image)
            self._containerds[node].start()
        return self._containerds[node]

    # -- looking on -------------------------------------------------------------------------------------------------
    def record(self, node: str, *plugins: str) -> None:
        """Write down every call of these plugins from now on, until the daemon installs its own anew."""
        folder = self.machine(node).bin_dir
        (folder / CALLS).unlink(missing_ok=True)
        for plugin in plugins:
            real, shown = folder / f".real-{plugin}", folder / plugin
            if not shown.read_bytes().startswith(b"#!/usr/bin/python3 -IS\n" + RECORDER.read_bytes()[:40]):
                shutil.copy2(shown, real)
            temporary = folder / f".new-{plugin}"
            temporary.write_bytes(b"#!/usr/bin/python3 -IS\n" + RECORDER.read_bytes())
            temporary.chmod(0o755)
            temporary.replace(shown)

    def calls(self, node: str) -> list[dict[str, Any]]:
        """The recorded calls that have ended, in order; those that were killed never did."""
        path = self.machine(node).bin_dir / CALLS
        entries = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return [entry for entry in entries if "exit_code" in entry]

    def begun(self, node: str) -> list[dict[str, Any]]:
        """The recorded calls that have begun, ended or not."""
        path = self.machine(node).bin_dir / CALLS
        entries = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return [entry for entry in entries if "began" in entry]

    def forget_calls(self, node: str) -> None:
        """Start a new list."""
        (self.machine(node).bin_dir / CALLS).unlink(missing_ok=True)

    def page_from(self, namespace: str, address: str, port: int) -> str:
        """What a pod's server answers a program in one of the lab's namespaces, as `Containerd.fetch`."""
        with namespace_handle(NETNS_DIR / namespace) as handle:
            sock = tcp_socket(handle)
        with sock:
            sock.settimeout(2)
            try:
                sock.connect((address, port))
                sock.sendall(f"GET {images.PAGE_PATH} HTTP/1.0\r\n\r\n".encode())
                return seen(b"".join(iter(lambda: sock.recv(4096), b"")).decode())
            except OSError:
                return ""

    def ip(self, node: str, *words: str) -> str:
        """What `ip` prints in the node's network."""
        argv = ["ip", "-n", self.state.node_namespace(node), *words]
        return subprocess.run(argv, capture_output=True, text=True, check=True).stdout

    def traces(self, node: str, address: str) -> list[str]:
        """Rules and routes of the node that name an address; none once its pod is gone."""
        lines = [*self.ip(node, "rule").splitlines(), *self.ip(node, "route", "show", "table", "all").splitlines()]
        return [line for line in lines if address in line.split()]

    # -- the end ----------------------------------------------------------------------------------------------------
    def down(self) -> list[str]:
        """Take everything down; what is left, which must be nothing."""
        left: list[str] = []
        for runtime in self._containerds.values():
            runtime.cri.close()
        for machine in self._machines.values():
            left += machine.stop()
        if self.state.exists():
            rows = json.loads(self.lab("down", "-o", "json", ok=False))
            left += [f"{row['what']}: {row['left']}" for row in rows if row["left"]]
        return left
