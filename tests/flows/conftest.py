# SPDX-License-Identifier: Apache-2.0
"""The fixture of the flows: a lab that lives as long as a module's tests and proves that it left nothing."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from flow_labs import FlowLab
from labs import own_lab


@pytest.fixture(scope="module")
def flow_lab() -> Iterator[FlowLab]:
    with own_lab(FlowLab) as made:
        made.bring_up()
        yield made
