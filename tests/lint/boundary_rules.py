# SPDX-License-Identifier: Apache-2.0
"""Rules about what a file may use: modules, the environment, address families, seams, places outside the checkout.

Knows the few exemptions, each with its reason. Must never read a file: a rule takes a `Source` and returns the lines
that break it. import-linter checks the strata; what it cannot express stands here.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import PurePosixPath

from checkout import Source

MAX_PROTOCOL_METHODS = 7

# `core` decides. Whatever could make the same question have two answers is not there.
CORE_FORBIDDEN = frozenset(
    {"socket", "os", "time", "random", "asyncio", "threading", "subprocess", "pathlib", "select", "selectors"}
    | {"multiprocessing", "concurrent", "signal", "secrets", "uuid", "tempfile", "shutil", "http", "urllib", "logging"}
)
CORE_MAY_IMPORT = ("vpccni.core", "vpccni.errors", "vpccni.settings", "vpccni.netlink.values", "vpccni.aws.values")

# The environment is read once, and passed on as a mapping. The relay's twin is a program of its own, without a package.
ENVIRONMENT_READERS = ("src/vpccni/__main__.py", "src/vpccni/cni/relay.py")
FAMILY_READERS = ("src/vpccni/netlink", "src/vpccni/core/conventions.py")
ENVIRONMENT = frozenset({"environ", "environb", "getenv", "getenvb", "putenv", "unsetenv"})

# Written in pieces, so that this file does not name what it forbids.
PLACES = re.compile(
    "|".join(
        [
            r"py" + r"pi\.org",
            r"python" + r"hosted\.org",
            r"registry\.n" + r"pmjs",
            r"(?<![\w.])/wo" + r"rk/",
            r"/opt/wh" + r"eels",
            r"shared/refer" + r"ence",
            r"\bBRIE" + r"F\.md\b",
            r"\b(this|the) coding ses" + r"sion\b",
            r"\bAI ag" + r"ents?\b",
        ]
    )
)
MARKDOWN_LINK = re.compile(r"\]\(([^)\s]+)\)")


def mock_libraries(source: Source) -> Iterator[str]:
    """Fake the world, never the library: `unittest.mock` is not used, and there is no exemption."""
    for module, line in _imports(source):
        if module == "unittest.mock" or module.startswith(("unittest.mock.", "mock.")) or module == "mock":
            yield f"{source.path}:{line}: {module}"


def address_families(source: Source) -> Iterator[str]:
    """The family is a property of an address: AF_INET6 only where the kernel's numbers are translated."""
    if source.is_product and not source.within(*FAMILY_READERS):
        for name, line in _names(source):
            if name == "AF_INET6":
                yield f"{source.path}:{line}: AF_INET6, use address.version"


def environment(source: Source) -> Iterator[str]:
    """Only the entry points read the environment."""
    if not source.is_product or source.within(*ENVIRONMENT_READERS) or not source.is_python:
        return
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.value.id in {"os", "posix"} and node.attr in ENVIRONMENT:
                yield f"{source.path}:{node.lineno}: {node.value.id}.{node.attr}"
        elif isinstance(node, ast.ImportFrom) and node.module in {"os", "posix"}:
            for alias in node.names:
                if alias.name in ENVIRONMENT:
                    yield f"{source.path}:{node.lineno}: from {node.module} import {alias.name}"


def core_imports(source: Source) -> Iterator[str]:
    """`core` imports values and arithmetic only: of the package nothing but a short list, of the library no effects."""
    if not source.within("src/vpccni/core"):
        return
    for module, line in _imports(source):
        if module.split(".")[0] in CORE_FORBIDDEN:
            yield f"{source.path}:{line}: {module}"
        if module.split(".")[0] == "vpccni" and not _below(module, CORE_MAY_IMPORT):
            yield f"{source.path}:{line}: {module} is not among the value modules"


def protocol_size(source: Source) -> Iterator[str]:
    """A seam has at most seven methods."""
    if not source.is_python:
        return
    for node in ast.walk(source.tree):
        if not isinstance(node, ast.ClassDef):
            continue
        bases = {ast.unparse(base).split("[")[0].split(".")[-1] for base in node.bases}
        methods = [each for each in node.body if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)]
        if "Protocol" in bases and len(methods) > MAX_PROTOCOL_METHODS:
            yield f"{source.path}:{node.lineno}: {node.name} has {len(methods)} methods, at most {MAX_PROTOCOL_METHODS}"


def foreign_places(source: Source) -> Iterator[str]:
    """No file names a package registry or a place of the people who wrote it."""
    for number, line in enumerate(source.text.splitlines(), 1):
        found = PLACES.search(line)
        if found:
            yield f"{source.path}:{number}: {found.group()}"


def links_inside(source: Source) -> Iterator[str]:
    """Relative links in Markdown stay inside the checkout."""
    if source.path.suffix != ".md":
        return
    for target in MARKDOWN_LINK.findall(source.text):
        if target.startswith(("http://", "https://", "#", "mailto:")):
            continue
        if resolve(source.path, target) is None:
            yield f"{source.path}: link {target} leaves the checkout"


def resolve(path: PurePosixPath, target: str) -> PurePosixPath | None:
    """Where a relative link of the file at `path` points, from the root; None when that is outside."""
    parts: list[str] = [] if target.startswith("/") else list(path.parent.parts)
    for part in PurePosixPath(target.split("#", maxsplit=1)[0]).parts:
        if part == "/":
            return None
        if part == "..":
            if not parts:
                return None
            parts.pop()
        elif part != ".":
            parts.append(part)
    return PurePosixPath(*parts)


def _below(module: str, prefixes: tuple[str, ...]) -> bool:
    return any(module == prefix or module.startswith(f"{prefix}.") for prefix in prefixes)


def _imports(source: Source) -> Iterator[tuple[str, int]]:
    """(module, line) of every import, also inside functions; `from a import b` counts as `a` when b may be a name."""
    if not source.is_python:
        return
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            # `from vpccni.netlink import values` and `from unittest import mock` name modules, not members.
            if module in {"vpccni", "vpccni.netlink", "vpccni.aws", "unittest"}:
                yield from ((f"{module}.{alias.name}", node.lineno) for alias in node.names)
            else:
                yield module, node.lineno


def _names(source: Source) -> Iterator[tuple[str, int]]:
    if not source.is_python:
        return
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Name):
            yield node.id, node.lineno
        elif isinstance(node, ast.Attribute):
            yield node.attr, node.lineno
        elif isinstance(node, ast.alias):
            yield node.name, node.lineno
