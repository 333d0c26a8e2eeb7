# SPDX-License-Identifier: Apache-2.0
"""Rules of `core.firewall` into the kernel: observe with iptables-save, apply the difference as one iptables-restore.

Knows how to call the two, which backend a node uses (the native one is `host.nftables`, at hand as `nft`), and what
refusals mean. Must never build a rule, and never touches a rule that is right already: flows that begin while a
translation is missing stay untranslated for their whole life. `ipamd` calls it at start, when VPC CIDRs change, and now
and then (not often: listing 10,000 rules takes a quarter of a second).
"""

from __future__ import annotations

import re
from pathlib import Path

from vpccni.core.firewall.chains import parse_save, transaction
from vpccni.core.firewall.snat import IptablesRules, nothing
from vpccni.core.firewall.variant import HINTS, NATIVE, VARIANTS, Choice, choose
from vpccni.errors import HostError
from vpccni.host.nftables import Nftables
from vpccni.host.programs import DIRECTORIES, find_program, run_program

# What the legacy variant has loaded into this network namespace.
_LEGACY_TABLES = {4: Path("/proc/thread-self/net/ip_tables_names"), 6: Path("/proc/thread-self/net/ip6_tables_names")}
LOCK_WAIT_S = 10  # kube-proxy may hold the xtables lock of the legacy variant for seconds


class Firewall:
    """iptables in the network namespace of the calling thread."""

    def __init__(self, directories: tuple[str, ...] = DIRECTORIES, variant: str = "") -> None:
        """`directories`: where to look for the programs; `variant` of iptables: nft, legacy, "" as the node has it."""
        self._directories, self._variant = directories, variant
        self.nft = Nftables(directories)

    def match(self, setting: str) -> Choice:
        """Use the backend that the setting names or, with auto, that kubelet and kube-proxy use."""
        installed = {each for each in VARIANTS if self._has(f"iptables-{each}-save")}
        auto, nft = setting == "auto", self.nft.installed
        kube_proxy = auto and nft and self.nft.has_kube_proxy()
        hinted = {each for each in installed if auto and not kube_proxy and HINTS & self._of(each)._chains()}
        iptables = self._has("iptables-save")
        choice = choose(setting, installed, hinted, iptables=iptables, nft=nft, kube_proxy=kube_proxy)
        self._variant = choice.variant
        return choice

    def remove_other(self, version: int = 4) -> str:
        """Take our rules out of all of iptables that is not used, where an earlier start may have left them. To be
        called when those of the right backend are in force."""
        used = self._variant or ("nft" if self.sends_events() else "legacy")
        others = [self._of(each) for each in VARIANTS if each != used] if self._has_variants else []
        if used == NATIVE and not others:
            others = [self._of("")]
        return "".join(other.remove_left(version) for other in others)

    def remove_left(self, version: int) -> str:
        """Take our rules of a family out, if this variant is installed and has any table of that family at all."""
        return self.remove(version) if self._has(f"{self._program(version)}-save") and self._in_use(version) else ""

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
        variants = [self._of(each) for each in VARIANTS if self._has(f"iptables-{each}-save")] or [self._of("")]
        used = [each for each in variants if each._in_use(version)]
        return "".join(each._run("list the firewall", f"{each._program(version)}-save") for each in used)

    def sends_events(self) -> bool:
        """Whether the kernel tells of changes: not of those of iptables' legacy variant."""
        if self._variant == NATIVE:
            return True
        return "legacy" not in self._run("find the variant of iptables", self._program(4), "--version")

    def _of(self, variant: str) -> Firewall:
        return Firewall(self._directories, variant)

    def _has(self, program: str) -> bool:
        return find_program(program, self._directories) is not None

    @property
    def _has_variants(self) -> bool:
        return any(self._has(f"iptables-{each}-save") for each in VARIANTS)

    def _in_use(self, version: int) -> bool:
        """Whether the variant has any table here. Listing tables of the legacy one would make them."""
        path = _LEGACY_TABLES[version]
        return self._variant != "legacy" or (path.exists() and bool(path.read_text()))

    def _chains(self) -> set[str]:
        """The chains of the mangle and nat tables, where Kubernetes leaves its hints."""
        if not self._in_use(4):
            return set()
        saved = [self._run("look for Kubernetes", f"{self._program(4)}-save", "-t", name) for name in ("mangle", "nat")]
        return {chain for text in saved for chains in parse_save(text).values() for chain in chains}

    def _program(self, version: int) -> str:
        family = _family(version)
        return f"{family}-{self._variant}" if self._variant else family

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


def _family(version: int) -> str:
    return "iptables" if version == 4 else "ip6tables"


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
