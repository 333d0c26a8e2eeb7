# SPDX-License-Identifier: Apache-2.0
"""A conflist called by hand on a node: through the lab's own runtime, or through the Go library.

Knows how both are started on a node and the few shapes that differ in how they are asked. Must never know what a plugin
does. Namespaces made here are the node's, not the machine's, and end with it.
"""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from node_machine import NodeMachine

from vpccni.lab import launch
from vpccni.lab.runtime import NetworkList, PluginFailed, Runtime, Sandbox, parse_conflist

BIN_DIR = "/opt/cni/bin"
ROOT = Path(__file__).resolve().parents[2]
GO_LIBRARY = Path("/usr/share/gocode")
_serial = itertools.count(1)

RATE_PORT = 5001
SEND = f"""
import socket, sys, time
for attempt in range(100):
    try:
        stream = socket.create_connection((sys.argv[1], {RATE_PORT}))
        break
    except ConnectionRefusedError:
        time.sleep(0.02)
end = time.monotonic() + 2
while time.monotonic() < end:
    stream.sendall(bytes(32768))
stream.close()
"""
RECEIVE = f"""
import socket, time
stream, _ = socket.create_server(("", {RATE_PORT})).accept()
count = len(stream.recv(1 << 20))
began = time.monotonic()
while chunk := stream.recv(1 << 20):
    count += len(chunk)
print(count * 8 / (time.monotonic() - began), flush=True)
"""


@dataclass(frozen=True)
class Outcome:
    """What the caller of a plugin chain gets: a result, or the error object of the plugin that refused."""

    result: Mapping[str, Any] | None = None
    error: Mapping[str, Any] | None = None
    text: str = ""


@dataclass(frozen=True)
class Attachment:
    """One pod as both runners are told of it."""

    container_id: str
    netns: str
    args: Mapping[str, str]
    capabilities: Mapping[str, Any] = field(default_factory=dict)

    def without_namespace(self) -> Attachment:
        """As a runtime says it that no longer knows."""
        return Attachment(self.container_id, "", self.args, self.capabilities)


def conflist_of(machine: NodeMachine, version: str, **changes: Any) -> dict[str, Any]:
    """The node's own conflist, saying one version; `changes` replace keys."""
    (path,) = machine.conf_dir.glob("*.conflist")
    conflist: dict[str, Any] = json.loads(path.read_bytes())
    del conflist["cniVersions"]
    return {**conflist, "cniVersion": version, **changes}


def new_pod(machine: NodeMachine, name: str, capabilities: Mapping[str, Any] | None = None) -> Attachment:
    """A namespace on the node and a container id of its own."""
    machine.output("ip", "netns", "add", name)
    args = {"IgnoreUnknown": "1", "K8S_POD_NAMESPACE": "default", "K8S_POD_NAME": name}
    return Attachment(f"{name}-{next(_serial)}", f"/run/netns/{name}", args, capabilities or {})


class OwnRunner:
    """The lab's runtime."""

    def __init__(self, machine: NodeMachine, conflist: Mapping[str, Any], *, runtime: type[Runtime] = Runtime) -> None:
        self.version = conflist["cniVersion"]
        raw = json.dumps(conflist).encode()
        network: NetworkList = parse_conflist(raw, speaks=conflist["cniVersion"])

        def start(argv: Any, environ: Mapping[str, str], stdin: bytes) -> subprocess.CompletedProcess[bytes]:
            return machine.run(*argv, stdin=stdin, env=dict(environ))

        def find(kind: str) -> str | None:
            return f"{BIN_DIR}/{kind}" if (machine.bin_dir / kind).exists() else None

        self._runtime = runtime(network, [BIN_DIR], machine.work / f"own-cache-{next(_serial)}", start, find=find)

    def call(self, command: str, pod: Attachment) -> Outcome:
        """ADD, CHECK or DEL."""
        sandbox = Sandbox(pod.container_id, pod.netns, "eth0", args=pod.args, capabilities=pod.capabilities)
        steps = {"ADD": self._runtime.add, "CHECK": self._runtime.check, "DEL": self._runtime.delete}
        try:
            return Outcome(steps[command](sandbox))
        except PluginFailed as failure:
            error = {
                "code": failure.cni_error_code,
                "msg": failure.plugin_msg,
                **({"details": failure.plugin_details} if failure.plugin_details else {}),
            }
            return Outcome(error=error, text=failure.libcni_text)


class GoRunner:
    """libcni, in a small program built from the distribution's source package."""

    def __init__(self, machine: NodeMachine, conflist: Mapping[str, Any], program: Path) -> None:
        number = next(_serial)
        self.version = conflist["cniVersion"]
        self._machine = machine
        self._program = machine.work / program.name
        if not self._program.exists():
            shutil.copy2(program, self._program)
        self._cache = machine.work / f"go-cache-{number}"
        self._conflist = machine.work / f"{number}.conflist"
        self._conflist.write_text(json.dumps(conflist))

    def call(self, command: str, pod: Attachment) -> Outcome:
        """ADD, CHECK or DEL."""
        job = {
            "command": command,
            "conflist": str(self._conflist),
            "binDirs": [BIN_DIR],
            "cacheDir": str(self._cache),
            "containerID": pod.container_id,
            "netns": pod.netns,
            "ifname": "eth0",
            "args": [list(pair) for pair in pod.args.items()],
            "capabilities": pod.capabilities,
        }
        done = self._machine.run(str(self._program), stdin=json.dumps(job).encode())
        assert done.returncode == 0, done.stderr.decode()
        answer = json.loads(done.stdout)
        return Outcome(answer.get("result"), answer.get("error"), answer.get("text", ""))


def rate_into(machine: NodeMachine, pod: Attachment) -> float:
    """Bits a second that the node can send to a pod."""
    return _rate(machine, [], _in(pod), address_in(machine, pod))


def rate_out_of(machine: NodeMachine, pod: Attachment) -> float:
    """Bits a second that a pod can send to its node."""
    shown = machine.output("ip", "-o", "-4", "addr", "show", "dev", "eth0").split()
    return _rate(machine, _in(pod), [], shown[3].partition("/")[0])


def address_in(machine: NodeMachine, pod: Attachment) -> str:
    """The address of a pod's eth0."""
    shown = machine.output(*_in(pod), "ip", "-o", "-4", "addr", "show", "dev", "eth0").split()
    return shown[3].partition("/")[0]


def _in(pod: Attachment) -> list[str]:
    return ["nsenter", f"--net={pod.netns}"]


def _rate(machine: NodeMachine, sender: list[str], receiver: list[str], address: str) -> float:
    """Measured where it arrives, from the first byte to the last."""
    report = machine.work / f"rate-{next(_serial)}"
    with report.open("wb") as stream:
        service = machine.spawn(stream, *receiver, "/usr/bin/python3", "-I", "-c", RECEIVE)
        try:
            machine.output(*sender, "/usr/bin/python3", "-I", "-c", SEND, address)
            deadline = time.monotonic() + 10
            while not (printed := report.read_text()).endswith("\n"):
                assert time.monotonic() < deadline, printed
                time.sleep(0.02)
        finally:
            service.kill()
    return float(printed)


def build_cnirun(folder: Path) -> Path:
    """Compile cnirun against the library in the distribution's Go path."""
    program = folder / "cnirun"
    environ = launch.program_environ(
        {
            "GO111MODULE": "off",
            "GOPATH": str(GO_LIBRARY),
            "GOCACHE": str(ROOT / "build/go-cache"),
            "GOTOOLCHAIN": "local",
            "GOFLAGS": "",
            "CGO_ENABLED": "0",
        }
    )
    go = shutil.which("go", path=f"{environ['PATH']}:/usr/local/go/bin")
    assert go is not None, "run scripts/runtimes"
    source = Path(__file__).with_name("cnirun")
    done = subprocess.run(
        [go, "build", "-o", str(program), "."], cwd=source, env=environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return program
