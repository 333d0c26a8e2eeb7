# SPDX-License-Identifier: Apache-2.0
"""`vpccni sim` as a command: output, exit codes, the same output for the same seed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from vpccni.cli.app import main

SMALL = ["sim", "--nodes", "3", "--instance-type", "m5.large", "--duration", "10m", "--scenario", "churn"]


def run(*argv: str) -> int:
    return main(argv, {})


def test_json_has_what_scripts_look_for(capsys: pytest.CaptureFixture[str]) -> None:
    code = run("sim", "--scenario", "cold-start", "--nodes", "60", "--instance-type", "m5.large", "-o", "json")
    found = json.loads(capsys.readouterr().out)
    assert code == 0
    assert 0 < found["last_ready_s"] < 30
    assert found["ec2_calls"] == sum(found["calls_by_action"].values())
    assert found["throttled_calls"] == sum(found["throttled_by_action"].values())
    assert set(found["time_to_address_s"]) >= {"p50", "p99", "worst"}


def test_the_same_seed_gives_the_same_output_in_another_process() -> None:
    def output(hash_seed: str, seed: str) -> bytes:
        return subprocess.run(
            [sys.executable, "-m", "vpccni", *SMALL, "--seed", seed, "-o", "json"],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            check=True,
        ).stdout

    first = output("1", "5")
    assert first == output("2", "5")
    assert first != output("1", "6")


def test_settings_are_compared_side_by_side_in_any_number_of_processes(capsys: pytest.CaptureFixture[str]) -> None:
    argv = [*SMALL, "-o", "json", "--compare", "WARM_IP_TARGET=2", "policy=upstream WARM_IP_TARGET=2"]
    assert run(*argv, "--processes", "1") == 0
    alone = json.loads(capsys.readouterr().out)["runs"]
    done = subprocess.run([sys.executable, "-m", "vpccni", *argv, "--processes", "2"], capture_output=True, check=True)
    assert json.loads(done.stdout)["runs"] == alone
    assert [each["policy"] for each in alone] == ["ours", "upstream"]
    assert alone[0]["pods"]["arrived"] == pytest.approx(alone[1]["pods"]["arrived"], abs=30)


def test_one_setting_is_compared_with_the_common_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*SMALL, "--processes", "1", "--compare", "small: WARM_IP_TARGET=1,MINIMUM_IP_TARGET=4") == 0
    assert "small" in capsys.readouterr().out


def test_a_trace_file_is_played(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trace = tmp_path / "pods.jsonl"
    events = [{"t": 10 + number, "op": "add", "pod": f"p{number}"} for number in range(12)]
    trace.write_text("".join(json.dumps(event) + "\n" for event in events))
    assert run("sim", "--nodes", "2", "--trace", str(trace), "-o", "json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["pods"]["arrived"], found["pods"]["got_an_address"], found["pods"]["failed"]) == (12, 12, 0)
    assert found["addresses"]["used_peak"] == 12


def test_a_report_is_written(tmp_path: Path) -> None:
    report = tmp_path / "report.html"
    assert run(*SMALL, "--report", str(report)) == 0
    assert report.read_text().startswith("<!DOCTYPE html>")


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--profile", "weird"], "there is no profile 'weird'"),
        (["--scenario", "weird"], "there is no scenario 'weird'"),
        (["--profile", "web", "--scenario", "churn"], "exclude each other"),
        (["--instance-type", "m5.tiny"], "no instance type 'm5.tiny'"),
        (["--nodes", "0"], "--nodes 0"),
        (["--nodes", "many"], "valid int"),
        (["--duration", "soon"], "--duration 'soon'"),
        (["--duration", "-5m"], "--duration '-5m'"),
        (["--policy", "theirs"], "no policy 'theirs'"),
        (["--compare", "policy=theirs"], "no policy 'theirs'"),
        (["--compare", "WARM_IP_TARGET"], "NAME=VALUE"),
        (["--compare", " "], "says nothing"),
        (["WARM_IP_TARGET=3"], "unexpected argument"),
        (["--env", "WARM_IP_TARGET=many"], "WARM_IP_TARGET='many'"),
        (["--env", "ENABLE_IPv6=true", "--env", "ENABLE_IPv4=false", "--env", "ENABLE_PREFIX_DELEGATION=true"], "IPv6"),
        (["--subnet", "/30"], "--subnet '/30'"),
        (["--subnet", "big"], "--subnet 'big'"),
        (["--nodes", "40", "--subnet", "/28"], "finds no address"),
        (["--cloud", "stormy"], "no cloud profile 'stormy'"),
        (["--reconcile", "-1"], "--reconcile"),
        (["--report", "/no/such/folder/r.html"], "/no/such/folder/r.html"),
        (["--trace", "/no/such/file"], "/no/such/file"),
    ],
)
def test_what_cannot_be_simulated_is_refused_with_exit_code_2(
    argv: list[str], said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run("sim", "--nodes", "2", *argv) == 2
    assert said in capfd.readouterr().err


def test_a_wrong_trace_line_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trace = tmp_path / "pods.jsonl"
    trace.write_text('{"t": 1, "op": "add", "pod": "a"}\n{"t": 2, "op": "gone", "pod": "a"}\n')
    assert run("sim", "--trace", str(trace)) == 2
    assert "line 2: op 'gone'" in capsys.readouterr().err
    trace.write_bytes(b"\xff\xfe")
    assert run("sim", "--trace", str(trace)) == 2
    assert "UTF-8" in capsys.readouterr().err
