# SPDX-License-Identifier: Apache-2.0
"""A lab for the flow matrix, and the selftest run in it as a user would.

Knows the installed command. Must never reach into the product, like `labs` that it builds on.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from labs import Lab

# Few addresses per ENI, so that the fourth pod is on the second one, and a short cooldown, so that runs can follow.
TYPE, COOLDOWN = "t3.small", "IP_COOLDOWN_PERIOD=1"


class FlowLab(Lab):
    """Two small nodes."""

    dual_stack = False

    def bring_up(self, *argv: str) -> None:
        self.up("--instance-type", TYPE, "--env", COOLDOWN, *argv)

    def restart(self, settings: dict[str, str], node: str = "1") -> None:
        words = [word for name, value in settings.items() for word in ("--env", f"{name}={value}")]
        self.run("restart", "ipamd", "--node", node, *words)

    def selftest(self, *argv: str, exit_code: int = 0) -> list[dict[str, Any]]:
        """The results; the exit code must be `exit_code`."""
        done = self.selftest_process(*argv)
        failed = [line for line in done.stderr.splitlines() if line.strip().startswith("failed")]
        assert done.returncode == exit_code, (done.returncode, failed, done.stderr[-2000:])
        return json.loads(done.stdout)

    def selftest_process(self, *argv: str) -> subprocess.CompletedProcess[str]:
        return self.vpccni("selftest", "-o", "json", *argv, timeout_s=170)

    def namespaces(self) -> list[str]:
        """The named namespaces of this lab."""
        return sorted(path.name for path in Path("/run/netns").iterdir() if self.name in path.name)
