# SPDX-License-Identifier: Apache-2.0
"""Journal, compaction and `ipam.json` on a disk that tears, fills up or dies at every single operation."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest

from vpccni.core.grant import Grant, GrantedAddress, PodIdentity, PodKey
from vpccni.errors import StateError
from vpccni.ipamd import checkpoint, journal, records, recovery, store
from vpccni.ipamd.journal import Journal, Record
from vpccni.ipamd.records import Intent, JournalState

NOW = 1_700_000_000.0
CALLS = ("open", "write", "fsync", "fdatasync", "ftruncate", "rename")


class Killed(BaseException):
    """The process ends here."""


class Disk:
    """`os` as the state files use it, with one operation that goes wrong: `how` is kill, tear or full."""

    def __init__(self, fail_at: int, how: str) -> None:
        self.fail_at, self.how, self.count, self.names = fail_at, how, 0, []

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        return self._wrapped(name, real) if name in CALLS else real

    def _wrapped(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            self.count += 1
            self.names.append(name)
            if self.count != self.fail_at:
                return real(*arguments, **named)
            if name == "write" and self.how in ("tear", "full"):
                real(arguments[0], bytes(arguments[1])[: len(arguments[1]) // 2])
            if self.how == "full":
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if self.how == "after":
                real(*arguments, **named)
            raise Killed

        return call


def grant(number: int) -> Grant:
    address = IPv4Address("10.0.0.0") + number
    return Grant(PodKey("aws-cni", f"c{number}", "eth0"), PodIdentity("default", f"p{number}"),
                 (GrantedAddress(address, "eni-1"),), NOW)  # fmt: skip


INTENT = Intent("t1", "attach", NOW, subnet_id="subnet-1")


class Node:
    """What a daemon does to its files; `done` is the state that somebody was answered for."""

    def __init__(self, folder: Path) -> None:
        self.path, self.ipam = folder / "journal", folder / "ipam.json"
        self.log: Journal | None = None
        self.done: list[Record] = []
        self.maybe: list[Record] = []

    def day(self) -> list[Callable[[], None]]:
        return [
            self.start,
            lambda: self.append(records.granted(grant(1))),
            lambda: self.append(records.granted(grant(2)), records.intended(INTENT)),
            self.behind,
            lambda: self.append(records.released(grant(1), NOW)),
            self.compact,
            self.behind,
            lambda: self.append(records.granted(grant(3))),
            lambda: self.append(records.finished("t1")),
            self.behind,
        ]

    def start(self) -> None:
        self.log = Journal(self.path, self.done)

    def append(self, *lines: Record) -> None:
        self.maybe = list(lines)
        assert self.log is not None
        self.log.append(lines)
        self.done += lines
        self.maybe = []

    def compact(self) -> None:
        assert self.log is not None
        self.log.rewrite(records.snapshot(records.replay(self.done)))

    def behind(self) -> None:
        state = records.replay(self.done)
        checkpoint.write(self.ipam, [entry for each in state.grants.values() for entry in recovery.allocation_of(each)])

    def recovered(self) -> JournalState:
        """What the next daemon reads; nothing may have to be set aside."""
        found = store.read_journal(self.path, NOW)
        store.read_checkpoint(self.ipam, NOW)
        assert not list(self.path.parent.glob("*.corrupt-*"))
        return found

    def holds(self) -> None:
        """Everything that was answered for is there, and nothing beyond what was being written."""
        found = self.recovered()
        possible = [records.replay([*self.done, *self.maybe[:count]]) for count in range(len(self.maybe) + 1)]
        assert found in possible


def install(monkeypatch: pytest.MonkeyPatch, disk: Disk) -> None:
    monkeypatch.setattr(journal, "os", disk)
    monkeypatch.setattr(checkpoint, "os", disk)
    real = Path.rename
    monkeypatch.setattr(Path, "rename", lambda *names: disk._wrapped("rename", real)(*names))  # noqa: PLW0108  # a method


def operations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    disk = Disk(0, "")
    with monkeypatch.context() as patched:
        install(patched, disk)
        for act in Node(tmp_path).day():
            act()
    assert {"open", "write", "fsync", "fdatasync", "rename"} <= set(disk.names)
    return disk.count


@pytest.mark.parametrize("how", ["kill", "after", "tear"])
def test_killed_at_any_operation_on_the_disk_nothing_answered_for_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    (tmp_path / "count").mkdir()
    for fail_at in range(1, operations(tmp_path / "count", monkeypatch) + 1):
        folder = tmp_path / f"{how}{fail_at}"
        folder.mkdir()
        node = Node(folder)
        with monkeypatch.context() as patched, pytest.raises(Killed):
            install(patched, Disk(fail_at, how))
            for act in node.day():
                act()
        node.holds()
        node.done, node.maybe = records.snapshot(node.recovered()), []
        node.start()  # the next daemon
        node.append(records.granted(grant(9)))
        node.behind()
        node.holds()
        assert any(entry.ipv4 == "10.0.0.9" for entry in checkpoint.read(node.ipam))


def test_on_a_disk_that_is_full_at_any_operation_the_caller_is_told_and_work_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "count").mkdir()
    for fail_at in range(1, operations(tmp_path / "count", monkeypatch) + 1):
        folder = tmp_path / f"full{fail_at}"
        folder.mkdir()
        node = Node(folder)
        refused = 0
        with monkeypatch.context() as patched:
            install(patched, Disk(fail_at, "full"))
            for act in node.day():
                try:
                    act()
                except StateError as error:
                    refused += 1
                    assert error.hint and error.evidence["file"]
                    node.maybe = []  # told that it failed: it must not be there later
                    if node.log is None:
                        act()  # the supervisor starts it again
        assert refused == 1
        node.holds()


def test_the_check_notices_a_journal_that_is_not_synced_as_a_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = Node(tmp_path)
    node.start()
    node.append(records.granted(grant(1)))
    content = node.path.read_bytes()
    node.append(records.granted(grant(2)))
    node.path.write_bytes(content)
    with pytest.raises(AssertionError):
        node.holds()
