# SPDX-License-Identifier: Apache-2.0
"""The lab of one test, for every folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from labs import Lab, own_lab


@pytest.fixture
def lab() -> Iterator[Lab]:
    with own_lab() as made:
        yield made
