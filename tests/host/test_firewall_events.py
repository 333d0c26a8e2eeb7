# SPDX-License-Identifier: Apache-2.0
"""Changes of iptables (nf_tables) and nftables rules are told with table and chain, in this namespace only."""

from __future__ import annotations

import pytest

from vpccni.netlink.firewall_events import FirewallEvent, FirewallMonitor

pytestmark = pytest.mark.netns


def test_a_flush_tells_the_chain_and_a_read_tells_nothing(spaces):
    node, other = spaces(), spaces("other")
    node.run("iptables", "-t", "nat", "-N", "OURS")
    node.run("iptables", "-t", "nat", "-A", "OURS", "-j", "RETURN")
    with FirewallMonitor(node.fd) as here, FirewallMonitor(other.fd) as elsewhere:
        node.run("iptables-save", "-t", "nat")
        assert list(here.events()) == []
        node.run("iptables", "-t", "nat", "-F", "OURS")
        assert FirewallEvent("del", "nat", "OURS") in list(here.events())
        node.run("nft", "add table ip aws-cni")
        node.run("nft", "delete table ip aws-cni")
        seen = list(here.events())
        assert seen[0] == FirewallEvent("new", "aws-cni") and FirewallEvent("del", "aws-cni") in seen
        node.run("nft", "add table ip ours; add set ip ours some { type ipv4_addr; }")
        assert FirewallEvent("new", "ours", "some") in list(here.events())
        for verb, said in (("add", "new"), ("delete", "del")):
            node.run("nft", f"{verb} element ip ours some {{ 192.0.2.1 }}")
            assert FirewallEvent(said, "ours", "some") in list(here.events())
        node.run("nft", "delete set ip ours some")
        assert FirewallEvent("del", "ours", "some") in list(here.events())
        assert list(elsewhere.events()) == []


def test_lost_events_are_told(spaces):
    node = spaces()
    with FirewallMonitor(node.fd, receive_bytes=2048) as monitor:
        for number in range(40):
            node.run("nft", f"add table ip t{number}")
        assert FirewallEvent("resync") in list(monitor.events())
