# SPDX-License-Identifier: Apache-2.0
"""The cooldown of released addresses: an ordered queue of who was released when.

Knows addresses and release times. Must never know blocks or ENIs; an address may cool that no ENI holds any more.
Only the pool calls it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from vpccni.aws.values import IPAddress, IPNetwork

# A clock that steps back by more than this was set; smaller steps are callers that read the time a little earlier.
_CLOCK_STEP_S = 5.0


class Cooldown:
    """Addresses by release time. At exactly `period_s` an address still cools, as in Amazon VPC CNI."""

    def __init__(self, period_s: float) -> None:
        self.period_s = period_s
        self._released: OrderedDict[IPAddress, float] = OrderedDict()
        self._latest = float("-inf")

    def __contains__(self, address: object) -> bool:
        return address in self._released

    def __len__(self) -> int:
        return len(self._released)

    def start(self, address: IPAddress, released_at: float) -> None:
        """The address cools from `released_at` on; out of order only for what a journal restores."""
        last = next(reversed(self._released), None)
        self._released[address] = released_at
        if last is not None and self._released[last] > released_at:
            self._released = OrderedDict(sorted(self._released.items(), key=lambda item: item[1]))

    def stop(self, address: IPAddress) -> bool:
        """The address turned out to have an owner; whether it was cooling."""
        return self._released.pop(address, None) is not None

    def ended(self, now: float) -> Sequence[IPAddress]:
        """Take out every address whose cooldown is over, the longest released first. Called before anything is looked
        at, so nothing having ended is the quick case."""
        self._follow(now)
        over: list[IPAddress] = []
        for address, released_at in self._released.items():
            if not now > released_at + self.period_s:
                break
            over.append(address)
        for address in over:
            del self._released[address]
        return over

    def next_rest(self) -> float | None:
        """The first instant at which an address has rested. A microsecond after the period, which is inclusive."""
        first = next(iter(self._released.values()), None)
        return None if first is None else first + self.period_s + 1e-6

    def rests_in(self, now: float) -> float | None:
        """Seconds until the first address has rested."""
        rest = self.next_rest()
        return None if rest is None else max(0.0, rest - now)

    def released(self) -> dict[IPAddress, float]:
        """A copy: address -> release time, oldest first."""
        return dict(self._released)

    def within(self, network: IPNetwork) -> list[IPAddress]:
        """The cooling addresses of a network, oldest first."""
        return [address for address in self._released if address in network]

    def _follow(self, now: float) -> None:
        """Wall clocks get set back; shift everything with them, or addresses would cool for as long as the step."""
        if now >= self._latest:
            self._latest = now
            return
        step_s = now - self._latest
        if step_s < -_CLOCK_STEP_S:
            self._released = OrderedDict((address, at + step_s) for address, at in self._released.items())
            self._latest = now
