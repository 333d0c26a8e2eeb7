# SPDX-License-Identifier: Apache-2.0
"""A lab of the test's own, driven by the command line as a user would.

Knows the installed command and its JSON. Must never reach into the product: what a scenario sees, a user can see. The
scenarios of this folder use it.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest

_serial = itertools.count(1)


class Lab:
    """One lab with its own name, so that it disturbs no other on the machine."""

    def __init__(self) -> None:
        self.name = f"t{os.getpid()}x{next(_serial)}"
        self.environ = {**os.environ, "VPCCNI_LAB_NAME": self.name}

    @property
    def root(self) -> Path:
        return Path(f"/run/vpccni-lab.{self.name}")

    def vpccni(self, *argv: str, timeout_s: float = 120) -> subprocess.CompletedProcess[str]:
        """Any command, about this lab."""
        command = [sys.executable, "-m", "vpccni", *argv]
        return subprocess.run(command, check=False, env=self.environ, capture_output=True, text=True, timeout=timeout_s)

    def run(self, *argv: str, ok: bool = True) -> subprocess.CompletedProcess[str]:
        """`vpccni lab ...`; with `ok` a failure fails the test with all that was printed."""
        done = self.vpccni("lab", *argv)
        if ok and done.returncode != 0:
            raise AssertionError(f"vpccni lab {' '.join(argv)}: exit {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def json(self, *argv: str, ok: bool = True) -> Any:
        return json.loads(self.run(*argv, "-o", "json", ok=ok).stdout)

    def up(self, *argv: str) -> Any:
        return self.json("up", *argv)

    def add(self, *names: str, **options: str) -> dict[str, str]:
        """Add pods; name -> address."""
        extra = [word for name, value in options.items() for word in (f"--{name}", value)]
        made = self.json("pod", "add", *names, *extra)
        return {row["name"]: row["address"] for row in (made if isinstance(made, list) else [made])}

    def ec2(self) -> Any:
        """EC2 as a program of the machine reaches it."""
        import boto3

        env = self.json("env")
        return boto3.client(
            "ec2", endpoint_url=env["AWS_ENDPOINT_URL_EC2"], region_name=env["AWS_REGION"],
            aws_access_key_id=env["AWS_ACCESS_KEY_ID"], aws_secret_access_key=env["AWS_SECRET_ACCESS_KEY"],
        )  # fmt: skip

    def node(self, name: str) -> dict[str, Any]:
        return next(row for row in self.json("nodes") if row["name"] == name)

    def held(self, name: str) -> int:
        """Pod addresses that EC2 has assigned to the node."""
        return sum(len(eni["addresses"]) for eni in self.node(name)["enis"])

    def introspect(self, node: str, path: str) -> Any:
        url = self.node(node)["introspection_url"]
        return json.loads(self.run("exec", f"node/{node}", "--", "curl", "-sf", "-m", "3", url + path).stdout)

    def down(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self.json("down", ok=False)
        return rows


AnyLab = TypeVar("AnyLab", bound=Lab)


@contextmanager
def own_lab(kind: type[AnyLab] = Lab) -> Iterator[AnyLab]:  # type: ignore[assignment]
    """A lab, not yet up, that is taken down whatever happens, and proves that it left nothing. Skips without root."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    made = kind()
    try:
        yield made
    finally:
        left = {row["what"]: row["left"] for row in made.down() if row["left"]}
        made.root.with_name(f"{made.name}.toml").unlink(missing_ok=True)
    assert left == {}
    assert not made.root.exists()


def wait_until(reached: Callable[[], bool], timeout_s: float, what: str) -> None:
    deadline = time.monotonic() + timeout_s
    while not reached():
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
        time.sleep(0.1)
