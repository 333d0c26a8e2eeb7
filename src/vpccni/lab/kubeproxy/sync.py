# SPDX-License-Identifier: Apache-2.0
"""A node's kube-proxy rules into its kernel and out of it, in the network namespace of the calling thread.

Knows which programs to run. Must never build a rule (`iptables` and `nftables` do), nor touch an object outside the
names that it is given. `lab.services` and the selftest call it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from vpccni.core.conventions import SNAT_CHAIN
from vpccni.core.firewall.chains import parse_save
from vpccni.errors import HostError
from vpccni.host.programs import find_program, run_program
from vpccni.lab.kubeproxy import iptables, nftables
from vpccni.lab.kubeproxy.values import Names, ServicePort
from vpccni.netlink.values import IPAddress

VARIANTS = ("iptables-nft", "iptables-legacy")
LOCK_WAIT_S = "5"
VERSIONS = (4, 6)
_PROGRAM = {4: "iptables", 6: "ip6tables"}
_LEGACY_TABLES = Path("/proc/thread-self/net")


def sync(mode: str, services: Iterable[ServicePort], names: Names, node: Sequence[IPAddress], version: int = 4) -> None:
    """What kube-proxy does when anything has changed, and now and then: a full sync of the Services of one IP version.
    `node` are the node's addresses for node ports. HostError when it is refused."""
    services = [each for each in services if each.version == version]
    if mode == "nftables":
        own = [address for address in node if address.version == version]
        for text in nftables.transactions(services, names, own, _table(names, version), version=version):
            run_program("change the Services", "nft", "-f", "-", stdin=text)
        return
    saved = _saved(version)
    program = _chosen(saved, names, version)
    _restore(program, iptables.transaction(services, names, saved.get(program, ""), version=version))


def clear(names: Names) -> None:
    """Take away all that stands under these names, in whatever mode and of whatever IP version it was written."""
    for version in VERSIONS:
        for program, saved in _saved(version).items():
            if text := iptables.removal(saved, names):
                _restore(program, text)
        if _table(names, version):
            run_program("remove the Services", "nft", "-f", "-", stdin=nftables.removal(names, version))


def present(names: Names) -> str:
    """All that stands under these names, as the programs list it; empty when nothing does."""
    texts = [saved for version in VERSIONS for saved in _saved(version).values()]
    found = [saved for saved in texts if iptables.removal(saved, names)]
    return "".join([*found, *(_table(names, version) for version in VERSIONS)])


def _saved(version: int) -> dict[str, str]:
    """Variant of iptables -> what it holds. The legacy one is asked only where it is in use: to list is to load it. A
    machine that has no program of a variant's name has one that is called iptables, or none."""
    found = {}
    plain = _PROGRAM[version]
    loaded = _LEGACY_TABLES / f"{plain.removesuffix('tables')}_tables_names"
    variants = [variant.replace("iptables", plain) for variant in VARIANTS]
    named = [program for program in variants if find_program(f"{program}-save") is not None]
    for program in named or [plain]:
        unused = program.endswith("-legacy") and not (loaded.exists() and loaded.read_text())
        if find_program(f"{program}-save") is not None and not unused:
            text = run_program("list the Services", f"{program}-save")
            found[program] = "".join(line for line in text.splitlines(keepends=True) if not line.startswith("#"))
    return found


def _chosen(saved: dict[str, str], names: Names, version: int) -> str:
    """The variant that these names, or the node's own rules, stand in already: kube-proxy looks for its like, too."""
    for chain in (names.chain("SERVICES"), SNAT_CHAIN):
        for program, text in saved.items():
            if chain in parse_save(text).get("nat", {}):
                return program
    return next(iter(saved), _PROGRAM[version])


def _restore(program: str, text: str) -> None:
    run_program("change the Services", f"{program}-restore", "--noflush", "-w", LOCK_WAIT_S, stdin=text)


def _table(names: Names, version: int) -> str:
    if find_program("nft") is None:
        return ""
    with suppress(HostError):  # no such table
        return run_program("list the Services", "nft", "list", "table", *nftables.table(names, version).split())
    return ""
