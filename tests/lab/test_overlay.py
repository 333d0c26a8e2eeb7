# SPDX-License-Identifier: Apache-2.0
"""The comparison with an overlay: what it states is seen on the wire, and nothing of it stays."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, ip_address, ip_network
from pathlib import Path

import pytest
from labs import Lab

from vpccni.errors import HostError
from vpccni.lab.comparison import headers
from vpccni.lab.overlay import OVERHEAD_BYTES, Member, Overlay
from vpccni.lab.traffic import SAMPLE_BYTES


def shown(lab: Lab) -> str:
    """Everything on the nodes that an overlay could leave behind."""
    commands = ("ip link", "ip route", "ip rule", "nft list ruleset", "bridge fdb")
    return "".join(
        lab.run("exec", f"node/{node}", "--", *command.split()).stdout for node in ("1", "2") for command in commands
    )


@pytest.mark.lab
def test_encapsulation_costs_fifty_bytes_of_each_packet_and_hides_the_pod(lab: Lab) -> None:
    lab.up("--nodes", "2")
    rows = {row["path"]: row for row in lab.json("compare-overlay", "--seconds", "0.1", "--repetitions", "1")}
    bare, native, overlay = rows["node to node"], rows["VPC addresses"], rows["VXLAN overlay"]
    assert native["frame_bytes"] == bare["frame_bytes"] == SAMPLE_BYTES + 14 + 20 + 8
    assert overlay["frame_bytes"] - native["frame_bytes"] == OVERHEAD_BYTES == native["mtu"] - overlay["mtu"]
    assert "VXLAN" in overlay["headers"] and "VXLAN" not in native["headers"]
    assert native["max_pods"] == 29
    nodes = {node["name"]: node for node in lab.json("nodes")}
    subnets = [ip_network("10.20.0.0/18"), ip_network("10.20.64.0/18")]
    assert native["seen_by_node"] != nodes["1"]["private_address"] == overlay["seen_by_node"]
    assert any(ip_address(native["seen_by_node"]) in subnet for subnet in subnets)
    assert {row["seen_by_internet"] for row in rows.values()} == {nodes["1"]["public_address"]}
    assert all(row["round_trips_per_s"] > 0 and row["bits_per_s"] > 0 for row in rows.values())
    assert lab.json("pod", "list") == []
    left = shown(lab)
    assert "ovl-" not in left and "overlay-comparison" not in left and "10.244." not in left


@pytest.mark.lab
def test_one_node_is_too_few_to_compare(lab: Lab) -> None:
    lab.up("--nodes", "1")
    done = lab.run("compare-overlay", ok=False)
    assert done.returncode == 2 and "it takes two nodes" in done.stderr


def test_a_range_that_the_vpc_uses_is_not_the_overlays() -> None:
    member = Member(1, Path("/n"), IPv4Address("10.0.0.1"), Path("/p"))
    assert Overlay([member], [IPv4Network("10.244.0.0/16")], 9001).pod_address(member) == IPv4Address("172.30.1.2")
    with pytest.raises(HostError, match="the VPC uses"):
        Overlay([member], [IPv4Network("0.0.0.0/0")], 9001)


def test_headers_are_read_from_the_frame() -> None:
    udp = bytes.fromhex("4500002000000000401100000a0000010a000002") + bytes.fromhex("0001000200080000")
    vxlan = udp[:20] + (1).to_bytes(2, "big") + (4789).to_bytes(2, "big") + bytes(4) + bytes(8)
    assert headers(bytes(14) + udp) == "Ethernet 14, IPv4 20, UDP 8"
    assert headers(bytes(14) + vxlan + bytes(14) + udp).count("IPv4 20") == 2
