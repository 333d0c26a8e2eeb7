# SPDX-License-Identifier: Apache-2.0
"""What the pool says when it refuses: code, reason, evidence and next step in one place.

Knows the texts and codes of the pool's refusals. Must never decide anything. Only the pool calls it.
"""

from __future__ import annotations

from collections.abc import Sequence

from vpccni.core.grant import Grant, PodIdentity
from vpccni.core.stats import Tally
from vpccni.errors import NoAddress, Refused

_GROWING = "the pool grows in the background; the runtime retries"


def no_address(
    pod: PodIdentity, card: int, tally: Tally, rest_in_s: float | None, enis: int, unpaired: int = 0
) -> NoAddress:
    """Why no address can be had now.

    Codes: `pool-starting` (no ENI known yet), `pool-empty` (ENIs without addresses), `all-cooling` (every address
    that no pod uses was released a moment ago), `all-assigned` (every address is in use), `ipv6-prefix-missing`
    (`unpaired` ENIs of a dual-stack node wait for the /80 without which their IPv4 addresses serve nobody).
    """
    evidence: dict[str, object] = {
        "enis": enis,
        "total": tally.total,
        "assigned": tally.assigned,
        "cooling": tally.cooling,
        "available": tally.available,
    }
    if card:
        evidence["card"] = card
    if tally.lingering:
        evidence["lingering"] = tally.lingering
    if not enis:
        code, why, hint = "pool-starting", "the daemon has not found its ENIs yet", "wait until the daemon is ready"
    elif not tally.total and unpaired:
        code, why = "ipv6-prefix-missing", f"{unpaired} of {enis} ENIs have no IPv6 prefix (/80) yet"
        hint = "the daemon asks EC2 for one; if it stays like this: does the subnet have an IPv6 CIDR?"
    elif not tally.total:
        code, why, hint = "pool-empty", f"{enis} ENIs hold no address for pods", _GROWING
    elif tally.cooling:
        code = "all-cooling"
        why = f"{tally.assigned} of {tally.total} addresses are in use and the other {tally.cooling} are cooling down"
        hint = "retry after the cooldown (IP_COOLDOWN_PERIOD); a larger WARM_IP_TARGET absorbs such bursts"
        evidence["next_rest_in_s"] = None if rest_in_s is None else round(rest_in_s, 1)
    else:
        code, why, hint = "all-assigned", f"all {tally.total} addresses are in use", _GROWING
    return NoAddress(f"assign an address to {pod}", why, code=code, hint=hint, evidence=evidence)


def orphaned(pod: PodIdentity, grant: Grant) -> NoAddress:
    """The attachment has a grant from before, but EC2 has not confirmed that this node still holds the address."""
    addresses = " ".join(str(granted.address) for granted in grant.addresses)
    return NoAddress(
        f"assign an address to {pod}",
        f"its address {addresses} is not confirmed by EC2 on any ENI of this node",
        code="address-unconfirmed",
        hint="the next reconcile asks EC2; delete the pod's sandbox if it stays like this",
        evidence={"addresses": addresses, "assigned_at": grant.assigned_at},
    )


def conflict(action: str, why: str, code: str) -> Refused:
    """The change contradicts what the pool holds."""
    return Refused(action, why, code=code, hint="the pool was left as it was; reconcile against EC2")


def in_use(eni_id: str, addresses: Sequence[str]) -> Refused:
    """A change would take addresses away that pods use or used a moment ago."""
    shown = " ".join(addresses[:5]) + (" ..." if len(addresses) > 5 else "")
    return Refused(
        f"remove addresses from {eni_id}",
        f"{len(addresses)} of them are in use: {shown}",
        code="address-in-use",
        hint="release the pods first",
        evidence={"eni": eni_id, "addresses": len(addresses)},
    )
