# SPDX-License-Identifier: Apache-2.0
"""Which variant of iptables a node's rules belong in: the one that kubelet and kube-proxy use.

Knows the chains by which Kubernetes says which variant it chose. Must never run a program. Rules in the other variant
would be in force as well, but in another order than meant: the kernel runs both. `host.firewall` looks and applies.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

VARIANTS = ("nft", "legacy")
# kubelet makes the first since 1.24 for this very purpose, and the second always; kube-proxy makes the third.
HINTS = frozenset({"KUBE-IPTABLES-HINT", "KUBE-KUBELET-CANARY", "KUBE-PROXY-CANARY"})


@dataclass(frozen=True, slots=True)
class Choice:
    """`variant` is one of `VARIANTS`, or "" for whatever `iptables` is on the node."""

    variant: str
    reason: str


def choose(setting: str, installed: Collection[str], hinted: Collection[str]) -> Choice:
    """The variant, and why. `setting` is VPCCNI_FIREWALL; `installed` are the variants whose programs are there,
    `hinted` those in which a chain of `HINTS` was found."""
    named = setting.removeprefix("iptables-")
    if named in VARIANTS:
        return Choice(named, f"VPCCNI_FIREWALL={setting}")
    usable = [variant for variant in VARIANTS if variant in installed]
    told = [variant for variant in usable if variant in hinted]
    if not usable:
        return Choice("", "only a program called iptables is installed")
    if len(told) == 1:
        return Choice(told[0], "kubelet's or kube-proxy's chains are there")
    if told:
        return Choice(told[0], "chains of kubelet or kube-proxy are in both variants; the newer one counts")
    return Choice("", "nobody has made chains yet; iptables as the node has it")
