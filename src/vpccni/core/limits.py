# SPDX-License-Identifier: Apache-2.0
"""What each instance type allows: interfaces per network card, addresses per interface, branches of a trunk.

Knows the built-in tables, resources of the package, and reads each once, on first use. Must never ask EC2: a type that
the table lacks is a `None`, and the caller may ask `Inventory.instance_limits`. Pool planning, the lab's cloud and
max-pods call it.
"""

from __future__ import annotations

import difflib
import functools
from collections.abc import Iterator
from fnmatch import fnmatchcase
from importlib.resources import files

import msgspec

from vpccni.aws.values import CardLimit, InstanceLimits

__all__ = [
    "CardLimit",
    "InstanceLimits",
    "branches",
    "branches_source",
    "close_to",
    "find",
    "limits",
    "matching",
    "source",
]


class _Row(msgspec.Struct, array_like=True, frozen=True):
    """One type as the file has it; the order is that of the file's `columns`."""

    enis_by_card: tuple[int, ...]
    ipv4_per_eni: int
    ipv6_per_eni: int
    hypervisor: str
    bare_metal: bool
    vcpus: int


class _Table(msgspec.Struct, frozen=True):
    source: str
    columns: tuple[str, ...]
    types: dict[str, _Row]


class _Branches(msgspec.Struct, frozen=True):
    source: str
    types_by_branches: dict[int, str]


@functools.cache
def _load() -> _Table:
    """Read the table (about a millisecond). Here and in `_load_branches` `core` opens something, nowhere else."""
    table = msgspec.json.decode(_resource("instance_types.json"), type=_Table)
    assert table.columns == _Row.__struct_fields__, "instance_types.json is of another version than this module"
    return table


@functools.cache
def _load_branches() -> tuple[str, dict[str, int]]:
    table = msgspec.json.decode(_resource("branch_limits.json"), type=_Branches)
    return table.source, {name: count for count, names in table.types_by_branches.items() for name in names.split()}


def _resource(name: str) -> bytes:
    return files("vpccni.core").joinpath(name).read_bytes()


def find(instance_type: str) -> InstanceLimits | None:
    """The limits of a type such as `m5.large`, or None when the table lacks it."""
    row = _load().types.get(instance_type)
    return None if row is None else _limits(instance_type, row)


def limits(instance_type: str) -> InstanceLimits:
    """The limits of a type. Raises KeyError when the table lacks it."""
    found = find(instance_type)
    if found is None:
        raise KeyError(instance_type)
    return found


def matching(pattern: str = "*") -> Iterator[InstanceLimits]:
    """The limits of all types that match a shell pattern such as `c7i.*`, smallest first within a family."""
    named = [_limits(name, row) for name, row in _load().types.items() if fnmatchcase(name, pattern)]
    return iter(sorted(named, key=_by_size))


def source() -> str:
    """Where the table comes from, in one line."""
    return _load().source


def branches(instance_type: str) -> int | None:
    """Branch interfaces (security groups for pods) of a type; 0 when it takes no trunk, None when nobody says."""
    return _load_branches()[1].get(instance_type)


def branches_source() -> str:
    """Where the numbers of branch interfaces come from, in one line."""
    return _load_branches()[0]


def close_to(instance_type: str, most: int = 5) -> list[str]:
    """Types that somebody who wrote `instance_type` may have meant: best first, at most `most`."""
    names = _load().types
    folded = instance_type.strip().lower()
    if folded in names:
        return [folded]
    family, _, size = folded.partition(".")
    found = [name for name in names if name.partition(".")[0] == family]
    if found:  # the family is right: sizes that read alike, then the smallest ones
        alike = difflib.get_close_matches(f"{family}.{size}", found, n=most, cutoff=0.7)
        by_size = [limits.instance_type for limits in matching(f"{family}.*")]
        return list(dict.fromkeys([*alike, *by_size]))[:most]
    families = {name.partition(".")[0] for name in names if size and name.partition(".")[2] == size}
    if families:
        return [f"{near}.{size}" for near in difflib.get_close_matches(family, sorted(families), n=most, cutoff=0.6)]
    return difflib.get_close_matches(folded, names, n=most, cutoff=0.6)


def _limits(name: str, row: _Row) -> InstanceLimits:
    return InstanceLimits(
        instance_type=name,
        max_enis=row.enis_by_card[0],
        ipv4_per_eni=row.ipv4_per_eni,
        ipv6_per_eni=row.ipv6_per_eni,
        cards=tuple(CardLimit(card, most) for card, most in enumerate(row.enis_by_card)),
        hypervisor=row.hypervisor,
        bare_metal=row.bare_metal,
        vcpus=row.vcpus,
    )


def _by_size(found: InstanceLimits) -> tuple[str, int, int, bool, str]:
    family = found.instance_type.partition(".")[0]
    return family, found.vcpus, found.max_enis * found.ipv4_per_eni, found.bare_metal, found.instance_type
