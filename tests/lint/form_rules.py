# SPDX-License-Identifier: Apache-2.0
"""Rules about the form of a file: size, docstrings, license, names.

Knows how each rule is checked and what is exempt. Must never read a file: a rule takes a `Source` and returns the lines
that break it. `test_checkout` runs them over the checkout, `test_rules` over planted violations.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from checkout import Source

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
BANNED_NAMES = frozenset({"utils", "helpers", "common", "manager", "wrapper", "context", "data", "info"})
FIELD_TERMS = ("meta_data", "user_data")  # EC2's own words, one word each
SPDX = "SPDX-License-Identifier: Apache-2.0"

Function = ast.FunctionDef | ast.AsyncFunctionDef
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def file_size(source: Source) -> Iterator[str]:
    """Python and C files have at most 400 lines."""
    if source.is_python or source.path.suffix in {".c", ".h"}:
        count = source.text.count("\n")
        if count > MAX_FILE_LINES:
            yield f"{source.path}: {count} lines, at most {MAX_FILE_LINES}"


def function_size(source: Source) -> Iterator[str]:
    """Python functions have at most 60 lines, decorators and docstring included."""
    for node in _walk(source, FUNCTIONS):
        start = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
        count = (node.end_lineno or start) - start + 1
        if count > MAX_FUNCTION_LINES:
            yield f"{source.path}:{start}: {node.name} has {count} lines, at most {MAX_FUNCTION_LINES}"


def module_docstring(source: Source) -> Iterator[str]:
    """Every module says what it knows. An empty `__init__.py` has nothing to say."""
    if source.is_python and source.tree.body and not ast.get_docstring(source.tree):
        yield f"{source.path}: no module docstring"


def public_docstrings(source: Source) -> Iterator[str]:
    """Public classes and functions of the product have docstrings."""
    if source.is_product and source.is_python:
        yield from _undocumented(source, source.tree.body, "")


def _undocumented(source: Source, body: list[ast.stmt], inside: str) -> Iterator[str]:
    for node in body:
        if not isinstance(node, (*FUNCTIONS, ast.ClassDef)) or node.name.startswith("_"):
            continue
        if not ast.get_docstring(node) and not _is_variant(node):
            yield f"{source.path}:{node.lineno}: {inside}{node.name} has no docstring"
        if isinstance(node, ast.ClassDef):
            yield from _undocumented(source, node.body, f"{node.name}.")


def _is_variant(node: ast.stmt) -> bool:
    """Overloads and setters: the docstring stands at the implementation or the getter. Overrides: at the base."""
    decorators = [ast.unparse(each) for each in getattr(node, "decorator_list", [])]
    return any(each.split(".")[-1] in {"overload", "setter", "deleter", "override"} for each in decorators)


def license_header(source: Source) -> Iterator[str]:
    """Sources name their license in the first three lines."""
    is_program = source.path.suffix in {".py", ".c", ".h", ".sh"} or source.path.name == "Makefile"
    if is_program or source.text.startswith("#!"):
        first = source.text.splitlines()[:3]
        if not any(SPDX in line for line in first):
            yield f"{source.path}: no '{SPDX}' in the first three lines"


def banned_names(source: Source) -> Iterator[str]:
    """Names that say nothing: as any word of a module or class, as the last word of a function or parameter."""
    if not source.is_python:
        return
    for part in [*source.path.parts[:-1], source.path.stem]:
        for word in BANNED_NAMES & set(_words(part)):
            yield f"{source.path}: module named {word}"
    for node in _walk(source, (*FUNCTIONS, ast.ClassDef, ast.Lambda)):
        line = f"{source.path}:{node.lineno}"
        if isinstance(node, ast.ClassDef):
            for word in BANNED_NAMES & set(_words(node.name)):
                yield f"{line}: class {node.name}: {word}"
            continue
        if not isinstance(node, ast.Lambda) and _words(node.name)[-1:] and _words(node.name)[-1] in BANNED_NAMES:
            yield f"{line}: function {node.name}"
        for name in _parameters(node.args):
            if _words(name)[-1:] and _words(name)[-1] in BANNED_NAMES:
                yield f"{line}: parameter {name}"


def _parameters(arguments: ast.arguments) -> list[str]:
    named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
    return [each.arg for each in named if each is not None]


def _words(name: str) -> list[str]:
    """`EniManager2` and `eni_manager` -> ["eni", "manager"]. The field's own terms count as one word."""
    for term in FIELD_TERMS:
        name = name.replace(term, term.replace("_", ""))
    return [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)]


def _walk(source: Source, kinds: tuple[type, ...]) -> Iterator[ast.AST]:
    if source.is_python:
        yield from (node for node in ast.walk(source.tree) if isinstance(node, kinds))
