# SPDX-License-Identifier: Apache-2.0
"""The namespace fixtures of tests/host, for tests with packets."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

_path = Path(__file__).parents[1] / "host" / "conftest.py"
_spec = importlib.util.spec_from_file_location("host_namespaces", _path)
assert _spec is not None and _spec.loader is not None
_module = importlib.util.module_from_spec(_spec)
sys.modules["host_namespaces"] = _module
_spec.loader.exec_module(_module)

spaces = _module.spaces


@pytest.fixture(scope="module")
def lasting_spaces() -> Iterator[object]:
    """The same for a whole module, whose tests put the world right between them."""
    if os.geteuid() != 0:
        pytest.skip("needs root for network namespaces")
    made = _module.Spaces()
    yield made
    made.close()
