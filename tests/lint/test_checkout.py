# SPDX-License-Identifier: Apache-2.0
"""Every lint rule over every file of the checkout.

Knows which rules there are. Must never hold a rule itself. That each of them can fail is shown in `test_rules`.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterator

import boundary_rules
import form_rules
import pytest
from checkout import ROOT, Source, files, sources

Rule = Callable[[Source], Iterator[str]]

RULES: dict[str, Rule] = {
    "files are short": form_rules.file_size,
    "functions are short": form_rules.function_size,
    "modules say what they know": form_rules.module_docstring,
    "public names are documented": form_rules.public_docstrings,
    "sources name their license": form_rules.license_header,
    "names say something": form_rules.banned_names,
    "no mock library": boundary_rules.mock_libraries,
    "address families stay in netlink": boundary_rules.address_families,
    "only entry points read the environment": boundary_rules.environment,
    "core imports values only": boundary_rules.core_imports,
    "seams are narrow": boundary_rules.protocol_size,
    "no foreign places are named": boundary_rules.foreign_places,
    "links stay inside the checkout": boundary_rules.links_inside,
}


@pytest.fixture(scope="module")
def checkout() -> list[Source]:
    return sources()


@pytest.mark.parametrize("name", RULES)
def test_the_checkout_keeps_the_rule(name: str, checkout: list[Source]) -> None:
    broken = [line for source in checkout for line in RULES[name](source)]
    assert not broken, "\n".join(broken)


def test_the_rules_see_the_product_and_the_tests(checkout: list[Source]) -> None:
    seen = {str(source.path) for source in checkout}
    assert {"src/vpccni/__main__.py", "tests/lint/test_checkout.py", "relay/aws-cni.c", "Makefile"} <= seen
    assert not any(".venv/" in path for path in seen)


def test_links_in_the_documentation_lead_to_files(checkout: list[Source]) -> None:
    dead = []
    for source in checkout:
        if source.path.suffix != ".md":
            continue
        for target in boundary_rules.MARKDOWN_LINK.findall(source.text):
            inside = boundary_rules.resolve(source.path, target)
            if not target.startswith(("http", "#", "mailto:")) and inside is not None and not (ROOT / inside).exists():
                dead.append(f"{source.path}: {target}")
    assert not dead, "\n".join(dead)


def test_every_difference_names_a_test_that_exists() -> None:
    rows = [
        line for line in (ROOT / "docs" / "differences.md").read_text().splitlines() if re.match(r"\| \d+ \|", line)
    ]
    assert len(rows) >= 20
    for row in rows:
        named = re.findall(r"`(tests/[^`]+)`", row.split("|")[-2])
        assert named, f"no test in: {row}"
        for path, _, test in (each.partition("::") for each in named):
            assert f"def {test}(" in (ROOT / path).read_text(), f"{path} has no {test}"


def test_no_symbolic_link_leaves_the_checkout() -> None:
    links = [path for path in files() if path.is_symlink()]
    outside = [str(path) for path in links if not path.resolve().is_relative_to(ROOT)]
    assert not outside


def test_scripts_are_valid_bash() -> None:
    scripts = [path for path in files() if path.is_file() and path.read_bytes()[:20].startswith(b"#!/usr/bin/env bash")]
    assert len(scripts) >= 3
    for script in scripts:
        subprocess.run(["bash", "-n", str(script)], check=True)
