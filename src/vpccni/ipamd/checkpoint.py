# SPDX-License-Identifier: Apache-2.0
"""`ipam.json`, the state file of the Go daemon: read at start, written behind, so that a node can change hands.

Knows the format `vpc-cni-ipam/1` of the Amazon VPC CNI 1.12 and newer, byte for byte. Must never know the pool.
`ipamd.store` reads it at start and writes it within a second of a change; `ipamd.program` writes it at stop.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

import msgspec

from vpccni.errors import StateError

VERSION = "vpc-cni-ipam/1"


class Metadata(msgspec.Struct, omit_defaults=True):
    """Whose address it is; members are omitted when empty, as the Go daemon does."""

    k8sPodNamespace: str = ""  # member names are the file format
    k8sPodName: str = ""
    interfacesCount: int = 0


class Allocation(msgspec.Struct, omit_defaults=True):
    """One address in use. Exactly one of `ipv4` and `ipv6` is set; `allocationTimestamp` is Unix nanoseconds."""

    networkName: str = msgspec.field()
    containerID: str = msgspec.field()
    ifName: str = msgspec.field()
    ipv4: str = ""
    ipv6: str = ""
    allocationTimestamp: int = msgspec.field(default=-1)  # -1 never occurs, so zero is written
    metadata: Metadata | None = None

    @property
    def address(self) -> IPv4Address | IPv6Address:
        """The address, whichever member holds it. Raises ValueError when neither is an address."""
        return ip_address(self.ipv4 or self.ipv6)


class _Document(msgspec.Struct):
    version: str
    allocations: list[Allocation] | None = None


def encode(allocations: Iterable[Allocation]) -> bytes:
    """The whole file: one line of JSON, key order and empty `metadata` as the Go daemon writes them."""
    return msgspec.json.encode(_Document(VERSION, list(allocations))) + b"\n"


def decode(content: bytes, path: Path) -> list[Allocation]:
    """The allocations of a file. Raises StateError (`checkpoint-corrupt`) for all that the Go daemon dies of."""
    try:
        document = msgspec.json.decode(content, type=_Document)
        allocations = document.allocations or []
        addresses = [entry.address for entry in allocations]
    except (msgspec.DecodeError, ValueError) as error:
        raise _corrupt(path, str(error) if content else "the file is empty") from error
    if document.version != VERSION:
        raise _corrupt(path, f"version {document.version!r} instead of {VERSION!r}")
    if len(set(addresses)) != len(addresses):
        twice = next(str(address) for address in addresses if addresses.count(address) > 1)
        raise _corrupt(path, f"{twice} is allocated twice")
    return allocations


def read(path: Path) -> list[Allocation]:
    """The allocations of the file at `path`; empty when there is none."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StateError("read ipam.json", str(error), evidence={"file": path}, code="checkpoint-unreadable") from error
    return decode(content, path)


def write(path: Path, allocations: Iterable[Allocation]) -> None:
    """Replace the file: temporary file in the same directory, mode 0600, fsync, rename, fsync of the directory."""
    temporary = path.with_name(f"{path.name}.tmp{os.getpid()}")
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as file:
            file.write(encode(allocations))
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as error:
        raise StateError(
            "write ipam.json",
            error.strerror or str(error),
            evidence={"file": path},
            hint="the journal still holds every grant; free space so that the Go daemon could take over",
            code="checkpoint-unwritable",
        ) from error


def _corrupt(path: Path, why: str) -> StateError:
    return StateError(
        "read ipam.json",
        why,
        evidence={"file": path},
        hint="the file is set aside and the state is rebuilt from the journal, the kernel and EC2",
        code="checkpoint-corrupt",
    )
