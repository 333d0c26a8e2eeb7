# SPDX-License-Identifier: Apache-2.0
"""Captured frames as a pcapng file: who is who is written into it.

Knows the blocks that it writes (section header, interfaces with names and nanosecond timestamps, enhanced packets with
comments, name resolution) in this machine-independent form: little endian, as the section header says. Must never open
a file. `vpccni pcap` writes what it returns.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from ipaddress import ip_address

_SECTION, _INTERFACE, _NAMES, _PACKET = 0x0A0D0D0A, 1, 4, 6
_MAGIC, _ETHERNET = 0x1A2B3C4D, 1
_UNKNOWN_LENGTH = -1
_OPT_END, _OPT_COMMENT, _SHB_APPLICATION = 0, 1, 4
_IF_NAME, _IF_RESOLUTION = 2, 9
_NANOSECONDS = b"\x09"  # 10 ** -9
_EPB_FLAGS, _INBOUND, _OUTBOUND = 2, 1, 2
_NAME_END, _NAME_4, _NAME_6 = 0, 1, 2
_TEXT_LIMIT = 65000


def section(application: str = "vpccni pcap") -> bytes:
    """What a file begins with."""
    fixed = struct.pack("<IHHq", _MAGIC, 1, 0, _UNKNOWN_LENGTH)
    return _block(_SECTION, fixed + _options([(_SHB_APPLICATION, application.encode())]))


def interface(name: str, snap: int = 0) -> bytes:
    """An Ethernet interface; packets name it by its place in the file, from 0."""
    fixed = struct.pack("<HHI", _ETHERNET, 0, snap)
    return _block(_INTERFACE, fixed + _options([(_IF_NAME, name.encode()), (_IF_RESOLUTION, _NANOSECONDS)]))


def names(table: Mapping[str, str]) -> bytes:
    """Address -> name, for programs that show names."""
    records = b""
    for address, name in table.items():
        parsed = ip_address(address)
        value = parsed.packed + name.encode() + b"\0"
        records += _option(_NAME_4 if parsed.version == 4 else _NAME_6, value)
    return _block(_NAMES, records + struct.pack("<HH", _NAME_END, 0))


def packet(number: int, time_ns: int, octets: bytes, *, outgoing: bool, comment: str = "") -> bytes:
    """A whole frame seen at interface `number`."""
    high, low = divmod(time_ns, 1 << 32)
    fixed = struct.pack("<IIIII", number, high, low, len(octets), len(octets)) + _padded(octets)
    options = [(_EPB_FLAGS, struct.pack("<I", _OUTBOUND if outgoing else _INBOUND))]
    if comment:
        options.insert(0, (_OPT_COMMENT, comment.encode()[:_TEXT_LIMIT]))
    return _block(_PACKET, fixed + _options(options))


def _options(pairs: Iterable[tuple[int, bytes]]) -> bytes:
    return b"".join(_option(code, value) for code, value in pairs) + struct.pack("<HH", _OPT_END, 0)


def _option(code: int, value: bytes) -> bytes:
    return struct.pack("<HH", code, len(value)) + _padded(value)


def _padded(octets: bytes) -> bytes:
    return octets + b"\0" * (-len(octets) % 4)


def _block(kind: int, body: bytes) -> bytes:
    length = struct.pack("<I", len(body) + 12)
    return struct.pack("<I", kind) + length + body + length
