# SPDX-License-Identifier: Apache-2.0
"""The kinds of node that are measured: settings, address family, and how the lab is brought up for them.

Knows settings of the daemon and options of `lab up`. Must never start anything. `bench.__main__` chooses from
`VARIANTS`, `bench.peers` makes nodes of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

# The pool is full before the first ADD, so that nothing waits for EC2. 735: fifteen ENIs of fifty addresses each.
POOL_ADDRESSES = 735
# The shortest with which a DEL works as it does with the default of 30 s: connections are forgotten after the answer.
COOLDOWN_S = 5
_COMMON = {
    "MINIMUM_IP_TARGET": str(POOL_ADDRESSES),
    "WARM_IP_TARGET": "1",
    "IP_COOLDOWN_PERIOD": str(COOLDOWN_S),
    "VPCCNI_MAX_PODS": str(POOL_ADDRESSES),
}
_PREFIXES = {"ENABLE_PREFIX_DELEGATION": "true"}
_IPV6 = {**_PREFIXES, "ENABLE_IPv4": "false", "ENABLE_IPv6": "true", "ENABLE_V4_EGRESS": "false"}
_SHARED = {"VPCCNI_RULE_LAYOUT": "shared"}


@dataclass(frozen=True, slots=True)
class Variant:
    """`family` is that of the pods and of the floor; `options` are further words for `vpccni lab up`."""

    name: str
    family: int = 4
    extra: Mapping[str, str] = field(default_factory=dict)
    options: tuple[str, ...] = ()

    @property
    def settings(self) -> dict[str, str]:
        """The environment of the node's daemon."""
        return {**_COMMON, **self.extra}


VARIANTS = (
    Variant("ipv4"),
    Variant("ipv4-shared", extra=_SHARED),
    Variant("prefix", extra=_PREFIXES),
    Variant("prefix-shared", extra={**_PREFIXES, **_SHARED}),
    Variant("ipv6", 6, _IPV6, ("--ipv6",)),
    Variant("ipv6-shared", 6, {**_IPV6, **_SHARED}, ("--ipv6",)),
)


def named(names: str) -> tuple[Variant, ...]:
    """The variants of a comma-separated list, each once, all for "all". Raises ValueError with those that there are."""
    known = {variant.name: variant for variant in VARIANTS}
    chosen = list(known) if names == "all" else list(dict.fromkeys(names.split(",")))
    wrong = [name for name in chosen if name not in known]
    if wrong:
        raise ValueError(f"no variant {', '.join(map(repr, wrong))}; there are {', '.join(known)}")
    return tuple(known[name] for name in chosen)
