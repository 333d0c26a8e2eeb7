# SPDX-License-Identifier: Apache-2.0
"""The files of the checkout as the lint rules see them: path, text, syntax tree.

Knows where sources lie and what is built, downloaded or written by tools. Must never judge. The rules get `Source`
values, so that their own tests can plant a violation without a file.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).resolve().parents[2]
# Written by tools, not by people; a folder is skipped with all that is in it. `.git` is a file in a linked worktree.
SKIPPED = {".git", ".venv", "build", "__pycache__", "node_modules"} | {
    f".{tool}" for tool in ("mypy_cache", "ruff_cache", "pytest_cache", "hypothesis", "import_linter_cache")
}
TEXT_SUFFIXES = {
    ".py",
    ".c",
    ".h",
    ".sh",
    ".md",
    ".toml",
    ".json",
    ".lock",
    ".txt",
    ".yaml",
    ".yml",
    ".cfg",
    ".ini",
    "",
}


@dataclass(frozen=True)
class Source:
    """One file: its path from the root of the checkout, with slashes, and its text."""

    path: PurePosixPath
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        """The syntax tree of a Python file."""
        return ast.parse(self.text, filename=str(self.path))

    @property
    def is_python(self) -> bool:
        """Whether it is Python source."""
        return self.path.suffix == ".py"

    @property
    def is_product(self) -> bool:
        """Whether it is part of the package, not of its tests, benchmarks or tools."""
        return self.path.parts[:2] == ("src", "vpccni")

    def within(self, *folders: str) -> bool:
        """Whether it is one of these files or lies below one of these folders, given from the root."""
        return any(self.path.is_relative_to(folder) for folder in folders)


def files(root: Path = ROOT) -> Iterator[Path]:
    """Every file that people wrote, symbolic links included."""
    for path in sorted(root.iterdir()):
        if path.name in SKIPPED or path.name.endswith(".egg-info"):
            continue
        if path.is_dir() and not path.is_symlink():
            yield from files(path)
        else:
            yield path


def sources(root: Path = ROOT) -> list[Source]:
    """Every text file that people wrote; binaries are left out."""
    found = []
    for path in files(root):
        if path.suffix not in TEXT_SUFFIXES or path.is_symlink():
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        found.append(Source(PurePosixPath(path.relative_to(root).as_posix()), text))
    return found
