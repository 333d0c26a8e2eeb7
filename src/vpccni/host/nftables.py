# SPDX-License-Identifier: Apache-2.0
"""Our nftables tables into the kernel: list them, apply the difference as one `nft -f`.

Knows how to call nft and how its listing may differ from what was said. Must never build a rule, nor touch a table that
is right already. `host.firewall` and `ipamd.nodefirewall` call it.
"""

from __future__ import annotations

from vpccni.core.conventions import NFT_OWN_TABLE, NFT_TABLE
from vpccni.core.firewall.nftlisting import FAMILIES, OwnTables, rule_states, same_shape, transaction
from vpccni.core.firewall.variant import KUBE_PROXY_TABLE
from vpccni.errors import HostError
from vpccni.host.programs import DIRECTORIES, find_program, run_program


class Nftables:
    """nft in the network namespace of the calling thread."""

    def __init__(self, directories: tuple[str, ...] = DIRECTORIES) -> None:
        """`directories`: where to look for the program."""
        self._directories = directories
        self._spoken: dict[str, str] = {}  # a text of ours -> the listing by which this nft shows it

    @property
    def installed(self) -> bool:
        """Whether there is such a program."""
        return find_program("nft", self._directories) is not None

    def apply(self, tables: OwnTables) -> str:
        """Make our tables equal to `tables`; the transaction that did it, or "" when everything was right.

        Raises HostError when there is no nft, or the kernel refuses; then nothing has changed.
        """
        text = self.lacks(tables)
        if text:
            self._change(text)
            # Releases of nft write some expressions in other words; what it says right afterwards is what was meant.
            have = self.listed()
            spoken = {each: have.get(family, "") for family, each in tables.items()}
            self._spoken = {each: listing for each, listing in spoken.items() if same_shape(each, listing)}
        return text

    def lacks(self, tables: OwnTables) -> str:
        """The transaction that `apply` would run."""
        return transaction(self.listed(), self._as_listed(tables))

    def states(self, tables: OwnTables) -> list[tuple[str, str, str]]:
        """`core.firewall.nftlisting.rule_states` of what is there now."""
        return rule_states(self.listed(), self._as_listed(tables))

    def listed(self) -> dict[str, str]:
        """Our tables, by family."""
        found = {family: self._table(family, NFT_OWN_TABLE) for family in FAMILIES}
        return {family: text for family, text in found.items() if text}

    def remove_upstream(self) -> bool:
        """Delete the table in which the Go implementation may have kept its connection mark rules; False without one.

        Its last rule overwrites the whole packet mark, so it must go once ours are there.
        """
        if not self.installed or not self._table("ip", NFT_TABLE):
            return False
        self._run(f"delete the nftables table {NFT_TABLE}", "delete", "table", "ip", NFT_TABLE)
        return True

    def has_kube_proxy(self) -> bool:
        """Whether kube-proxy has its table here, of either family."""
        there = self._run("list nftables tables", "list", "tables").splitlines()
        return any(f"table {family} {KUBE_PROXY_TABLE}" in there for family in FAMILIES)

    def _table(self, family: str, name: str) -> str:
        """The listing of a table, "" when there is none. Whoever asks for all names first waits for all chains: 90 ms
        beside kube-proxy's rules for 5,000 services, where this takes 3."""
        try:
            return self._run(f"list the nftables table {name}", "list", "table", family, name)
        except HostError as error:
            if "No such file or directory" in error.why:
                return ""
            raise

    def _as_listed(self, tables: OwnTables) -> dict[str, str]:
        return {family: self._spoken.get(text, text) for family, text in tables.items()}

    def _change(self, text: str) -> None:
        action = "change our nftables tables"
        try:
            self._run(action, "-f", "-", stdin=text)
        except HostError as error:
            if error.error_code != "program-failed":
                raise
            hint = "nothing was changed; see that the kernel has nft_ct, nft_fib_ipv4, nft_nat and nft_reject_ipv4"
            evidence = error.evidence
            raise HostError(action, error.why, code="firewall-refused", hint=hint, evidence=evidence) from error

    def _run(self, action: str, *arguments: str, stdin: str = "") -> str:
        return run_program(action, "nft", *arguments, stdin=stdin, directories=self._directories)
