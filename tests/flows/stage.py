# SPDX-License-Identifier: Apache-2.0
"""A lab on which flows begin all the time, and what happens to a node meanwhile.

Knows the pods, the Services and the programs of `streams` in their namespaces. Must never decide what is right: the
tests read the report.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flow_labs import FlowLab

STREAMS = Path(__file__).with_name("streams.py")
PORT, PERIOD_MS = 7000, 1.0
INTERNET, SITE = "198.51.100.10", "203.0.113.169"


@dataclass
class Report:
    """What became of the flows, and what happened when."""

    targets: dict[str, dict[str, Any]] = field(default_factory=dict)
    pauses: list[float] = field(default_factory=list)
    seconds: float = 0.0
    events: list[tuple[str, float, float]] = field(default_factory=list)

    @property
    def begun(self) -> int:
        return sum(target["begun"] for target in self.targets.values())

    @property
    def lost(self) -> list[str]:
        """Each flow without an answer, with the event during or after which it began."""
        return [self._told(name, kind, at) for name, target in self.targets.items() for kind, at in target["lost"]]

    def first(self) -> list[str]:
        """Each source with the flow that was the first one to be seen with it."""
        return [
            f"{source}: {self._told(name, kind, at)}"
            for name, target in self.targets.items()
            for source, (kind, at) in target["first"].items()
        ]

    def _told(self, name: str, kind: str, at: float) -> str:
        last = [f"{what} +{at - start:.3f} s" for what, start, _ in self.events if start <= at]
        return f"{kind} to {name}: {last[-1] if last else 'before anything'}"

    def sources(self) -> dict[str, set[str]]:
        """Target -> every address that its flows, new and standing, were seen with."""
        return {
            name: {*target["seen"], *(seen.split()[0] for each in target["standing"].values() for seen in each)}
            for name, target in self.targets.items()
        }

    def standing(self) -> dict[tuple[str, str], tuple[int, float]]:
        """(target, kind) -> with how many sources, ports counted, and the longest silence in seconds."""
        return {
            (name, kind): (len(target["standing"].get(kind, [])), target["gaps"].get(kind, 99.0))
            for name, target in self.targets.items()
            for kind in ("udp", "tcp")
        }


class Stage:
    """Node 1 of a lab with pods on both ENIs; the one that asks, `asker`, is on the second."""

    def __init__(self, lab: FlowLab, mode: str) -> None:
        self.lab = lab
        self.pods = {row["name"]: row for row in [*self._pods("1", "a", "b", "c", "d"), *self._pods("2", "far")]}
        rules = self.ip("rule", "list", "pref", "1536") or self.ip("rule", "list", "pref", "1537")
        self.asker = next(name for name in "abcd" if f"from {self.address(name)}" in rules or name == "d")
        self.asked = next(name for name in "abcd" if name != self.asker)
        for name, endpoint in (("outside", INTERNET), ("inside", "far")):
            words = ("--port", "80", "--target-port", str(PORT), "--protocol", "both", "--mode", mode)
            lab.run("service", "add", name, "--to", endpoint, *words)
        self.services = {row["name"]: row["cluster_ip"] for row in lab.json("service", "list")}
        self.node = lab.node("1")

    def _pods(self, node: str, *names: str) -> list[dict[str, Any]]:
        found = self.lab.json("pod", "add", *names, "--node", node, "--retry", "30")
        return found if isinstance(found, list) else [found]

    def end(self) -> None:
        """The lab as it was, for the next test of the module."""
        self.lab.run("service", "rm", *self.services)
        self.lab.run("pod", "rm", *self.pods)

    def address(self, pod: str) -> str:
        return str(self.pods[pod]["address"])

    def namespace(self, pod: str) -> str:
        return Path(self.pods[pod]["netns"]).name

    def ip(self, *words: str) -> str:
        argv = ["ip", "-n", self.lab.node("1")["namespace"], *words]
        return subprocess.run(argv, capture_output=True, text=True, check=True).stdout

    def on_node(self, *argv: str) -> str:
        words = ["ip", "netns", "exec", self.node["namespace"], *argv]
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout

    def stop_daemon(self, number: signal.Signals) -> None:
        os.kill(self.lab.node("1")["ipamd_pid"], number)

    @contextmanager
    def flows(self) -> Iterator[Report]:
        """Flows for as long as the block; the report is complete after it."""
        targets = {
            "internet": f"{INTERNET}:{PORT}", "outside": f"{self.services['outside']}:80",
            "site": f"{SITE}:{PORT}", "pod": f"{self.address(self.asked)}:{PORT}",
            "far": f"{self.address('far')}:{PORT}", "inside": f"{self.services['inside']}:80",
        }  # fmt: skip
        prefix = self.node["namespace"].removesuffix("-1")
        report = Report()
        with ExitStack() as stack:
            for namespace, address in (
                (f"{prefix}-internet", INTERNET), (f"{prefix}-site", SITE),
                (self.namespace(self.asked), self.address(self.asked)), (self.namespace("far"), self.address("far")),
            ):  # fmt: skip
                process = stack.enter_context(_program(namespace, "listen", address, str(PORT)))
                assert process.stdout is not None and process.stdout.readline() == "listening\n"
            named = [f"{name}={address}" for name, address in targets.items()]
            started = time.monotonic()
            asker = stack.enter_context(_program(self.namespace(self.asker), "begin", "150", str(PERIOD_MS), *named))
            time.sleep(0.4)
            yield report
            time.sleep(0.3)
            asker.terminate()
            told = json.loads(asker.communicate(timeout=30)[0])
            report.targets, report.pauses = told["targets"], told["pauses"]
            report.seconds = time.monotonic() - started

    @contextmanager
    def event(self, report: Report, what: str) -> Iterator[None]:
        """A name for what happens in the block, for the report; and a moment of flows after it."""
        started = time.monotonic()
        yield
        time.sleep(0.2)
        report.events.append((what, started, time.monotonic()))


@contextmanager
def _program(namespace: str, *argv: str) -> Iterator[subprocess.Popen[str]]:
    command = ["ip", "netns", "exec", namespace, sys.executable, str(STREAMS), *argv]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(10)
        if process.stdout is not None:
            process.stdout.close()
