# SPDX-License-Identifier: Apache-2.0
"""A held daemon does nothing: no thread of it runs, and no program that it has started."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from vpccni.errors import HostError
from vpccni.lab.kubeproxy.values import KUBE_PROXY
from vpccni.lab.launch import Place
from vpccni.paths import RELAY_SOCKET
from vpccni.selftest.hold import at_rest, held_daemon
from vpccni.selftest.node import Node

# Two threads that write, and one program after another that does.
DAEMON = """
import pathlib, socket, subprocess, sys, threading
sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
sock.bind(sys.argv[1]); sock.listen()
def work(name):
    with open(sys.argv[2] + name, "ab", buffering=0) as file:
        while True:
            file.write(b".")
for name in "ab":
    threading.Thread(target=work, args=(name,), daemon=True).start()
while True:
    subprocess.run(["sh", "-c", "sleep 0.1; echo done >> " + sys.argv[2] + "c"])
"""


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[tuple[Node, int]]:
    path = tmp_path / RELAY_SOCKET.name
    process = subprocess.Popen([sys.executable, "-c", DAEMON, str(path), str(tmp_path / "written-")])
    while not (tmp_path / "written-c").exists():
        time.sleep(0.01)
    place = Place(tmp_path)
    node = Node("n", tmp_path, place, tmp_path, tmp_path, tmp_path, "p", KUBE_PROXY)
    try:
        yield node, process.pid
    finally:
        process.kill()
        process.wait()


def written(node: Node) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in node.run_dir.glob("written-*")}


def test_nothing_is_written_while_it_is_held_and_all_goes_on_afterwards(daemon):
    node, pid = daemon
    for _ in range(3):
        with held_daemon(node):
            assert at_rest(pid)
            before = written(node)
            time.sleep(0.15)
            assert written(node) == before
        assert not at_rest(pid)
        deadline = time.monotonic() + 5
        while any(written(node)[name] == size for name, size in before.items()):
            assert time.monotonic() < deadline


def test_a_node_without_a_daemon_is_told(tmp_path):
    node = Node("n", tmp_path, Place(tmp_path), tmp_path, tmp_path, tmp_path, "p", KUBE_PROXY)
    with pytest.raises(HostError) as caught, held_daemon(node):
        pass
    assert caught.value.error_code == "no-daemon"
