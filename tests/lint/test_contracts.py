# SPDX-License-Identifier: Apache-2.0
"""The import contracts of `.importlinter` hold, and each of them breaks when a forbidden import is planted.

Knows one forbidden import per contract. Must never change the checkout: imports are planted in a copy of the package.
"""

from __future__ import annotations

import configparser
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from checkout import ROOT

STRATA = "imports point downwards, and every module has its stratum"
# contract, module that gets the import, the import
PLANTED = [
    (STRATA, "core/pool.py", "import vpccni.host"),
    (STRATA, "ipamd/journal.py", "import vpccni.lab.state"),
    (STRATA, "lab/state.py", "def f():\n    import vpccni.ipamd.journal"),
    (STRATA, "netlink/values.py", "import vpccni.aws.values"),
    (STRATA, "errors.py", "import vpccni.paths"),
    (STRATA, "newcomer.py", "x = 1"),
    ("core decides and never acts", "core/pool.py", "import time"),
    ("what runs per pod loads no heavy library", "netlink/values.py", "import boto3"),
    ("what runs per pod loads no heavy library", "errors.py", "import rich"),
    ("the plugin's side loads neither EC2 nor the command line", "cni/wire.py", "import botocore.session"),
    ("the model of the cloud does no input or output", "lab/cloud/metadata.py", "import socket"),
    ("kube-proxy's rules are text made of values", "lab/kubeproxy/nftables.py", "import vpccni.host.programs"),
    ("test oracles never become dependencies", "netlink/values.py", "def f():\n    import pyroute2"),
]


def lint_imports(source_root: Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-logo", "--no-cache", "--config", ROOT / ".importlinter"],
        env={**os.environ, "PYTHONPATH": str(source_root), "COLUMNS": "200"},
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def package(tmp_path: Path) -> Path:
    ignored = shutil.ignore_patterns("__pycache__", "*.json", "_relay")
    shutil.copytree(ROOT / "src" / "vpccni", tmp_path / "src" / "vpccni", ignore=ignored)
    return tmp_path / "src" / "vpccni"


def test_the_package_keeps_all_contracts(tmp_path: Path) -> None:
    done = lint_imports(ROOT / "src", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(("contract", "module", "planted"), PLANTED)
def test_a_forbidden_import_breaks_its_contract(contract: str, module: str, planted: str, package: Path) -> None:
    path = package / module
    path.write_text((path.read_text() if path.exists() else "") + f"\n{planted}\n")
    done = lint_imports(package.parent, package.parent)
    assert done.returncode == 1
    # A module without a stratum is an error of the configuration, which names the module instead of the contract.
    assert f"{contract} BROKEN" in done.stdout or (module == "newcomer.py" and "newcomer" in done.stdout), done.stdout


def test_every_contract_has_a_planted_import() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / ".importlinter")
    names = {config[section]["name"] for section in config.sections() if ":contract:" in section}
    assert {contract for contract, *_ in PLANTED} == names
