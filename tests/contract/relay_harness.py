# SPDX-License-Identifier: Apache-2.0
"""What the relay's contract tests share: both relays, built with short timeouts, and a real SEQPACKET server."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from vpccni.cni.wire import MAX_MESSAGE_BYTES, RelayRequest, decode_request, encode_reply

ROOT = Path(__file__).parents[2]
NETCONF = b'{"cniVersion": "1.0.0", "name": "aws-cni", "type": "aws-cni"}'
NEEDS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="makes a network namespace")
PYTHON = "/usr/bin/python3" if Path("/usr/bin/python3").exists() else sys.executable

Answer = Callable[[RelayRequest, "int | None"], "bytes | None"]


@pytest.fixture(scope="session", name="binaries")
def binaries_fixture(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """Both relays with timeouts of one second, where any user may execute them."""
    folder = Path(tempfile.mkdtemp(prefix="vpccni-relay-"))
    folder.chmod(0o755)
    built = {"python": folder / "twin"}
    text = (ROOT / "src/vpccni/cni/relay.py").read_text()
    for name in ("CONNECT_TIMEOUT_S = 10", "REPLY_TIMEOUT_S = 90"):
        assert text.count(name) == 1
        text = text.replace(name, f"{name.split()[0]} = 1")
    built["python"].write_text(f"#!{PYTHON} -IS\n{text}")
    built["python"].chmod(0o755)
    if shutil.which("musl-gcc") or shutil.which("gcc"):
        built["c"] = folder / "aws-cni"
        defines = "DEFINES=-DCONNECT_TIMEOUT_S=1 -DREPLY_TIMEOUT_S=1"
        subprocess.run(["make", "-s", "-C", str(ROOT / "relay"), f"OUT={built['c']}", defines], check=True)
    yield built
    shutil.rmtree(folder)


@pytest.fixture(params=["c", "python"], name="relay")
def relay_fixture(request: pytest.FixtureRequest, binaries: dict[str, Path], tmp_path: Path) -> Relay:
    if request.param not in binaries:
        pytest.skip("no C compiler")
    return Relay(binaries[request.param], tmp_path / "aws-node" / "vpccni.sock")


class Relay:
    """Executes one of the relays as a runtime does."""

    def __init__(self, executable: Path, socket_path: Path) -> None:
        self.executable, self.socket_path = executable, socket_path
        self.queue = socket_path.parent / "vpccni-del-queue"

    def environment(self, command: str, **variables: str) -> dict[str, str]:
        env = {"CNI_CONTAINERID": "abc", "CNI_IFNAME": "eth0", "CNI_NETNS": "", "CNI_ARGS": "K8S_POD_NAME=p"}
        env |= {"CNI_COMMAND": command, "VPCCNI_SOCKET": str(self.socket_path), "HOME": "/nowhere", **variables}
        return {name: value for name, value in env.items() if value != "<unset>"}

    def start(self, command: str, **variables: str) -> subprocess.Popen[bytes]:
        pipe = subprocess.PIPE
        env = self.environment(command, **variables)
        return subprocess.Popen([self.executable], env=env, stdin=pipe, stdout=pipe, stderr=pipe)

    def run(self, command: str, stdin: bytes = NETCONF, **variables: str) -> subprocess.CompletedProcess[bytes]:
        process = self.start(command, **variables)
        out, err = process.communicate(stdin, timeout=20)
        return subprocess.CompletedProcess([], process.returncode, out, err)

    def error(self, command: str, stdin: bytes = NETCONF, **variables: str) -> dict[str, object]:
        done = self.run(command, stdin, **variables)
        return error_of(done)

    def queued(self) -> list[str]:
        return sorted(entry.name for entry in self.queue.iterdir()) if self.queue.exists() else []


def error_of(done: subprocess.CompletedProcess[bytes]) -> dict[str, object]:
    """The CNI error object, checked for what every error must have."""
    assert done.returncode == 1, done
    error = json.loads(done.stdout)
    assert set(error) == {"cniVersion", "code", "msg", "details"}
    assert error["msg"].startswith("cannot ") and "Next: " in error["details"]
    return error


class Daemon:
    """A SEQPACKET server in a thread; `answer` gives the reply, or None to close without one."""

    def __init__(self, path: Path, answer: Answer) -> None:
        path.parent.mkdir(exist_ok=True)
        self.requests: list[RelayRequest] = []
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.listener.bind(str(path))
        self.listener.listen(64)
        self.answer = answer
        self.thread = threading.Thread(target=self.serve, daemon=True)

    def serve(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            with connection:
                message, fds, _, _ = socket.recv_fds(connection, MAX_MESSAGE_BYTES + 1, 4)
                request = decode_request(message)
                self.requests.append(request)
                reply = self.answer(request, fds[0] if fds else None)
                for fd in fds:
                    os.close(fd)
                if reply is not None:
                    connection.send(reply)

    def __enter__(self) -> Daemon:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.thread.join(10)


@pytest.fixture(name="namespace")
def namespace_fixture() -> Iterator[str]:
    """The path of a network namespace that is not ours."""
    own = Path("/proc/self/ns/net").stat().st_ino
    process = subprocess.Popen(["unshare", "-n", "sleep", "60"])
    path = f"/proc/{process.pid}/ns/net"
    while Path(path).stat().st_ino == own:
        time.sleep(0.005)
    yield path
    process.kill()
    process.wait()


def ok(request: RelayRequest, fd: int | None) -> bytes:
    return encode_reply(0, request.env["CNI_CONTAINERID"].encode())
