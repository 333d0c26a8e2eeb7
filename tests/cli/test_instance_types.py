# SPDX-License-Identifier: Apache-2.0
"""`vpccni instance-types`: patterns, columns, JSON, and what a pattern without a match is told."""

from __future__ import annotations

import json

import pytest

from vpccni.cli.app import main


def run(*argv: str) -> int:
    return main(["instance-types", *argv], {})


def test_a_family_is_listed_with_its_enis_and_addresses(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("c7i.*", "-o", "json") == 0
    rows = {row["instance_type"]: row for row in json.loads(capsys.readouterr().out)}
    shapes = {name: (row["max_enis"], row["ipv4_per_eni"]) for name, row in rows.items()}
    expected = {"c7i.large": (3, 10), "c7i.xlarge": (4, 15), "c7i.4xlarge": (8, 30), "c7i.16xlarge": (15, 50)}
    assert expected.items() <= shapes.items()
    assert all(name.startswith("c7i.") for name in rows)
    assert rows["c7i.xlarge"]["max_pods"] == {
        "default": {"recommended": 58, "uncapped": 58},
        "prefix": {"recommended": 110, "uncapped": 898},
        "custom": {"recommended": 44, "uncapped": 44},
        "custom_prefix": {"recommended": 110, "uncapped": 674},
    }


def test_network_cards_and_hypervisor_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("p4d.24xlarge", "i7ie.48xlarge", "m4.large", "m5.metal") == 0
    printed = capsys.readouterr()
    lines = {line.split()[0]: line for line in printed.out.splitlines() if "." in line.split()[0]}
    assert "4 x 15" in lines["p4d.24xlarge"] and "8 + 7" in lines["i7ie.48xlarge"]
    assert "xen" in lines["m4.large"] and "yes" in lines["m5.metal"] and "no" in lines["m4.large"]
    assert "4 types" in printed.err


def test_several_patterns_are_joined_without_doubles(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("m5.large", "M5.*", "*.metal", "-o", "json") == 0
    names = [row["instance_type"] for row in json.loads(capsys.readouterr().out)]
    assert names[0] == "m5.large" and len(names) == len(set(names))
    assert {"m5.metal", "c5.metal", "m5.24xlarge"} <= set(names)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["c7z.*"], "'c7i.*'"),
        (["m5"], "did you mean 'm5.*'?"),
        (["m5.huge"], "m5.large"),
        (["m5.large", "nothing.*"], "'nothing.*'"),
        (["zz-zz"], "lists all"),
        ([], "PATTERN"),
    ],
)
def test_a_pattern_without_a_match_is_refused_with_what_may_have_been_meant(
    argv: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*argv) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and said in printed.err
