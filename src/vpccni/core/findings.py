# SPDX-License-Identifier: Apache-2.0
"""What is found about settings: one value with code, reason and next step.

Knows only the shape. Must never know a rule; `core.settings_lint` and `core.settings_fit` make findings, the daemon
logs them at its start and `vpccni settings lint` prints them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Severity = Literal["unusable", "contradiction", "warning"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing about the settings that is hardly meant.

    `unusable`: the daemon does not start, or no pod ever gets an address. `contradiction`: one setting takes the effect
    from another, or asks for what cannot be. `warning`: it works, at a price that `why` names.
    """

    code: str
    severity: Severity
    variables: tuple[str, ...]
    what: str
    why: str
    next_step: str

    def __str__(self) -> str:
        return f"[{self.code}] {self.what}: {self.why}. Next: {self.next_step}"


@dataclass(frozen=True, slots=True)
class Given:
    """Which variables somebody has set, and to what, as opposed to those that hold their default."""

    values: Mapping[str, str]

    def __contains__(self, name: object) -> bool:
        return bool(self.values.get(str(name)))

    def any(self, *names: str) -> tuple[str, ...]:
        """Those of `names` that were set."""
        return tuple(name for name in names if name in self)
