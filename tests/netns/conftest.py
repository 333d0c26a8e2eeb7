# SPDX-License-Identifier: Apache-2.0
"""The namespace fixtures of tests/host, for tests with packets."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

_path = Path(__file__).parents[1] / "host" / "conftest.py"
_spec = importlib.util.spec_from_file_location("host_namespaces", _path)
assert _spec is not None and _spec.loader is not None
_module = importlib.util.module_from_spec(_spec)
sys.modules["host_namespaces"] = _module
_spec.loader.exec_module(_module)

spaces = _module.spaces
