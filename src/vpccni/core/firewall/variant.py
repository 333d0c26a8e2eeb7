# SPDX-License-Identifier: Apache-2.0
"""Which backend a node's firewall rules belong in: the one that kubelet and kube-proxy use.

Knows the chains and the table by which Kubernetes says which one it chose. Must never run a program. Rules in another
backend would be in force as well, but in another order than meant: the kernel runs all of them. `host.firewall` looks
and applies.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

NATIVE = "nftables"
VARIANTS = ("nft", "legacy")
# kubelet makes the first since 1.24 for this very purpose, and the second always; kube-proxy makes the third.
HINTS = frozenset({"KUBE-IPTABLES-HINT", "KUBE-KUBELET-CANARY", "KUBE-PROXY-CANARY"})
# What kube-proxy makes in its nftables mode (in both families), and removes when it starts in another one.
KUBE_PROXY_TABLE = "kube-proxy"


@dataclass(frozen=True, slots=True)
class Choice:
    """`variant` is one of `VARIANTS`, `NATIVE` for tables of our own without iptables, or "" for whatever `iptables` is
    on the node."""

    variant: str
    reason: str

    @property
    def native(self) -> bool:
        """Whether all rules are in nftables tables of our own."""
        return self.variant == NATIVE


def choose(
    setting: str,
    installed: Collection[str],
    hinted: Collection[str],
    *,
    iptables: bool = True,
    nft: bool = False,
    kube_proxy: bool = False,
) -> Choice:
    """The backend, and why. `setting` is VPCCNI_FIREWALL; `installed` are the variants whose programs are there,
    `hinted` those in which a chain of `HINTS` was found. `iptables`, `nft`: whether any program of that name is there;
    `kube_proxy`: whether kube-proxy has a table in nftables, which counts for more than kubelet's chains: kubelet makes
    those whatever kube-proxy does."""
    named = setting.removeprefix("iptables-")
    if named in (*VARIANTS, NATIVE):
        return Choice(named, f"VPCCNI_FIREWALL={setting}")
    if nft and kube_proxy:
        return Choice(NATIVE, "kube-proxy runs in nftables mode")
    usable = [variant for variant in VARIANTS if variant in installed]
    told = [variant for variant in usable if variant in hinted]
    if nft and not usable and not iptables:
        return Choice(NATIVE, "nft is installed and no iptables is")
    if not usable:
        return Choice("", "only a program called iptables is installed")
    if len(told) == 1:
        return Choice(told[0], "kubelet's or kube-proxy's chains are there")
    if told:
        return Choice(told[0], "chains of kubelet or kube-proxy are in both variants; the newer one counts")
    return Choice("", "nobody has made chains yet; iptables as the node has it")
