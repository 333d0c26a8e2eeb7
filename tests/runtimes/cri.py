# SPDX-License-Identifier: Apache-2.0
"""The Container Runtime Interface from the kubelet's side: requests and answers as JSON values.

Knows how to reach `cri_proxy` in its own environment. Must never know containerd's insides. `containerd` uses it; any
number of threads may call at once.
"""

from __future__ import annotations

import base64
import itertools
import json
import subprocess
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vpccni.lab import launch

ROOT = Path(__file__).resolve().parents[2]
PYTHON = ROOT / "build/runtimes-venv/bin/python"
CONTAINERD = Path("/usr/bin/containerd")


class CriError(Exception):
    """What kubelet would see; `code` is gRPC's name, `text` the runtime's message."""

    def __init__(self, method: str, code: str, text: str) -> None:
        self.method, self.code, self.text = method, code, text
        super().__init__(f"{method}: {code}: {text}")


class Cri:
    """One connection; it survives a restart of the runtime, as gRPC's do."""

    def __init__(self, socket: Path) -> None:
        self._proxy = subprocess.Popen(
            [str(PYTHON), "-I", str(Path(__file__).with_name("cri_proxy.py")), str(socket), str(CONTAINERD)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=launch.program_environ({"GRPC_VERBOSITY": "NONE"}),
        )  # fmt: skip
        self._ids = itertools.count()
        self._answers: dict[int, Mapping[str, Any]] = {}
        self._arrived = threading.Condition()
        threading.Thread(target=self._read, daemon=True).start()

    def call(self, method: str, timeout_s: float = 60, **request: Any) -> Any:
        """One call; raises CriError as the runtime puts it, with code DEADLINE_EXCEEDED after `timeout_s`."""
        serial = next(self._ids)
        line = json.dumps({"id": serial, "method": method, "request": request, "timeout_s": timeout_s}) + "\n"
        assert self._proxy.stdin is not None
        with self._arrived:
            self._proxy.stdin.write(line.encode())
            self._proxy.stdin.flush()
            assert self._arrived.wait_for(lambda: serial in self._answers, timeout_s + 20), f"{method}: no answer"
            answer = self._answers.pop(serial)
        if "error" in answer:
            raise CriError(method, answer["error"]["code"], answer["error"]["text"] or "")
        return answer["answer"]

    def execute(self, container: str, *argv: str, timeout_s: int = 20) -> tuple[int, str]:
        """Run a program in a container: exit code and everything it printed."""
        done = self.call("ExecSync", timeout_s + 10, container_id=container, cmd=list(argv), timeout=timeout_s)
        printed = base64.b64decode(done["stdout"]) + base64.b64decode(done["stderr"])
        return int(done["exit_code"]), printed.decode(errors="replace")

    def conditions(self) -> dict[str, bool]:
        """What kubelet makes a node Ready or NotReady from: RuntimeReady and NetworkReady."""
        status = self.call("Status")["status"]
        return {one["type"]: one["status"] for one in status["conditions"]}

    def close(self) -> None:
        """End the proxy."""
        assert self._proxy.stdin is not None and self._proxy.stdout is not None
        self._proxy.stdin.close()
        self._proxy.wait(10)
        self._proxy.stdout.close()

    def _read(self) -> None:
        assert self._proxy.stdout is not None
        for line in self._proxy.stdout:
            answer = json.loads(line)
            with self._arrived:
                self._answers[answer["id"]] = answer
                self._arrived.notify_all()
