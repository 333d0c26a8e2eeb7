# SPDX-License-Identifier: Apache-2.0
"""The versions of the CNI protocol that the plugin speaks, and how to compare them.

Knows version strings only. Must never import another module of the package. Called by everything in `cni`.
The relay, in C and in Python, repeats the list; the contract suite proves that all three agree.
"""

from __future__ import annotations

SUPPORTED = ("0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
CURRENT = "1.1.0"


def version_tuple(version: str) -> tuple[int, int, int]:
    """`"1.0.0"` -> `(1, 0, 0)`. Raises ValueError for anything that is not three numbers with dots."""
    major, minor, patch = (int(part) for part in version.split("."))
    return major, minor, patch


def at_least(version: str, other: str) -> bool:
    """Whether `version` is `other` or newer."""
    return version_tuple(version) >= version_tuple(other)
