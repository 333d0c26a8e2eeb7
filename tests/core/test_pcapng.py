# SPDX-License-Identifier: Apache-2.0
"""What the pcapng writer writes, read back by a reader of its own; and what a packet's first bytes say."""

from __future__ import annotations

import struct
from ipaddress import ip_address

import pytest
from pcapng_reader import read

from vpccni.core import pcapng
from vpccni.core.dissect import Ends, dissect

TIME_NS = 1_790_000_000_123_456_789


def test_interfaces_times_comments_and_names_come_back() -> None:
    names = {"10.0.0.1": "pod web", "2001:db8::1": "host six"}
    text = pcapng.section() + pcapng.names(names) + pcapng.interface("eth0")
    for length in range(60, 64):  # every padding
        text += pcapng.packet(0, TIME_NS + length, bytes(range(length)), outgoing=length % 2 == 0, comment="a > b")
    text += pcapng.interface("enié") + pcapng.packet(1, TIME_NS, b"\x01", outgoing=False)
    found = read(text)
    assert found.interfaces == [("eth0", 9), ("enié", 9)] and found.names == names
    assert [row[:2] for row in found.packets[:4]] == [("eth0", TIME_NS + length) for length in range(60, 64)]
    assert [len(row[2]) for row in found.packets] == [60, 61, 62, 63, 1] and found.packets[1][2] == bytes(range(61))
    assert [row[3:] for row in found.packets] == [(2, "a > b"), (1, "a > b")] * 2 + [(1, "")]


def test_a_damaged_file_is_not_read() -> None:
    text = bytearray(pcapng.section())
    text[-4] ^= 4
    with pytest.raises(AssertionError):
        read(bytes(text))


def test_ends_and_numbers_of_both_families() -> None:
    tcp = struct.pack("!HHIIBB", 40000, 80, 7, 9, 0x50, 2) + bytes(6)
    four = bytes([0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2])
    assert dissect(four + tcp) == Ends("tcp", ip_address("10.0.0.1"), 40000, ip_address("10.0.0.2"), 80, 7, 9, 2)
    source, target = ip_address("2001:db8::1"), ip_address("2001:db8::2")
    six = bytes([0x60, 0, 0, 0, 0, 20, 17, 64]) + source.packed + target.packed
    assert dissect(six + tcp) == Ends("udp", source, 40000, target, 80)


def test_fragments_arp_and_cut_packets_have_no_ends() -> None:
    fragment = bytes([0x45, 0, 0, 40, 0, 0, 0, 8, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]) + bytes(20)
    whole = fragment[:6] + b"\x40\x00" + fragment[8:]
    assert dissect(whole) is not None
    assert [dissect(head) for head in (fragment, whole[:22], b"", b"\x00\x01\x08\x00")] == [None] * 4
