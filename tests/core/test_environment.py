# SPDX-License-Identifier: Apache-2.0
"""Each trap of a machine is remarked on, and its harmless neighbour is not."""

from __future__ import annotations

import pytest

from vpccni.core.environment import Machine, remarks

TRAPS = {
    "FORWARD": Machine(forward_policy="DROP"),
    "strict on eth0": Machine(primary="eth0", rp_filter=1),
    "tcp_early_demux": Machine(tcp_early_demux=True, strict_branch_pods=True),
    "30400": Machine(rule_tables=frozenset({254, 30400})),
    "systemd-networkd": Machine(networkd=True, networkd_spares_rules=True),
    "05-cilium.conflist": Machine(conflists=("05-cilium.conflist",)),
    "flannel.1": Machine(links=frozenset({"eth0", "flannel.1"})),
    "legacy iptables has the tables nat": Machine(iptables="nf_tables", legacy_tables=("nat",)),
    "nf_tables variant": Machine(iptables="legacy", nf_tables_in_use=True),
    "udev": Machine(udev_persistent_macs=True),
    "kube-proxy runs in nftables mode": Machine(kube_proxy_nftables=True, rules_in_iptables=True),
}
HARMLESS = Machine(
    forward_policy="ACCEPT",
    primary="eth0",
    rp_filter=2,
    tcp_early_demux=True,
    rule_tables=frozenset({2, 254, 10101}),
    networkd=True,
    networkd_spares_rules=True,
    networkd_spares_routes=True,
    links=frozenset({"eth0", "lo", "docker0"}),
    iptables="legacy",
    legacy_tables=("nat",),
    kube_proxy_nftables=True,
)


@pytest.mark.parametrize("word", TRAPS)
def test_a_trap_is_named_with_effect_and_way_out(word):
    (remark,) = remarks(TRAPS[word])
    assert word in remark.found and remark.effect and remark.way_out


def test_a_harmless_machine_is_not_remarked_on():
    assert remarks(HARMLESS) == []
