# SPDX-License-Identifier: Apache-2.0
"""Egress in the other family with the native backend: real TCP, and each of the two rules is needed.

The world is that of `test_egress_packets`: a node with two pods, and a server outside that knows only the node.
"""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from test_egress_packets import World, world

from vpccni.core import conventions as c
from vpccni.core.firewall.nftrules import FAMILIES, tables
from vpccni.host.firewall import Firewall
from vpccni.netlink.namespace import inside

pytestmark = pytest.mark.netns
__all__ = ["world"]


@pytest.fixture
def native(world) -> World:
    """The world with all rules in our table of the family, and none in iptables."""
    with inside(world.node.fd):
        wanted = tables(None, ip_address(world.family.node))
        assert [table.family for table in wanted] == [FAMILIES[world.family.version]]
        firewall = Firewall()
        firewall.nft.apply({table.family: str(table) for table in wanted})
        assert firewall.remove(world.family.version)
    return world


def test_pods_leave_as_the_node_by_one_rule_and_nobody_comes_in_because_of_the_other(native):
    family, target = native.family, native.family.local[1]
    assert [native.out(0), native.out(1)] == [family.node] * 2
    # IPv6 pods take each other for neighbours on their own link, where nobody answers.
    sources = [native.outside, native.pods[0]] if family.version == 4 else [native.outside]
    native.outside.ip(f"-{family.version} route add {c.EGRESS_RANGES[family.version]} via {family.node}")
    assert [native.seen(source, native.pods[1], target, timeout_s=0.4) for source in sources] == [""] * len(sources)
    assert native.seen(native.node, native.pods[1], target), "the node itself does reach its pods"
    accepting = "{ type filter hook forward priority filter - 20; policy accept; }"
    native.node.run("nft", f"add table inet other; add chain inet other forward {accepting}; "
                           "add rule inet other forward accept")  # fmt: skip
    assert native.seen(native.outside, native.pods[1], target, timeout_s=0.4) == "", "whatever others accept before"
    native.node.run("nft", f"flush chain {FAMILIES[family.version]} vpccni refusal")
    assert all(native.seen(source, native.pods[1], target) for source in sources), "without the refusal they would"
    native.outside.ip(f"-{family.version} route del {c.EGRESS_RANGES[family.version]}")
    native.node.run("nft", f"flush chain {FAMILIES[family.version]} vpccni translation")
    assert native.out(0, timeout_s=0.4) == "", "untranslated, no answer finds its way back"
