# SPDX-License-Identifier: Apache-2.0
"""The three things that are measured: the floor, the relay against an echo server, and a node with everything in place.

Knows how to start each of them and how to read what their C programs print. Must never judge a figure. `bench.add` runs
them in turn.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from bench.add import Sample, Scenario
from bench.variants import COOLDOWN_S, POOL_ADDRESSES, VARIANTS, Variant

HERE = Path(__file__).resolve().parent
BUILD = HERE / "build"
INSTALLED = Path("/opt/cni/bin/aws-cni")  # on a node
RELAY = HERE.parent / "src" / "vpccni" / "cni" / "_relay" / "aws-cni"
VPCCNI = Path(sys.executable).with_name("vpccni")

POOL_WITHIN_S = 60.0
PODS_GONE_WITHIN_S = 30.0


class BenchmarkError(Exception):
    """Something did not run, so there is no figure; the message says what."""


def compile_programs() -> None:
    """Build the C programs and see that the relay is there."""
    _output(["make", "--silent", "-C", str(HERE)])
    if not RELAY.exists():
        raise BenchmarkError(f"cannot find {RELAY}: install a C compiler, then run make -C relay")


class Floor:
    """An empty static program and the same netlink work in C."""

    def __init__(self, family: int = 4) -> None:
        self.name = f"floor of IPv{family}"
        self._family = family

    def run(self, scenario: Scenario) -> Sample:
        """Run the scenario once in a network namespace of its own."""
        counts = [str(number) for number in (scenario.present, scenario.pods, scenario.callers)]
        return parse(_output([str(BUILD / "floor"), str(BUILD / "empty"), *counts, str(self._family)]), start=True)


class Echo:
    """The relay against a C server that wires nothing: what the plugin process alone costs."""

    name = "relay"

    def __enter__(self) -> Self:
        self._directory = tempfile.TemporaryDirectory(prefix="vpccni-bench-")
        root = Path(self._directory.name)
        self._socket, self._netconf = root / "echo.sock", root / "netconf.json"
        self._netconf.write_text('{"cniVersion":"1.0.0","name":"aws-cni","type":"aws-cni","vethPrefix":"eni"}')
        self._server = subprocess.Popen(
            [BUILD / "echo", self._socket], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        if self._server.stdout is None or self._server.stdout.readline() != "ready\n":
            raise BenchmarkError("cannot start the echo server")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._server.communicate()  # the end of its input ends it
        self._directory.cleanup()

    def run(self, scenario: Scenario) -> Sample:
        """Run the scenario's calls; there are no pods, so none are present."""
        return parse(_output(spawn_command(RELAY, self._netconf, str(self._socket), scenario, present=0)))


class Node:
    """One node of a lab: the plugin and the daemon as installed, a full pool, the runtime's part played by C."""

    def __init__(self, instance_type: str, variant: Variant) -> None:
        self.name = variant.name
        self._instance_type, self._variant = instance_type, variant
        # A lab of its own: it disturbs neither the user's lab, nor another benchmark, nor the nodes beside it.
        # A lab's name has at most 12 characters, a process id up to 7.
        self._environ = {**os.environ, "VPCCNI_LAB_NAME": f"ben{os.getpid()}v{VARIANTS.index(variant)}"}
        self._runs = 0
        self._released: list[tuple[float, int]] = []  # when, how many addresses

    def __enter__(self) -> Self:
        variant = self._variant
        settings = [word for name, value in variant.settings.items() for word in ("--env", f"{name}={value}")]
        try:
            # The second node is who the pods of the first one talk to.
            self._lab("up", "--nodes", "2", "--instance-type", self._instance_type, *variant.options, *settings)
            self._node, self._other = json.loads(self._lab("nodes", "-o", "json"))
            self._wait_for_pool()
            self._netconf = self._write_netconf()
            self._links = self._count_links()
        except BaseException:
            self._lab("down")
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._lab("down")
        self._netconf.unlink()

    def run(self, scenario: Scenario) -> Sample:
        """Run the scenario's ADDs and DELs on the node and wait until the pods' links are gone."""
        self._runs += 1
        self._wait_for_room(scenario.present + scenario.pods)
        command = spawn_command(
            INSTALLED, self._netconf, "-", scenario, scenario.present, f"b{self._runs:03d}", self._node["ipamd_pid"]
        )
        sample = parse(self._on_node(*command), unique=True)
        self._released.append((time.monotonic(), scenario.present + scenario.pods))
        self._settle()
        return sample

    def forward(self, few: int, many: int, slices: int) -> list[tuple[str, str, int, float]]:
        """Round trips and datagrams a second with `few` and with `many` pods: (kind, to whom, pods, per second)."""
        self._runs += 1
        self._wait_for_room(many)
        peer = [str(self._other["netns"]), self._peer_address()]
        counts = [str(number) for number in (few, many, slices)]
        program = [str(BUILD / "forward"), str(INSTALLED), str(self._netconf)]
        text = self._on_node(*program, f"f{self._runs:03d}", *counts, *peer)
        self._released.append((time.monotonic(), many))
        self._settle()
        return [(kind, to, int(pods), float(rate)) for kind, to, pods, rate in map(str.split, text.splitlines())]

    def _on_node(self, *command: str) -> str:
        return self._lab("exec", f"node/{self._node['name']}", "--", *command)

    def _peer_address(self) -> str:
        """The other node's primary address of the pods' family."""
        key = "private_address" if self._variant.family == 4 else "ipv6_address"
        return str(self._other[key])

    def _lab(self, *words: str) -> str:
        return _output([str(VPCCNI), "lab", *words], self._environ)

    def _inside(self, *command: str) -> str:
        return _output(["ip", "netns", "exec", self._node["namespace"], *command])

    def _wait_for_pool(self) -> None:
        deadline = time.monotonic() + POOL_WITHIN_S
        held = 0
        while time.monotonic() < deadline:
            held = self._pool_addresses()
            if held >= POOL_ADDRESSES:
                return
            time.sleep(0.2)
        raise BenchmarkError(f"the pool holds {held} of {POOL_ADDRESSES} addresses after {POOL_WITHIN_S:.0f} s")

    def _pool_addresses(self) -> int:
        cards: dict[str, Any] = json.loads(
            self._inside(sys.executable, "-m", "bench.peers", self._node["introspection_url"])
        )
        return sum(card["TotalIPs"] for card in cards.values())

    def _write_netconf(self) -> Path:
        """What a runtime would pass: the plugin's part of the conflist with the list's name and version."""
        conflist = next(Path(self._node["cni_conf_dir"]).glob("*.conflist"))
        network = json.loads(conflist.read_text())
        plugin = {**network["plugins"][0], "name": network["name"], "cniVersion": network["cniVersion"]}
        handle, name = tempfile.mkstemp(prefix="vpccni-bench-", suffix=".json")
        with os.fdopen(handle, "w") as stream:
            json.dump(plugin, stream)
        return Path(name)

    def _count_links(self) -> int:
        return len(self._inside("ip", "-o", "link").splitlines())

    def _wait_for_room(self, addresses: int) -> None:
        """Wait until so many addresses are out of their cooldown."""
        while True:
            oldest_s = time.monotonic() - COOLDOWN_S - 0.5
            self._released = [(when, count) for when, count in self._released if when > oldest_s]
            if sum(count for _, count in self._released) + addresses <= POOL_ADDRESSES:
                return
            time.sleep(0.1)

    def _settle(self) -> None:
        """Wait until the kernel has taken the pods' namespaces and links down."""
        deadline = time.monotonic() + PODS_GONE_WITHIN_S
        while self._count_links() > self._links:
            if time.monotonic() > deadline:
                raise BenchmarkError(f"links of deleted pods are still there after {PODS_GONE_WITHIN_S:.0f} s")
            time.sleep(0.05)


def spawn_command(
    plugin: Path, netconf: Path, socket: str, scenario: Scenario, present: int, prefix: str = "bench", daemon: int = 0
) -> list[str]:
    """The command line of the C program that plays the container runtime; `daemon` is the daemon's process."""
    counts = [str(number) for number in (present, scenario.pods, scenario.callers, daemon)]
    return [str(BUILD / "spawn"), str(plugin), str(netconf), socket, prefix, *counts]


def parse(text: str, *, start: bool = False, unique: bool = False) -> Sample:
    """What a C program printed. Raises BenchmarkError when `unique` and two pods got one address."""
    lines = [line.split() for line in text.splitlines()]
    adds = [line for line in lines if line[0] == "add"]
    if unique:
        owners = Counter(line[3] for line in lines if line[0] in {"add", "present"})
        doubled = sorted(address for address, count in owners.items() if count > 1)
        if doubled:
            raise BenchmarkError(f"two pods got one address: {', '.join(doubled)}")
    return Sample(
        add_ns=[int(line[2]) for line in adds],
        wall_ns=_single(lines, "wall"),
        start_ns=[int(line[3]) for line in adds] if start else [],
        del_ns=[int(line[2]) for line in lines if line[0] == "del"],
        cpu_ns=_single(lines, "cpu"),
        del_cpu_ns=_single(lines, "cpu-del"),
    )


def _single(lines: list[list[str]], name: str) -> int:
    """The number of the one line that starts with `name`, 0 without it."""
    return next((int(line[1]) for line in lines if line[0] == name), 0)


def _output(command: list[str], environ: dict[str, str] | None = None) -> str:
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False, cwd=HERE.parent)
    if done.returncode != 0:
        raise BenchmarkError(f"{' '.join(command)}: exit code {done.returncode}\n{done.stderr or done.stdout}")
    return done.stdout


if __name__ == "__main__":  # inside the node's network namespace: print the pool
    with urllib.request.urlopen(f"{sys.argv[1]}/v1/enis", timeout=5) as answer:
        print(answer.read().decode())
