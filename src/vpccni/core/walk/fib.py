# SPDX-License-Identifier: Apache-2.0
"""Which rule and which route decide about a packet, as the kernel's policy routing does.

Knows selectors of rules, longest prefixes, metrics, jumps and suppression. Must never know what any priority or table
means: it works from rules and routes as they were observed, whoever made them. `walk` calls it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from vpccni.netlink.values import IPAddress, Route, Rule

REFUSING = ("blackhole", "unreachable", "prohibit")


@dataclass(frozen=True, slots=True)
class Question:
    """What routing looks at. `iif` is `lo` for packets of the machine itself, `oif` empty unless a socket is bound."""

    source: IPAddress
    target: IPAddress
    mark: int = 0
    iif: str = "lo"
    oif: str = ""


@dataclass(frozen=True, slots=True)
class Choice:
    """The rule and the route that decide; both None when nothing matches. `without` are rules that matched and whose
    table had no route, `passed` counts the rules that did not match."""

    rule: Rule | None = None
    route: Route | None = None
    without: tuple[Rule, ...] = ()
    passed: int = 0

    @property
    def refused(self) -> bool:
        """Whether there is no way on."""
        return self.route is None or self.route.kind in REFUSING


def choose(rules: Iterable[Rule], routes: Sequence[Route], question: Question) -> Choice:
    """Walk the rules in order of priority until a route is found."""
    without: list[Rule] = []
    passed = skip_to = 0
    version = question.target.version
    own = sorted((rule for rule in rules if rule.family == version), key=lambda rule: rule.priority)
    for rule in own:
        if rule.priority < skip_to:
            continue
        if not _matches(rule, question):
            passed += 1
        elif rule.kind == "goto":
            skip_to = rule.target
        elif rule.kind in REFUSING:
            return Choice(rule, None, tuple(without), passed)
        elif rule.kind == "lookup":
            route = best(routes, rule.table, question.target)
            if route is not None and route.kind != "throw" and not _suppressed(rule, route):
                return Choice(rule, route, tuple(without), passed)
            without.append(rule)
    return Choice(None, None, tuple(without), passed)


def best(routes: Iterable[Route], table: int, target: IPAddress) -> Route | None:
    """The route of a table with the longest prefix, of equals the one with the lowest metric."""
    fitting = (route for route in routes if route.table == table and _contains(route, target))
    return min(fitting, key=lambda route: (-route.dst.prefixlen, route.metric), default=None)


def _contains(route: Route, target: IPAddress) -> bool:
    return route.dst.version == target.version and target in route.dst


def _suppressed(rule: Rule, route: Route) -> bool:
    return rule.suppress_prefixlength is not None and route.dst.prefixlen <= rule.suppress_prefixlength


def _matches(rule: Rule, question: Question) -> bool:
    return (
        (rule.src is None or question.source in rule.src)
        and (rule.dst is None or question.target in rule.dst)
        and (question.mark & rule.fwmask) == rule.fwmark
        and (not rule.iif or rule.iif == question.iif)
        and (not rule.oif or rule.oif == question.oif)
    )
