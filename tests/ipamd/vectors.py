# SPDX-License-Identifier: Apache-2.0
"""The warm-pool vectors of Amazon VPC CNI 1.23 as tables: settings, a state, and what the node holds afterwards.

A state is written `attached/used` per ENI, the primary first; in prefix mode as the pods on each prefix. Rows that end
in a note differ on purpose; the note says what upstream does. Two tests execute them: in virtual time against engine
and cloud model, and in a lab through the real daemon and the EC2 API.
"""

from __future__ import annotations

SHORT = {
    "AssignPrivateIpAddresses": "assign",
    "CreateNetworkInterface": "attach",
    "UnassignPrivateIpAddresses": "unassign",
    "DetachNetworkInterface": "free",
}


def env(we: int = 1, wi: int = 0, mi: int = 0, wp: int | None = None, pods: int = 100_000) -> dict[str, str]:
    chosen = {"WARM_ENI_TARGET": we, "WARM_IP_TARGET": wi, "MINIMUM_IP_TARGET": mi, "VPCCNI_MAX_PODS": pods}
    if wp is not None:
        chosen["WARM_PREFIX_TARGET"] = wp
    return {name: str(value) for name, value in chosen.items()}


def pd(**targets: int) -> dict[str, str]:
    return {**env(**{"wp": 0, **targets}), "ENABLE_PREFIX_DELEGATION": "true"}


def states(text: str) -> list[tuple[int, list[int]]]:
    return [(int(a), [1] * int(b)) for a, b in (part.split("/") for part in text.split())]


# id, settings, state, blocks by ENI afterwards, calls, what upstream does instead
SECONDARY = [
    ("A1", env(), "0/0", [9], ["assign"], ""),
    ("A2", env(), "9/0", [9], [], ""),
    ("A3", env(), "9/1", [9, 9], ["attach"], ""),
    ("A4", env(), "9/9 9/0", [9, 9], [], ""),
    ("A5", env(), "9/0 9/0", [9], ["free"], ""),
    ("A7", env(), "9/9 9/9 9/9", [9, 9, 9], [], ""),
    ("A8", env(0), "9/8", [9], [], ""),
    ("A9", env(0), "9/9", [9, 9], ["attach"], ""),
    ("A10", env(0), "9/9 9/0", [9, 9], [], "frees E1 and attaches it again for ever"),
    ("A11", env(1, 2), "0/0", [2], ["assign"], ""),
    ("A12", env(1, 2, 5), "0/0", [5], ["assign"], ""),
    ("A14", env(1, 2, 5), "5/4", [6], ["assign"], ""),
    ("A15", env(1, 2, 5), "9/2", [5], ["unassign"], ""),
    ("A16", env(1, 2, 5), "9/6", [8], ["unassign"], ""),
    ("A18", env(1, 0, 5), "5/5", [6], ["assign"], "nothing; the sixth pod can never start"),
    ("A19", env(1, 0, 5), "9/5", [6], ["unassign"], "gives four back, nothing is left for the next pod"),
    ("A21", env(1, 3, 12), "9/0", [9, 3], ["attach"], ""),
    ("A22", env(1, 30), "0/0", [9, 9, 9], ["assign", "attach", "attach"], "the same in three ticks"),
    ("A23", env(pods=9), "9/9", [9], [], ""),
    ("A28", env(1, 1, 1), "6/5 4/0", [6], ["free"], "this, or at random two calls and two ENIs for ever"),
]

PREFIX = [
    ("P1", pd(wp=1), [[]], [1], ["assign"], ""),
    ("P2", pd(wp=1), [[0]], [1], [], ""),
    ("P3", pd(wp=1), [[1]], [2], ["assign"], ""),
    ("P4", pd(wp=1), [[1, 0]], [2], [], ""),
    ("P5", pd(wp=1), [[8, 8]], [2], [], ""),
    ("P7", pd(wp=1), [[1, 0, 0]], [2], ["unassign"], ""),
    ("P8", pd(wp=3), [[]], [3], ["assign"], ""),
    ("P10", pd(wi=1, mi=1), [[16]], [2], ["assign"], ""),
    ("P11", pd(wi=16), [[0]], [1], [], ""),
    ("P13", pd(wi=5, mi=20), [[]], [2], ["assign"], ""),
    ("P14", pd(wi=5, mi=20), [[0, 0, 0]], [2], ["unassign"], ""),
    ("P15", pd(wi=15), [[1, 1, 1]], [3], [], ""),
    ("P17", pd(wp=1), [[16, 16, 16]], [3, 1], ["attach"], ""),
    ("P19", pd(wi=1, mi=1, wp=1), [[1], [0]], [1], ["free"], "gives the prefix back and keeps the empty ENI"),
    ("P20", pd(wi=1, mi=1), [[1], []], [1], ["free"], "keeps the empty ENI: it wants 16 free elsewhere"),
    ("P21", pd(mi=16), [[16]], [2], ["assign"], "nothing, though no address is left"),
]

# type, settings, pods -> blocks by ENI; pods arrive one every 5 s
STEADY = [
    ("t3.small WE1", "t3.small", env(), {0: [3], 1: [3, 3], 3: [3, 3], 4: [3] * 3, 5: [3] * 3, 9: [3] * 3}),
    ("t3.small WI1 MI1", "t3.small", env(1, 1, 1), {0: [1], 1: [2], 5: [3, 3], 9: [3, 3, 3]}),
    ("t3.small WI2 MI5", "t3.small", env(1, 2, 5), {0: [3, 2], 5: [3, 3, 1], 9: [3, 3, 3]}),
    ("p3dn WE1", "p3dn.24xlarge", env(), {0: [49], 3: [49, 49], 95: [49] * 3}),
    # upstream stays at 10, and the 11th pod fails for ever
    ("p3dn MI10 only", "p3dn.24xlarge", env(1, 0, 10), {0: [10], 9: [10], 10: [11]}),
    ("m5.large WE2", "m5.large", env(2), {0: [9, 9], 1: [9] * 3, 9: [9] * 3, 10: [9] * 3}),
    ("m5.large WI3", "m5.large", env(1, 3), {0: [3], 5: [8], 8: [9, 2]}),
    # upstream fills the third ENI: 42 addresses for 29 pods
    ("m5.xlarge WE1 max pods 29", "m5.xlarge", env(pods=29), {0: [14], 1: [14, 14], 15: [14, 14, 1], 29: [14, 14, 1]}),
    ("PD t3.small WP1", "t3.small", pd(wp=1), {0: [1], 5: [2], 17: [3], 58: [3, 2]}),
    ("PD t3.small WI1 MI1", "t3.small", pd(wi=1, mi=1), {0: [1], 5: [1], 17: [2], 58: [3, 1]}),
    ("PD p3dn WP1", "p3dn.24xlarge", pd(wp=1), {0: [1], 3: [2], 95: [7]}),
    ("PD p3dn WI5 MI10", "p3dn.24xlarge", pd(wi=5, mi=10), {0: [1], 7: [1], 15: [2], 45: [4]}),
]
