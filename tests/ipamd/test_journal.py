# SPDX-License-Identifier: Apache-2.0
"""The journal survives torn writes and full disks, and says when it cannot be believed."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpccni.errors import StateError
from vpccni.ipamd import journal
from vpccni.ipamd.journal import Journal, Record

RECORDS: list[Record] = [{"t": "grant", "n": number, "text": "käse\n"} for number in range(20)]


def written(path: Path, records: list[Record]) -> None:
    log = Journal(path)
    log.append(records)
    log.close()


def test_what_is_appended_is_read_back_in_order(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "journal"
    written(path, RECORDS)
    assert journal.read(path) == RECORDS
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_missing_journal_is_an_empty_one(tmp_path: Path) -> None:
    assert journal.read(tmp_path / "none") == []


def test_a_journal_cut_at_any_byte_yields_a_prefix_and_never_an_error(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    written(path, RECORDS[:4])
    content = path.read_bytes()
    seen = set()
    for end in range(len(content)):
        path.write_bytes(content[:end])
        found = journal.read(path)
        assert found == RECORDS[: len(found)]
        seen.add(len(found))
    assert seen == {0, 1, 2, 3}


@given(position=st.integers(min_value=0), bit=st.integers(0, 7))
def test_a_flipped_bit_before_the_last_line_is_corruption(
    tmp_path_factory: pytest.TempPathFactory, position: int, bit: int
) -> None:
    path = tmp_path_factory.mktemp("flip") / "journal"
    written(path, RECORDS[:5])
    content = bytearray(path.read_bytes())
    last_line = content.rstrip(b"\n").rindex(b"\n") + 1
    content[position % (last_line - 1)] ^= 1 << bit
    path.write_bytes(bytes(content))
    with pytest.raises(StateError) as caught:
        journal.read(path)
    assert caught.value.error_code == "journal-corrupt"


def test_compaction_replaces_the_file_and_appends_go_to_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    log = Journal(path)
    log.append(RECORDS)
    log.rewrite(RECORDS[:2])
    log.append(RECORDS[5:6])
    log.close()
    assert journal.read(path) == [*RECORDS[:2], RECORDS[5]]
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_refuses_the_batch_and_keeps_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    log = Journal(path)
    log.append(RECORDS[:3])
    size = path.stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    import signal

    old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 30, hard))  # the next batch fits in part only
    try:
        with pytest.raises(StateError) as caught:
            log.append(RECORDS[3:])
        assert caught.value.can_retry
        assert caught.value.hint
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, old)
    assert journal.read(path) == RECORDS[:3]
    log.append(RECORDS[3:4])
    assert journal.read(path) == RECORDS[:4]


def test_a_quarantined_file_is_kept_beside(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    path.write_bytes(b"garbage\n\n")
    with pytest.raises(StateError):
        journal.read(path)
    kept = journal.quarantine(path, 1700000000.5)
    assert kept.read_bytes() == b"garbage\n\n"
    assert not path.exists()
    assert kept.name == "journal.corrupt-1700000000"


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    log = Journal(tmp_path / "journal")
    for _ in range(50):
        log.append(RECORDS[:1])
        log.rewrite(RECORDS[:1])
    log.close()
    log.close()
    assert len(list(Path("/proc/self/fd").iterdir())) == before
