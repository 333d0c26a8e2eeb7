# SPDX-License-Identifier: Apache-2.0
"""The state directory: atomic files, and processes that are told from later owners of their pid."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from vpccni.errors import StateError, TopologyError
from vpccni.lab.state import LabState, PodRecord, ProcessRecord, check_label, read_json, write_json


@pytest.fixture
def state(tmp_path: Path) -> LabState:
    made = LabState(tmp_path / "lab", "vt")
    made.create()
    return made


def test_a_value_that_cannot_be_written_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"n": 1})
    with pytest.raises(TypeError):
        write_json(path, {("tuple", "key"): 1})
    assert read_json(path) == {"n": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"n":')
    with pytest.raises(StateError) as refusal:
        read_json(path)
    assert refusal.value.evidence["file"] == path


def test_a_process_is_signalled_only_while_it_is_the_same_one(state: LabState) -> None:
    child = subprocess.Popen(["sleep", "60"])
    record = state.record_process("daemon", child.pid)
    impostor = replace(record, start_ticks=record.start_ticks + 1)
    assert record.alive() and not impostor.alive()
    assert not impostor.signal(signal.SIGKILL)
    assert child.poll() is None
    assert state.process("daemon") == record and state.processes() == [record]
    assert record.signal(signal.SIGKILL)
    assert record.wait_gone(5)  # a zombie is gone: nobody but its parent still knows it
    child.wait()
    assert not record.signal(signal.SIGKILL)


def test_a_process_that_never_ran_has_no_record() -> None:
    with pytest.raises(ProcessLookupError):
        ProcessRecord.of("daemon", 2**22 + 1)


def test_damaged_process_records_are_skipped(state: LabState) -> None:
    state.record_process("daemon", os.getpid())
    (state.root / "pids" / "ipamd-1.json").write_text("{")
    (state.root / "pids" / "ipamd-2.json").write_text(json.dumps({"role": "x"}))
    assert [record.role for record in state.processes()] == ["daemon"]


def test_pods_are_remembered_by_namespace_and_name(state: LabState) -> None:
    pods = [
        PodRecord("default", "b", "1", "c1", "/n/b", ("10.0.0.1",)),
        PodRecord("kube-system", "a", "2", "c2", "/n/a"),
    ]
    for pod in pods:
        state.save_pod(pod)
    assert list(state.pods()) == pods
    assert [pod.label for pod in pods] == ["b", "kube-system/a"]


def test_a_second_lab_has_its_own_directory_and_names() -> None:
    first, second = LabState.from_environ({}), LabState.from_environ({"VPCCNI_LAB_NAME": "ci"})
    assert first.root != second.root
    assert not second.node_namespace("1").startswith(f"{first.prefix}-")
    for name in ("a/b", "UPPER", "much-too-long-a-name"):
        with pytest.raises(TopologyError):
            LabState.from_environ({"VPCCNI_LAB_NAME": name})


def test_two_labs_cannot_be_made_in_one_directory(state: LabState) -> None:
    with pytest.raises(FileExistsError):
        state.create()


@pytest.mark.parametrize("name", ["", "-a", "a_b", "A", "a/b", "x" * 64])
def test_a_name_that_kubernetes_would_refuse_is_refused(name: str) -> None:
    with pytest.raises(TopologyError):
        check_label("pod", name)
    assert check_label("pod", "web-1") == "web-1"
