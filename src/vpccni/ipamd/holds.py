# SPDX-License-Identifier: Apache-2.0
"""What EC2's refusals forbid for a while, and for how long.

Knows which error stops what: a full subnet its own requests, throttling every call, a denied or broken create the
attaching of ENIs. Must never call anything. The engine reports outcomes and hands `now_holding` to the plan.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from vpccni.aws.failure import THROTTLES
from vpccni.core.holds import Holds
from vpccni.errors import CloudError, VpcCniError

log = logging.getLogger(__name__)

# Our codes (`aws.failure`): EC2 says "full" in several ways.
SUBNET_FULL = frozenset({"subnet-empty", "subnet-fragmented"})
PREFIX_SIZE = 16
FIRST_S, SUBNET_LAST_S, CALL_LAST_S = 1.0, 120.0, 60.0
SUBNET_FIRST_S = 10.0
LOCAL_FAILURES = 3  # a wait of 4 to 8 s at most


@dataclass(slots=True)
class _Backoff:
    """An exponential wait with full jitter upwards of half, so that nodes of a fleet do not come back together."""

    first_s: float
    last_s: float
    failures: int = 0
    until: float = 0.0

    def failed(self, now: float, rng: random.Random) -> float:
        ceiling_s = min(self.last_s, self.first_s * 2**self.failures)
        self.failures += 1
        self.until = now + ceiling_s * rng.uniform(0.5, 1.0)
        return self.until


@dataclass(slots=True)
class HoldBook:
    """Holds by subnet, by ENI, for attaching, and for all calls.

    `singles`: single addresses stand in where no /28 is free. `cordoned` says why the node must not grow, "" if it may.
    """

    rng: random.Random
    paused: str = ""
    singles: bool = False
    cordoned: Callable[[], str] = lambda: ""
    last_error: VpcCniError | None = None
    _subnets: dict[str, _Backoff] = field(default_factory=dict)
    _free: dict[str, int] = field(default_factory=dict)
    _fragmented: dict[str, _Backoff] = field(default_factory=dict)
    _enis: dict[str, _Backoff] = field(default_factory=dict)
    _attach_prefixes: _Backoff = field(default_factory=lambda: _Backoff(SUBNET_FIRST_S, SUBNET_LAST_S))
    _attach: _Backoff = field(default_factory=lambda: _Backoff(FIRST_S, SUBNET_LAST_S))
    _calls: _Backoff = field(default_factory=lambda: _Backoff(FIRST_S, CALL_LAST_S))

    def now_holding(self) -> Holds:
        """For the plan."""
        return Holds(
            subnets={name: hold.until for name, hold in self._subnets.items()},
            subnet_free=dict(self._free),
            fragmented={name: hold.until for name, hold in self._fragmented.items()},
            enis={name: hold.until for name, hold in self._enis.items()},
            attach_until=self._attach.until,
            attach_prefixes_until=self._attach_prefixes.until,
            singles=self.singles,
            throttled_until=self._calls.until,
            paused=self.paused,
            cordoned=self.cordoned(),
        )

    def succeeded(self, subnet_id: str, now: float, addresses: int, *, prefixes: bool = False) -> None:
        """EC2 gave what was asked: so many addresses, as `prefixes` or singly.

        When they were the last that a subnet had, it is left alone as if it had refused.
        """
        self._calls = _Backoff(FIRST_S, CALL_LAST_S)
        free = self._free.pop(subnet_id, None)
        if free is not None and not prefixes and free <= addresses:
            self._subnets.setdefault(subnet_id, _Backoff(SUBNET_FIRST_S, SUBNET_LAST_S)).failed(now, self.rng)
            return
        self.last_error = None
        self._subnets.pop(subnet_id, None)
        if prefixes:
            self._fragmented.pop(subnet_id, None)
            self._attach_prefixes = _Backoff(SUBNET_FIRST_S, SUBNET_LAST_S)

    def attached(self) -> None:
        """An ENI was attached."""
        self._attach = _Backoff(FIRST_S, SUBNET_LAST_S)

    def subnet_has(self, subnet_id: str, free: int, now: float, error: VpcCniError) -> None:
        """A subnet could not give as much as was asked for: EC2 says so many addresses are free in it."""
        self.last_error = error
        if free > 0 and self._free.get(subnet_id) != free:
            self._free[subnet_id] = free  # the next request asks for no more than that, at once
            return
        self._free.pop(subnet_id, None)
        hold = self._subnets.setdefault(subnet_id, _Backoff(SUBNET_FIRST_S, SUBNET_LAST_S))
        hold.failed(now, self.rng)

    def no_prefix_in(self, subnet_id: str, asked: int, now: float, error: VpcCniError) -> None:
        """A subnet had not so many free /28: half as many are asked for at once, and after one, none for a while."""
        self.last_error = error
        self._free.pop(subnet_id, None)
        if asked > 1:
            self._free[subnet_id] = PREFIX_SIZE * (asked // 2)
            return
        hold = self._fragmented.setdefault(subnet_id, _Backoff(SUBNET_FIRST_S, SUBNET_LAST_S))
        hold.failed(now, self.rng)

    def no_prefix_anywhere(self, now: float, error: VpcCniError) -> None:
        """No subnet of the zone had a /28 for a new ENI."""
        self.last_error = error
        self._attach_prefixes.failed(now, self.rng)

    def eni_full(self, eni_id: str, now: float, error: VpcCniError) -> None:
        """EC2 says that an ENI holds as much as it can, although we know of room."""
        self.last_error = error
        self._enis.setdefault(eni_id, _Backoff(SUBNET_FIRST_S, SUBNET_LAST_S)).failed(now, self.rng)

    def eni_took(self, eni_id: str) -> None:
        """EC2 gave an ENI what it had refused."""
        self._enis.pop(eni_id, None)
        self.last_error = None

    def failed(self, error: VpcCniError, now: float, *, attaching: bool) -> None:
        """A step failed; everything it did was undone."""
        self.last_error = error
        code = error.aws_code if isinstance(error, CloudError) else ""
        # A call that may come through later stops all calls for a moment; one that is refused stops its own kind.
        backoff = self._attach if attaching and code not in THROTTLES else self._calls
        if error.error_code.startswith("eniconfig"):  # asks nobody but the disk
            backoff.failures = min(backoff.failures, LOCAL_FAILURES)
        until = backoff.failed(now, self.rng)
        facts = {"code": error.error_code, "aws_code": code, "again_in_s": round(until - now, 1), **error.evidence}
        log.warning("%s", error, extra={"facts": facts})
