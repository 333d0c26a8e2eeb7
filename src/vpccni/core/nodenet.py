# SPDX-License-Identifier: Apache-2.0
"""A node's ENIs and policy -> the links, addresses, routes, rules and sysctls of the node itself.

Knows what the Amazon VPC CNI 1.23 sets up on a host (its init container, SetupHostNetwork, SetupENINetwork) and which
observed objects count as the node's. Must never know pods: their routes and rules are `podnet`'s. `host.node` observes,
calls `diff(owned(node, observed), desired(node))` and applies the answer.

Upstream assumes `net.ipv4.ip_forward=1` from the machine image; we set it. Like upstream we assume that the filter
table lets forwarded packets pass.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Interface

from vpccni.core import conventions as c
from vpccni.core.podnet import Layout, Sysctl
from vpccni.core.sourcerules import is_source_rule, source_rules
from vpccni.netlink.values import Address, IPAddress, IPInterface, IPNetwork, Link, Route, Rule, Value


@dataclass(frozen=True, slots=True)
class EniNet:
    """One ENI that pods may use, as the kernel has it: `interfaces` are its own addresses with the subnet's length.

    An ENI needs no IPv6 address of its own to carry the /80 of its pods.
    """

    link: Link
    interfaces: tuple[IPInterface, ...]
    table: int
    primary: bool = False


@dataclass(frozen=True, slots=True)
class NodeNet:
    """The node: its ENIs (the primary one among them) and what the settings say. `versions`: its pods' families.

    `former` are primary addresses of ENIs that the node has no more: rules of the Go implementation for them carry no
    mark of ownership and are recognised by the address. `former_marks` are connection marks that flows may still carry.
    `egress` is the IP version in which pods leave by a node-local address (0: none). `sources`, the blocks of all ENIs
    and the tables of those, are for the shared layout alone.
    """

    enis: tuple[EniNet, ...]
    mtu: int = c.DEFAULT_MTU
    mark: int = c.MARK
    external_snat: bool = False
    node_port_support: bool = True
    external_services: tuple[IPNetwork, ...] = ()
    former: tuple[IPAddress, ...] = ()
    former_marks: tuple[int, ...] = ()
    tcp_early_demux: bool | None = None  # None: leave it alone
    versions: tuple[int, ...] = (4,)
    egress: int = 0
    layout: Layout = "per-pod"
    sources: Mapping[IPNetwork, int] = field(default_factory=dict)

    @property
    def secondary(self) -> tuple[EniNet, ...]:
        """All ENIs but the primary one."""
        return tuple(eni for eni in self.enis if not eni.primary)


def desired(node: NodeNet) -> list[Value]:
    """Everything that the kernel should hold for the node, in `ip` terms."""
    values: list[Value] = []
    for eni in node.enis:
        values.append(Link(eni.link.name, index=eni.link.index, mtu=node.mtu, up=True))
        if not eni.primary:
            for version in node.versions:
                values += _eni_objects(eni, version)
    if node.node_port_support or not node.external_snat:
        marks = (node.mark, *node.former_marks)
        values += [_mark_rule(mark, version) for mark in marks for version in node.versions]
    for network in node.external_services:
        values.append(Rule(c.RULE_EXTERNAL_SERVICE, c.TABLE_MAIN, dst=network, protocol=c.PROTOCOL))
    if node.layout == "shared":
        values += [_to_pods(version) for version in node.versions]
        known = {network: table for network, table in node.sources.items() if network.version in node.versions}
        values += source_rules(known)
    return values


def former_marks(values: Iterable[Value], mark: int) -> tuple[int, ...]:
    """The connection marks other than `mark` of which rules of ours in the kernel speak: those of former settings."""
    rules = [value for value in values if isinstance(value, Rule) and value.priority == c.RULE_MARK]
    found = {rule.fwmark for rule in rules if rule == _mark_rule(rule.fwmark, rule.family)}
    return tuple(sorted(found - {mark}))


def sysctls(node: NodeNet) -> tuple[Sysctl, ...]:
    """Kernel settings of the node, in order.

    Loose reverse path filtering on the primary ENI: replies to translated flows of pods on other ENIs arrive there, and
    after translation back the reverse route is that of the pod's own ENI.

    No search for duplicates on a further ENI: for up to two seconds after it came up the kernel could not ask who the
    gateway is, and its first IPv6 pods would reach nobody outside the node. EC2 gives each address and MAC once.
    """
    values: list[Sysctl] = []
    if 6 in node.versions:  # before the links are set up
        values += [(f"net/ipv6/conf/{eni.link.name}/accept_dad", "0") for eni in node.secondary]
    for eni in node.enis:
        if eni.primary:
            values.append((f"net/ipv4/conf/{eni.link.name}/rp_filter", "2"))
            if 6 in (*node.versions, node.egress):
                values.append(("net/ipv6/conf/all/disable_ipv6", "0"))
                # Before forwarding, which drops what router advertisements taught the kernel unless this is 2.
                values.append((f"net/ipv6/conf/{eni.link.name}/accept_ra", "2"))
                values.append(("net/ipv6/conf/all/forwarding", "1"))
    if 4 in (*node.versions, node.egress):
        values.append(("net/ipv4/ip_forward", "1"))
    if node.tcp_early_demux is not None:
        values.append(("net/ipv4/tcp_early_demux", "1" if node.tcp_early_demux else "0"))
    return tuple(values)


def owned(node: NodeNet, observed: Iterable[Value]) -> list[Value]:
    """The observed objects that the node may change or remove. All others are foreign and never touched."""
    secondary = {eni.link.index: eni for eni in node.secondary}
    links = {eni.link.index for eni in node.enis}
    return [
        value
        for value in observed
        if (isinstance(value, Link) and value.index in links)
        or (isinstance(value, Address) and _owned_address(value, secondary))
        or (isinstance(value, Route) and _owned_route(value, secondary))
        or (isinstance(value, Rule) and _owned_rule(value, node))
    ]


def existing_table(rules: Iterable[Rule], address: IPAddress, computed: int, old: int = 0) -> int:
    """The table that a rule from an ENI's primary address already names, else `computed`.

    Amazon VPC CNI 1.23, ENIs of further network cards: the table of the only such rule is kept, and of several the one
    of the `old` formula, because pods of an older release use it.
    """
    network = c.host_network(address)
    tables = [rule.table for rule in rules if rule.priority == c.RULE_FROM_ENI and rule.src == network]
    if len(tables) == 1:
        return tables[0]
    return old if old in tables else computed


def _eni_objects(eni: EniNet, version: int) -> list[Value]:
    """The table of one family, and the ENI's own addresses with the rule that makes them leave by it."""
    index, dev = eni.link.index, eni.link.name
    own = [each for each in eni.interfaces if each.version == version]
    gateway = c.subnet_gateway(own[0].network) if own else c.IPV6_SUBNET_GATEWAY
    values: list[Value] = []
    for interface in own:
        broadcast = None
        if isinstance(interface, IPv4Interface) and interface.network.prefixlen <= 30:
            broadcast = interface.network.broadcast_address
        # Without the connected route: the subnet is reached by the primary ENI, or by rule through the ENI's own table.
        values.append(
            Address(interface, index, dev, broadcast=broadcast, noprefixroute=True, nodad=interface.version == 6)
        )
    if own or version == 6:
        near, everything = c.host_network(gateway), c.everything(version)
        values.append(Route(near, index, dev, table=eni.table, scope="link", protocol=c.PROTOCOL))
        values.append(Route(everything, index, dev, gateway=gateway, table=eni.table, protocol=c.PROTOCOL))
    rules = (Rule(c.RULE_FROM_ENI, eni.table, src=c.host_network(each.ip), protocol=c.PROTOCOL) for each in own)
    return [*values, *rules]


def _mark_rule(mark: int, version: int) -> Rule:
    return Rule(c.RULE_MARK, c.TABLE_MAIN, fwmark=mark, fwmask=mark, family=version, protocol=c.PROTOCOL)


def _to_pods(version: int) -> Rule:
    return Rule(c.RULE_TO_POD, c.POD_TABLE, family=version, protocol=c.PROTOCOL)


def _owned_address(value: Address, secondary: dict[int, EniNet]) -> bool:
    # Whatever else configured a secondary ENI (dhclient, networkd): pods' addresses must not be local to the host.
    return value.index in secondary and value.scope == "global"


def _owned_route(value: Route, secondary: dict[int, EniNet]) -> bool:
    if value.unmodelled or value.kind != "unicast":
        return False
    eni = secondary.get(value.index)
    if eni is not None and value.table == c.TABLE_MAIN and value.protocol == c.PROTOCOL_KERNEL:
        return value.gateway is None and value.dst in {interface.network for interface in eni.interfaces}
    if value.table in (c.TABLE_MAIN, c.TABLE_LOCAL, c.POD_TABLE):
        return False
    if value.protocol == c.PROTOCOL:
        return True
    return eni is not None and value.table == eni.table and value.protocol in c.UNTAGGED


def _owned_rule(value: Rule, node: NodeNet) -> bool:
    """By priority and protocol; of untagged rules only those that are exactly of upstream's making.

    The kernel gives priority 32765 to a rule that somebody adds without one, so that untagged rules there are ours only
    by the address.
    """
    if is_source_rule(value) or value == _to_pods(value.family):
        return True
    priorities = (c.RULE_MARK, c.RULE_EXTERNAL_SERVICE, c.RULE_FROM_ENI)
    if value.priority not in priorities or value.unmodelled or value.protocol not in c.OURS_OR_UNTAGGED:
        return False
    if value.protocol == c.PROTOCOL:
        return True
    bare = Rule(value.priority, value.table, src=value.src, dst=value.dst, family=value.family, protocol=value.protocol)
    if value.priority == c.RULE_MARK:
        return value in {
            Rule(
                c.RULE_MARK,
                c.TABLE_MAIN,
                fwmark=node.mark,
                fwmask=node.mark,
                family=value.family,
                protocol=value.protocol,
            )
        }
    if value.priority == c.RULE_EXTERNAL_SERVICE:
        return value == bare and value.table == c.TABLE_MAIN and value.dst is not None and value.src is None
    addresses = {interface.ip for eni in node.secondary for interface in eni.interfaces} | set(node.former)
    return value == bare and value.dst is None and value.src in {c.host_network(each) for each in addresses}
