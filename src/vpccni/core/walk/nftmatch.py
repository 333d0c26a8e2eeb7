# SPDX-License-Identifier: Apache-2.0
"""Whether a field of a packet equals, lies in, or is less than what a rule of nftables asks for.

Knows constants, prefixes, ranges, wildcard names, concatenations, sets and maps. Must never know where a field comes
from (`walk.nftvalue`) or what follows from a match (`walk.nft`). Source: libnftables-json(5).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from vpccni.core.walk.meeting import Meeting
from vpccni.core.walk.nftvalue import Field, Kind, NotModelled, Value, network, number

Sets = Mapping[str, Sequence[Any]]
_ORDER: Mapping[str, Callable[[int, int], bool]] = {
    "<": lambda left, right: left < right,
    ">": lambda left, right: left > right,
    "<=": lambda left, right: left <= right,
    ">=": lambda left, right: left >= right,
}
REST = "*"  # the element of a set that stands for all that no other one has


def matches(operator: str, left: Field, right: Any, sets: Sets, meeting: Meeting) -> bool:
    """`left operator right`; `right` is a constant of any form, or the name of a set."""
    kind, value = left
    if operator in ("==", "!="):
        return _within(left, right, sets, meeting) == (operator == "==")
    if not isinstance(value, int):
        raise NotModelled(f"{operator} of {kind}")
    if operator in ("in", "!"):  # any of the flags, none of them
        return bool(value & number(kind, right)) == (operator == "in")
    if operator in _ORDER:
        return _ORDER[operator](value, number(kind, right))
    raise NotModelled(f"operator {operator}")


def lookup(field: Field, pairs: Any, sets: Sets, meeting: Meeting) -> Any:
    """What a map has for a field; None when it has nothing. `pairs` is a set expression or a map's name."""
    rest = None
    for row in elements(pairs, sets):
        key, found = _bare(row[0]), row[1]
        if key == REST:
            rest = found
        elif _is(field, key, meeting):
            return found
    return rest


def elements(group: Any, sets: Sets) -> Sequence[Any]:
    """The elements of a set or map, named or written down in the rule."""
    if isinstance(group, str) and group.startswith("@"):
        if group[1:] not in sets:
            raise NotModelled(f"set {group}, which is not there")
        return sets[group[1:]]
    if isinstance(group, Mapping) and "set" in group:
        found = group["set"]
        return found if isinstance(found, list) else [found]
    raise NotModelled(f"{group!s:.60} as a set")


def _within(left: Field, right: Any, sets: Sets, meeting: Meeting) -> bool:
    if (isinstance(right, str) and right.startswith("@")) or (isinstance(right, Mapping) and "set" in right):
        return any(_bare(each) == REST or _is(left, _bare(each), meeting) for each in elements(right, sets))
    return _is(left, right, meeting)


def _bare(element: Any) -> Any:
    """An element without its timeout, counter and comment."""
    return element["elem"]["val"] if isinstance(element, Mapping) and "elem" in element else element


def _is(left: Field, constant: Any, meeting: Meeting) -> bool:
    """Whether a field is one constant, or lies in one interval."""
    kind, value = left
    if isinstance(value, tuple):
        parts = constant.get("concat") if isinstance(constant, Mapping) else None
        if parts is None or len(parts) != len(value):
            raise NotModelled(f"{constant!s:.60} beside a concatenation")
        fields = zip(kind, value, strict=True)
        return all(_is(field, part, meeting) for field, part in zip(fields, parts, strict=True))
    if isinstance(value, str):
        return _is_name(kind, value, constant, meeting)
    if isinstance(constant, Mapping) and "prefix" in constant:
        low, high = network(constant["prefix"])
    elif isinstance(constant, Mapping) and "range" in constant:
        low, high = (number(kind, each) for each in constant["range"])
    else:
        low = high = number(kind, constant)
    return low <= value <= high


def _is_name(kind: Kind, value: Value, constant: Any, meeting: Meeting) -> bool:
    """Devices: a name may end in a wildcard; `iif` is an index, which a device of the same name later has not."""
    assert isinstance(value, str)
    if isinstance(constant, bool):  # fib: exists, missing
        return constant == bool(value)
    if isinstance(constant, int):
        constant = str(constant)
    if not isinstance(constant, str):
        raise NotModelled(f"{constant!s:.60} as the name of a device")
    if kind == "device" and constant.isdigit():
        link = meeting.machine.link(constant)
        return value == (link.name if link else "" if constant == "0" else None)
    if kind == "name" and constant.endswith("*") and not constant.endswith("\\*"):
        return value.startswith(constant[:-1])
    return value == constant.replace("\\*", "*")
