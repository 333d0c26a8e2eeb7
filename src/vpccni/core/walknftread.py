# SPDX-License-Identifier: Apache-2.0
"""The rules of nftables as values, from `nft -j list ruleset` and, for people, from `nft -a list ruleset`.

Knows the shape of libnftables-json(5), and that iptables keeps its rules in tables of nftables, too. Must never
evaluate a rule: an expression stays what it is in JSON. `lab.world` reads with it, `walknft` evaluates.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

# Tables that iptables-nft makes, and the chains in them that are the kernel's hooks.
IPTABLES_TABLES = ("raw", "mangle", "nat", "filter", "security")
IPTABLES_HOOKS = frozenset({"PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"})
_HANDLE = re.compile(r"^(.*) # handle (\d+)$")
_COUNTED = re.compile(r" counter packets \d+ bytes \d+")


@dataclass(frozen=True, slots=True)
class NftRule:
    """A rule: its expressions as JSON, and how `nft list` prints it."""

    expressions: tuple[Any, ...]
    text: str = ""


@dataclass(frozen=True, slots=True)
class NftChain:
    """A chain. Only base chains have a hook; `kind` is filter, nat or route."""

    name: str
    rules: tuple[NftRule, ...] = ()
    hook: str = ""
    kind: str = ""
    priority: int = 0
    policy: str = "accept"


@dataclass(frozen=True, slots=True)
class NftTable:
    """A table; `sets` are the elements of its sets and maps by name, those of a map as pairs. Tables `of_iptables` are
    evaluated from the text of iptables-save; what counts here is their place among the others."""

    family: str
    name: str
    chains: Mapping[str, NftChain] = field(default_factory=dict)
    sets: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    of_iptables: bool = False

    @property
    def title(self) -> str:
        """How it is called in a hop."""
        return f"table {self.family} {self.name}"

    def concerns(self, version: int) -> bool:
        """Whether packets of an IP version pass it."""
        return self.family in ("inet", "ip" if version == 4 else "ip6")


def parse(document: Mapping[str, Any], listing: str, iptables: Iterable[str] = ()) -> tuple[NftTable, ...]:
    """The tables of a ruleset in the order in which they were made. `iptables` is what iptables-save and ip6tables-save
    print."""
    rows = [next(iter(row.items())) for row in document.get("nftables", ()) if row]
    texts = _texts(listing)
    told = {f"*{name}" for name in IPTABLES_TABLES} & {line for text in iptables for line in text.splitlines()}
    tables = (_table(row, rows, texts) for kind, row in rows if kind == "table")
    return tuple(replace(table, of_iptables=True) if _is_iptables(table, told) else table for table in tables)


def _table(row: Mapping[str, Any], rows: Sequence[tuple[str, Any]], texts: Mapping[tuple[str, str], str]) -> NftTable:
    family, name = row["family"], row["name"]
    own = [(kind, each) for kind, each in rows if each.get("family") == family and each.get("table") == name]
    title = f"{family} {name}"
    rules: dict[str, list[NftRule]] = {}
    for kind, each in own:
        if kind == "rule":
            text = texts.get((title, str(each["handle"])), f"rule of handle {each['handle']}")
            rules.setdefault(each["chain"], []).append(NftRule(tuple(each["expr"]), text))
    chains = {
        each["name"]: NftChain(
            each["name"], tuple(rules.get(each["name"], ())), each.get("hook", ""), each.get("type", ""),
            each.get("prio", 0), each.get("policy", "accept"),
        )
        for kind, each in own
        if kind == "chain"
    }  # fmt: skip
    sets = {each["name"]: tuple(each.get("elem", ())) for kind, each in own if kind in ("set", "map")}
    return NftTable(family, name, chains, sets)


def _is_iptables(table: NftTable, told: Iterable[str]) -> bool:
    """Whether iptables-save has shown a table. One of the same name with chains of its own it calls incompatible."""
    hooks = {chain.name for chain in table.chains.values() if chain.hook}
    return table.family in ("ip", "ip6") and f"*{table.name}" in told and hooks <= IPTABLES_HOOKS


def _texts(listing: str) -> dict[tuple[str, str], str]:
    """(table, handle) -> rule. Within a table every object has a handle of its own."""
    found, title = {}, ""
    for line in listing.splitlines():
        match = _HANDLE.match(line)
        if match is None:
            continue
        text, handle = match.groups()
        if text.startswith("table ") and text.endswith("{"):
            title = text.removeprefix("table ").removesuffix(" {")
        elif not text.endswith("{"):
            found[title, handle] = _COUNTED.sub("", text.strip())
    return found
