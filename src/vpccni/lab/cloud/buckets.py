# SPDX-License-Identifier: Apache-2.0
"""EC2's request throttling: one token bucket per account, Region and API action.

Knows the sizes that AWS publishes (EC2 developer guide, "Request throttling") and which bucket a call draws from. Must
never know a clock or what a call does: the moment is an argument. The box's admission and the simulator's cloud share
it; a refused call answers RequestLimitExceeded, HTTP 503.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from vpccni.lab.cloud.errors import throttled

READ_VERBS = ("Describe", "List", "Get", "Search")
UNFILTERED = ":unfiltered"  # the second, smaller bucket of some describes


@dataclass(frozen=True, slots=True)
class Size:
    """Of a bucket: it holds at most `burst` tokens and gains `refill_per_s`."""

    burst: float
    refill_per_s: float


READ = Size(100, 20)
READ_EVERYTHING = Size(50, 10)  # neither filtered nor paginated
CHANGE = Size(50, 5)  # also AttachNetworkInterface, DetachNetworkInterface, UnassignIpv6Addresses, trunk association

# Actions whose describe has a bucket of its own when it asks for everything at once.
EVERYTHING = frozenset(
    {
        "DescribeInstances",
        "DescribeInstanceStatus",
        "DescribeNetworkInterfaces",
        "DescribeSecurityGroups",
        "DescribeSnapshots",
        "DescribeSpotInstanceRequests",
        "DescribeVolumes",
    }
)
SIZES: Mapping[str, Size] = {
    **dict.fromkeys(
        (
            "CreateNetworkInterface",
            "DeleteNetworkInterface",
            "ModifyNetworkInterfaceAttribute",
            "AssignPrivateIpAddresses",
            "UnassignPrivateIpAddresses",
            "AssignIpv6Addresses",
            "TerminateInstances",
        ),
        Size(100, 5),
    ),
    **dict.fromkeys(("CreateTags", "DeleteTags"), Size(100, 10)),
    **dict.fromkeys(("CreateSubnetCidrReservation", "DeleteSubnetCidrReservation"), Size(5, 1)),
    **dict.fromkeys(("RunInstances", "StartInstances"), Size(5, 2)),
}
# Counted in instances, beside the requests.
RESOURCES: Mapping[str, Size] = {
    **dict.fromkeys(("RunInstances", "StartInstances"), Size(1000, 2)),
    **dict.fromkeys(("TerminateInstances", "StopInstances"), Size(1000, 20)),
}


@dataclass(slots=True)
class Bucket:
    """Tokens that come back with time. It starts full."""

    burst: float
    refill_per_s: float
    _tokens: float = field(init=False)
    _at: float | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        """Full."""
        self._tokens = self.burst

    def tokens(self, now: float) -> float:
        """What it holds at `now` (seconds; a clock that goes back adds nothing)."""
        if self._at is not None and now > self._at:
            self._tokens = min(self.burst, self._tokens + (now - self._at) * self.refill_per_s)
        if self._at is None or now > self._at:
            self._at = now
        return self._tokens

    def take(self, now: float, n: float = 1) -> bool:
        """Take `n` tokens, or none and False. Refused calls cost nothing."""
        # A clock adds 0.1 ten times and gets less than 1: do not refuse what is owed.
        if self.tokens(now) + 1e-9 < n:
            return False
        self._tokens = max(0.0, self._tokens - n)
        return True

    def wait_s(self, now: float, n: float = 1) -> float:
        """Seconds until `n` tokens are there; 0.0 when they are, infinity when they never will be."""
        missing = n - self.tokens(now)
        if missing <= 1e-9:
            return 0.0
        if n > self.burst or self.refill_per_s <= 0:
            return float("inf")
        return missing / self.refill_per_s


def published(action: str) -> Size:
    """The published size of an action's bucket; `UNFILTERED` appended: of its describe-everything."""
    if action.endswith(UNFILTERED):
        return READ_EVERYTHING
    return SIZES.get(action) or (READ if action.startswith(READ_VERBS) else CHANGE)


def bucket_of(action: str, *, filtered: bool = True) -> str:
    """The name of the bucket that a call draws from. `filtered`: it names ids or filters, or asks for a page."""
    return action if filtered or action not in EVERYTHING else action + UNFILTERED


class Buckets:
    """All buckets of one account in one Region, made when first drawn from."""

    def __init__(self, size_of: Callable[[str], Size] = published) -> None:
        """`size_of(bucket name)`: other sizes than the published ones, for a profile or a test."""
        self._size_of = size_of
        self._buckets: dict[str, Bucket] = {}
        self._resources: dict[str, Bucket] = {}

    def bucket(self, name: str) -> Bucket:
        """The bucket of this name (`bucket_of`)."""
        found = self._buckets.get(name)
        if found is None:
            size = self._size_of(name)
            found = self._buckets[name] = Bucket(size.burst, size.refill_per_s)
        return found

    def take(self, action: str, now: float, *, filtered: bool = True, resources: int = 0) -> bool:
        """Whether a call may go on at `now`. `resources`: how many instances it starts, stops or terminates."""
        bucket = self.bucket(bucket_of(action, filtered=filtered))
        counted = self._counted(action) if resources else None
        if counted is not None and counted.wait_s(now, resources) > 0:
            return False
        if not bucket.take(now):
            return False
        return counted is None or counted.take(now, resources)

    def admit(self, action: str, now: float, *, filtered: bool = True, resources: int = 0) -> None:
        """`take`, raising RequestLimitExceeded."""
        if not self.take(action, now, filtered=filtered, resources=resources):
            raise throttled()

    def levels(self, now: float) -> dict[str, float]:
        """Tokens left in every bucket that has been drawn from, by name."""
        return {name: bucket.tokens(now) for name, bucket in sorted(self._buckets.items())}

    def _counted(self, action: str) -> Bucket | None:
        size = RESOURCES.get(action)
        if size is None:
            return None
        return self._resources.setdefault(action, Bucket(size.burst, size.refill_per_s))
