# SPDX-License-Identifier: Apache-2.0
"""The command line without a lab: exit codes, where errors go, what JSON means."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from vpccni.cli import output
from vpccni.cli.app import main
from vpccni.errors import HostError, InputError

# A lab of this name is never brought up.
NOWHERE = {"VPCCNI_LAB_NAME": f"x{os.getpid()}"}


def run(*argv: str) -> int:
    return main(argv, NOWHERE)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["lab", "up", "--nodes", "many"], "not a valid int"),
        (["lab", "up", "--nodes", "0"], "1 to 50"),
        (["lab", "up", "--env", "WARM_ENI_TARGET"], "NAME=VALUE"),
        (["lab", "up", "--env", "WARM_ENI_TARGET=many", "--env", "AWS_VPC_ENI_MTU=1"], "AWS_VPC_ENI_MTU"),
        (["lab", "up", "--topology", "/no/such/file"], "/no/such/file"),
        (["lab", "up", "--topology", "x", "--nodes", "2"], "--topology"),
        (["lab", "nodes"], "none is up"),
        (["lab", "status"], "none is up"),
        (["lab", "env"], "none is up"),
        (["lab", "probe"], "none is up"),
        (["lab", "pod", "add", "a"], "none is up"),
        (["lab", "exec", "1", "--", "true"], "none is up"),
        (["lab", "restart", "ipamd", "--node", "1"], "none is up"),
        (["lab", "restart", "ipamd"], "--node"),
        (["lab", "nodes", "-o", "yaml"], "yaml"),
        (["lab", "fly"], "fly"),
        (["lab", "exec", "1"], "none was given"),
    ],
)
def test_bad_input_is_refused_with_code_2_on_standard_error(
    argv: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*argv) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert said in printed.err or said.replace("a valid int", "") in printed.err or "valid integer" in printed.err


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_a_daemon_with_bad_settings_says_once_what_is_wrong_and_what_to_do() -> None:
    environ = {**os.environ, "VPCCNI_FIREWALL": "ufw", "WARM_ENI_TARGET": "many"}
    command = [sys.executable, "-m", "vpccni", "ipamd"]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2 and done.stdout == ""
    first, second = done.stderr.splitlines()
    assert first.startswith("cannot use the settings: ") and "VPCCNI_FIREWALL='ufw'" in first and "many" in first
    assert "[invalid-settings]" in second and "Next: " in second


def test_down_without_a_lab_says_that_nothing_is_left(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("lab", "down", "-o", "json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert {"processes", "network namespaces", "mounts", "directories"} <= {row["what"] for row in rows}
    assert all(row["removed"] == 0 and row["left"] == [] for row in rows)


def test_help_and_version_succeed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--version") == 0
    assert "vpccni " in capsys.readouterr().out
    for argv in (["--help"], ["lab", "--help"], ["lab", "pod", "add", "--help"], ["ipamd", "--help"]):
        assert run(*argv) == 0
        assert "Usage" in capsys.readouterr().out


def test_an_error_prints_message_evidence_and_next_step(capsys: pytest.CaptureFixture[str]) -> None:
    assert output.refuse(HostError("do it", "it broke", evidence={"file": "/a"}, hint="mend it")) == 1
    assert capsys.readouterr().err == "vpccni: cannot do it: it broke\n  file: /a\n  next: mend it\n"
    assert output.refuse(InputError("do it", "no")) == 2


def test_a_table_prints_markup_like_text_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    output.table(["a"], [["[red]x[/]"], [None], [output.Marked("[bold]y[/]")]])
    lines = capsys.readouterr().out
    assert "[red]x[/]" in lines and "y" in lines and "[bold]" not in lines


def test_the_topology_file_is_named_when_it_is_bad(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "lab.toml"
    path.write_text('[vpc]\ncidrs = ["10.0.0.0/16"]\nnode = 3\n')
    assert run("lab", "up", "--topology", str(path)) == 2
    printed = capsys.readouterr().err
    assert str(path) in printed and "next:" in printed
