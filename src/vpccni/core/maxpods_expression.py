# SPDX-License-Identifier: Apache-2.0
"""nodeadm's `maxPodsExpression`: the part of CEL that such an expression can use, over whole numbers.

Knows integers of 64 bits, strings, truth values, arithmetic, comparison, logic, `?:` (both sides are evaluated),
parentheses and `int()`. Must never call Python's own `eval`, whose numbers and rules are others (division, precedence,
size). `core.maxpods` calls it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

Value = int | bool | str

_TOKEN = re.compile(
    r"\s*(?:(?P<number>0[xX][0-9a-fA-F]+|[0-9]+)(?![\w.])|(?P<text>\"[^\"\\]*\"|'[^'\\]*')|(?P<name>[A-Za-z_]\w*)"
    r"|(?P<operator>\|\||&&|==|!=|<=|>=|[-+*/%<>!?:()]))"
)
_INT64 = 2**63
_MOST_DEPTH = 50  # parentheses in parentheses; far beyond what anybody writes


class ExpressionError(ValueError):
    """The expression cannot be read or has no value; the text says why."""


def evaluate(expression: str, variables: Mapping[str, int]) -> int:
    """The value of an expression as CEL's `int()` would convert it. Raises ExpressionError."""
    reader = _Reader(_tokens(expression), variables)
    value = reader.choice(0)
    if reader.token:
        raise ExpressionError(f"{reader.token!r} was not expected")
    return _to_int(value)


def _tokens(expression: str) -> list[str]:
    found, at = [], 0
    text = expression.rstrip()
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise ExpressionError(f"cannot read {text[at : at + 20].strip()!r}")
        found.append(match.group().strip())
        at = match.end()
    return found


def _to_int(value: Value) -> int:
    if isinstance(value, bool):
        raise ExpressionError(f"{str(value).lower()} is no number")
    if isinstance(value, str):
        if not re.fullmatch(r"[+-]?[0-9]{1,19}", value):
            raise ExpressionError(f"{value!r} is no number")
        return _bounded(int(value))
    return value


def _bounded(value: int) -> int:
    if not -_INT64 <= value < _INT64:
        raise ExpressionError("the value does not fit into 64 bits")
    return value


def _divide(one: int, other: int) -> int:
    """CEL divides as C does, towards zero."""
    if other == 0:
        raise ExpressionError("division by zero")
    quotient = abs(one) // abs(other)
    return quotient if (one < 0) == (other < 0) else -quotient


_ARITHMETIC: Mapping[str, Callable[[int, int], int]] = {
    "+": lambda one, other: one + other,
    "-": lambda one, other: one - other,
    "*": lambda one, other: one * other,
    "/": _divide,
    "%": lambda one, other: one - other * _divide(one, other),
}
_ORDER: Mapping[str, Callable[[int, int], bool]] = {
    "<": lambda one, other: one < other,
    "<=": lambda one, other: one <= other,
    ">": lambda one, other: one > other,
    ">=": lambda one, other: one >= other,
}


class _Reader:
    """A recursive descent over the tokens, one method per level of precedence, evaluating as it goes."""

    def __init__(self, tokens: list[str], variables: Mapping[str, int]) -> None:
        self._tokens, self._variables = tokens, variables
        self._at = 0

    @property
    def token(self) -> str:
        """The next token, "" at the end."""
        return self._tokens[self._at] if self._at < len(self._tokens) else ""

    def choice(self, depth: int) -> Value:
        """`a ? b : c` and everything that binds stronger."""
        if depth > _MOST_DEPTH:
            raise ExpressionError("too many parentheses")
        condition = self._either(depth)
        if not self._accept("?"):
            return condition
        yes = self.choice(depth + 1)
        self._expect(":")
        no = self.choice(depth + 1)
        return yes if _truth(condition) else no

    def _either(self, depth: int) -> Value:
        value = self._both(depth)
        while self._accept("||"):
            other = _truth(self._both(depth))
            value = _truth(value) or other
        return value

    def _both(self, depth: int) -> Value:
        value = self._comparison(depth)
        while self._accept("&&"):
            other = _truth(self._comparison(depth))
            value = _truth(value) and other
        return value

    def _comparison(self, depth: int) -> Value:
        value = self._sum(depth)
        while self.token in ("==", "!=", *_ORDER):
            operator = self._next()
            other = self._sum(depth)
            if operator in _ORDER:
                value = _ORDER[operator](_number(value), _number(other))
            else:
                if type(value) is not type(other):
                    raise ExpressionError(f"cannot compare {value!r} with {other!r}")
                value = (value == other) == (operator == "==")
        return value

    def _sum(self, depth: int) -> Value:
        value = self._product(depth)
        while self.token in ("+", "-"):
            operator = self._next()
            value = _bounded(_ARITHMETIC[operator](_number(value), _number(self._product(depth))))
        return value

    def _product(self, depth: int) -> Value:
        value = self._unary(depth)
        while self.token in ("*", "/", "%"):
            operator = self._next()
            value = _bounded(_ARITHMETIC[operator](_number(value), _number(self._unary(depth))))
        return value

    def _unary(self, depth: int) -> Value:
        if depth > _MOST_DEPTH:
            raise ExpressionError("too many signs")
        if self._accept("-"):
            return _bounded(-_number(self._unary(depth + 1)))
        if self._accept("!"):
            return not _truth(self._unary(depth + 1))
        return self._primary(depth)

    def _primary(self, depth: int) -> Value:
        token = self._next()
        if token == "(":
            value = self.choice(depth + 1)
            self._expect(")")
            return value
        if token in ("true", "false"):
            return token == "true"
        if token == "int" and self._accept("("):
            value = self.choice(depth + 1)
            self._expect(")")
            return _to_int(value)
        if token[0] in "\"'":
            return token[1:-1]
        if token[0].isdigit():
            return _bounded(int(token, 16) if token[:2].lower() == "0x" else int(token))
        if token not in self._variables:
            raise ExpressionError(f"{token!r} is not known; variables are {', '.join(self._variables)}")
        return self._variables[token]

    def _next(self) -> str:
        if not self.token:
            raise ExpressionError("the expression ends too early")
        self._at += 1
        return self._tokens[self._at - 1]

    def _accept(self, token: str) -> bool:
        if self.token != token:
            return False
        self._at += 1
        return True

    def _expect(self, token: str) -> None:
        if not self._accept(token):
            raise ExpressionError(f"{token!r} is missing")


def _number(value: Value) -> int:
    if type(value) is not int:
        raise ExpressionError(f"{value!r} is no number")
    return value


def _truth(value: Value) -> bool:
    if not isinstance(value, bool):
        raise ExpressionError(f"{value!r} is neither true nor false")
    return value
