# SPDX-License-Identifier: Apache-2.0
"""A reader of pcapng files that knows the format from its specification alone, to judge what the writer writes."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import ip_address


@dataclass
class Capture:
    """What a file holds. Packets: (interface's name, time in ns, octets, flags, comment)."""

    interfaces: list[tuple[str, int]] = field(default_factory=list)
    packets: list[tuple[str, int, bytes, int, str]] = field(default_factory=list)
    names: dict[str, str] = field(default_factory=dict)


def read(text: bytes) -> Capture:
    found = Capture()
    kinds = []
    for kind, body in blocks(text):
        kinds.append(kind)
        if kind == 0x0A0D0D0A:
            assert struct.unpack_from("<IHH", body) == (0x1A2B3C4D, 1, 0)
        elif kind == 1:
            options = dict(_options(body[8:]))
            assert struct.unpack_from("<H", body)[0] == 1  # Ethernet
            found.interfaces.append((options[2].decode(), options[9][0]))
        elif kind == 4:
            for code, value in _options(body):
                size = 4 if code == 1 else 16
                found.names[str(ip_address(value[:size]))] = value[size:].split(b"\0")[0].decode()
        elif kind == 6:
            number, high, low, kept, length = struct.unpack_from("<IIIII", body)
            assert kept == length
            options = dict(_options(body[20 + kept + -kept % 4 :]))
            flags, comment = struct.unpack("<I", options[2])[0], options.get(1, b"").decode()
            name = found.interfaces[number][0]
            found.packets.append((name, high << 32 | low, body[20 : 20 + kept], flags, comment))
        else:
            raise AssertionError(f"unknown block {kind}")
    assert kinds[0] == 0x0A0D0D0A
    return found


def blocks(text: bytes) -> Iterator[tuple[int, bytes]]:
    while text:
        kind, length = struct.unpack_from("<II", text)
        assert length % 4 == 0 and struct.unpack_from("<I", text, length - 4)[0] == length
        yield kind, text[8 : length - 4]
        text = text[length:]


def _options(text: bytes) -> Iterator[tuple[int, bytes]]:
    while text:
        code, length = struct.unpack_from("<HH", text)
        if code == 0:
            return
        yield code, text[4 : 4 + length]
        text = text[4 + length + -length % 4 :]
