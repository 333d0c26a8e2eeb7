# SPDX-License-Identifier: Apache-2.0
"""The log of a daemon: JSON lines for machines, short lines for people.

Knows how a record is written and rotated. Must never know what is logged. Composition roots call `configure` once;
everybody else uses `logging.getLogger`. Facts travel in `extra={"facts": {...}}` and become top-level JSON members.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from logging.handlers import RotatingFileHandler
from pathlib import Path

ROTATE_BYTES = 100 * 1024 * 1024
ROTATE_KEEP = 5
LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "fatal": logging.CRITICAL,
}


class JsonLines(logging.Formatter):
    """One JSON object a line: level, ISO-8601 ts with milliseconds, caller, msg, and the record's facts."""

    def format(self, record: logging.LogRecord) -> str:
        """Render one record."""
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        line: dict[str, object] = {
            "level": record.levelname.lower(),
            "ts": moment,
            "caller": f"{record.name.removeprefix('vpccni.')}:{record.lineno}",
            "msg": record.getMessage(),
        }
        line.update(getattr(record, "facts", {}))
        if record.exc_info:
            line["stacktrace"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class ForPeople(logging.Formatter):
    """`12:00:00.123 warn  ipamd.engine  message  name=value`."""

    def format(self, record: logging.LogRecord) -> str:
        """Render one record."""
        moment = datetime.fromtimestamp(record.created, UTC).strftime("%H:%M:%S.%f")[:-3]
        facts = " ".join(f"{name}={value}" for name, value in getattr(record, "facts", {}).items())
        where = record.name.removeprefix("vpccni.")
        line = f"{moment} {record.levelname.lower():8}{where:18} {record.getMessage()}" + (
            f"  {facts}" if facts else ""
        )
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def configure(target: str, level: str, *, verbose: bool) -> None:
    """Send the package's log to `target` (a path, `stdout` or `stderr`) and, when `verbose`, to standard error too.

    An unknown level counts as debug, as in the Amazon VPC CNI.
    """
    root = logging.getLogger("vpccni")
    root.setLevel(LEVELS.get(level.lower(), logging.DEBUG))
    for handler in list(root.handlers):
        root.removeHandler(handler)
    root.addHandler(_machine_handler(target))
    if verbose:
        people = logging.StreamHandler(sys.stderr)
        people.setFormatter(ForPeople())
        root.addHandler(people)
    root.propagate = False


def _machine_handler(target: str) -> logging.Handler:
    if target.lower() in ("stdout", "stderr"):
        handler: logging.Handler = logging.StreamHandler(getattr(sys, target.lower()))
    else:
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        handler = RotatingFileHandler(target, maxBytes=ROTATE_BYTES, backupCount=ROTATE_KEEP)
    handler.setFormatter(JsonLines())
    return handler
