# SPDX-License-Identifier: Apache-2.0
"""Policy -> all of a node's firewall rules as nftables tables of our own: the backend that needs no iptables.

Knows what the customary rules are for (`snat`, `egress`) and where each has to stand among other people's hooks. Must
never know how text reaches the kernel. `backend` calls `tables`, `host.nftables` applies the answer.

Hooks, from <linux/netfilter_ipv4.h> and nft(8). The kernel runs all chains of type nat at one place of a hook (-100,
100), for the first packet of a flow, in the order of their priorities until one has bound the flow. Chains of type
filter run where their priority says, for every packet, bound or not:

- What a flow was addressed to shows before -100: flows that enter by the primary ENI are marked at `mangle` (-150).
- Where it really goes shows after -100, whoever rewrote it (kube-proxy in either of its modes): flows of pods are
  marked behind it, before the route is chosen, by a chain of type filter.
- kube-proxy's masquerading stands at `srcnat`, in iptables as in its own table: our translation comes behind it, and so
  gets what nobody else has bound.

The networks that are reached untranslated stand in the rules and in no set: a table is replaced as a whole, and in the
moment of the change the kernel (seen on Linux 6.18) finds nothing in an interval set that comes or goes with it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from ipaddress import IPv4Network, collapse_addresses

from vpccni.core.conventions import (
    EGRESS_COMMENT,
    EGRESS_RANGES,
    EGRESS_REJECT_COMMENTS,
    NFT_OWN_TABLE,
    VETH_GROUP,
    VLAN_PREFIX,
)
from vpccni.core.egress import MULTICAST
from vpccni.core.firewall.snat import CONNMARK_JUMP, CONNMARK_RULE, PRIMARY_ENI, SNAT_JUMP, SNAT_RULE, SnatPolicy
from vpccni.netlink.values import IPAddress

# What the rules say of themselves, beside the comments that their twins in iptables carry.
NODE_FLOWS = "flows of the node itself"
LOCAL_TARGETS = "what stays on the node"
TAKEN_BACK = "flows of pods that stay in the VPC"

FAMILIES = {4: "ip", 6: "ip6"}
# AWS_VPC_K8S_CNI_RANDOMIZESNAT; any other value means prng.
_RANDOM = {"prng": " fully-random", "hashrandom": " random", "none": ""}


@dataclass(frozen=True, slots=True)
class NftChain:
    """A base chain: its type, hook and priority as nft lists them, and its rules in order as (rule, comment)."""

    name: str
    place: str
    rules: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class NftTable:
    """Our table of one family."""

    family: str
    chains: tuple[NftChain, ...]

    def __str__(self) -> str:
        """As `nft list table` prints it, so that desired and observed state compare as words."""
        return f"table {self.family} {NFT_OWN_TABLE} {{\n" + "\n".join(map(_block, self.chains)) + "}\n"


def tables(policy: SnatPolicy | None, egress_from: IPAddress | None, randomize: str = "prng") -> tuple[NftTable, ...]:
    """The tables that say what `snat.rules`, `nftmarks.table` and `egress.rules` say together; none that is empty.

    `policy` None: pods have no IPv4 addresses of the VPC. `egress_from`: the node's address with which they leave in
    the family that is not theirs.
    """
    found = []
    for version in (4, 6):
        inside = policy if version == 4 else _beside(policy)
        leaving = egress_from if egress_from is not None and egress_from.version == version else None
        chains = [*_marks(inside), *_translation(inside, leaving, randomize), *_refusal(leaving)]
        if chains:
            found.append(NftTable(FAMILIES[version], tuple(chains)))
    return tuple(found)


def _beside(policy: SnatPolicy | None) -> SnatPolicy | None:
    """The policy of IPv6 on a dual-stack node, as `snat.beside`: nothing is translated, NodePorts are served."""
    dual = policy is not None and policy.dual_stack and policy.node_port_support
    return replace(policy, external_snat=True) if policy is not None and dual else None


def _marks(policy: SnatPolicy | None) -> list[NftChain]:
    """The connection mark keeps a flow to the primary ENI: both bits are ORed, because others belong to others.

    Links of pods count by device group, which only ours are in. An outbound flow is judged once, when nothing of it has
    left yet: what changes later must not move a flow that has a source already. A flow that stays in the VPC loses a
    mark that rules in iptables may have given it for a ClusterIP: those of the backend that this one follows go last.
    """
    if policy is None:
        return []
    mark = f"0x{policy.mark:08x}"
    remember = f"ct mark set ct mark | {mark}"
    restore = f"ct mark & {mark} == {mark} meta mark set meta mark | {mark}"
    found, pods = [], []
    if policy.node_port_support:
        inbound = f'iifname "{policy.primary_link}" fib daddr . iif type local {remember}'
        found.append(NftChain("inbound", "filter hook prerouting priority mangle", ((inbound, PRIMARY_ENI),)))
    if not policy.external_snat:
        others = f"0x{policy.mark ^ 0xFFFFFFFF:08x}"
        forget = f"ct mark set ct mark & {others} meta mark set meta mark & {others}"
        unsent = f"iifgroup {VETH_GROUP} ct status ! confirmed"
        pods += [(f"{unsent} ip daddr {each} {forget}", TAKEN_BACK) for each in exempt(policy)]
        pods.append((f"{unsent} fib daddr type != local{besides(exempt(policy))} {remember}", CONNMARK_JUMP))
    if policy.node_port_support or not policy.external_snat:
        pods.append((f"iifgroup {VETH_GROUP} {restore}", CONNMARK_RULE))
    if policy.node_port_support:
        pods.append((f'iifname "{VLAN_PREFIX}*" {restore}', CONNMARK_RULE))
    if pods:
        found.append(NftChain("outbound", "filter hook prerouting priority dstnat + 10", tuple(pods)))
    return found


def _translation(policy: SnatPolicy | None, leaving: IPAddress | None, randomize: str) -> list[NftChain]:
    rules = []
    if leaving is not None:
        family, network = FAMILIES[leaving.version], EGRESS_RANGES[leaving.version]
        match = f"{family} saddr {network} {family} daddr != {MULTICAST[leaving.version]}"
        rules.append((f"{match} {_snat(leaving, randomize)}", EGRESS_COMMENT))
    if policy is not None and not policy.external_snat:
        translate = f'oifname != "{VLAN_PREFIX}*" {_snat(policy.primary_address, policy.randomize)}'
        rules += [
            ("fib saddr type local return", NODE_FLOWS),
            ("fib daddr type local return", LOCAL_TARGETS),
            *((f"ip daddr {each} return", SNAT_JUMP) for each in exempt(policy)),
            (translate, SNAT_RULE),
        ]
    place = "nat hook postrouting priority srcnat + 10"
    return [NftChain("translation", place, tuple(rules))] if rules else []


def _refusal(leaving: IPAddress | None) -> list[NftChain]:
    """Before what accepts traffic of pods in general: an acceptance holds for its own chain only, a refusal for all."""
    if leaving is None:
        return []
    match = f"{FAMILIES[leaving.version]} daddr {EGRESS_RANGES[leaving.version]} ct state new reject"
    rule = (match, EGRESS_REJECT_COMMENTS[leaving.version])
    return [NftChain("refusal", "filter hook forward priority filter - 10", (rule,))]


def _snat(address: IPAddress, randomize: str) -> str:
    return f"snat to {address}{_RANDOM.get(randomize, _RANDOM['prng'])}"


def exempt(policy: SnatPolicy) -> list[str]:
    """The IPv4 networks that are reached untranslated, each address once, as nft lists them: a single address without
    its length."""
    networks = (each for each in (*policy.vpc_cidrs, *policy.excluded) if isinstance(each, IPv4Network))
    return [str(each).removesuffix("/32") for each in collapse_addresses(networks)]


def besides(networks: list[str]) -> str:
    """What matches a target in none of them, to be put behind other conditions of a rule."""
    return "".join(f" ip daddr != {each}" for each in networks)


def _block(chain: NftChain) -> str:
    lines = [f"type {chain.place}; policy accept;", *(f'{text} comment "{comment}"' for text, comment in chain.rules)]
    return "".join([f"    chain {chain.name} {{\n", *(f"        {line}\n" for line in lines), "    }\n"])
