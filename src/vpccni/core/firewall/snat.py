# SPDX-License-Identifier: Apache-2.0
"""VPC CIDRs and policy -> the chains and rules of SNAT and connection marks, as text.

Knows the rules of the Amazon VPC CNI 1.23 (iptables backend) in the words of `iptables-save`, so that desired and
observed state compare as text. Must never know how rules reach the kernel or what is there now. `ipamd` calls `rules`,
`host.firewall` applies the answer.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from vpccni.core.conventions import (
    CHAIN_PREFIXES,
    CONNMARK_CHAIN,
    EGRESS_CHAIN_LENGTH,
    EGRESS_CHAIN_PREFIXES,
    EGRESS_COMMENT,
    EGRESS_REJECT_COMMENTS,
    MARK,
    SNAT_CHAIN,
    VETH_PREFIX,
    VLAN_PREFIX,
)
from vpccni.netlink.values import IPAddress, IPNetwork

# How each rule names itself: `-m comment --comment "..."`. Rules in the kernel's own chains are ours by these texts.
SNAT_JUMP = "AWS SNAT CHAIN"
SNAT_EXCLUSION = "AWS SNAT CHAIN EXCLUSION"
SNAT_RULE = "AWS, SNAT"
PRIMARY_ENI = "AWS, primary ENI"
CONNMARK_JUMP = "AWS, outbound connections"
CONNMARK_RULE = "AWS, CONNMARK"
CONNMARK_RETURN = "AWS CONNMARK CHAIN"
OWN_COMMENTS = frozenset(
    {SNAT_JUMP, SNAT_RULE, PRIMARY_ENI, CONNMARK_JUMP, CONNMARK_RULE, EGRESS_COMMENT, *EGRESS_REJECT_COMMENTS.values()}
)

# AWS_VPC_K8S_CNI_RANDOMIZESNAT; any other value means prng.
RANDOM_FLAGS = {"prng": " --random-fully", "hashrandom": " --random", "none": ""}


@dataclass(frozen=True, slots=True)
class SnatPolicy:
    """What decides the rules. `vpc_cidrs` and `excluded` in the order in which they are configured. `dual_stack`: pods
    of further ENIs have IPv6 addresses as well."""

    primary_link: str
    primary_address: IPAddress
    vpc_cidrs: tuple[IPNetwork, ...]
    excluded: tuple[IPNetwork, ...] = ()
    external_snat: bool = False
    node_port_support: bool = True
    randomize: str = "prng"
    mark: int = MARK
    veth_prefix: str = VETH_PREFIX
    dual_stack: bool = False


@dataclass(frozen=True, slots=True)
class ChainRules:
    """One chain. `owned`: the chain is ours and holds exactly `rules`; otherwise they stand behind other people's, or
    before them (`first`)."""

    name: str
    rules: tuple[str, ...]
    owned: bool
    first: bool = False


@dataclass(frozen=True, slots=True)
class TableRules:
    """The chains of one table that hold something of ours."""

    name: str
    chains: tuple[ChainRules, ...]


@dataclass(frozen=True, slots=True)
class IptablesRules:
    """Desired rules of the address family `version` (4 or 6), in the syntax of `iptables-save`."""

    tables: tuple[TableRules, ...]
    version: int = 4

    def __str__(self) -> str:
        """The text of `iptables -S` of the tables, without policies: what golden files hold."""
        lines = []
        for table in self.tables:
            lines.append(f"*{table.name}")
            lines += [f"-N {chain.name}" for chain in table.chains if chain.owned]
            lines += [rule for chain in table.chains for rule in chain.rules]
        return "\n".join(lines) + "\n"


def rules(policy: SnatPolicy) -> IptablesRules:
    """The rules that `policy` asks for (IPv4; an IPv6 VPC has no SNAT).

    Amazon VPC CNI 1.23: SNAT unless external; the mark when there is SNAT (replies and later packets of a flow that is
    translated to the primary ENI's address must leave by it) or NodePort (a connection that entered by the primary ENI
    must leave by it). With external SNAT an empty SNAT chain stays.
    """
    nat = TableRules("nat", (*_connmark_chains(policy), *_snat_chains(policy)))
    mangle = TableRules("mangle", (ChainRules("PREROUTING", _mangle(policy), owned=False),))
    return IptablesRules((nat, mangle), policy.primary_address.version)


def beside(policy: SnatPolicy) -> IptablesRules | None:
    """The IPv6 rules of a dual-stack node, where nothing is translated: what entered by the primary ENI for a NodePort
    leaves by it, whichever ENI its pod is on. None where there are none."""
    if not (policy.dual_stack and policy.node_port_support):
        return None
    marks = ChainRules("PREROUTING", _mangle(replace(policy, external_snat=True)), owned=False)
    return IptablesRules((TableRules("mangle", (marks,)),), 6)


def nothing(version: int = 4) -> IptablesRules:
    """No rule and no chain of ours: what a node has after it was given up."""
    chains = tuple(ChainRules(name, (), owned=False) for name in ("PREROUTING", "POSTROUTING"))
    forward = TableRules("filter", (ChainRules("FORWARD", (), owned=False),))
    return IptablesRules((TableRules("nat", chains), TableRules("mangle", chains[:1]), forward), version)


def is_own_chain(name: str) -> bool:
    """Whether a chain is ours: today's, a numbered one of an older release, or a pod's egress chain of the Go plugin.

    The latter is superfluous as soon as one rule translates the whole range.
    """
    per_pod = name.startswith(EGRESS_CHAIN_PREFIXES) and len(name) == EGRESS_CHAIN_LENGTH
    return per_pod or any(name.startswith(prefix) and name[len(prefix) :].isdigit() for prefix in CHAIN_PREFIXES)


def _connmark_chains(policy: SnatPolicy) -> tuple[ChainRules, ...]:
    if policy.external_snat:
        return (ChainRules("PREROUTING", (), owned=False),)
    mark = f"{policy.mark:#x}"
    jump = f'-A PREROUTING -i {policy.veth_prefix}+ -m comment --comment "{CONNMARK_JUMP}" -j {CONNMARK_CHAIN}'
    restore = f'-A PREROUTING -m comment --comment "{CONNMARK_RULE}" -j CONNMARK {_restore(mark)}'
    returns = tuple(
        _return(CONNMARK_CHAIN, cidr, CONNMARK_RETURN) for cidr in _reversed((*policy.vpc_cidrs, *policy.excluded))
    )
    remember = f'-A {CONNMARK_CHAIN} -m comment --comment "{CONNMARK_RULE}" -j CONNMARK --set-xmark {mark}/{mark}'
    return (
        ChainRules("PREROUTING", (jump, restore), owned=False),
        ChainRules(CONNMARK_CHAIN, (*returns, remember), owned=True),
    )


def _snat_chains(policy: SnatPolicy) -> tuple[ChainRules, ...]:
    if policy.external_snat:
        return (ChainRules("POSTROUTING", (), owned=False), ChainRules(SNAT_CHAIN, (), owned=True))
    excluded = tuple(_return(SNAT_CHAIN, cidr, SNAT_EXCLUSION) for cidr in _reversed(policy.excluded))
    returns = tuple(_return(SNAT_CHAIN, cidr, SNAT_JUMP) for cidr in _reversed(policy.vpc_cidrs))
    translate = (
        f'-A {SNAT_CHAIN} ! -o {VLAN_PREFIX}+ -m comment --comment "{SNAT_RULE}" -m addrtype ! --dst-type LOCAL '
        f"-j SNAT --to-source {policy.primary_address}{RANDOM_FLAGS.get(policy.randomize, RANDOM_FLAGS['prng'])}"
    )
    jump = f'-A POSTROUTING -m comment --comment "{SNAT_JUMP}" -j {SNAT_CHAIN}'
    return (
        ChainRules("POSTROUTING", (jump,), owned=False),
        ChainRules(SNAT_CHAIN, (*excluded, *returns, translate), owned=True),
    )


def _mangle(policy: SnatPolicy) -> tuple[str, ...]:
    mark, comment = f"{policy.mark:#x}", f'-m comment --comment "{PRIMARY_ENI}"'
    remember = (
        f"-A PREROUTING -i {policy.primary_link} {comment} -m addrtype --dst-type LOCAL --limit-iface-in "
        f"-j CONNMARK --set-xmark {mark}/{mark}"
    )
    restore, restore_vlan = (
        f"-A PREROUTING -i {prefix}+ {comment} -j CONNMARK {_restore(mark)}"
        for prefix in (policy.veth_prefix, VLAN_PREFIX)
    )
    if policy.node_port_support:
        return remember, restore, restore_vlan
    return () if policy.external_snat else (restore,)


def _restore(mark: str) -> str:
    return f"--restore-mark --nfmask {mark} --ctmask {mark}"


def _reversed(cidrs: tuple[IPNetwork, ...]) -> tuple[IPNetwork, ...]:
    """Each network once, the last one first: upstream inserts one after the other at the head of the chain."""
    return tuple(reversed(dict.fromkeys(cidrs)))


def _return(chain: str, cidr: IPNetwork, comment: str) -> str:
    # The kernel lists a match on everything without -d.
    match = f" -d {cidr}" if cidr.prefixlen else ""
    return f'-A {chain}{match} -m comment --comment "{comment}" -j RETURN'
