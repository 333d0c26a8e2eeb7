# SPDX-License-Identifier: Apache-2.0
"""Observed and desired iptables rules -> the text of the smallest `iptables-restore --noflush` transaction.

Knows the syntax of `iptables-save` and which rules and chains are ours (`snat`). Must never run a program. What is
right already is not mentioned in the transaction, so that no flow meets a gap and counters survive. `host.firewall`
calls it.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher
from itertools import pairwise

from vpccni.core.firewall.snat import OWN_COMMENTS, ChainRules, IptablesRules, TableRules, is_own_chain

# Table -> chain -> rules in order, as `-A CHAIN ...` lines.
Tables = Mapping[str, Mapping[str, Sequence[str]]]


def parse_save(text: str) -> dict[str, dict[str, list[str]]]:
    """The output of `iptables-save` as tables. Comments and counters are dropped."""
    tables: dict[str, dict[str, list[str]]] = {}
    chains: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line.startswith("*"):
            chains = tables.setdefault(line[1:].strip(), {})
        elif line.startswith(":"):
            chains.setdefault(line[1:].split(" ", 1)[0], [])
        elif line.startswith("-A "):
            chains.setdefault(line.split(" ", 2)[1], []).append(line.rstrip())
    return tables


def transaction(have: Tables, want: IptablesRules) -> str:
    """Input for `iptables-restore --noflush` that makes our part of `have` equal to `want`; empty when it is.

    In chains of ours exactly the wanted rules remain. In the kernel's own chains our rules keep their wanted order and
    new ones go behind everything that is there, which is where upstream puts them (behind kube-proxy's, that it
    prepends); other people's rules are never named.
    """
    blocks = []
    for table in want.tables:
        lines = _table_changes(have.get(table.name, {}), table)
        if lines:
            blocks.append("\n".join([f"*{table.name}", *lines, "COMMIT", ""]))
    return "".join(blocks)


def rule_states(have: Tables, want: IptablesRules) -> list[tuple[str, str, str]]:
    """(table, rule, state) of each wanted rule, ok or missing, and of each rule that is too many in chains of ours."""
    states = []
    for table in want.tables:
        chains = have.get(table.name, {})
        for chain in table.chains:
            seen = [_words(rule) for rule in chains.get(chain.name, ())]
            wanted = [_words(rule) for rule in chain.rules]
            for rule, words in zip(chain.rules, wanted, strict=True):
                states.append((table.name, rule, "ok" if words in seen else "missing"))
            for rule in chains.get(chain.name, ()):
                if (chain.owned or _is_own_rule(rule)) and _words(rule) not in wanted:
                    states.append((table.name, rule, "extra"))
    return states


def _table_changes(chains: Mapping[str, Sequence[str]], table: TableRules) -> list[str]:
    """Chains come first and go last, because a jump needs its target."""
    wanted = {chain.name for chain in table.chains if chain.owned}
    lines = [f"-N {name}" for name in sorted(wanted) if name not in chains]
    for chain in table.chains:
        if chain.owned:
            lines += _owned_changes(chains.get(chain.name, ()), chain)
    for chain in table.chains:
        if not chain.owned:
            lines += _shared_changes(chains.get(chain.name, ()), chain)
    doomed = [name for name in chains if is_own_chain(name) and name not in wanted]
    return [*lines, *(f"-F {name}" for name in doomed), *(f"-X {name}" for name in doomed)]


def _owned_changes(have: Sequence[str], want: ChainRules) -> list[str]:
    """By position: nobody else writes to our chains."""
    old, new = [_words(rule) for rule in have], [_words(rule) for rule in want.rules]
    lines, position = [], 1
    for _, old_from, old_to, new_from, new_to in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if old[old_from:old_to] == new[new_from:new_to]:
            position += old_to - old_from
            continue
        for rule in want.rules[new_from:new_to]:
            lines.append(rule.replace(f"-A {want.name}", f"-I {want.name} {position}", 1))
            position += 1
        lines += [f"-D {want.name} {position}"] * (old_to - old_from)
    return lines


def _shared_changes(have: Sequence[str], want: ChainRules) -> list[str]:
    """By content: positions in a chain that others write to may have changed since we looked."""
    if want.first:
        return _leading_changes(have, want)
    kept: list[str] = []
    doomed: list[str] = []
    for rule in filter(_is_own_rule, have):
        right = len(kept) < len(want.rules) and _words(rule) == _words(want.rules[len(kept)])
        (kept if right else doomed).append(rule)
    if set(kept) & set(doomed):
        # The kernel deletes the first of two equal rules, which may be the one to keep.
        kept, doomed = [], [*kept, *doomed]
    return [*want.rules[len(kept) :], *(rule.replace("-A ", "-D ", 1) for rule in doomed)]


def _leading_changes(have: Sequence[str], want: ChainRules) -> list[str]:
    """Rules that have to be the first ones of a shared chain: all anew when anything stands before or between them."""
    wanted, own = [_words(rule) for rule in want.rules], [rule for rule in have if _is_own_rule(rule)]
    if len(own) == len(wanted) and [_words(rule) for rule in have[: len(wanted)]] == wanted:
        return []
    # The deletions go by content and hit the first of equal rules, so they come before what is inserted.
    deleted = [rule.replace("-A ", "-D ", 1) for rule in own]
    inserts = enumerate(want.rules, 1)
    return [*deleted, *(rule.replace(f"-A {want.name}", f"-I {want.name} {n}", 1) for n, rule in inserts)]


def _is_own_rule(rule: str) -> bool:
    words = _words(rule)
    options = dict(pairwise(words))
    return options.get("--comment") in OWN_COMMENTS or is_own_chain(options.get("-j", ""))


def _words(rule: str) -> tuple[str, ...]:
    """A rule as words, so that quoting makes no difference."""
    try:
        return tuple(shlex.split(rule))
    except ValueError:  # a stray quote in somebody's comment
        return tuple(rule.split())
