# SPDX-License-Identifier: Apache-2.0
"""`vpccni instance-types`: what describe-instance-types says of interfaces and addresses, without an account.

Knows patterns and how a table of types is printed. Must never know where the numbers come from: `core.limits` does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from vpccni.aws.values import InstanceLimits
from vpccni.cli.output import Format, OutputOption, say, show
from vpccni.core import limits as types
from vpccni.core.maxpods import max_pods
from vpccni.errors import InputError

COLUMNS = [
    "type", "vCPUs", "ENIs", "IPv4/ENI", "IPv6/ENI", "cards", "hypervisor", "bare metal", "branches",
    "max pods", "prefixes", "custom", "custom+prefixes",
]  # fmt: skip


def instance_types(
    patterns: Annotated[list[str], typer.Argument(metavar="PATTERN...", help="such as m5.large, 'c7i.*' or '*.metal'")],
    output: OutputOption = Format.TABLE,
) -> None:
    """List what instance types allow: ENIs, addresses, network cards, and the max pods of each mode."""
    found = matching(patterns)
    rows = [_row(limits) for limits in found]
    show(output, rows, COLUMNS, [_cells(row) for row in rows])
    if output is Format.TABLE:
        say(f"{len(rows)} types; ENIs are those of the default network card; max pods with the caps of 110 and 250")


def matching(patterns: Sequence[str]) -> list[InstanceLimits]:
    """The types that match any of the patterns, in the patterns' order; InputError for patterns without a match."""
    found: dict[str, InstanceLimits] = {}
    empty = []
    for pattern in patterns:
        before = list(types.matching(pattern.lower()))
        if not before:
            empty.append(pattern)
        found.update((limits.instance_type, limits) for limits in before if limits.instance_type not in found)
    if empty:
        raise InputError(
            "list instance types",
            f"no type matches {', '.join(map(repr, empty))}",
            code="unknown-instance-type",
            hint=_suggestion(empty),
            evidence={"table": types.source()},
        )
    return list(found.values())


def _suggestion(patterns: Sequence[str]) -> str:
    """What may have been meant: families for a pattern, types for a name."""
    close: list[str] = []
    for pattern in patterns:
        if "." not in pattern and any(types.matching(f"{pattern.strip('*')}.*")):
            close.insert(0, f"{pattern.strip('*')}.*")
            continue
        family, _, size = pattern.partition(".")
        names = types.close_to(f"{family}.{size.strip('*') or 'large'}")
        wild = bool(set("*?[") & set(pattern))
        close += [f"{name.partition('.')[0]}.*" if wild else name for name in names]
    shown = [f"'{name}'" if "*" in name else name for name in dict.fromkeys(close)]
    return f"did you mean {', '.join(shown[:5])}?" if shown else "vpccni instance-types '*' lists all"


def _row(found: InstanceLimits) -> dict[str, Any]:
    def pods(**options: bool) -> dict[str, int]:
        result = max_pods(found, **options)
        return {"recommended": result.recommended, "uncapped": result.uncapped}

    return {
        "instance_type": found.instance_type,
        "vcpus": found.vcpus or None,
        "max_enis": found.max_enis,
        "ipv4_per_eni": found.ipv4_per_eni,
        "ipv6_per_eni": found.ipv6_per_eni,
        "network_cards": [{"card": card.card, "max_enis": card.max_enis} for card in found.cards],
        "total_enis": found.total_enis,
        "hypervisor": found.hypervisor,
        "bare_metal": found.bare_metal,
        "prefixes": found.supports_prefixes,
        "branches": types.branches(found.instance_type),
        "max_pods": {
            "default": pods(),
            "prefix": pods(prefix_delegation=True),
            "custom": pods(custom_networking=True),
            "custom_prefix": pods(custom_networking=True, prefix_delegation=True),
        },
    }


def _cells(row: dict[str, Any]) -> list[object]:
    cards, pods = row["network_cards"], row["max_pods"]
    same = len({card["max_enis"] for card in cards}) == 1
    shape = f"{len(cards)} x {cards[0]['max_enis']}" if same else " + ".join(str(card["max_enis"]) for card in cards)
    return [
        row["instance_type"], row["vcpus"], row["max_enis"], row["ipv4_per_eni"], row["ipv6_per_eni"], shape,
        row["hypervisor"], "yes" if row["bare_metal"] else "no", row["branches"],
        pods["default"]["recommended"], pods["prefix"]["recommended"] if row["prefixes"] else "-",
        pods["custom"]["recommended"], pods["custom_prefix"]["recommended"] if row["prefixes"] else "-",
    ]  # fmt: skip
