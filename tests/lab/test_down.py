# SPDX-License-Identifier: Apache-2.0
"""What a lab that was taken down may have left, and what only looks like it."""

from __future__ import annotations

import os

import pytest

from vpccni.lab.down import _pinned
from vpccni.netlink import namespace
from vpccni.netlink.namespace import NETNS_DIR

pytestmark = pytest.mark.netns


def test_a_namespace_that_a_mount_keeps_is_named_and_a_new_one_of_its_number_is_not() -> None:
    name = f"vt-{os.getpid()}-kept"
    os.close(namespace.create(name))
    try:
        number = (NETNS_DIR / name).stat().st_ino
        assert any(line.startswith(f"{name} (kept by pid ") for line in _pinned({number: name}))
        assert _pinned({number: "vt-dead-before"}) == [], "another lab's, made after ours had died"
    finally:
        namespace.remove(name)
    assert _pinned({number: name}) == []
