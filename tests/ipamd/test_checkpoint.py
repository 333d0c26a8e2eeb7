# SPDX-License-Identifier: Apache-2.0
"""`ipam.json` is the Go daemon's file, byte for byte, and what it would die of is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from vpccni.errors import StateError
from vpccni.ipamd import checkpoint
from vpccni.ipamd.checkpoint import Allocation, Metadata

# The document of Amazon VPC CNI 1.23 for one pod, as its data store writes it.
GO = (
    b'{"version":"vpc-cni-ipam/1","allocations":[{"networkName":"aws-cni","containerID":"abc","ifName":"eth0",'
    b'"ipv4":"10.0.0.5","allocationTimestamp":1700000005000000000,'
    b'"metadata":{"k8sPodNamespace":"default","k8sPodName":"web-0","interfacesCount":1}}]}\n'
)
ENTRY = Allocation(
    "aws-cni",
    "abc",
    "eth0",
    ipv4="10.0.0.5",
    allocationTimestamp=1700000005000000000,
    metadata=Metadata("default", "web-0", 1),
)


def test_the_file_is_byte_for_byte_what_the_go_daemon_writes() -> None:
    assert checkpoint.encode([ENTRY]) == GO


def test_the_go_daemons_file_is_understood(tmp_path: Path) -> None:
    (tmp_path / "ipam.json").write_bytes(GO)
    assert checkpoint.read(tmp_path / "ipam.json") == [ENTRY]


def test_empty_metadata_and_no_allocations_are_written_as_the_go_daemon_does() -> None:
    bare = Allocation("n", "c", "e", ipv6="2001:db8::1", allocationTimestamp=0, metadata=Metadata())
    assert checkpoint.encode([bare]) == (
        b'{"version":"vpc-cni-ipam/1","allocations":[{"networkName":"n","containerID":"c","ifName":"e",'
        b'"ipv6":"2001:db8::1","allocationTimestamp":0,"metadata":{}}]}\n'
    )
    assert checkpoint.encode([]) == b'{"version":"vpc-cni-ipam/1","allocations":[]}\n'


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "empty"),
        (GO[:40], "truncated"),
        (b"{}", "version"),
        (b'{"version":"vpc-cni-ipam/2","allocations":[]}', "vpc-cni-ipam/2"),
        (checkpoint.encode([ENTRY, ENTRY]), "10.0.0.5 is allocated twice"),
        (GO.replace(b"10.0.0.5", b"10.0.0.500"), "10.0.0.500"),
    ],
)
def test_a_file_that_cannot_be_believed_is_named_with_the_reason(tmp_path: Path, content: bytes, why: str) -> None:
    path = tmp_path / "ipam.json"
    path.write_bytes(content)
    with pytest.raises(StateError) as caught:
        checkpoint.read(path)
    assert why in str(caught.value)
    assert caught.value.error_code == "checkpoint-corrupt"
    assert "set aside" in caught.value.hint


@pytest.mark.parametrize(
    "content", [b'{"version":"vpc-cni-ipam/1","allocations":null}', GO.replace(b'{"v', b'{"x":1,"v')]
)
def test_null_and_unknown_members_are_accepted(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "ipam.json"
    path.write_bytes(content)
    assert len(checkpoint.read(path)) in (0, 1)


def test_a_missing_file_is_an_empty_state(tmp_path: Path) -> None:
    assert checkpoint.read(tmp_path / "none") == []


def test_writing_is_atomic_private_and_leaves_no_temporary_file(tmp_path: Path) -> None:
    path = tmp_path / "ipam.json"
    checkpoint.write(path, [])
    checkpoint.write(path, [ENTRY])
    assert path.read_bytes() == GO
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_a_directory_that_cannot_be_written_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StateError) as caught:
        checkpoint.write(tmp_path / "file" / "ipam.json", [])
    assert caught.value.error_code == "checkpoint-unwritable"
