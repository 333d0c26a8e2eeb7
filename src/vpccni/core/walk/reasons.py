# SPDX-License-Identifier: Apache-2.0
"""Why a rule is there, why a packet was dropped, and what to do about it, in words.

Knows the meaning of the priorities of `conventions` and the causes of each kind of drop. Must never decide whether a
packet is dropped. `walk` quotes it.
"""

from __future__ import annotations

from vpccni.core import conventions as c
from vpccni.core.walk.values import Port, Vpc
from vpccni.netlink.values import IPAddress, Rule

_PURPOSES = {
    c.RULE_LOCAL: "addresses of this machine itself",
    c.RULE_VLAN: "traffic of a branch interface stays on it",
    c.RULE_LOCAL_STRICT: "addresses of this machine itself, behind the branch interfaces",
    c.RULE_TO_POD: "packets to a pod of this node go to its veth",
    c.RULE_MARK: "connections of the primary ENI leave by it",
    c.RULE_EXTERNAL_SERVICE: "external services are reached by the primary ENI",
    c.RULE_FROM_POD: "a pod's packets leave by the ENI that owns its address",
    c.RULE_FROM_ENI: "an ENI's own address leaves by that ENI",
    c.RULE_MAIN: "everything else uses the main table",
}

_IN_PODS = {
    c.RULE_LOCAL: "the pod's own addresses",
    c.POD_RULE_FROM_NIC: "packets of a further interface leave by it",
    c.RULE_MAIN: "all of a pod's packets go to the node, over the veth",
}

NEXT_STEPS = {
    "no-route": "see `ip rule` and `ip route get`; the node daemon, while it runs, puts its own rules and routes back",
    "not-forwarding": "on a node: sysctl -w net.ipv4.ip_forward=1, net.ipv6.conf.all.forwarding=1; a pod gets what is "
    "not for it by a wrong route",
    "reverse-path": "sysctl -w net.ipv4.conf.<device>.rp_filter=2, as the daemon sets it on the primary ENI",
    "neighbour": "delete the pod: its network is made anew; see `ip neigh` in the pod",
    "rejected": "remove or precede that rule; it tells the sender, so the program sees a refusal, not a timeout",
    "queued": "a program in userspace decides; see who reads that queue",
    "filtered": "remove or precede that rule; pods need FORWARD to accept them",
    "no-public-address": "give the node a public address, or see whether its SNAT rules are in place "
    "(iptables -t nat -S AWS-SNAT-CHAIN-0)",
    "unowned-address": "nobody has this address: is the pod gone, or was its address unassigned in EC2?",
    "security-group": "see `vpccni lab sg list`; vpccni lab sg allow GROUP tcp PORT from CIDR|GROUP",
    "not-public": "reach the node by its public address and a NodePort",
    "reply-astray": "another translation answers for this connection; see `conntrack -L`",
    "leaves-view": "capture there, or trace from inside a lab, which sees the VPC as well",
    "loop": "two routes point at each other",
}


def purpose(rule: Rule, *, on_node: bool) -> str:
    """Why such a rule exists."""
    if not on_node and rule.priority in _IN_PODS:
        return _IN_PODS[rule.priority]
    if c.RULE_FROM_BLOCK <= rule.priority < c.RULE_FROM_BLOCK_END:
        return "packets of an ENI's block leave by that ENI"
    return _PURPOSES.get(rule.priority, "not one of the Amazon VPC CNI's")


def source_check(vpc: Vpc, port: Port, source: IPAddress) -> tuple[str, str]:
    """(Why the VPC drops a packet that left by `port`, what to do)."""
    owner = next((each for each in vpc.ports if each.owns(source)), None)
    if owner is None:
        return f"{port.eni_id} may not send from {source}, which no ENI owns", NEXT_STEPS["unowned-address"]
    why = f"{source} belongs to {owner.eni_id} ({owner.device}), but the packet left by {port.device}"
    if owner.stack != port.stack:
        return why, "the address has moved to another node; this pod should have been deleted"
    step = (
        f"the rule `{c.RULE_FROM_POD}: from {source} lookup <table of {owner.device}>` is missing or is preceded by "
        "another one; the node daemon, while it runs, puts it back"
    )
    return why, step
