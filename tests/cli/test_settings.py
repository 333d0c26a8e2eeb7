# SPDX-License-Identifier: Apache-2.0
"""`vpccni settings`: the table, what is read from where, and the exit codes of `lint`."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from vpccni.cli.app import main
from vpccni.settings import explain


def run(*argv: str, environ: dict[str, str] | None = None) -> int:
    return main(["settings", *argv], environ or {})


def codes(capsys: pytest.CaptureFixture[str]) -> set[str]:
    return {finding["code"] for finding in json.loads(capsys.readouterr().out)["findings"]}


def manifest(main_env: dict[str, str], init_env: dict[str, str] | None = None) -> dict[str, Any]:
    def container(name: str, env: dict[str, str]) -> dict[str, Any]:
        entries: list[dict[str, Any]] = [{"name": key, "value": value} for key, value in env.items()]
        field = {"name": "MY_NODE_NAME", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}
        return {"name": name, "env": [*entries, field]}

    containers = [container("aws-eks-nodeagent", {"MAX_ENI": "nonsense"}), container("aws-node", main_env)]
    pod = {"initContainers": [container("aws-vpc-cni-init", init_env or {})], "containers": containers}
    return {"kind": "DaemonSet", "metadata": {"name": "aws-node"}, "spec": {"template": {"spec": pod}}}


def test_every_setting_is_listed_with_default_syntax_and_purpose(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("list", "-o", "json") == 0
    rows = {row["variable"]: row for row in json.loads(capsys.readouterr().out)}
    assert len(rows) == len(explain())
    assert rows["WARM_ENI_TARGET"]["default"] == "1" and "integer" in rows["WARM_ENI_TARGET"]["accepts"]
    assert run("list") == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in ("WARM_IP_TARGET", "IP_COOLDOWN_PERIOD", "AWS_VPC_K8S_CNI_EXTERNALSNAT"))


@pytest.mark.parametrize(
    ("argv", "exit_code"),
    [
        ("--env WARM_ENI_TARGET=1", 0),
        ("--env WARM_IP_TARGET=2 --env MINIMUM_IP_TARGET=30 --instance-type m5.xlarge", 0),
        ("--env IP_COOLDOWN_PERIOD=0", 1),
        ("--env WARM_IP_TARGET=5 --env WARM_ENI_TARGET=2", 1),
        ("--env MAX_ENI=9 --instance-type m5.large", 1),
        ("--env MAX_ENI=9 --instance-type c5.9xlarge", 1),
        ("--env MAX_ENI=8 --instance-type c5.9xlarge", 0),
        ("--env WARM_IP_TARGET=x", 2),
        ("--env AWS_EC2_METADATA_DISABLED=true", 2),
        ("--env WARM_ENI_TARGET=2 --instance-type m5.large --subnet-size /28", 2),
        ("--env WARM_ENI_TARGET=1 --instance-type m5.large --subnet-size 24", 0),
    ],
)
def test_the_exit_code_says_clean_doubtful_or_unusable(
    argv: str, exit_code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("lint", *argv.split()) == exit_code
    assert bool(capsys.readouterr().out) == (exit_code > 0)
    assert run("lint", *argv.split(), "-o", "json") == exit_code
    assert json.loads(capsys.readouterr().out)["usable"] == (exit_code < 2)


def test_all_parse_errors_are_named_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    wrong = ["--env", "WARM_IP_TARGET=x", "--env", "AWS_VPC_ENI_MTU=1", "--env", "ENABLE_IPv6=perhaps"]
    assert run("lint", *wrong) == 2
    printed = capsys.readouterr().out
    assert all(name in printed for name in ("WARM_IP_TARGET", "AWS_VPC_ENI_MTU", "ENABLE_IPv6"))
    assert run("lint", *wrong, "-o", "json") == 2
    document = json.loads(capsys.readouterr().out)
    assert document["usable"] is False and len(document["problems"]) == 3


def test_a_finding_is_printed_with_code_reason_and_next_step(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("lint", "--env", "WARM_IP_TARGET=5", "--env", "WARM_ENI_TARGET=2") == 1
    printed = capsys.readouterr()
    assert "contradiction: warm-eni-target-unused" in printed.out
    assert "WARM_IP_TARGET decides alone" in printed.out and "next: unset WARM_ENI_TARGET" in printed.out
    assert "2 settings checked: 1 contradiction" in printed.err


def test_lines_of_a_file_are_read_as_a_shell_writes_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "settings.env"
    path.write_text(
        "# the node's settings\n\nexport WARM_IP_TARGET=5\nWARM_ENI_TARGET=2\n"
        'ADDITIONAL_ENI_TAGS=\'{"team": "net"}\'  # who pays\n'
    )
    assert run("lint", str(path), "-o", "json") == 1
    assert codes(capsys) == {"warm-eni-target-unused"}
    assert run("lint", str(path), "--env", "WARM_IP_TARGET=0", "-o", "json") == 0  # arguments go before the file
    assert codes(capsys) == set()


def test_a_daemonset_is_read_without_its_agents_and_defaults(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "aws-node.json"
    defaults = {"WARM_ENI_TARGET": "1", "WARM_PREFIX_TARGET": "1", "AWS_VPC_K8S_CNI_LOGLEVEL": "DEBUG"}
    path.write_text(json.dumps(manifest(defaults | {"WARM_IP_TARGET": "5"})))
    assert run("lint", str(path), "-o", "json") == 0
    assert codes(capsys) == set()
    path.write_text(json.dumps({"kind": "List", "items": [manifest({"IP_COOLDOWN_PERIOD": "0"}, {"POD_MTU": "90"})]}))
    assert run("lint", str(path)) == 2
    assert "POD_MTU" in capsys.readouterr().out
    path.write_text(json.dumps(manifest({"WARM_ENI_TARGET": "3", "WARM_IP_TARGET": "1"})))
    assert run("lint", str(path), "-o", "json") == 1
    assert codes(capsys) == {"warm-eni-target-unused"}


def test_a_manifest_in_yaml_is_one_among_other_documents(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "aws-k8s-cni.yaml"
    daemonset = yaml.safe_dump(manifest({"IP_COOLDOWN_PERIOD": "0"}))
    path.write_text(f"---\nkind: ServiceAccount\n---\n{daemonset}---\n")
    assert run("lint", str(path), "-o", "json") == 1
    assert codes(capsys) == {"no-cooldown"}


def test_a_manifest_comes_through_a_pipe(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps(manifest({"IP_COOLDOWN_PERIOD": "0"}))))
    assert run("lint", "-", "-o", "json") == 1
    assert codes(capsys) == {"no-cooldown"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("WARM_IP_TARGET 5\nx y\n", "line 1"),
        ("WARM_IP_TARGET 5\nx y\n", "line 2"),
        ("A='open\n", "line 1"),
        ("apiVersion: apps/v1\nkind: DaemonSet\n", "no DaemonSet"),
        ("kind: DaemonSet\nspec: [\n", "no YAML"),
        ("kind: !!python/object:os.system x\n", "no YAML"),
        ("{", "no JSON"),
        ('{"kind": "Pod"}', "no DaemonSet"),
        ('{"kind": "DaemonSet", "spec": []}', "no DaemonSet"),
    ],
)
def test_a_file_that_is_neither_is_refused_with_what_is_wrong(
    text: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "f"
    path.write_text(text)
    assert run("lint", str(path)) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["/no/such/file"], "/no/such/file"),
        (["--env", "X"], "NAME=VALUE"),
        (["--instance-type", "m5.huge"], "m5.large"),
        (["--instance-type", "m5.large", "--subnet-size", "/29"], "16 to 28"),
        (["--env", "MAX_ENI=1", "--subnet-size", "/24"], "--instance-type"),
    ],
)
def test_arguments_that_cannot_be_used_are_refused(
    argv: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("lint", *argv) == 2
    assert said in capsys.readouterr().err


def test_without_a_file_the_environment_is_checked(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("lint", "-o", "json", environ={"IP_COOLDOWN_PERIOD": "0", "HOME": "/root"}) == 1
    assert codes(capsys) == {"no-cooldown"}
    assert run("lint", environ={"HOME": "/root"}) == 0
