# SPDX-License-Identifier: Apache-2.0
"""Each lint rule catches a planted violation and leaves its innocent neighbour alone.

Knows one violation of every rule. Must never look at the checkout; `test_checkout` does.
"""

from __future__ import annotations

from pathlib import PurePosixPath

import pytest
from checkout import ROOT, Source, sources
from form_rules import MAX_FILE_LINES, MAX_FUNCTION_LINES, SPDX
from test_checkout import RULES

HEAD = f'# {SPDX}\n"""Says what it knows."""\n'
LONG_BODY = "    pass\n" * MAX_FUNCTION_LINES
METHODS = "".join(f"    def m{number}(self) -> None: ...\n" for number in range(8))

# rule, path, text that breaks it, what the message must name
PLANTED = [
    ("files are short", "src/vpccni/a.py", HEAD + "x = 1\n" * MAX_FILE_LINES, "402 lines"),
    ("files are short", "relay/a.c", "int x;\n" * (MAX_FILE_LINES + 1), "401 lines"),
    ("functions are short", "src/vpccni/a.py", f"def f() -> None:\n{LONG_BODY}", "f has 61 lines"),
    ("functions are short", "tests/a.py", f"class A:\n async def g(self):\n{LONG_BODY}", "g has 61 lines"),
    ("modules say what they know", "tests/core/a.py", "x = 1\n", "no module docstring"),
    ("public names are documented", "src/vpccni/a.py", "def f() -> None: ...\n", "f has no docstring"),
    ("public names are documented", "src/vpccni/a.py", 'class A:\n "D."\n def m(self): ...\n', "A.m has no docstring"),
    ("sources name their license", "relay/a.c", "int x;\n", "no 'SPDX"),
    ("sources name their license", "scripts/run", "#!/bin/sh\n\n\n# " + SPDX, "no 'SPDX"),
    ("sources name their license", "Makefile", "all:\n", "no 'SPDX"),
    ("names say something", "src/vpccni/core/pool_utils.py", HEAD, "module named utils"),
    ("names say something", "src/vpccni/common/a.py", HEAD, "module named common"),
    ("names say something", "src/vpccni/a.py", "class EniManager: ...\n", "class EniManager"),
    ("names say something", "src/vpccni/a.py", "def eni_info(): ...\n", "function eni_info"),
    ("names say something", "src/vpccni/a.py", "def f(*, data): ...\n", "parameter data"),
    ("names say something", "src/vpccni/a.py", "f = lambda **context: 1\n", "parameter context"),
    ("no mock library", "tests/a.py", "from unittest import mock\n", "unittest.mock"),
    ("no mock library", "tests/a.py", "def f():\n    from unittest.mock import patch\n", ":2: unittest.mock"),
    ("no mock library", "tests/a.py", "import unittest.mock as m\n", "unittest.mock"),
    (
        "address families stay in netlink",
        "src/vpccni/core/a.py",
        "import socket\nf = socket.AF_INET6\n",
        ":2: AF_INET6",
    ),
    ("address families stay in netlink", "src/vpccni/lab/a.py", "from socket import AF_INET6\n", "AF_INET6"),
    (
        "only entry points read the environment",
        "src/vpccni/ipamd/a.py",
        "import os\nx = os.environ\n",
        ":2: os.environ",
    ),
    ("only entry points read the environment", "src/vpccni/cli/a.py", "from os import getenv\n", "import getenv"),
    ("core imports values only", "src/vpccni/core/a.py", "import random\n", "random"),
    ("core imports values only", "src/vpccni/core/a.py", "def f():\n    import os.path\n", ":2: os.path"),
    ("core imports values only", "src/vpccni/core/a.py", "from vpccni.netlink.socket import x\n", "netlink.socket"),
    ("core imports values only", "src/vpccni/core/a.py", "from vpccni.netlink import codec\n", "netlink.codec"),
    ("core imports values only", "src/vpccni/core/a.py", "from vpccni import clock\n", "vpccni.clock"),
    ("seams are narrow", "src/vpccni/a.py", f"class P(Protocol):\n{METHODS}", "P has 8 methods"),
    ("no foreign places are named", "docs/a.md", "see py" + "pi.org\n", ":1: py" + "pi.org"),
    ("no foreign places are named", "tests/a.py", "x = '/wo" + "rk/main'\n", "/wo" + "rk/"),
    ("links stay inside the checkout", "docs/a.md", "[x](../../elsewhere.md)", "../../elsewhere.md"),
    ("links stay inside the checkout", "README.md", "[x](/etc/passwd)", "/etc/passwd"),
]

INNOCENT = [
    ("functions are short", "src/vpccni/a.py", f"def f() -> None:\n{LONG_BODY[: -len('    pass' + chr(10))]}"),
    ("modules say what they know", "src/vpccni/__init__.py", f"# {SPDX}\n"),
    ("public names are documented", "tests/a.py", "def test_f(): ...\n"),
    ("public names are documented", "src/vpccni/a.py", "def _private(): ...\n"),
    ("sources name their license", "scripts/run", "#!/bin/sh\n# " + SPDX),
    ("names say something", "src/vpccni/lab/metadata.py", "class InstanceMetadata: ...\ndef _meta_data(): ...\n"),
    ("address families stay in netlink", "src/vpccni/netlink/a.py", "f = socket.AF_INET6\n"),
    ("only entry points read the environment", "src/vpccni/__main__.py", "x = os.environ\n"),
    ("core imports values only", "src/vpccni/core/a.py", "from vpccni.netlink.values import Route\nimport ipaddress\n"),
    ("core imports values only", "src/vpccni/host/a.py", "import os\n"),
    ("seams are narrow", "src/vpccni/a.py", f"class NoSeam:\n{METHODS}"),
    ("links stay inside the checkout", "docs/a.md", "[x](../README.md) [y](https://example.com/../..)"),
]


@pytest.mark.parametrize(("rule", "path", "text", "named"), PLANTED)
def test_a_planted_violation_is_caught(rule: str, path: str, text: str, named: str) -> None:
    broken = list(RULES[rule](Source(PurePosixPath(path), text)))
    assert any(named in line for line in broken), broken


@pytest.mark.parametrize(("rule", "path", "text"), INNOCENT)
def test_an_innocent_file_passes(rule: str, path: str, text: str) -> None:
    assert list(RULES[rule](Source(PurePosixPath(path), text))) == []


def test_every_rule_has_a_planted_violation() -> None:
    assert {rule for rule, *_ in PLANTED} == set(RULES)


def test_a_file_planted_in_a_checkout_is_found(tmp_path) -> None:
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / "theirs.py").write_text("x = 1\n")
    (tmp_path / "ours.py").write_text("x = 1\n")
    assert [str(source.path) for source in sources(tmp_path)] == ["ours.py"]
    assert tmp_path != ROOT
