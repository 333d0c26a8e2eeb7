# SPDX-License-Identifier: Apache-2.0
"""Takes one object of a node away for the length of a block, and puts exactly that back.

Knows how each kind of `Break` is found in the kernel and removed. Must never remove what it cannot put back. The node's
daemon has to be held meanwhile (`hold`). Only a run with negatives uses it.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from vpccni.core.conventions import (
    CONNMARK_CHAIN,
    NFT_OWN_TABLE,
    RULE_FROM_BLOCK,
    RULE_FROM_BLOCK_END,
    RULE_FROM_POD,
)
from vpccni.core.firewall.snat import CONNMARK_JUMP, CONNMARK_RULE, PRIMARY_ENI, SNAT_RULE
from vpccni.errors import HostError
from vpccni.host.programs import find_program, run_program
from vpccni.netlink.namespace import inside
from vpccni.netlink.socket import RouteSocket
from vpccni.netlink.values import IPAddress, Route, Rule, add, delete
from vpccni.selftest.matrix import Break, End, FirewallBreak, Part, RouteBreak, RuleBreak, SysctlBreak

_VARIANTS = ("iptables-nft", "iptables-legacy", "iptables")


@dataclass(frozen=True, slots=True)
class _Line:
    """How the rules of one purpose are told from others: in `iptables-save`, and in our own nftables table."""

    table: str = ""
    comment: str = ""
    words: tuple[str, ...] = ()
    own: tuple[str, ...] = ()  # each names it: part of the rule in our own table, as nft lists it


def _commented(comment: str) -> str:
    return f'comment "{comment}"'


# Beside iptables our table has two of them; with the native backend all, of which one marks whatever leaves.
_LINES = {
    Part.TRANSLATE: _Line("nat", SNAT_RULE, ("SNAT",), (_commented(SNAT_RULE),)),
    Part.MARK_OUTBOUND: _Line("nat", CONNMARK_RULE, (CONNMARK_CHAIN, "--set-xmark"), (_commented(CONNMARK_JUMP),)),
    Part.MARK_REWRITTEN: _Line(own=("ct status dnat", _commented(CONNMARK_JUMP))),
    Part.MARK_INBOUND: _Line("mangle", PRIMARY_ENI, ("--set-xmark",), (_commented(PRIMARY_ENI),)),
    Part.RESTORE: _Line("mangle", PRIMARY_ENI, ("--restore-mark",), ("meta mark set meta mark |",)),
}


@contextmanager
def broken(what: Break, ends: Mapping[End, IPAddress], netns_fd: int, primary: str) -> Iterator[str]:
    """The node without that object; yields what was taken away. HostError `nothing-to-break` when it is not there."""
    match what:
        case RuleBreak() | RouteBreak():
            chosen = _without_values(what, ends, netns_fd)
        case FirewallBreak():
            chosen = _without_lines(what, ends[End.SOURCE].version, netns_fd)
        case SysctlBreak():
            chosen = _with_sysctl(what, netns_fd, primary)
    with chosen as shown:
        yield shown


@contextmanager
def _without_values(what: RuleBreak | RouteBreak, ends: Mapping[End, IPAddress], netns_fd: int) -> Iterator[str]:
    version = ends[End.SOURCE].version
    with RouteSocket(netns_fd) as kernel:
        found: list[Rule | Route] = []
        if isinstance(what, RuleBreak):
            found += [rule for rule in kernel.rules(version) if _selected(rule, what, ends)]
        else:
            routes = kernel.routes(version)
            found += [each for each in routes if each.dst.network_address == ends[what.end] and _whole(each)]
        if not found:
            raise _nothing(what)
        removed: list[Rule | Route] = []
        try:
            for value in found:
                kernel.run(delete(value))
                removed.append(value)
            yield "; ".join(map(str, found))
        finally:
            for value in removed:
                kernel.run(add(value))


def _whole(route: Route) -> bool:
    return route.dst.prefixlen == route.dst.max_prefixlen and route.kind == "unicast"


def _selected(rule: Rule, what: RuleBreak, ends: Mapping[End, IPAddress]) -> bool:
    """Whether it is one that a packet of the flow meets. A rule without an address meets every packet.

    The shared layout's rules by source stand for the pods' own: there the one that names the pod's table goes.
    """
    shared = RULE_FROM_BLOCK <= rule.priority < RULE_FROM_BLOCK_END and rule.kind == "lookup" and rule.src is not None
    if rule.priority != what.priority and not (shared and what.priority == RULE_FROM_POD):
        return False
    wanted = ((what.source, rule.src), (what.target, rule.dst))
    return all(end is None or network is None or ends[end] in network for end, network in wanted)


@contextmanager
def _without_lines(what: FirewallBreak, version: int, netns_fd: int) -> Iterator[str]:
    line = _LINES[what.part]
    with _without_iptables(line, version, netns_fd) as customary, _without_own(line, version, netns_fd) as own:
        if not customary and not own:
            raise _nothing(what)
        yield "; ".join([*customary, *own])


@contextmanager
def _without_iptables(line: _Line, version: int, netns_fd: int) -> Iterator[list[str]]:
    program, found = _lines(line, version, netns_fd)

    def change(verb: str, number: int, words: list[str]) -> None:
        place = [str(number)] if verb == "-I" else []
        with inside(netns_fd):
            run_program("change a rule", program, "-w", "5", "-t", line.table, verb, words[0], *place, *words[1:])

    removed: list[tuple[int, list[str]]] = []
    try:
        for number, words in reversed(found):
            change("-D", number, words)
            removed.append((number, words))
        yield [shlex.join(words) for _, words in found]
    finally:
        for number, words in reversed(removed):
            change("-I", number, words)


@contextmanager
def _without_own(line: _Line, version: int, netns_fd: int) -> Iterator[list[str]]:
    """Rules of our own nftables table. It comes back as a whole, because a rule cannot be put where it was."""

    def nft(*arguments: str, text: str = "") -> str:
        with inside(netns_fd):
            return run_program("change our nftables table", "nft", *arguments, stdin=text)

    family = "ip" if version == 4 else "ip6"
    name = f"table {family} {NFT_OWN_TABLE}"
    if not line.own or find_program("nft") is None or f"{name}\n" not in nft("list", "tables", family):
        yield []
        return
    whole = nft("list", "table", family, NFT_OWN_TABLE)
    chain, found, commands = "", list[str](), list[str]()
    for text in nft("-a", "list", "table", family, NFT_OWN_TABLE).splitlines():
        rule, _, handle = text.strip().partition(" # handle ")
        if rule.startswith("chain "):
            chain = rule.split()[1]
        elif any(part in rule for part in line.own):
            found.append(rule)
            commands.append(f"delete rule {family} {NFT_OWN_TABLE} {chain} handle {handle}\n")
    try:
        if commands:
            nft("-f", "-", text="".join(commands))
        yield found
    finally:
        if commands:
            nft("-f", "-", text=f"delete {name}\n{whole}")


def _lines(line: _Line, version: int, netns_fd: int) -> tuple[str, list[tuple[int, list[str]]]]:
    """The iptables variant that holds such rules, and each with its place in its chain: (place, [chain, ...])."""
    for variant in _VARIANTS if line.table else ():
        program = variant if version == 4 else variant.replace("iptables", "ip6tables", 1)
        if find_program(f"{program}-save") is None:
            continue
        with inside(netns_fd):
            text = run_program("list rules", f"{program}-save", "-t", line.table)
        found, places = [], dict[str, int]()
        for rule in text.splitlines():
            words = shlex.split(rule)
            if words[:1] != ["-A"]:
                continue
            places[words[1]] = places.get(words[1], 0) + 1
            if line.comment in words and all(word in words for word in line.words):
                found.append((places[words[1]], words[1:]))
        if found:
            return program, found
    return "", []


@contextmanager
def _with_sysctl(what: SysctlBreak, netns_fd: int, primary: str) -> Iterator[str]:
    path = Path("/proc/sys") / what.name.format(primary=primary)
    with inside(netns_fd):
        before = path.read_text()
        path.write_text(what.value)
    try:
        yield f"{what.name.format(primary=primary)} was {before.strip()}"
    finally:
        with inside(netns_fd):
            path.write_text(before)


def _nothing(what: Break) -> HostError:
    return HostError(f"break {what}", "there is no such object on the node", code="nothing-to-break")
