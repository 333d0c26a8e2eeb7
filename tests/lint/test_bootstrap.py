# SPDX-License-Identifier: Apache-2.0
"""scripts/bootstrap in a copy of the checkout: what it installs, when it does nothing, how it refuses.

Knows the script as a user does. Must never install anything: the interpreter of the copy's .venv only records its
calls.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from checkout import ROOT

RECORDER = '#!/bin/sh\necho "$*" >>"$(dirname "$0")/calls"\n'


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A checkout with everything that the script reads, and a .venv that records."""
    for name in ("scripts/bootstrap", "requirements.lock", "pyproject.toml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "relay").mkdir()
    (tmp_path / "relay" / "Makefile").write_text("all: made\nmade:\n\ttouch made\n")
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    for name in ("python", "pip"):
        program(tmp_path / ".venv" / "bin" / name, RECORDER)
    return tmp_path


def program(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def bootstrap(copy: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environ = {name: value for name, value in os.environ.items() if name != "PYTHON"}
    return subprocess.run(
        [copy / "scripts" / "bootstrap", "demo"],
        env={**environ, **variables},
        capture_output=True,
        text=True,
        check=False,
    )


def installs(copy: Path) -> list[str]:
    calls = copy / ".venv" / "bin" / "calls"
    lines = calls.read_text().splitlines() if calls.exists() else []
    calls.unlink(missing_ok=True)
    return [line for line in lines if "pip install" in line]


def test_the_first_run_installs_what_is_locked_then_the_project_and_says_so(copy: Path) -> None:
    done = bootstrap(copy)
    assert done.returncode == 0, done.stderr
    locked, project = installs(copy)
    assert "--require-hashes -r requirements.lock" in locked
    assert "--no-deps --no-build-isolation" in project
    assert "Python packages from requirements.lock" in done.stdout
    assert "compiling the relay" in done.stdout
    assert (copy / "relay" / "made").exists()


def test_a_run_without_changes_does_nothing_in_less_than_a_third_of_a_second(copy: Path) -> None:
    bootstrap(copy)
    installs(copy)
    durations = []
    for _ in range(3):
        start = time.monotonic()
        done = bootstrap(copy)
        durations.append(time.monotonic() - start)
    assert min(durations) < 0.3  # the best of three: the machine may be busy
    assert (done.returncode, done.stdout, installs(copy)) == (0, "", [])


def test_a_changed_lock_file_is_installed(copy: Path) -> None:
    bootstrap(copy)
    installs(copy)
    with (copy / "requirements.lock").open("a") as lock:
        lock.write("# changed\n")
    assert bootstrap(copy).returncode == 0
    assert len(installs(copy)) == 2


def test_a_failed_installation_is_tried_again(copy: Path) -> None:
    program(copy / ".venv" / "bin" / "python", RECORDER + 'case "$*" in *pip*) exit 1;; esac\n')
    done = bootstrap(copy)
    assert done.returncode == 1
    assert "cannot install the Python packages of requirements.lock" in done.stderr
    program(copy / ".venv" / "bin" / "python", RECORDER)
    installs(copy)
    assert bootstrap(copy).returncode == 0
    assert len(installs(copy)) == 2


def test_a_missing_package_without_root_names_the_command_to_run(copy: Path) -> None:
    script = copy / "scripts" / "bootstrap"
    script.write_text(script.read_text().replace("REQUIRED=(", "REQUIRED=(no-such-tool:no-such-package "))
    (copy / "shims").mkdir()
    program(copy / "shims" / "id", "#!/bin/sh\necho 1000\n")
    done = bootstrap(copy, PATH=f"{copy / 'shims'}:{os.environ['PATH']}")
    assert done.returncode == 1
    assert "apt-get install -y --no-install-recommends no-such-package" in done.stderr
    assert installs(copy) == []


def test_an_unusable_interpreter_is_refused_by_name(copy: Path) -> None:
    shutil.rmtree(copy / ".venv")
    done = bootstrap(copy, PYTHON="/nonexistent/python3.9")
    assert done.returncode == 1
    assert "Python 3.11 or newer" in done.stderr
    assert "PYTHON=/nonexistent/python3.9" in done.stderr


def test_a_relay_that_does_not_compile_leaves_the_twin(copy: Path) -> None:
    (copy / "relay" / "Makefile").write_text("all:\n\tfalse\n")
    done = bootstrap(copy)
    assert done.returncode == 0
    assert "nodes will run its Python twin" in done.stdout


def test_every_locked_package_has_a_hash() -> None:
    text = (ROOT / "requirements.lock").read_text()
    pins = [line for line in text.splitlines() if "==" in line and not line.startswith((" ", "#"))]
    assert len(pins) > 40
    assert all(line.endswith("\\") for line in pins)
    for name in ("setuptools", "boto3", "pytest", "ruff"):
        assert any(line.startswith(f"{name}==") for line in pins), name
