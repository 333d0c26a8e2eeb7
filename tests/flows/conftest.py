# SPDX-License-Identifier: Apache-2.0
"""The fixture of the flows: a lab that lives as long as a module's tests and proves that it left nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from flow_labs import FlowLab


@pytest.fixture(scope="module")
def flow_lab() -> Iterator[FlowLab]:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    made = FlowLab()
    try:
        made.bring_up()
        yield made
    finally:
        left = {row["what"]: row["left"] for row in made.down() if row["left"]}
    assert left == {}
