# SPDX-License-Identifier: Apache-2.0
"""Flows of an address are forgotten, real ones, in all four places where it may stand; flows of others stay. Flows with
a mark get another one."""

from __future__ import annotations

import socket
import subprocess
from ipaddress import ip_address, ip_interface

import pytest

from vpccni.netlink.conntrack import flush_address, remark
from vpccni.netlink.namespace import inside
from vpccni.netlink.values import Address, Link, add, set_link

pytestmark = pytest.mark.netns

CLIENT, OTHER, SERVER, SERVICE = "10.9.0.1", "10.9.0.3", "10.9.0.2", "10.96.0.10"


class Pair:
    """Two namespaces with a wire between them; the client's side tracks connections."""

    def __init__(self, sandbox):
        self.near, self.far = sandbox(), sandbox()
        peer = Link("eth0", index=2, netns_fd=self.far.fd)
        self.near.route.run(add(Link("eth0", index=2, kind="veth", up=True, peer=peer)))
        self.far.route.run(set_link(Link("eth0", up=True)))
        for one, address in ((self.near, CLIENT), (self.near, OTHER), (self.far, SERVER)):
            one.route.run(add(Address(ip_interface(f"{address}/24"), 2)))
        for one, address in ((self.near, "fd00::1"), (self.near, "fd00::3"), (self.far, "fd00::2")):
            one.route.run(add(Address(ip_interface(f"{address}/64"), 2, nodad=True)))
        self.nft(
            "add table inet t",
            "add chain inet t c { type filter hook output priority 0; }",
            "add rule inet t c ct state new",
        )

    def nft(self, *commands):
        subprocess.run(
            ["ip", "netns", "exec", self.near.name, "nft", "-f", "-"], input="\n".join(commands), text=True, check=True
        )

    def udp(self, source, destination=SERVER, port=53):
        with inside(self.near.fd):
            family = socket.AF_INET6 if ":" in source else socket.AF_INET
            one = socket.socket(family, socket.SOCK_DGRAM)
        with one:
            one.bind((source, 0))
            one.sendto(b"x", (destination, port))

    def tcp(self, source):
        with inside(self.far.fd):
            server = socket.create_server((SERVER, 8080))
        with inside(self.near.fd):
            client = socket.create_connection((SERVER, 8080), 5, (source, 0))
        return server, client, server.accept()[0]

    def entries(self, *words):
        command = ["ip", "netns", "exec", self.near.name, "conntrack", "-L", *words]
        return subprocess.run(command, text=True, capture_output=True, check=True).stdout.splitlines()

    def flush(self, *addresses):
        return flush_address({ip_address(address) for address in addresses}, self.near.fd)


@pytest.fixture
def pair(sandbox):
    return Pair(sandbox)


def test_flows_of_the_address_go_and_flows_of_another_address_stay(pair):
    sockets = [*pair.tcp(CLIENT)]
    for source in (CLIENT, OTHER):
        for port in (53, 54, 55):
            pair.udp(source, port=port)
    assert len(pair.entries()) == 7
    assert pair.flush(CLIENT) == 4
    left = pair.entries()
    assert len(left) == 3
    assert all(f"src={OTHER}" in line for line in left)
    assert pair.flush(CLIENT) == 0
    assert pair.flush("10.1.1.1") == 0
    assert len(pair.entries()) == 3
    for one in sockets:
        one.close()


def test_the_address_is_found_as_destination_and_behind_a_translation(pair):
    pair.udp(CLIENT)
    assert pair.flush(SERVER) == 1
    pair.nft(
        "add table ip n",
        "add chain ip n out { type nat hook output priority -100; }",
        "add chain ip n post { type nat hook postrouting priority 100; }",
        f"add rule ip n out ip daddr {SERVICE} dnat to {SERVER}",
        f"add rule ip n post ip saddr {CLIENT} ip daddr {SERVER} snat to {OTHER}",
    )
    pair.near.ip("route", "add", f"{SERVICE}/32", "dev", "eth0")
    for address in (CLIENT, SERVICE, SERVER, OTHER):  # original source and destination, reply source and destination
        pair.udp(CLIENT, SERVICE)
        (entry,) = pair.entries("-f", "ipv4")
        assert f"dst={SERVICE}" in entry
        assert f"src={SERVER} dst={OTHER}" in entry
        assert pair.flush(address) == 1
        assert pair.entries() == []


def test_several_addresses_of_both_families_go_at_once(pair):
    pair.udp("fd00::1", "fd00::2")
    pair.udp("fd00::3", "fd00::2")
    pair.udp(CLIENT)
    pair.udp(OTHER)
    assert pair.flush("fd00::1", CLIENT) == 2
    assert [f"src={OTHER} " in line for line in pair.entries("-f", "ipv4")] == [True]
    assert ["src=fd00::3 " in line for line in pair.entries("-f", "ipv6")] == [True]
    assert pair.flush() == 0


def test_one_flush_deletes_more_entries_than_fit_in_a_datagram(pair):
    with inside(pair.near.fd):
        one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with one:
        one.bind((CLIENT, 0))
        for port in range(1, 1201):
            one.sendto(b"x", (SERVER, port))
    pair.udp(OTHER)
    assert len(pair.entries()) == 1201
    assert pair.flush(CLIENT) == 1200
    assert len(pair.entries()) == 1


def test_an_address_whose_octets_appear_elsewhere_in_an_entry_is_not_hit(pair):
    pair.udp(CLIENT, port=0x0A09)
    # Octets that span two fields of the entry: a search in the raw bytes finds them, the fields do not hold them.
    before = pair.entries()
    assert pair.flush("10.9.0.8", "8.0.2.0", "0.17.0.0") == 0
    assert pair.entries()[0].split("src=")[1] == before[0].split("src=")[1]


def test_the_namespace_of_the_caller_is_flushed_when_none_is_given(pair):
    pair.udp(CLIENT)
    with inside(pair.near.fd):
        assert flush_address({ip_address(CLIENT)}) == 1
    assert pair.entries() == []


def test_flows_with_a_mark_get_another_one_and_all_other_bits_stay(pair):
    for port, mark in ((53, 0x80), (54, 0x10080), (55, 0x40), (56, 0)):
        pair.nft(f"add rule inet t c udp dport {port} ct mark set {mark:#x}")
        pair.udp(CLIENT, port=port)

    def marks():
        found = {}
        for line in pair.entries("-f", "ipv4"):
            port, mark = (int(line.split(f" {name}=")[1].split()[0]) for name in ("dport", "mark"))
            found[port] = mark
        return found

    assert marks() == {53: 0x80, 54: 0x10080, 55: 0x40, 56: 0}
    assert remark(0x80, 0x100, 0x100, pair.near.fd) == 2
    assert marks() == {53: 0x180, 54: 0x10180, 55: 0x40, 56: 0}, "as well"
    assert remark(0x80, 0x100, 0x180, pair.near.fd) == 2
    assert marks() == {53: 0x100, 54: 0x10100, 55: 0x40, 56: 0}, "instead"
    assert remark(0x80, 0x100, 0x180, pair.near.fd) == 0
    pair.flush(CLIENT)
    assert remark(0x100, 0x80, 0x180, pair.near.fd) == 0


def test_flows_of_both_families_are_marked(pair):
    pair.nft("add rule inet t c udp dport 53 ct mark set 0x80")
    pair.udp(CLIENT)
    pair.udp("fd00::1", "fd00::2")
    assert remark(0x80, 0x100, 0x180, pair.near.fd) == 2
    for family in ("ipv4", "ipv6"):
        (entry,) = [line for line in pair.entries("-f", family) if "dport=53 " in line]
        assert "mark=256 " in entry
