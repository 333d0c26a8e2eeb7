# SPDX-License-Identifier: Apache-2.0
"""The append-only journal: what was granted, released and intended, on disk before anybody is answered.

Knows lines, checksums and durability. Must never know what a record means to the pool (`ipamd.records` does) and
never decides. The worker thread owns it; `append` makes a whole batch durable with one fdatasync.

A line is `<crc32 of the JSON, 8 hex digits> <JSON>\n`. A last line without newline or with a bad checksum is a write
that a crash tore: nobody was answered for it, so it is dropped. A bad line before the end is corruption.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from vpccni.errors import StateError

Record = dict[str, object]
HEADER: Record = {"t": "journal", "version": 1}


def _line(record: Record) -> bytes:
    body = msgspec.json.encode(record)
    return b"%08x %s\n" % (zlib.crc32(body), body)


def _parse(line: bytes) -> Record | None:
    checksum, _, body = line.partition(b" ")
    if checksum != b"%08x" % zlib.crc32(body):
        return None
    try:
        record = msgspec.json.decode(body)
    except msgspec.DecodeError:
        return None
    return record if isinstance(record, dict) else None


def read(path: Path) -> list[Record]:
    """All records of a journal in order, without the header; empty when there is no file.

    Raises StateError (`journal-corrupt`) when a line that is not the last one does not match its checksum.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StateError("read the journal", str(error), evidence={"file": path}, code="journal-unreadable") from error
    torn = lines.pop()  # empty after a complete line
    records: list[Record] = []
    for number, line in enumerate(lines, 1):
        record = _parse(line)
        if record is None:
            if number == len(lines) and not torn:
                break  # the last whole line: its sectors reached the disk out of order before a crash
            raise StateError(
                "read the journal",
                f"line {number} of {len(lines)} does not match its checksum",
                evidence={"file": path, "line": number},
                hint="the file is set aside and the state is rebuilt from ipam.json, the kernel and EC2",
                code="journal-corrupt",
            )
        records.append(record)
    if records and records[0] != HEADER:
        raise StateError(
            "read the journal", f"unknown header {records[0]}", evidence={"file": path}, code="journal-corrupt"
        )
    return records[1:]


def quarantine(path: Path, now: float) -> Path:
    """Set a file that cannot be believed aside as `<name>.corrupt-<unix seconds>` and return where it went."""
    target = path.with_name(f"{path.name}.corrupt-{int(now)}")
    path.rename(target)
    return target


class Journal:
    """An open journal. `append` and `rewrite` are durable when they return; both raise StateError and lose nothing."""

    def __init__(self, path: Path, records: Iterable[Record] = ()) -> None:
        """Open `path` for appending after rewriting it to hold exactly `records` (state just recovered)."""
        self._path = path
        self._fd = -1
        self.lines = 0
        self.rewrite(list(records))

    def append(self, records: Sequence[Record]) -> None:
        """Add records with one write and one fdatasync."""
        blob = b"".join(map(_line, records))
        end = os.lseek(self._fd, 0, os.SEEK_END)
        try:
            written = os.write(self._fd, blob)
            if written != len(blob):
                raise OSError(28, f"only {written} of {len(blob)} bytes fitted")
            os.fdatasync(self._fd)
        except OSError as error:
            self._cut(end)
            raise self._failed("append to", error) from error
        self.lines += len(records)

    def rewrite(self, records: Sequence[Record]) -> None:
        """Replace the file by one that holds only `records` (compaction): temporary file, fsync, rename, fsync dir."""
        temporary = self._path.with_name(self._path.name + ".tmp")
        try:
            self._path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise self._failed("rewrite", error) from error
        try:
            blob = memoryview(b"".join(map(_line, [HEADER, *records])))
            while blob:
                blob = blob[os.write(fd, blob) :]
            os.fsync(fd)
            temporary.rename(self._path)
        except OSError as error:
            os.close(fd)
            raise self._failed("rewrite", error) from error
        self.close()  # from the rename on, the old descriptor names a file that nobody will read again
        self._fd, self.lines = fd, len(records) + 1
        try:
            _sync_directory(self._path.parent)
        except OSError as error:
            raise self._failed("rewrite", error) from error

    def close(self) -> None:
        """Close the descriptor; a second call does nothing."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _cut(self, end: int) -> None:
        # A half-written batch must not sit in front of the next one: it would read as corruption.
        try:
            os.ftruncate(self._fd, end)
        except OSError as error:  # the disk is gone: nothing more may be promised
            raise self._failed("repair", error) from error

    def _failed(self, verb: str, error: OSError) -> StateError:
        return StateError(
            f"{verb} the journal",
            error.strerror or str(error),
            evidence={"file": self._path, "errno": error.errno},
            hint="free space on the file system that holds it and check that it is writable; the runtime retries",
            code="journal-unwritable",
            retryable=True,
            cni_code=11,
        )


def _sync_directory(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
