# SPDX-License-Identifier: Apache-2.0
"""kube-proxy's rules as the kernel has them: names, shapes, order, and that neither side disturbs the other's.

The names are those that Kubernetes' own tests know for these Services (TestOverallIPTablesRules and its nftables twin).
"""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest
from kube_services import apply

from vpccni.host.firewall import Firewall
from vpccni.lab.kubeproxy import iptables, nftables
from vpccni.lab.kubeproxy.sync import clear, present, sync
from vpccni.lab.kubeproxy.values import KUBE_PROXY, MODES, Endpoint, ServicePort, path
from vpccni.netlink.namespace import inside
from vpccni.selftest.service import OWN, names

NODE = [IPv4Address("192.168.0.2")]
OURS = ("AWS-SNAT-CHAIN-0", "AWS-CONNMARK-CHAIN-0")
GOLDEN = Path(__file__).parent / "golden"


def port(number: int, *endpoints: int, near: int = 0, protocol: str = "tcp", **options: object) -> ServicePort:
    """Service svcN in namespace nsN with endpoints 10.180.0.X, of which X = `near` is on the node."""
    to = tuple(Endpoint(IPv4Address(f"10.180.0.{each}"), 80, local=each == near) for each in endpoints)
    address = IPv4Address(f"172.30.0.{40 + number}")
    return ServicePort(f"ns{number}", f"svc{number}", "p80", protocol, address, 80, to, **options)  # type: ignore[arg-type]


ONE = port(1, 1)
SERVICES = (
    ONE,
    port(2, 2, 6, near=6, node_port=3001, local_policy=True),
    port(3, 3, node_port=3003),
    port(4, 4, 5, 7, protocol="udp"),
    port(6, node_port=3006),
    port(7, 2, node_port=3007, local_policy=True),
)


def test_names_are_those_that_kubernetes_knows():
    (endpoint,) = ONE.endpoints
    assert KUBE_PROXY.hashed("SVC", ONE) == "KUBE-SVC-XPGD46QRK7WJZT7O"
    assert KUBE_PROXY.hashed("SEP", ONE, endpoint) == "KUBE-SEP-SXIVWICOYRO3J4NJ"
    assert KUBE_PROXY.hashed("EXT", SERVICES[1]) == "KUBE-EXT-GNZBNJ2PO5MGZ6GT"
    assert path(ONE) == "ULMVA6XW-ns1/svc1/tcp/p80"
    assert path(ONE, endpoint) == "5OJB2KTY-ns1/svc1/tcp/p80__10.180.0.1/80"
    assert len(OWN.hashed("SVC", ONE)) <= 28 and not KUBE_PROXY.owns(OWN.hashed("SVC", ONE))
    assert not KUBE_PROXY.owns("KUBE-FIREWALL") and not KUBE_PROXY.owns("KUBE-KUBELET-CANARY"), "the kubelet's"


def test_a_pod_cidr_tells_pods_from_others():
    pods = IPv4Network("10.0.0.0/8")
    text = iptables.transaction(SERVICES, KUBE_PROXY, "", pods)
    assert "--dport 80 ! -s 10.0.0.0/8 -j KUBE-MARK-MASQ" in text
    assert '"pod traffic for ns2/svc2:p80 external destinations" -s 10.0.0.0/8 -j KUBE-SVC-GNZBNJ2PO5MGZ6GT' in text
    assert "10.0.0.0/8" not in iptables.transaction(SERVICES, KUBE_PROXY, "")
    (text,) = nftables.transactions(SERVICES, KUBE_PROXY, NODE, "", pods)
    assert "ip daddr 172.30.0.41 ip saddr != 10.0.0.0/8 jump mark-for-masquerade" in text
    assert "ip saddr 10.0.0.0/8 goto service-42NFTM6N-ns2/svc2/tcp/p80" in text


def shown(text: str) -> str:
    """A listing without counters."""
    return re.sub(r" \[\d+:\d+\]$", "", text, flags=re.MULTILINE)


@pytest.mark.netns
@pytest.mark.parametrize("mode", MODES)
def test_the_kernel_has_what_the_golden_file_says_and_a_second_sync_changes_nothing(spaces, mode):
    with inside(spaces("node").fd):
        sync(mode, SERVICES, KUBE_PROXY, NODE)
        once = present(KUBE_PROXY)
        assert shown(once) == (GOLDEN / f"kubeproxy-{mode}.txt").read_text()
        sync(mode, SERVICES, KUBE_PROXY, NODE)
        assert present(KUBE_PROXY) == once
        assert names(KUBE_PROXY, once) is OWN and names(OWN, "") is OWN and names(KUBE_PROXY, "") is KUBE_PROXY


@pytest.mark.netns
@pytest.mark.parametrize("mode", MODES)
def test_what_is_no_longer_wanted_goes_and_in_the_end_everything(spaces, mode):
    with inside(spaces("node").fd):
        sync(mode, SERVICES, KUBE_PROXY, NODE)
        many = present(KUBE_PROXY)
        sync(mode, SERVICES[:1], KUBE_PROXY, NODE)
        sync(mode, SERVICES[:1], KUBE_PROXY, NODE)  # nftables deletes the emptied chains of the first
        few = present(KUBE_PROXY)
        clear(KUBE_PROXY)
        sync(mode, SERVICES[:1], KUBE_PROXY, NODE)
        assert present(KUBE_PROXY) == few and "svc2" in many
        clear(KUBE_PROXY)
        assert present(KUBE_PROXY) == ""


@pytest.mark.netns
@pytest.mark.parametrize("variant", ["nft", "legacy"])
@pytest.mark.parametrize("first", ["cni", "kube-proxy"])
def test_kube_proxy_stands_in_front_and_neither_disturbs_the_other(spaces, variant, first):
    node = spaces("node")

    def nat(*chains: str) -> list[str]:
        text = shown(node.run(f"iptables-{variant}-save", "-t", "nat"))
        return [line for line in text.splitlines() if line.startswith(tuple(f"-A {chain} " for chain in chains))]

    with inside(node.fd):
        if first == "kube-proxy":
            node.run(f"iptables-{variant}", "-t", "nat", "-N", "KUBE-SERVICES")  # which tells the variant
            sync("iptables", SERVICES, KUBE_PROXY, NODE)
        apply(variant)
        sync("iptables", SERVICES, KUBE_PROXY, NODE)
        shared, ours, theirs = nat("PREROUTING", "POSTROUTING"), nat(*OURS), present(KUBE_PROXY)
        assert [line.split(" -j ")[1].split()[0] for line in shared] == [
            "KUBE-SERVICES", "AWS-CONNMARK-CHAIN-0", "CONNMARK", "KUBE-POSTROUTING", "AWS-SNAT-CHAIN-0",
        ]  # fmt: skip
        assert apply(variant) == "", "nothing of ours was touched"
        sync("iptables", SERVICES[:2], KUBE_PROXY, NODE)
        sync("iptables", SERVICES, KUBE_PROXY, NODE)
        assert (nat("PREROUTING", "POSTROUTING"), nat(*OURS)) == (shared, ours)
        assert sorted(present(KUBE_PROXY).splitlines()) == sorted(theirs.splitlines())
        Firewall(variant=variant).remove()
        assert nat("KUBE-SERVICES", "KUBE-POSTROUTING") and not nat(*OURS)
        # A restore that flushes is no kube-proxy's, and what it takes is seen.
        apply(variant)
        node.run("sh", "-c", f"echo '*nat\nCOMMIT' | iptables-{variant}-restore")
        assert not nat("KUBE-SERVICES") and OURS[0] in apply(variant)


@pytest.mark.netns
@pytest.mark.parametrize("mode", MODES)
def test_rules_under_other_names_leave_a_real_kube_proxy_alone(spaces, mode):
    with inside(spaces("node").fd):
        sync(mode, SERVICES, KUBE_PROXY, NODE)
        before = present(KUBE_PROXY)
        chosen = names(KUBE_PROXY, before)
        sync(mode, SERVICES[:3], chosen, NODE)
        assert present(chosen)
        sync(mode, SERVICES, KUBE_PROXY, NODE)  # whose stale chains are not those of others
        assert "svc3" in present(chosen)
        clear(chosen)
        assert present(chosen) == "" and present(KUBE_PROXY) == before
