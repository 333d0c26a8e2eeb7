# SPDX-License-Identifier: Apache-2.0
"""What a row of the flow matrix is: who talks to whom, and what must be seen under which settings.

Knows parties, ways and conditions, all of them values without an address in them. Must never know a node. `rows` holds
the matrix in these terms, `expect` puts the addresses of a node into it, docs/flows.md is checked against it.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import Enum


class Party(Enum):
    """Who can speak or be spoken to."""

    POD = "pod on the primary ENI"
    OTHER_POD = "other pod on the primary ENI"
    ENI_POD = "pod on a secondary ENI"
    OTHER_ENI_POD = "other pod on a secondary ENI"
    FAR_POD = "pod on another node"
    NODE = "node"
    NODE_ENI = "node, address of its secondary ENI"
    VPC_HOST = "host in the VPC"
    SITE = "private site"
    INTERNET = "internet"
    METADATA = "metadata service"


class Way(Enum):
    """How the target is addressed."""

    DIRECT = ""
    CLUSTER_IP = "ClusterIP"
    NODE_PORT_LOCAL = "NodePort, policy Local"
    NODE_PORT = "NodePort, policy Cluster"


class Seen(Enum):
    """Which source address the target must see."""

    OWN = "own address"
    NODE = "node's address"
    NOBODY = "not reached"


class Leaves(Enum):
    """Which of the node's devices a packet must leave by."""

    POD_LINK = "veth of the target pod"
    PRIMARY = "primary ENI"
    ENI = "ENI of the secondary pod"
    NOT = "does not leave"
    ANY = "not looked at"


class End(Enum):
    """One end of a flow, as a negative names it."""

    SOURCE = "the source"
    TARGET = "the target"


@dataclass(frozen=True, slots=True)
class RuleBreak:
    """Every rule of this priority that matches packets from or to an end is removed; without an end, all of them."""

    priority: int
    source: End | None = None  # rules `from` this end's address
    target: End | None = None  # rules `to` this end's address

    def __str__(self) -> str:
        words = [f"from {self.source.value}"] if self.source else []
        words += [f"to {self.target.value}"] if self.target else []
        return " ".join([f"rule {self.priority}", *words])


@dataclass(frozen=True, slots=True)
class RouteBreak:
    """The host route to an end is removed, in every table that has it."""

    end: End

    def __str__(self) -> str:
        return f"host route to {self.end.value}"


class Part(Enum):
    """What the firewall rules are for."""

    TRANSLATE = "SNAT rule"
    MARK_OUTBOUND = "connection mark of outbound flows"
    MARK_REWRITTEN = "connection mark of flows that kube-proxy rewrote"
    MARK_INBOUND = "connection mark of flows that enter by the primary ENI"
    RESTORE = "restore of the mark on packets from pods"


@dataclass(frozen=True, slots=True)
class FirewallBreak:
    """The firewall rules of one purpose are removed."""

    part: Part

    def __str__(self) -> str:
        return self.part.value


@dataclass(frozen=True, slots=True)
class SysctlBreak:
    """A kernel setting gets another value. `{primary}` in its name is the primary ENI's device."""

    name: str
    value: str

    def __str__(self) -> str:
        return f"{self.name.replace('/', '.')}={self.value}"


Break = RuleBreak | RouteBreak | FirewallBreak | SysctlBreak


@dataclass(frozen=True, slots=True)
class Conditions:
    """What decides which case of a row holds, read from a running node and from the two ends."""

    version: int = 4
    external_snat: bool = False
    node_port_support: bool = True
    excluded: bool = False  # the far end is in AWS_VPC_K8S_CNI_EXCLUDE_SNAT_CIDRS
    external_service: bool = False  # the far end is in AWS_EXTERNAL_SERVICE_CIDRS


@dataclass(frozen=True, slots=True)
class When:
    """A pattern over `Conditions`: None means any value."""

    version: int | None = None
    external_snat: bool | None = None
    node_port_support: bool | None = None
    excluded: bool | None = None
    external_service: bool | None = None

    def matches(self, conditions: Conditions) -> bool:
        """Whether every value that is asked for is there."""
        wanted = ((each.name, getattr(self, each.name)) for each in fields(self))
        return all(value is None or value == getattr(conditions, name) for name, value in wanted)

    def __str__(self) -> str:
        words = []
        for name, says in _SAYS.items():
            value = getattr(self, name)
            if value is not None:
                words.append(says[bool(value)] if isinstance(value, bool) else f"IPv{value}")
        return ", ".join(words) or "any"


_SAYS = {
    "version": ("", ""),
    "external_snat": ("SNAT by the node", "external SNAT"),
    "node_port_support": ("no NodePort support", "NodePort support"),
    "excluded": ("far end not excluded from SNAT", "far end excluded from SNAT"),
    "external_service": ("far end no external service", "far end in the external service CIDRs"),
}


@dataclass(frozen=True, slots=True)
class Case:
    """What must be seen when `when` matches. `reply` is the device of the answers, where that is in question.

    `translated` says that the node's SNAT rule chose the source port, so that RANDOMIZESNAT shows in it. `breaks`: each
    of them alone makes the case fail.
    """

    when: When
    seen: Seen
    leaves: Leaves = Leaves.ANY
    reply: Leaves = Leaves.ANY
    translated: bool = False
    breaks: tuple[Break, ...] = ()
    why: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """One flow. `number` is that of the summary in docs/flows.md, `name` is unique. The first matching case holds."""

    number: int
    name: str
    source: Party
    target: Party
    cases: tuple[Case, ...]
    way: Way = Way.DIRECT
    protocols: tuple[str, ...] = ("tcp", "udp")
    versions: tuple[int, ...] = (4,)

    def case(self, conditions: Conditions) -> Case | None:
        """What holds now; None when the matrix says nothing about it."""
        return next((case for case in self.cases if case.when.matches(conditions)), None)
