# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the tests with real container runtimes: a box per module, and a check that it left nothing behind."""

from __future__ import annotations

import os
from collections.abc import Iterator

import images
import pytest
from boxes import Box
from cri import CONTAINERD, PYTHON


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    """A lab that is not up yet; the module's own fixture brings it up as it needs it."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    if not (PYTHON.exists() and CONTAINERD.exists()):
        pytest.skip("needs the runtimes: run scripts/runtimes, or make test-runtimes")
    made = Box(tmp_path_factory.mktemp("box"))
    images.write_box_image(made.image)
    try:
        yield made
    finally:
        assert made.down() == []
