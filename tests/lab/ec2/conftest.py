# SPDX-License-Identifier: Apache-2.0
"""Marks conformance tests with the row of the behaviour table and where the behaviour is known from."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.lab.ec2.ec2_box import Box


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "evidence(row, source): D AWS documentation, R recorded from AWS in public reports, P the Go daemon relies on"
        " it, ? general knowledge, to be confirmed against AWS",
    )


@pytest.fixture(scope="session")
def shared_box() -> Iterator[Box]:
    box = Box()
    yield box
    box.server.stop()


@pytest.fixture
def box(shared_box: Box) -> Iterator[Box]:
    yield shared_box
    shared_box.wait(100)
    shared_box.check()
