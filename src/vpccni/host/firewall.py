# SPDX-License-Identifier: Apache-2.0
"""Rules of `core.snat` into the kernel: observe with iptables-save, apply the difference as one iptables-restore. The
table of `core.nftmarks` likewise, with nft.

Knows how to call the two and what their refusals mean. Must never build a rule, and never touches a rule that is right
already: flows that begin while a translation is missing stay untranslated for their whole life. `ipamd` calls it at
start, when VPC CIDRs change, and now and then (not often: listing 10,000 rules takes a quarter of a second).
"""

from __future__ import annotations

import re
from pathlib import Path

from vpccni.core import nftmarks
from vpccni.core.chains import parse_save, transaction
from vpccni.core.conventions import NFT_OWN_TABLE, NFT_TABLE
from vpccni.core.snat import IptablesRules, nothing
from vpccni.core.variant import HINTS, VARIANTS, Choice, choose
from vpccni.errors import HostError
from vpccni.host.programs import DIRECTORIES, find_program, run_program

# What the legacy variant has loaded into this network namespace.
_LEGACY_TABLES = tuple(Path("/proc/thread-self/net") / name for name in ("ip_tables_names", "ip6_tables_names"))
LOCK_WAIT_S = 10  # kube-proxy may hold the xtables lock of the legacy variant for seconds


class Firewall:
    """iptables in the network namespace of the calling thread."""

    def __init__(self, directories: tuple[str, ...] = DIRECTORIES, variant: str = "") -> None:
        """`directories`: where to look for the programs; `variant` of iptables: nft, legacy, "" as the node has it."""
        self._directories, self._variant = directories, variant

    def match(self, setting: str) -> Choice:
        """Use the variant of iptables that the setting names or, with auto, that kubelet and kube-proxy use."""
        installed = {each for each in VARIANTS if self._has(f"iptables-{each}-save")}
        hinted = {each for each in installed if setting == "auto" and HINTS & self._of(each)._chains()}
        choice = choose(setting, installed, hinted)
        self._variant = choice.variant
        return choice

    def remove_other(self, version: int = 4) -> str:
        """Take our rules out of the variant that is not used, where an earlier start may have left them. To be called
        when those of the right one are in force."""
        used = self._variant or ("nft" if self.sends_events() else "legacy")
        others = [self._of(each) for each in VARIANTS if each != used and self._has(f"iptables-{each}-save")]
        return "".join(other.remove(version) for other in others if other._in_use())

    def observe(self, rules: IptablesRules) -> dict[str, dict[str, list[str]]]:
        """What is in the tables that `rules` speaks of: table -> chain -> rules."""
        tables: dict[str, dict[str, list[str]]] = {}
        for table in rules.tables:
            action = f"list the {table.name} table"
            tables |= parse_save(self._run(action, f"{self._program(rules.version)}-save", "-t", table.name))
        return tables

    def apply(self, rules: IptablesRules) -> str:
        """Make our rules equal to `rules`; the transaction that did it, or "" when everything was right.

        Raises HostError when iptables refuses; then nothing has changed.
        """
        text = transaction(self.observe(rules), rules)
        if text:
            self._restore(rules, text)
        return text

    def remove(self, version: int = 4) -> str:
        """Take all rules and chains of ours out of the tables of one address family."""
        return self.apply(nothing(version))

    def saved(self, version: int = 4) -> str:
        """What every variant holds, as `iptables-save` prints it: the kernel runs the rules of all of them."""
        variants = [self._of(each) for each in VARIANTS if self._has(f"iptables-{each}-save")] or [self]
        used = [each for each in variants if each._in_use()]
        return "".join(each._run("list the firewall", f"{each._program(version)}-save") for each in used)

    def sends_events(self) -> bool:
        """Whether the kernel tells of changes: not of those of iptables' legacy variant."""
        return "legacy" not in self._run("find the variant of iptables", self._program(4), "--version")

    def remove_nft_backend(self) -> bool:
        """Delete the nftables table in which the Go implementation may have kept its connection mark rules.

        False when there was none. Its last rule overwrites the whole packet mark, so it must go once ours are there.
        """
        if find_program("nft", self._directories) is None or not self._has_table(NFT_TABLE):
            return False
        self._run(f"delete the nftables table {NFT_TABLE}", "nft", "delete", "table", "ip", NFT_TABLE)
        return True

    def complete(self, table: str) -> str:
        """Make our own nftables table equal to `table`, a text of `core.nftmarks`; the transaction that did it, or "".

        Raises HostError when there is no nft, or the kernel refuses; then nothing has changed.
        """
        text = self.lacks(table)
        if text:
            self._run("change our nftables table", "nft", "-f", "-", stdin=text)
        return text

    def lacks(self, table: str) -> str:
        """The transaction that `complete` would run."""
        have = ""
        if self._has_table(NFT_OWN_TABLE):
            have = self._run("list our nftables table", "nft", "list", "table", "ip", NFT_OWN_TABLE)
        return nftmarks.transaction(have, table)

    def _of(self, variant: str) -> Firewall:
        return Firewall(self._directories, variant)

    def _has(self, program: str) -> bool:
        return find_program(program, self._directories) is not None

    def _in_use(self) -> bool:
        """Whether the variant has any table here. Listing tables of the legacy one would make them."""
        return self._variant != "legacy" or any(path.exists() and path.read_text() for path in _LEGACY_TABLES)

    def _chains(self) -> set[str]:
        """The chains of the mangle and nat tables, where Kubernetes leaves its hints."""
        if not self._in_use():
            return set()
        saved = [self._run("look for Kubernetes", f"{self._program(4)}-save", "-t", name) for name in ("mangle", "nat")]
        return {chain for text in saved for chains in parse_save(text).values() for chain in chains}

    def _program(self, version: int) -> str:
        family = "iptables" if version == 4 else "ip6tables"
        return f"{family}-{self._variant}" if self._variant else family

    def _has_table(self, name: str) -> bool:
        return f"table ip {name}\n" in self._run("list nftables tables", "nft", "list", "tables", "ip")

    def _restore(self, rules: IptablesRules, text: str) -> None:
        action = "change the iptables rules"
        arguments = ("--noflush", "-w", str(LOCK_WAIT_S))
        program = f"{self._program(rules.version)}-restore"
        try:
            if text.count("COMMIT\n") > 1:
                # Each table commits by itself: find a refusal in the second one before the first one is in force.
                self._run(action, program, "--test", *arguments, stdin=text)
            self._run(action, program, *arguments, stdin=text)
        except HostError as error:
            raise _explained(error, text) from error

    def _run(self, action: str, name: str, *arguments: str, stdin: str = "") -> str:
        return run_program(action, name, *arguments, stdin=stdin, directories=self._directories)


def _explained(error: HostError, text: str) -> HostError:
    """The refusal with the line of the transaction that it is about."""
    if error.error_code != "program-failed":
        return error
    found = re.search(r"line:? (\d+)", error.why)
    lines = text.splitlines()
    number = int(found[1]) if found else 0
    evidence = {**error.evidence, "rule": repr(lines[number - 1])} if 0 < number <= len(lines) else error.evidence
    return HostError(
        error.action,
        error.why,
        code="firewall-refused",
        hint="nothing was changed; try the rule by hand, and see that iptables and kube-proxy use the same variant "
        "(iptables --version: legacy or nf_tables)",
        evidence=evidence,
    )
