# SPDX-License-Identifier: Apache-2.0
"""The fixture of the scenarios: a lab that is taken down whatever happens, and proves that it left nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from labs import Lab


@pytest.fixture
def lab() -> Iterator[Lab]:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    made = Lab()
    yield made
    left = {row["what"]: row["left"] for row in made.down() if row["left"]}
    assert left == {}
    assert not made.root.exists()
