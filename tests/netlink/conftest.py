# SPDX-License-Identifier: Apache-2.0
"""Network namespaces for the netlink tests: own names, always removed, no link to the machine's network."""

from __future__ import annotations

import itertools
import json
import os
import re
import shlex
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from vpccni.netlink import namespace
from vpccni.netlink.socket import RouteSocket
from vpccni.netlink.values import Link, add, set_link

_numbers = itertools.count()


@dataclass
class Sandbox:
    """A namespace with a RouteSocket, and iproute2 in it as the oracle."""

    name: str
    fd: int
    route: RouteSocket

    def ip(self, *words: str, fails: bool = False) -> str:
        """Output of `ip -n NAME WORDS`. The namespace descriptors of this process are inherited."""
        done = subprocess.run(
            ["ip", "-n", self.name, *words], text=True, capture_output=True, check=False, close_fds=False
        )
        assert fails == bool(done.returncode), f"ip {words}: {done.stderr}"
        return done.stdout

    def json(self, *words: str) -> Any:
        return json.loads(self.ip("-j", "-d", *words) or "[]")

    def do(self, command: str) -> None:
        """Run what `str(Request)` printed."""
        words = shlex.split(command)
        assert words[0] == "ip"
        self.ip(*words[1:])

    def lines(self, *words: str) -> list[str]:
        """`ip`'s lines with single spaces, without remarks that say nothing about the object asked for."""
        noise = {"linkdown", "pref", "medium", "[detached]"}
        text = self.ip(*words).replace("\\", " ")
        # IPv6 routes that reject are listed on lo, whatever was asked for; the values leave that out.
        text = re.sub(r"^((?:blackhole|unreachable|prohibit) .*) dev lo\b", r"\1", text, flags=re.MULTILINE)
        return [" ".join(word for word in line.split() if word not in noise) for line in text.splitlines()]


@pytest.fixture
def sandbox() -> Iterator[Callable[[], Sandbox]]:
    """A factory of empty namespaces."""
    if os.geteuid():
        pytest.skip("needs root")
    made: list[Sandbox] = []

    def make() -> Sandbox:
        name = f"vt-{os.getpid()}-{next(_numbers)}"
        fd = namespace.create(name)
        os.set_inheritable(fd, True)
        made.append(Sandbox(name, fd, RouteSocket(fd)))
        return made[-1]

    yield make
    for one in made:
        one.route.close()
        os.close(one.fd)
        namespace.remove(one.name)


@pytest.fixture
def node(sandbox: Callable[[], Sandbox]) -> Sandbox:
    """One namespace with a veth pair inside it: `v0` (index 10, up) and `v1` (index 11, up)."""
    box = sandbox()
    box.route.run(add(Link("v0", index=10, kind="veth", up=True, queues=1, peer=Link("v1", index=11, queues=1))))
    box.route.run(set_link(Link("v1", up=True)))
    box.route.run(set_link(Link("lo", up=True)))
    return box
