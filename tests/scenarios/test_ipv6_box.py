# SPDX-License-Identifier: Apache-2.0
"""A lab with IPv6 as a user sees it: what it shows, who reaches whom, and a prefix from EC2 that carries packets."""

from __future__ import annotations

import subprocess
from ipaddress import IPv6Address, IPv6Network

import pytest
from labs import Lab, wait_until

pytestmark = pytest.mark.lab
VPC = IPv6Network("2001:db8:20:1a00::/56")


def in_node(lab: Lab, node: str, *argv: str) -> str:
    return lab.run("exec", f"node/{node}", "--", *argv, ok=False).stdout


def metadata(lab: Lab, node: str, mac: str, key: str) -> str:
    """A key of the primary interface, empty when there is none."""
    return in_node(
        lab, node, "python3", "-c",
        "import urllib.request as u; b='http://169.254.169.254/latest/'\n"
        "t=u.urlopen(u.Request(b+'api/token',method='PUT',headers={'X-aws-ec2-metadata-token-ttl-seconds':'60'})).read()\n"
        f"r=u.Request(b+'meta-data/network/interfaces/macs/{mac}/{key}',headers={{'X-aws-ec2-metadata-token':t.decode()}})\n"
        "print(u.urlopen(r).read().decode())",
    ).strip()  # fmt: skip


def test_nodes_speak_ipv6_and_a_prefix_carries_packets_as_long_as_ec2_says_so(lab: Lab) -> None:
    lab.up("--ipv6", "--env", "WARM_ENI_TARGET=0")
    nodes = {node["name"]: node["ipv6_address"] for node in lab.json("nodes")}
    assert all(IPv6Address(address) in VPC for address in nodes.values()) and len(set(nodes.values())) == 2
    status = lab.json("status")
    assert status["vpc_ipv6_cidrs"] == [str(VPC)]
    both = lab.json("probe", "--from", "node/1", "--from", "node/2", "--to", "internet", "--to", "site")
    assert len(both) == 8 and all(one["reached"] for one in both)
    six = lab.json("probe", "--from", "node/1", "--to", "internet", "--family", "6")
    assert [(one["seen"], one["seen_is"]) for one in six] == [(nodes["1"], "own address")]
    assert lab.run("probe", "--family", "5", ok=False).returncode == 2

    eni, mac = (lab.node("1")["enis"][0][key] for key in ("eni_id", "mac"))
    (prefix,) = lab.ec2().assign_ipv6_addresses(NetworkInterfaceId=eni, Ipv6PrefixCount=1)["AssignedIpv6Prefixes"]
    wait_until(lambda: lab.node("1")["enis"][0]["ipv6_prefixes"] == [prefix], 5.0, "the prefix is there")
    wait_until(lambda: metadata(lab, "1", mac, "ipv6-prefix") == prefix, 10.0, "the metadata service lists the prefix")
    assert metadata(lab, "1", mac, "ipv6s") == nodes["1"]
    assert metadata(lab, "1", mac, "vpc-ipv6-cidr-blocks") == str(VPC)
    assert IPv6Address(nodes["1"]) in IPv6Network(metadata(lab, "1", mac, "subnet-ipv6-cidr-blocks"))
    pod = str(IPv6Network(prefix)[0xBEEF])
    in_node(lab, "1", "ip", "addr", "add", f"{pod}/128", "dev", "lo")
    assert connects(lab, "internet", pod) and connects(lab, "2", pod)
    lab.ec2().unassign_ipv6_addresses(NetworkInterfaceId=eni, Ipv6Prefixes=[prefix])
    wait_until(lambda: lab.node("1")["enis"][0]["ipv6_prefixes"] == [], 5.0, "the prefix is gone")
    assert not connects(lab, "2", pod)
    assert lab.json("status")["dropped"]["unknown_destination"] >= 1


def connects(lab: Lab, source: str, address: str) -> bool:
    """Whether node 1 answers at an address: with a reset will do, as long as an answer comes."""
    program = (
        f"import socket\ntry: socket.create_connection(('{address}', 9), 0.7)\n"
        "except ConnectionRefusedError: print('answered')\nexcept OSError: print('silence')"
    )
    done: subprocess.CompletedProcess[str] = lab.run("exec", source, "--", "python3", "-c", program)
    return done.stdout.strip() == "answered"
