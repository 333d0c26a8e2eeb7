# SPDX-License-Identifier: Apache-2.0
"""Namespaces for tests of the kernel: made per test, unique by process, removed at the end."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from vpccni.netlink import namespace
from vpccni.netlink.socket import RouteSocket
from vpccni.netlink.values import Link, add, set_link

_numbers = itertools.count()


@dataclass
class Space:
    """A network namespace under test."""

    name: str
    fd: int

    def run(self, *argv: str) -> str:
        """The output of a program inside."""
        done = subprocess.run(["ip", "netns", "exec", self.name, *argv], capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{argv}: {done.stderr}"
        return done.stdout

    def ip(self, *argv: str) -> list[str]:
        """The output of ip(8) inside, line by line, blanks squeezed. Arguments with blanks are split."""
        argv = tuple(word for part in argv for word in part.split()) if len(argv) == 1 else argv
        done = subprocess.run(["ip", "-n", self.name, *argv], capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"ip {argv}: {done.stderr}"
        return [" ".join(line.split()) for line in done.stdout.splitlines()]

    def state(self) -> list[str]:
        """All that ip(8) shows and that does not change by itself."""
        shown = [
            *self.ip("-d", "link"),
            *self.ip("addr"),
            *self.ip("rule"),
            *self.ip("-6", "rule"),
            *self.ip("route", "show", "table", "all"),
            *self.ip("neigh", "show", "nud", "permanent"),
        ]
        # Link-local addresses and what follows from them come and go after duplicate address detection.
        lines = [line for line in shown if "valid_lft" not in line and "fe80:" not in line and "multicast" not in line]
        # The operational state (not the carrier) follows from a work queue of the kernel, a moment later.
        return [re.sub(r" state [A-Z]+|NO-CARRIER,", "", line) for line in lines]

    def dummy(self, name: str, mac: str = "", index: int = 0) -> Link:
        """A veth whose other end stays here too, up at both ends: this kernel may have no dummy device."""
        with RouteSocket(self.fd) as socket:
            # The kernel registers the other end first, and would give it the index that is asked for.
            other = Link(f"far{name[3:]}", index=index and index + 5000)
            socket.run(add(Link(name, index=index, kind="veth", mac=mac, mtu=1500, peer=other)))
            socket.run(set_link(Link(other.name, up=True)))
            found = socket.link(name)
        assert found is not None
        return found


class Spaces:
    """Makes namespaces and remembers them."""

    def __init__(self) -> None:
        self.made: list[Space] = []

    def __call__(self, role: str = "node") -> Space:
        name = f"vt-{os.getpid()}-{next(_numbers)}-{role}"
        space = Space(name, namespace.create(name))
        self.made.append(space)
        with RouteSocket(space.fd) as socket:
            socket.run(set_link(Link("lo", up=True)))
        return space

    def close(self) -> None:
        for space in self.made:
            os.close(space.fd)
            namespace.remove(space.name)


@pytest.fixture
def spaces() -> Iterator[Spaces]:
    """A factory of namespaces."""
    if os.geteuid() != 0:
        pytest.skip("needs root for network namespaces")
    made = Spaces()
    yield made
    made.close()
