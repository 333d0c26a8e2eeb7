# SPDX-License-Identifier: Apache-2.0
"""Our nftables tables as listed and as wanted -> the smallest `nft -f` transaction, and what differs rule by rule.

Knows how `nft list table` prints a table. Must never build a rule (`nftrules`, `nftmarks`) nor run a program. A table
that is right is not mentioned; one that differs is replaced as a whole, and all of them in one transaction: the kernel
shows packets either the old rules or the new ones. `host.nftables` calls it.
"""

from __future__ import annotations

from collections.abc import Mapping

from vpccni.core.conventions import NFT_OWN_TABLE

# Family (ip, ip6) -> the table's text; "" or absent: there is none.
OwnTables = Mapping[str, str]
FAMILIES = ("ip", "ip6")


def transaction(have: OwnTables, want: OwnTables) -> str:
    """Input for `nft -f` that makes `have` equal to `want`; empty when it is. White space is the listing's affair."""
    lines = []
    for family in FAMILIES:
        old, new = have.get(family, ""), want.get(family, "")
        if old.split() != new.split():
            lines.append(f"delete table {family} {NFT_OWN_TABLE}\n" if old else "")
            lines.append(new)
    return "".join(lines)


def rule_states(have: OwnTables, want: OwnTables) -> list[tuple[str, str, str]]:
    """(place, rule, state) of each wanted rule: ok or missing, wrong when only its place among the others is;
    and of each one that is too many. `place` is family, table and chain."""
    states = []
    for family in FAMILIES:
        wanted, seen = _parts(want.get(family, "")), _parts(have.get(family, ""))
        for name in [*wanted, *(each for each in seen if each not in wanted)]:
            place = f"{family} {NFT_OWN_TABLE} {name}"
            expected, found = wanted.get(name, []), seen.get(name, [])
            shared = [line for line in expected if line in found]
            moved = shared != [line for line in found if line in expected]
            for line in expected:
                state = "missing" if line not in found else "wrong" if moved else "ok"
                states.append((place, line, state))
            surplus = [line for line in found if line not in expected]
            if name not in wanted and not found:
                surplus = ["it is empty"]
            states += [(place, line, "extra") for line in surplus]
    return states


def same_shape(one: str, other: str) -> bool:
    """Whether two listings of a table have as many lines in each chain, and so may say the same."""
    sizes = [{name: len(lines) for name, lines in _parts(text).items()} for text in (one, other)]
    return sizes[0] == sizes[1]


def _parts(text: str) -> dict[str, list[str]]:
    """Chain -> its lines; sets and whatever else has a name and a block are told the same way."""
    parts: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in map(str.strip, text.splitlines()[1:]):
        if line.endswith(" {"):
            lines = parts.setdefault(line.split()[1], [])
        elif line and line != "}":
            lines.append(line)
    return parts
