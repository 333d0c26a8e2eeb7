# SPDX-License-Identifier: Apache-2.0
"""A node between two pods, in namespaces of their own, read as `core.walk` sees it: where any firewall is tried out.

Knows links, addresses and routes of both IP versions. Must never know rules. The tests of the walk's firewall use it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vpccni.core.walk.values import Stack, Vpc, World
from vpccni.host.programs import run_program
from vpccni.lab.world import LabWorld, cable, read_stack
from vpccni.netlink.namespace import NETNS_DIR, inside

# By IP version: client, server, another address of the server, and the node towards each of them.
CLIENT = {4: "10.1.0.2", 6: "fd00:1::2"}
SERVER = {4: "10.2.0.2", 6: "fd00:2::2"}
OTHER = {4: "10.2.0.3", 6: "fd00:2::3"}
NODE = {4: "10.1.0.1", 6: "fd00:1::1"}
NODE_FAR = {4: "10.2.0.1", 6: "fd00:2::1"}
SERVICE = {4: "10.100.0.1", 6: "fd00:100::1"}
LENGTH = {4: 24, 6: 64}
# No search for duplicates, which delays link-local addresses, and no limit on errors, of which a test may want many.
SETTINGS = {"ipv6/conf/default/accept_dad": "0", "ipv4/icmp_ratelimit": "0", "ipv6/icmp/ratelimit": "0"}
FORWARDING = {"ipv4/ip_forward": "1", "ipv6/conf/all/forwarding": "1"}
GROUP = 7  # of the device towards the client


@dataclass
class NftWorld:
    """Three namespaces: `client` -- enia, the node, enib -- `server`."""

    client: Any
    node: Any
    server: Any

    def rules(self, text: str) -> None:
        """Add rules to the node, as one transaction."""
        with inside(self.node.fd):
            run_program("load rules", "nft", "-f", "-", stdin=text)

    def observe(self) -> LabWorld:
        """All three as they are now."""
        paths = {"pod client": self.client, "pod server": self.server, "node 1": self.node}
        places = {name: NETNS_DIR / space.name for name, space in paths.items()}
        node = self._read("node 1", places)
        stacks = {}
        for name in ("pod client", "pod server"):
            stacks[name], node = cable(self._read(name, places), node)
        return LabWorld(World({**stacks, "node 1": node}, Vpc((), (), complete=False)), places)

    def _read(self, name: str, places: dict[str, Path]) -> Stack:
        return read_stack(name, places[name], firewall=name == "node 1")


def build(spaces: Any) -> NftWorld:
    """The three namespaces with links, addresses and routes."""
    made = NftWorld(spaces("client"), spaces("node"), spaces("server"))
    node = made.node
    for space in (made.client, node, made.server):
        with inside(space.fd):
            for name, value in {**SETTINGS, **(FORWARDING if space is node else {})}.items():
                Path("/proc/sys/net", name).write_text(value)
    for space, device, own, far in ((made.client, "enia", NODE, CLIENT), (made.server, "enib", NODE_FAR, SERVER)):
        node.ip(f"link add {device} type veth peer name eth0 netns {space.name}")
        node.ip(f"link set {device} up")
        space.ip("link set eth0 up")
        for version in (4, 6):
            dad = ["nodad"] if version == 6 else []
            node.ip("addr", "add", f"{own[version]}/{LENGTH[version]}", "dev", device, *dad)
            space.ip("addr", "add", f"{far[version]}/{LENGTH[version]}", "dev", "eth0", *dad)
            space.ip(f"-{version}", "route", "add", "default", "via", own[version])
    for version, host in ((4, 32), (6, 128)):
        made.server.ip("addr", "add", f"{OTHER[version]}/{host}", "dev", "eth0", *(["nodad"] if version == 6 else []))
    for version in (4, 6):  # what is none of these addresses goes to the server, which has it not
        node.ip(f"-{version}", "route", "add", "default", "via", SERVER[version])
    node.ip(f"link set enia group {GROUP}")
    return made
