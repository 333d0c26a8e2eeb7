# SPDX-License-Identifier: Apache-2.0
"""Restarts with other settings in other backends, in any order: the kernel ends as if only the last had been."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import pytest
from restarts import BACKENDS, CIDRS, restart

from vpccni.host.firewall import Firewall
from vpccni.netlink.namespace import inside

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(shutil.which("iptables-legacy-save", path="/usr/sbin") is None, reason="needs both variants"),
]

VARIANTS = ("nft", "legacy")
FOREIGN = "-A POSTROUTING -s 10.9.9.9/32 -j RETURN"
# What earlier layouts and the Go implementation leave on a node.
STALE = (
    *(
        f"iptables-{variant} -t nat -N {chain}; iptables-{variant} -t nat -A {chain} -j RETURN; "
        f"iptables-{variant} -t nat -A {base} -j {chain}"
        for variant in VARIANTS
        for base, chain in (("POSTROUTING", "AWS-SNAT-CHAIN-1"), ("PREROUTING", "AWS-CONNMARK-CHAIN-2"))
    ),
    "nft add table ip aws-cni; nft 'add chain ip aws-cni nat-prerouting { type nat hook prerouting priority -90; }'",
    "true",
)


@dataclass(frozen=True)
class Start:
    """One start of the daemon."""

    backend: str
    environ: tuple[tuple[str, str], ...]
    cidrs: tuple[str, ...]
    egress_from: str

    def __call__(self) -> list[str]:
        return restart(self.backend, dict(self.environ), self.cidrs, egress_from=self.egress_from)


def starts(dice: random.Random, count: int) -> list[Start]:
    """Random settings in random backends."""
    pick = dice.choice
    return [
        Start(
            pick(BACKENDS),
            (
                ("AWS_VPC_K8S_CNI_EXTERNALSNAT", pick(["false", "false", "true"])),
                ("AWS_VPC_CNI_NODE_PORT_SUPPORT", pick(["true", "false"])),
                ("AWS_VPC_K8S_CNI_EXCLUDE_SNAT_CIDRS", pick(["", "10.1.1.1/32", "10.8.0.0/16,10.9.0.0/16"])),
                ("AWS_VPC_K8S_CNI_RANDOMIZESNAT", pick(["prng", "hashrandom", "none"])),
                ("AWS_VPC_K8S_CNI_CONNMARK", pick(["0x80", "0x10000"])),
            ),
            pick([CIDRS, CIDRS[:1], (*CIDRS, "10.77.0.0/16")]),
            pick(["", "2001:db8::10"]),
        )
        for _ in range(count)
    ]


def state(space) -> list[str]:
    """Every rule, and every chain and table of ours, in all backends."""
    found = []
    for program in ("iptables", "ip6tables"):
        for variant in VARIANTS:
            for line in space.run(f"{program}-{variant}-save").splitlines():
                table = line if line.startswith("*") else ""
                if line.startswith("-A") or (line.startswith(":") and "AWS" in line):
                    found.append(f"{program}-{variant} {table}{line.split(' [')[0]}")
    tables = space.run("nft", "list", "ruleset").split("\ntable ")
    ours = [table.removeprefix("table ") for table in tables]
    return found + sorted(
        table.strip() for table in ours if table.startswith(("ip vpccni", "ip6 vpccni", "ip aws-cni"))
    )


def run(spaces: Callable, count: int, seed: int) -> None:
    dice = random.Random(seed)
    node = spaces()
    node.run("iptables-nft", "-t", "nat", *FOREIGN.split())

    @cache
    def from_scratch(start: Start) -> list[str]:
        fresh = spaces()
        fresh.run("iptables-nft", "-t", "nat", *FOREIGN.split())
        with inside(fresh.fd):
            start()
        return state(fresh)

    for number, start in enumerate(starts(dice, count)):
        node.run("sh", "-c", dice.choice(STALE))
        with inside(node.fd):
            start()
            assert state(node) == from_scratch(start), (number, start)
            assert start() == [], (number, start)
    assert any("10.9.9.9" in line for line in state(node))


def test_any_order_of_settings_and_backends_ends_as_from_scratch_and_a_second_start_changes_nothing(spaces):
    run(spaces, 6, 1)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(2, 5))
def test_fifty_starts_in_any_order_end_as_from_scratch(spaces, seed):
    run(spaces, 50, seed)


def test_a_rule_that_another_backend_has_left_would_show(spaces):
    """The negative: what the comparison above is about does differ while it is there."""
    node, fresh = spaces(), spaces()
    with inside(fresh.fd):
        restart("nftables")
    with inside(node.fd):
        restart("iptables-legacy")
        assert state(node) != state(fresh)
        restart("nftables")
        assert state(node) == state(fresh)
        node.run("iptables-legacy", "-t", "nat", "-N", "AWS-SNAT-CHAIN-3")
        assert state(node) != state(fresh)
        assert "AWS-SNAT-CHAIN-3" in "".join(restart("nftables")) and state(node) == state(fresh)


def test_a_machine_with_nft_and_no_iptables_gets_the_native_rules_and_one_with_both_does_not(spaces, tmp_path):
    (tmp_path / "nft").symlink_to("/usr/sbin/nft")
    native, usual = spaces(), spaces()
    with inside(native.fd):
        assert len(restart("auto", firewall=Firewall((str(tmp_path),)))) == 1
        assert restart("nftables") == [], "it is what the setting would have made"
    with inside(usual.fd):
        restart("auto")
    assert "AWS, SNAT" in native.run("nft", "list", "table", "ip", "vpccni")
    assert "AWS, SNAT" not in usual.run("nft", "list", "table", "ip", "vpccni")


def test_kube_proxys_table_is_looked_for_at_every_start(spaces):
    node = spaces()
    with inside(node.fd):
        restart("auto")
        node.run("nft", "add table ip kube-proxy")
        assert "AWS-SNAT-CHAIN-0" in "".join(restart("auto")) and restart("auto") == []
        assert not [line for line in state(node) if line.startswith("iptables")]
        node.run("nft", "delete table ip kube-proxy")
        restart("auto")
        assert [line for line in state(node) if line.startswith("iptables")]
