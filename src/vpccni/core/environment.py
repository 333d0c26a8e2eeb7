# SPDX-License-Identifier: Apache-2.0
"""What a machine is like around us -> remarks on what will hurt: settings of others that break pods' networking.

Knows the traps that users of the Amazon VPC CNI fall into on their machine images. Must never look at the machine:
`host.environment` does. `vpccni doctor` prints the remarks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

# nm-cloud-setup of NetworkManager (Red Hat images): rules and tables of its own for secondary addresses.
NM_CLOUD_SETUP_TABLES = range(30200, 30500)
OTHER_CNI_LINKS = {
    "cni0": "flannel or another bridge plugin",
    "flannel.1": "flannel",
    "cilium_host": "Cilium",
    "vxlan.calico": "Calico with VXLAN",
    "weave": "Weave Net",
    "kube-bridge": "kube-router",
}


@dataclass(frozen=True, slots=True)
class Machine:
    """What was found. Empty and False also mean that it could not be read."""

    forward_policy: str = ""  # of IPv4's filter table
    primary: str = ""
    rp_filter: int = 0  # in force on the primary ENI
    tcp_early_demux: bool = False
    strict_branch_pods: bool = False
    rule_tables: frozenset[int] = frozenset()
    networkd: bool = False
    networkd_spares_rules: bool = False
    networkd_spares_routes: bool = False
    conflists: tuple[str, ...] = ()  # of others, in the order in which a runtime looks
    links: frozenset[str] = frozenset()
    iptables: str = ""  # nf_tables or legacy
    legacy_tables: tuple[str, ...] = ()
    nf_tables_in_use: bool = False
    udev_persistent_macs: bool = False
    kube_proxy_nftables: bool = False  # kube-proxy has its table in nftables
    rules_in_iptables: bool = False  # our SNAT chain is in iptables


@dataclass(frozen=True, slots=True)
class Remark:
    """One trap: what was found, what it does, and the way out."""

    found: str
    effect: str
    way_out: str


def remarks(machine: Machine) -> list[Remark]:
    """All traps of a machine, the ones that cut pods off first."""
    return [*_filters(machine), *_daemons(machine), *_neighbours(machine)]


def _filters(m: Machine) -> Iterator[Remark]:
    if m.forward_policy == "DROP":
        yield Remark(
            "the policy of the FORWARD chain is DROP",
            "packets of pods are dropped unless another rule accepts them; Docker and hardened images set this",
            "iptables -P FORWARD ACCEPT, and make it permanent in the image",
        )
    if m.rp_filter == 1:
        yield Remark(
            f"reverse path filtering is strict on {m.primary}",
            "replies to translated or NodePort flows of pods on other ENIs are dropped there",
            f"sysctl -w net.ipv4.conf.{m.primary}.rp_filter=2, and see what sets it: sysctl.d, tuned, a profile",
        )
    if m.strict_branch_pods and m.tcp_early_demux:
        yield Remark(
            "tcp_early_demux is on with strict security groups for pods",
            "probes by kubelet to pods with security groups of their own time out",
            "DISABLE_TCP_EARLY_DEMUX=true",
        )


def _daemons(m: Machine) -> Iterator[Remark]:
    tables = sorted(m.rule_tables.intersection(NM_CLOUD_SETUP_TABLES))
    if tables:
        yield Remark(
            f"nm-cloud-setup has rules for the tables {', '.join(map(str, tables))}",
            "they stand before ours and send pods' packets to the wrong ENI, or nowhere",
            "systemctl disable --now nm-cloud-setup.timer nm-cloud-setup.service, then reboot",
        )
    if m.networkd and not (m.networkd_spares_rules and m.networkd_spares_routes):
        both = (("RoutingPolicyRules", m.networkd_spares_rules), ("Routes", m.networkd_spares_routes))
        missing = [f"ManageForeign{name}=no" for name, spared in both if not spared]
        yield Remark(
            "systemd-networkd manages routes or rules that are not its own",
            "when it restarts it removes ours; the daemon puts them back, but flows stall until then",
            f"{', '.join(missing)} below [Network] in /etc/systemd/networkd.conf.d/",
        )
    if m.udev_persistent_macs:
        yield Remark(
            "udev gives new devices a MAC of its own (MACAddressPolicy=persistent)",
            "links of ours have a chosen MAC and are spared; pods of the Go implementation may lose their gateway",
            "a .link file for veth with MACAddressPolicy=none, as Amazon Linux 2023 has it",
        )


def _neighbours(m: Machine) -> Iterator[Remark]:
    if m.conflists:
        yield Remark(
            f"other network configurations come before ours: {', '.join(m.conflists)}",
            "the runtime takes the first file of /etc/cni/net.d, so pods get another network",
            "remove them, unless another plugin chains ours on purpose",
        )
    left = sorted(m.links.intersection(OTHER_CNI_LINKS))
    if left:
        yield Remark(
            f"links of another network plugin: {', '.join(f'{name} ({OTHER_CNI_LINKS[name]})' for name in left)}",
            "its routes and firewall rules may still be there and catch pods' packets",
            "remove what it left, or replace the node",
        )
    if m.kube_proxy_nftables and m.rules_in_iptables:
        yield Remark(
            "kube-proxy runs in nftables mode, and our rules are in iptables",
            "flows work, but nothing else needs iptables; the daemon may have started before kube-proxy did",
            "restart the node's daemon with VPCCNI_FIREWALL=auto or nftables",
        )
    if m.iptables == "nf_tables" and m.legacy_tables:
        yield Remark(
            f"legacy iptables has the tables {', '.join(m.legacy_tables)} while `iptables` is the nf_tables variant",
            "both are in force and neither shows the other: SNAT may happen twice or in the wrong order",
            "let kube-proxy and the node use one variant (update-alternatives --config iptables)",
        )
    if m.iptables == "legacy" and m.nf_tables_in_use:
        yield Remark(
            "the nf_tables variant of iptables has a nat table while `iptables` is the legacy one",
            "both are in force and neither shows the other: SNAT may happen twice or in the wrong order",
            "let kube-proxy and the node use one variant (update-alternatives --config iptables)",
        )
