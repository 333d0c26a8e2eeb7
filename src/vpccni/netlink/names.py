# SPDX-License-Identifier: Apache-2.0
"""The words that `ip` uses for the kernel's small numbers: scopes, tables, protocols, route and rule kinds.

Knows the default contents of iproute2's /etc/iproute2/rt_* files and the uapi numbers behind them. Must never read
those files: a node may have changed them, and our text must not depend on it. `values` prints with it, the codec maps.
"""

from __future__ import annotations

TABLE_DEFAULT, TABLE_MAIN, TABLE_LOCAL = 253, 254, 255
TABLES = {TABLE_DEFAULT: "default", TABLE_MAIN: "main", TABLE_LOCAL: "local"}

SCOPES = {"global": 0, "site": 200, "link": 253, "host": 254, "nowhere": 255}
SCOPE_NAMES = {number: name for name, number in SCOPES.items()}

PROTOCOL_KERNEL, PROTOCOL_BOOT = 2, 3
PROTOCOLS = {
    0: "unspec",
    1: "redirect",
    PROTOCOL_KERNEL: "kernel",
    PROTOCOL_BOOT: "boot",
    4: "static",
    9: "ra",
    16: "dhcp",
}

# RTN_* of linux/rtnetlink.h. "unspec" is a wildcard in deletions.
ROUTE_KINDS = {
    "unspec": 0,
    "unicast": 1,
    "local": 2,
    "broadcast": 3,
    "anycast": 4,
    "multicast": 5,
    "blackhole": 6,
    "unreachable": 7,
    "prohibit": 8,
    "throw": 9,
}
ROUTE_KIND_NAMES = {number: name for name, number in ROUTE_KINDS.items()}

# FR_ACT_* of linux/fib_rules.h. "lookup" is FR_ACT_TO_TBL.
RULE_KINDS = {"lookup": 1, "goto": 2, "nop": 3, "blackhole": 6, "unreachable": 7, "prohibit": 8}
RULE_KIND_NAMES = {number: name for name, number in RULE_KINDS.items()}

# NUD_* of linux/neighbour.h.
NEIGHBOUR_STATES = {
    "none": 0x00,
    "incomplete": 0x01,
    "reachable": 0x02,
    "stale": 0x04,
    "delay": 0x08,
    "probe": 0x10,
    "failed": 0x20,
    "noarp": 0x40,
    "permanent": 0x80,
}
NEIGHBOUR_STATE_NAMES = {number: name for name, number in NEIGHBOUR_STATES.items()}


def table_name(table: int) -> str:
    """`main`, `local`, `default`, or the number."""
    return TABLES.get(table) or str(table)


def protocol_name(protocol: int) -> str:
    """`kernel`, `boot`, `static`, ..., or the number."""
    return PROTOCOLS.get(protocol) or str(protocol)
