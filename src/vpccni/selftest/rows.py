# SPDX-License-Identifier: Apache-2.0
"""The flow matrix: every kind of flow of a node with VPC addresses, and what must be seen of it.

Knows what the Amazon VPC CNI promises for each and which kernel object carries it. Must never know a node or open a
socket. `run` plays it, docs/flows.md shows it.

Rows 20 and 21 of the numbering are pods on branch ENIs (security groups for pods); those are not built.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from vpccni.core import conventions as c
from vpccni.selftest.matrix import (
    Case,
    End,
    FirewallBreak,
    Leaves,
    Part,
    Party,
    RouteBreak,
    Row,
    RuleBreak,
    Seen,
    SysctlBreak,
    Way,
    When,
)

ALWAYS = When()
BOTH = (4, 6)
PODS = {Party.POD: "primary", Party.ENI_POD: "secondary"}

# -- the objects that flows depend on ------------------------------------------------------------------------------
TO_SOURCE, TO_TARGET = RouteBreak(End.SOURCE), RouteBreak(End.TARGET)
RULE_TO_TARGET = RuleBreak(c.RULE_TO_POD, target=End.TARGET)
FROM_SOURCE = RuleBreak(c.RULE_FROM_POD, source=End.SOURCE)
FROM_TARGET = RuleBreak(c.RULE_FROM_POD, source=End.TARGET)
MARKED_TO_MAIN = RuleBreak(c.RULE_MARK)
SERVICE_TO_MAIN = RuleBreak(c.RULE_EXTERNAL_SERVICE)
TRANSLATE = FirewallBreak(Part.TRANSLATE)
MARK_OUTBOUND = FirewallBreak(Part.MARK_OUTBOUND)
MARK_REWRITTEN = FirewallBreak(Part.MARK_REWRITTEN)
MARK_INBOUND = FirewallBreak(Part.MARK_INBOUND)
RESTORE = FirewallBreak(Part.RESTORE)
LOOSE = SysctlBreak("net/ipv4/conf/{primary}/rp_filter", "1")
FORWARD = SysctlBreak("net/ipv4/ip_forward", "0")
FORWARD_SIX = SysctlBreak("net/ipv6/conf/all/forwarding", "0")

# Where a pod's traffic leaves the node while nothing diverts it, and what takes it there.
_ENI = {Party.POD: Leaves.PRIMARY, Party.ENI_POD: Leaves.ENI}
# A primary-ENI pod follows main, which is the node's own; what is ours is the way back.
_BY_ENI = {Party.POD: (TO_SOURCE,), Party.ENI_POD: (FROM_SOURCE, TO_SOURCE)}


def matrix() -> tuple[Row, ...]:
    """All rows, in the order of their numbers."""
    rows = [*_between_pods(), *_within_vpc(), *_cluster_ips(), *_outwards(), *_node_ports(), *_inwards(), *_node()]
    return tuple(sorted(rows, key=lambda row: row.number))


def _between_pods() -> Iterator[Row]:
    here = Case(ALWAYS, Seen.OWN, Leaves.POD_LINK, breaks=(TO_TARGET, TO_SOURCE))
    # From a secondary ENI's pod rule 512 is what keeps the packet off the wire: 1536 would send it out.
    kept_here = replace(here, breaks=(RULE_TO_TARGET, TO_TARGET, TO_SOURCE))
    yield Row(1, "secondary-to-secondary", Party.ENI_POD, Party.OTHER_ENI_POD, (kept_here,), versions=BOTH)
    yield Row(2, "primary-to-secondary", Party.POD, Party.ENI_POD, (here,), versions=BOTH)
    yield Row(2, "secondary-to-primary", Party.ENI_POD, Party.POD, (kept_here,), versions=BOTH)
    yield Row(2, "primary-to-primary", Party.POD, Party.OTHER_POD, (here,), versions=BOTH)


def _within_vpc() -> Iterator[Row]:
    for party, number in ((Party.ENI_POD, 3), (Party.POD, 4)):
        case = Case(ALWAYS, Seen.OWN, _ENI[party], breaks=_BY_ENI[party])
        yield Row(number, f"{PODS[party]}-to-far-pod", party, Party.FAR_POD, (case,), versions=BOTH)
        yield Row(number, f"{PODS[party]}-to-vpc-host", party, Party.VPC_HOST, (case,), versions=BOTH)


def _cluster_ips() -> Iterator[Row]:
    def row(number: int, name: str, source: Party, endpoint: Party, *cases: Case) -> Row:
        return Row(number, name, source, endpoint, cases, Way.CLUSTER_IP, versions=BOTH)

    for party in (Party.ENI_POD, Party.POD):
        case = Case(ALWAYS, Seen.OWN, _ENI[party], breaks=_BY_ENI[party])
        yield row(5, f"{PODS[party]}-to-service-far", party, Party.FAR_POD, case)
    here = Case(ALWAYS, Seen.OWN, Leaves.POD_LINK, breaks=(TO_TARGET, TO_SOURCE))
    kept_here = replace(here, breaks=(RULE_TO_TARGET, TO_TARGET, TO_SOURCE))
    yield row(6, "secondary-to-service-here", Party.ENI_POD, Party.OTHER_ENI_POD, kept_here)
    yield row(6, "primary-to-service-here", Party.POD, Party.ENI_POD, here)
    own = Case(ALWAYS, Seen.NODE, Leaves.POD_LINK, breaks=(TO_TARGET,), why="kube-proxy masquerades a hairpin")
    yield row(7, "secondary-to-own-service", Party.ENI_POD, Party.ENI_POD, own)
    yield row(7, "primary-to-own-service", Party.POD, Party.POD, own)
    yield row(8, "secondary-to-service-outside", Party.ENI_POD, Party.SITE, *_service_outside())
    yield row(8, "primary-to-service-outside", Party.POD, Party.SITE, _as_itself(Party.POD), *_outside(Party.POD))


def _as_itself(party: Party) -> Case:
    """With IPv6 pods leave with their own address, wherever to."""
    return Case(When(version=6), Seen.OWN, _ENI[party], breaks=_BY_ENI[party])


def _service_outside() -> Iterator[Case]:
    """A ClusterIP whose endpoint is outside the VPC, from a secondary ENI: the nat hook is used up by the DNAT, so the
    mark of outbound flows, which is a nat rule, does nothing for it. The table of `core.firewall.nftmarks` does."""
    by_node = When(external_snat=False, excluded=False, external_service=False)
    yield _as_itself(Party.ENI_POD)
    yield Case(
        by_node, Seen.NODE, Leaves.PRIMARY, translated=True, breaks=(MARKED_TO_MAIN, MARK_REWRITTEN, TRANSLATE, LOOSE)
    )
    yield from _outside_by_service_rule(Party.ENI_POD)
    yield from _untranslated(Party.ENI_POD)


def _outwards() -> Iterator[Row]:
    for party, number in ((Party.ENI_POD, 9), (Party.POD, 10)):
        cases = tuple(_outside(party))
        yield Row(number, f"{PODS[party]}-to-site", party, Party.SITE, cases)
        yield Row(number, f"{PODS[party]}-to-internet", party, Party.INTERNET, cases)
        yield Row(number, f"{PODS[party]}-to-metadata", party, Party.METADATA, cases, protocols=("tcp",))
    for party, number in ((Party.ENI_POD, 11), (Party.POD, 12)):
        case = Case(ALWAYS, Seen.OWN, _ENI[party], breaks=_BY_ENI[party])
        yield Row(number, f"{PODS[party]}-to-internet-ipv6", party, Party.INTERNET, (case,), versions=(6,))


def _outside(party: Party) -> Iterator[Case]:
    """From a pod to a place outside the VPC."""
    ours: tuple[RuleBreak | FirewallBreak | SysctlBreak, ...] = (TRANSLATE,)
    if party is Party.ENI_POD:
        ours = (MARKED_TO_MAIN, MARK_OUTBOUND, TRANSLATE, LOOSE)
    by_node = When(external_snat=False, excluded=False, external_service=False)
    yield Case(by_node, Seen.NODE, Leaves.PRIMARY, translated=True, breaks=ours)
    yield from _outside_by_service_rule(party)
    yield from _untranslated(party)


def _outside_by_service_rule(party: Party) -> Iterator[Case]:
    """With rule 1535 everything for the destination follows main, whoever sends it and whether it is marked or not."""
    by_node = When(external_snat=False, excluded=False, external_service=True)
    yield Case(by_node, Seen.NODE, Leaves.PRIMARY, translated=True, breaks=(TRANSLATE,))
    if party is Party.ENI_POD:
        why = "rule 1535 takes an address of the secondary ENI out by the primary one, where it does not belong"
        yield Case(When(external_service=True), Seen.NOBODY, why=why)


def _untranslated(party: Party) -> Iterator[Case]:
    """What leaves with the pod's own address: external SNAT, or a destination excluded from it."""
    yield Case(When(external_snat=True), Seen.OWN, _ENI[party], breaks=_BY_ENI[party])
    yield Case(When(excluded=True), Seen.OWN, _ENI[party], breaks=_BY_ENI[party])


def _node_ports() -> Iterator[Row]:
    marks = (MARK_INBOUND, RESTORE, MARKED_TO_MAIN)
    no_mark = "without NodePort support answers leave by the pod's ENI with the node's address"
    off = Case(When(node_port_support=False), Seen.NOBODY, why=no_mark)

    def rows(number: int, way: Way, seen: Seen, name: str) -> Iterator[Row]:
        to_pod = Case(ALWAYS, seen, Leaves.POD_LINK, Leaves.PRIMARY, breaks=(TO_TARGET,))
        marked = replace(to_pod, when=When(node_port_support=True), breaks=marks)
        # Answers to an external service follow main with or without a mark: with both, neither alone is needed.
        twice = replace(to_pod, when=When(node_port_support=True, external_service=True))
        by_rule = replace(to_pod, when=When(external_service=True), breaks=(SERVICE_TO_MAIN, TO_TARGET))
        to_eni = (twice, by_rule, marked, off)
        for client, where in ((Party.INTERNET, "internet"), (Party.SITE, "site"), (Party.VPC_HOST, "vpc-host")):
            yield Row(number, f"{where}-to-{name}-secondary", client, Party.ENI_POD, to_eni, way, versions=BOTH)
        yield Row(number, f"site-to-{name}-primary", Party.SITE, Party.POD, (to_pod,), way, versions=BOTH)

    yield from rows(13, Way.NODE_PORT_LOCAL, Seen.OWN, "node-port-local")
    yield from rows(14, Way.NODE_PORT, Seen.NODE, "node-port")
    through = Case(When(version=4), Seen.NODE, Leaves.PRIMARY, Leaves.PRIMARY, breaks=(FORWARD,))
    cases = (through, replace(through, when=When(version=6), breaks=(FORWARD_SIX,)))
    yield Row(15, "internet-to-node-port-far", Party.INTERNET, Party.FAR_POD, cases, Way.NODE_PORT, versions=BOTH)
    yield Row(15, "site-to-node-port-far", Party.SITE, Party.FAR_POD, cases, Way.NODE_PORT, versions=BOTH)


def _inwards() -> Iterator[Row]:
    to_eni = Case(ALWAYS, Seen.OWN, Leaves.POD_LINK, Leaves.ENI, breaks=(FROM_TARGET, TO_TARGET))
    to_pod = Case(ALWAYS, Seen.OWN, Leaves.POD_LINK, Leaves.PRIMARY, breaks=(TO_TARGET,))
    diverted = Case(When(external_service=True), Seen.NOBODY, why="rule 1535 sends the answers out by the primary ENI")
    yield Row(16, "vpc-host-to-secondary", Party.VPC_HOST, Party.ENI_POD, (to_eni,), versions=BOTH)
    yield Row(16, "vpc-host-to-primary", Party.VPC_HOST, Party.POD, (to_pod,), versions=BOTH)
    yield Row(16, "far-pod-to-secondary", Party.FAR_POD, Party.ENI_POD, (to_eni,), versions=BOTH)
    yield Row(16, "site-to-secondary", Party.SITE, Party.ENI_POD, (diverted, to_eni))
    yield Row(16, "site-to-primary", Party.SITE, Party.POD, (to_pod,))


def _node() -> Iterator[Row]:
    probe = Case(ALWAYS, Seen.OWN, Leaves.POD_LINK, breaks=(TO_TARGET,), why="what the kubelet's probes need")
    answer = Case(ALWAYS, Seen.OWN, Leaves.NOT, breaks=(TO_SOURCE,))
    for party, name in PODS.items():
        yield Row(17, f"node-to-{name}", Party.NODE, party, (probe,), versions=BOTH)
        yield Row(18, f"{name}-to-node", party, Party.NODE, (answer,), versions=BOTH)
        yield Row(18, f"{name}-to-node-eni", party, Party.NODE_ENI, (answer,), versions=BOTH)
    plain = Case(ALWAYS, Seen.OWN, Leaves.PRIMARY, why="by the node's own routes; address and port are kept")
    yield Row(19, "node-to-site", Party.NODE, Party.SITE, (plain,))
    yield Row(19, "node-to-internet", Party.NODE, Party.INTERNET, (plain,))
