# SPDX-License-Identifier: Apache-2.0
"""A node's kube-proxy rules into its kernel and out of it, in the network namespace of the calling thread.

Knows which programs to run. Must never build a rule (`iptables` and `nftables` do), nor touch an object outside the
names that it is given. `lab.services` and the selftest call it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from ipaddress import IPv4Address
from pathlib import Path

from vpccni.core.chains import parse_save
from vpccni.core.conventions import SNAT_CHAIN
from vpccni.errors import HostError
from vpccni.host.programs import find_program, run_program
from vpccni.lab.kubeproxy import iptables, nftables
from vpccni.lab.kubeproxy.values import Names, ServicePort

VARIANTS = ("iptables-nft", "iptables-legacy")
LOCK_WAIT_S = "5"
_LEGACY_TABLES = Path("/proc/thread-self/net/ip_tables_names")


def sync(mode: str, services: Iterable[ServicePort], names: Names, node: Sequence[IPv4Address]) -> None:
    """What kube-proxy does when anything has changed, and now and then: a full sync. HostError when it is refused."""
    if mode == "nftables":
        for text in nftables.transactions(services, names, node, _table(names)):
            run_program("change the Services", "nft", "-f", "-", stdin=text)
        return
    saved = _saved()
    program = _chosen(saved, names)
    text = iptables.transaction(services, names, saved.get(program, ""))
    _restore(program, text)


def clear(names: Names) -> None:
    """Take away all that stands under these names, in whatever mode it was written."""
    for program, saved in _saved().items():
        if text := iptables.removal(saved, names):
            _restore(program, text)
    if _table(names):
        run_program("remove the Services", "nft", "-f", "-", stdin=nftables.removal(names))


def present(names: Names) -> str:
    """All that stands under these names, as the programs list it; empty when nothing does."""
    found = [saved for saved in _saved().values() if iptables.removal(saved, names)]
    return "".join([*found, _table(names)])


def _saved() -> dict[str, str]:
    """Variant of iptables -> what it holds. The legacy one is asked only where it is in use: to list is to load it."""
    found = {}
    for program in VARIANTS:
        unused = program == "iptables-legacy" and not (_LEGACY_TABLES.exists() and _LEGACY_TABLES.read_text())
        if find_program(f"{program}-save") is not None and not unused:
            text = run_program("list the Services", f"{program}-save")
            found[program] = "".join(line for line in text.splitlines(keepends=True) if not line.startswith("#"))
    return found


def _chosen(saved: dict[str, str], names: Names) -> str:
    """The variant that these names, or the node's own rules, stand in already: kube-proxy looks for its like, too."""
    for chain in (names.chain("SERVICES"), SNAT_CHAIN):
        for program, text in saved.items():
            if chain in parse_save(text).get("nat", {}):
                return program
    return next(iter(saved), "iptables")


def _restore(program: str, text: str) -> None:
    run_program("change the Services", f"{program}-restore", "--noflush", "-w", LOCK_WAIT_S, stdin=text)


def _table(names: Names) -> str:
    if find_program("nft") is None:
        return ""
    with suppress(HostError):  # no such table
        return run_program("list the Services", "nft", "list", "table", "ip", names.table)
    return ""
