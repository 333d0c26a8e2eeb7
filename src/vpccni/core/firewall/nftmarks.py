# SPDX-License-Identifier: Apache-2.0
"""VPC CIDRs and policy -> one nftables table with what the customary iptables rules cannot express.

Knows why those rules are not enough: a nat chain that comes after kube-proxy's never sees the flow that it rewrote, and
the SNAT rule takes the node's own flows for a pod's. Must never repeat a rule that iptables has right, nor know how the
text reaches the kernel. `backend` calls `table`, `host.nftables` applies the answer.

The table is text as `nft list table` prints it, so that desired and observed state compare as words.
"""

from __future__ import annotations

from vpccni.core.conventions import NFT_OWN_TABLE, VETH_GROUP
from vpccni.core.firewall.nftrules import besides, exempt
from vpccni.core.firewall.snat import SnatPolicy

KUBE_PROXY_MASQUERADE = 0x4000


def table(policy: SnatPolicy) -> str:
    """The table that completes `snat.rules(policy)`; empty when there is nothing to complete.

    Prerouting, behind all that rewrites targets, and of type filter because nat chains are skipped once one of them has
    bound the flow: a new flow of a pod whose rewritten target is neither this node nor exempt gets the connection mark,
    and its first packet the packet mark. Both are ORed: other bits belong to others. Interfaces count by device group,
    which only links of ours are in, whatever they are called. A flow whose rewritten target is exempt loses both marks
    again: kube-proxy's nftables mode rewrites at the priority of the rule of outbound flows, chains of one priority run
    in the reverse order of their making, and the mark may have been given for the ClusterIP, which is in no VPC.

    Postrouting, before the SNAT rule: a flow of the node itself keeps its source. Binding it to what it has already is
    the only way to keep a later nat chain from it. What kube-proxy wants masqueraded is left to kube-proxy.
    """
    networks = exempt(policy)
    if policy.external_snat or policy.primary_address.version != 4 or networks in ([], ["0.0.0.0/0"]):
        return ""
    mark = f"0x{policy.mark:08x}"
    others = f"0x{policy.mark ^ 0xFFFFFFFF:08x}"
    rewritten = f"iifgroup {VETH_GROUP} ct state new ct status dnat"
    forget = f"ct mark set ct mark & {others} meta mark set meta mark & {others}"
    taken_back = "".join(f"        {rewritten} ip daddr {each} {forget}\n" for each in networks)
    unmarked = f"meta mark & 0x{KUBE_PROXY_MASQUERADE:08x} == 0x00000000"
    return f"""table ip {NFT_OWN_TABLE} {{
    chain prerouting {{
        type filter hook prerouting priority dstnat + 10; policy accept;
{taken_back}        {rewritten} fib daddr type != local{besides(networks)} ct mark set ct mark | {mark}
        iifgroup {VETH_GROUP} ct mark & {mark} == {mark} meta mark set meta mark | {mark}
    }}

    chain postrouting {{
        type nat hook postrouting priority srcnat - 10; policy accept;
        fib saddr type local{besides(networks)} {unmarked} snat to ip saddr
    }}
}}
"""
