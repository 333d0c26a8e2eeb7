# SPDX-License-Identifier: Apache-2.0
"""Why a kernel object exists, as a sentence.

Knows what each object of the node and of pods is for. Must never judge whether it is there. `core.difference` puts the
sentences beside the objects that `vpccni doctor` prints.
"""

from __future__ import annotations

from vpccni.core import conventions as c
from vpccni.core.firewall import nftrules, snat
from vpccni.core.podseen import is_pod_link, is_pod_route
from vpccni.core.sourcerules import is_source_rule
from vpccni.netlink.values import Address, Link, Route, Rule, Value

_SYSCTLS = {
    "accept_dad": "pods of this ENI can reach its gateway as soon as it is up; EC2 gives no address twice",
    "disable_ipv6": "the host has no business in IPv6 with an IPv4 pod; or IPv6 is needed here",
    "addr_gen_mode": "the daemon makes the only link-local address that the host needs towards a pod",
    "rp_filter": "replies to translated flows of pods on other ENIs arrive here; strict filtering would drop them",
    "ip_forward": "the node routes between pods and ENIs",
    "forwarding": "the node routes IPv6 between pods and ENIs, or must not learn routes from a pod",
    "accept_ra": "router advertisements: of the VPC on an ENI, never of a pod",
    "accept_redirects": "as the Amazon VPC CNI leaves it on links to pods",
    "tcp_early_demux": "a setting asks for it (DISABLE_TCP_EARLY_DEMUX)",
}
_COMMENTS = {
    snat.SNAT_JUMP: "what leaves the VPC is translated; inside of its CIDRs nothing is",
    snat.SNAT_EXCLUSION: "AWS_VPC_K8S_CNI_EXCLUDE_SNAT_CIDRS: reached without translation",
    snat.SNAT_RULE: "outside of the VPC only the node's primary address is known",
    snat.PRIMARY_ENI: "connections that came in by the primary ENI are marked, and their replies recognised",
    snat.CONNMARK_JUMP: "connections of pods that will be translated are marked",
    snat.CONNMARK_RULE: "a marked connection keeps to the primary ENI, whose address it has",
    snat.CONNMARK_RETURN: "inside of the VPC's CIDRs nothing is translated, so nothing is marked",
    nftrules.TAKEN_BACK: "rules in iptables may mark a connection for a ClusterIP before its target shows",
    nftrules.NODE_FLOWS: "firewalls outside expect the address and port that a program of the node has bound",
    nftrules.LOCAL_TARGETS: "nothing leaves that would need another source",
    c.EGRESS_COMMENT: "a node-local address is known to nobody else, so pods leave with the node's",
    **dict.fromkeys(c.EGRESS_REJECT_COMMENTS.values(), "node-local addresses are a way out for pods, not a way in"),
}
_NFT_LINES = {
    "type ipv4_addr": "networks that are reached without translation",
    "flags interval": "networks that are reached without translation",
    "elements = ": "networks that are reached without translation: the VPC's, and AWS_VPC_K8S_CNI_EXCLUDE_SNAT_CIDRS",
    "type filter hook prerouting priority mangle": "what a flow was addressed to shows before kube-proxy rewrites it",
    "type filter hook prerouting": "where a flow goes shows when kube-proxy has rewritten it; filter chains see it",
    "type nat hook postrouting": "translation comes behind kube-proxy's masquerading, and gets what that leaves",
    "type filter hook forward": "the refusal comes before what accepts traffic of pods in general",
}
_RULES = {
    c.RULE_MARK: "connections that came in by the primary ENI, or are translated to its address, leave by it",
    c.RULE_EXTERNAL_SERVICE: "AWS_EXTERNAL_SERVICE_CIDRS: these services are reached by the primary ENI",
    c.RULE_FROM_POD: "EC2 drops what a pod sends by another ENI than its own",
    c.RULE_FROM_ENI: "what the node sends with this ENI's own address leaves by this ENI",
}


def reason(value: Value) -> str:
    """Why the node needs `value`."""
    if isinstance(value, Rule):
        return _of_rule(value)
    if isinstance(value, Route):
        return _of_route(value)
    if isinstance(value, Address):
        return "the ENI's own address: the subnet's router asks for it, and 32765 rules name it"
    if isinstance(value, Link):
        pod = c.parse_alias(value.alias)
        if pod is not None:
            return f"the host's end of {pod.namespace}/{pod.pod}'s link"
        return "the host's end of a pod's link" if is_pod_link(value) else "an ENI: up, with the MTU of the settings"
    return "the pod's gateway is nobody's address, so nobody answers for it"


def firewall_reason(rule: str) -> str:
    """Why the node needs a firewall rule, by the comment that it carries, or another line of our nftables tables."""
    found = (why for comment, why in _COMMENTS.items() if f'"{comment}"' in rule)
    lines = (why for start, why in _NFT_LINES.items() if rule.startswith(start))
    return next(found, None) or next(lines, "the data path needs it")


def sysctl_reason(path: str) -> str:
    """Why the kernel setting at `path` has its value."""
    return _SYSCTLS.get(path.rpartition("/")[2], "the data path needs it")


def group_of(value: Value) -> str:
    """Under which heading an object is shown: rules, routes, addresses, links or pods."""
    if isinstance(value, Rule):
        single = (value.src or value.dst) is not None and value.priority in (c.RULE_TO_POD, c.RULE_FROM_POD)
        return "pods" if single else "rules"
    if isinstance(value, Route):
        return "pods" if is_pod_route(value) else "routes"
    if isinstance(value, Link):
        return "pods" if is_pod_link(value) else "links"
    return "addresses"


def _of_rule(rule: Rule) -> str:
    if is_source_rule(rule):
        if rule.kind == "lookup":
            return "what pods with these addresses send leaves by the ENI that holds them"
        return "part of the tree by which a packet finds its source's rule without walking them all"
    if rule.priority == c.RULE_TO_POD:
        return "packets to pods are found in main" if rule.dst else "packets to pods are found in the pods' table"
    return _RULES.get(rule.priority, "a rule of the node")


def _of_route(route: Route) -> str:
    if is_pod_route(route):
        return f"the way to the pod that has {route.dst.network_address}"
    if route.gateway is not None:
        return "what leaves by this ENI goes to its subnet's router"
    return "the subnet's router is reached by this ENI"
