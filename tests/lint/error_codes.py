# SPDX-License-Identifier: Apache-2.0
"""Collects the stable codes that the product's source can say: errors, waits, findings.

Knows the few ways in which a code is written down. Must never import the product: it reads syntax trees. A code that is
computed is collected as a pattern with `*`; a way of writing that it does not know is reported, not overlooked.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

_CODE = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)+|failed|refused|paused|throttled|cordoned")
_FIRST_ARGUMENT = ("Wait", "Finding", "_Meaning", "_small")  # values whose first argument is a code
_KEYS = ("_SAYS", "_HINTS")  # tables by code
_THIRD_ARGUMENT = ("conflict",)  # core.refusal: action, why, code
# Codes that are handed through, and where each comes from.
HANDED_THROUGH = {
    "aws/failure.py": "meaning.code",  # _Meaning
    "aws/imds_http.py": "code",  # assigned above it
    "core/refusal.py": "code",  # assigned above it, or conflict()
    "core/settings_fit.py": "code",  # assigned above it, or an argument
    "core/settings_lint.py": "code",  # assigned above it
    "core/grow.py": "code",  # assigned above it
    "ipamd/explain.py": "code",  # a Wait's, or EC2's
    "lab/control.py": "decoded['code']",  # the other process' error
    "lab/ec2/app.py": "code",  # EC2's own codes, see the EC2 API reference
}


def of_source(text: str) -> tuple[set[str], set[str]]:
    """(codes and patterns, expressions that hand a code through) of one file."""
    codes: set[str] = set()
    through: set[str] = set()
    for value in _values(ast.parse(text)):
        written = list(_written(value))
        codes.update(written)
        if not written and not (isinstance(value, ast.Constant)):
            through.add(ast.unparse(value))
    return {code for code in codes if "*" in code or _CODE.fullmatch(code)}, through


def of_package(root: Path) -> tuple[dict[str, str], list[str]]:
    """(code -> the first file that says it, what hands a code through in a file that is not known to)."""
    found: dict[str, str] = {}
    unknown = []
    for path in sorted(root.rglob("*.py")):
        name = str(path.relative_to(root))
        codes, through = of_source(path.read_text())
        for code in codes:
            found.setdefault(code, name)
        unknown += [f"{name}: code={each}" for each in through if HANDED_THROUGH.get(name) != each]
    return found, unknown


def _values(tree: ast.AST) -> Iterator[ast.expr]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield from _of_call(node)
        elif isinstance(node, ast.ClassDef):
            yield from (each.value for each in node.body if _names_code(each) and each.value is not None)
        elif isinstance(node, ast.Assign):
            yield from _of_assignment(node)


def _of_call(call: ast.Call) -> Iterator[ast.expr]:
    name = ast.unparse(call.func).rpartition(".")[2]
    if name[:1].isupper() or name == "__init__":  # an error, not a function with a parameter of that name
        yield from (keyword.value for keyword in call.keywords if keyword.arg == "code")
    if name in _FIRST_ARGUMENT and call.args:
        yield call.args[0]
    if name in _THIRD_ARGUMENT and len(call.args) > 2:
        yield call.args[2]


def _of_assignment(node: ast.Assign) -> Iterator[ast.expr]:
    """`code = "..."`, and `code, why = "...", "..."`."""
    for target in node.targets:
        if isinstance(target, ast.Name) and target.id == "code" and _literal(node.value):
            yield node.value
        if isinstance(target, ast.Name) and target.id in _KEYS and isinstance(node.value, ast.Dict):
            yield from (key for key in node.value.keys if isinstance(key, ast.Constant))
        if isinstance(target, ast.Tuple):
            for right in _tuples(node.value):
                for name, value in zip(target.elts, right.elts, strict=True):
                    if isinstance(name, ast.Name) and name.id == "code" and _literal(value):
                        yield value


def _tuples(value: ast.expr) -> Iterator[ast.Tuple]:
    if isinstance(value, ast.Tuple):
        yield value
    elif isinstance(value, ast.IfExp):
        yield from _tuples(value.body)
        yield from _tuples(value.orelse)


def _literal(value: ast.expr) -> bool:
    return bool(list(_written(value)))


def _names_code(node: ast.stmt) -> bool:
    return isinstance(node, ast.AnnAssign | ast.Assign) and "code" in (
        ast.unparse(node.target if isinstance(node, ast.AnnAssign) else node.targets[0]),
    )


def _written(value: ast.expr) -> Iterator[str]:
    if isinstance(value, ast.Constant) and isinstance(value.value, str):
        yield value.value
    elif isinstance(value, ast.JoinedStr):
        parts = [part.value if isinstance(part, ast.Constant) else "*" for part in value.values]
        yield "".join(map(str, parts))
    elif isinstance(value, ast.IfExp):
        yield from _written(value.body)
        yield from _written(value.orelse)
