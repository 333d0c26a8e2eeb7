# SPDX-License-Identifier: Apache-2.0
"""Programs started in a node's namespaces see the node's network and directories, and the machine sees neither."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from vpccni.errors import HostError
from vpccni.lab import launch
from vpccni.lab.router import make_namespace
from vpccni.lab.state import LabState
from vpccni.netlink import namespace
from vpccni.netlink.namespace import NETNS_DIR

pytestmark = [pytest.mark.netns, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]
ENVIRON = launch.program_environ({})


@pytest.fixture
def place(tmp_path: Path) -> Iterator[launch.Place]:
    state = LabState(tmp_path / "lab", f"vt-{os.getpid()}")
    state.create()
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    os.close(make_namespace(state.node_namespace("1")))
    yield launch.Place(NETNS_DIR / state.node_namespace("1"), ((source, target),))
    namespace.remove(state.node_namespace("1"))


def test_the_program_runs_in_the_namespace_and_sees_the_bound_directory(place: launch.Place, tmp_path: Path) -> None:
    done = launch.run(place, ["sh", "-c", f"echo hi >{tmp_path}/target/f; ip -o link; cat"], ENVIRON, stdin=b"text")
    assert done.returncode == 0
    assert done.stdout.count(b"\n") == 1 and b"lo:" in done.stdout and done.stdout.endswith(b"text")
    assert (tmp_path / "source" / "f").read_text() == "hi\n"
    assert list((tmp_path / "target").iterdir()) == []  # nothing is mounted on the machine


def test_nothing_of_the_callers_environment_leaks_in(place: launch.Place) -> None:
    done = launch.run(place, ["env"], launch.program_environ({"A": "1"}))
    names = {line.split("=")[0] for line in done.stdout.decode().splitlines()}
    assert names - {"PWD", "SHLVL", "_"} == {"PATH", "LANG", "HOME", "A"}


def test_a_missing_program_or_namespace_is_a_host_error(place: launch.Place, tmp_path: Path) -> None:
    with pytest.raises(HostError, match="no-such-program"):
        launch.run(place, ["/no-such-program"], ENVIRON)
    with pytest.raises(HostError):
        launch.run(launch.Place(tmp_path / "absent"), ["true"], ENVIRON)


def test_a_long_lived_program_does_not_keep_namespaces_alive(place: launch.Place, tmp_path: Path) -> None:
    """A private copy of /run/netns in a daemon's view would keep every pod's links on the node after their deletion."""
    other = f"vt-{os.getpid()}-pod"
    os.close(make_namespace(other))
    shown = launch.run(place, ["ls", str(NETNS_DIR)], ENVIRON).stdout.decode()
    assert other in shown
    hidden = launch.Place(place.namespace, place.binds, hide_namespaces=True)
    done = launch.run(hidden, ["grep", "-c", other, "/proc/self/mountinfo"], ENVIRON)
    namespace.remove(other)
    assert done.stdout.strip() == b"0"


def test_the_exit_code_is_the_programs_own(place: launch.Place) -> None:
    assert launch.attach(place, ["sh", "-c", "exit 7"], ENVIRON) == 7
    assert launch.attach(place, ["sh", "-c", "kill -9 $$"], ENVIRON) == 137


def test_a_spawned_program_writes_its_log(place: launch.Place, tmp_path: Path) -> None:
    log = tmp_path / "log"
    pid = launch.spawn(place, ["sh", "-c", "echo started"], ENVIRON, log)
    os.waitpid(pid, 0)
    assert log.read_text() == "started\n"
