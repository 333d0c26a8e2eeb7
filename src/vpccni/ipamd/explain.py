# SPDX-License-Identifier: Apache-2.0
"""Why an ADD has to wait: the pool's refusal joined with what keeps the pool from growing.

Knows the texts of both. Must never decide anything. The same sentence goes into the CNI error, the log and the pod's
event, so that nobody has to read three places to learn that a subnet is full.
"""

from __future__ import annotations

from collections.abc import Sequence

from vpccni.core.steps import Wait
from vpccni.errors import NoAddress, VpcCniError

_HINTS = {
    "ipv6-prefix-refused": "see what EC2 said below; without a /80 beside them no IPv4 address is handed out",
    "eni-full": "see what EC2 said below; the daemon reads the ENI again and uses others meanwhile",
    "subnet-fragmented": "reserve a range for prefixes in the subnet, or set VPCCNI_PREFIX_FALLBACK=true",
    "subnet-hold": "free addresses in the subnet, or tag another one of this zone with kubernetes.io/role/cni=1",
    "eni-limit": "this instance type is full: use a larger type, more nodes, or a lower max-pods for kubelet",
    "max-eni": "raise MAX_ENI, or add nodes",
    "attach-blocked": "see what EC2 said below; the daemon tries again by itself",
    "throttled": "nothing to do: the daemon backs off and tries again",
    "cordoned": "uncordon the node, or set AWS_MANAGE_ENIS_NON_SCHEDULABLE=true",
    "paused": "switch provisioning on again, or assign addresses from outside",
}
# What of several obstacles is told first: what keeps attached ENIs from being filled, then what keeps more from coming.
_ORDER = tuple(_HINTS)


def explained(refusal: NoAddress, waits: Sequence[Wait], error: VpcCniError | None) -> NoAddress:
    """`refusal` with the most telling obstacle: its code, its numbers, EC2's last refusal, and the next step.

    Unchanged when nothing stands in the way of growth, or when addresses only have to cool down.
    """
    known = [wait for wait in waits if wait.code in _HINTS]
    if not known or refusal.error_code == "all-cooling":
        return refusal
    wait = min(known, key=lambda each: _ORDER.index(each.code))
    evidence, cni = dict(refusal.evidence), refusal.cni_error_code
    hint, code = _HINTS[wait.code], wait.code
    if error is not None and wait.code in (
        "ipv6-prefix-refused",
        "subnet-hold",
        "subnet-fragmented",
        "eni-full",
        "attach-blocked",
        "throttled",
    ):
        evidence["ec2"] = f'"{error}"'
        hint, code = error.hint or hint, error.error_code
    return NoAddress(
        refusal.action, f"{refusal.why}; {wait.reason}", code=code, hint=hint, evidence=evidence, cni_code=cni
    )
