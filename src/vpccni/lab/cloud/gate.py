# SPDX-License-Identifier: Apache-2.0
"""Whether a call gets through: throttled, denied, failed by a script, or lost on the way there or back.

Knows the faults that concern one call at a time and counts for them. Must never wait or know a transport: it raises,
and the endpoint or `lab.cloud.direct` makes of it what their callers see. One gate stands before one cloud.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping
from typing import Any

from vpccni.lab.cloud.buckets import Buckets, Size, published
from vpccni.lab.cloud.errors import ApiError
from vpccni.lab.cloud.faults import ANY, NO_FAULTS, Chances, Faults, Script

# Of codes that are not the caller's fault (EC2 API reference, "Server error codes"). Every other one is 400.
STATUS = {
    "InternalError": 500,
    "InternalFailure": 500,
    "RequestLimitExceeded": 503,
    "ServiceUnavailable": 503,
    "Unavailable": 503,
    "UnauthorizedOperation": 403,
}
# Parameters that make a describe cheap for EC2: it has a second, smaller bucket for calls without any of them.
_FILTERS = ("Filters", "MaxResults", "NextToken")


class Lost(Exception):
    """The connection broke. `effect` says whether the call had its effect all the same; the caller cannot know."""

    def __init__(self, action: str, *, effect: bool) -> None:
        super().__init__(f"{action}: the connection broke {'after' if effect else 'before'} the effect")
        self.effect = effect


def is_filtered(parameters: Mapping[str, Any]) -> bool:
    """Whether a describe says what it is about, by ids, filters or a page size."""
    return any(name in _FILTERS or name.endswith(("Ids", "Names")) for name in parameters)


class Gate:
    """The faults of calls, for one account. `faults` may be replaced at any time; counters and buckets start anew."""

    def __init__(self, rng: random.Random, faults: Faults = NO_FAULTS) -> None:
        self._rng = rng
        self.faults = faults

    @property
    def faults(self) -> Faults:
        """What is in force."""
        return self._faults

    @faults.setter
    def faults(self, faults: Faults) -> None:
        old = getattr(self, "_faults", None)
        self._faults = faults
        if old is None or old.throttle != faults.throttle:
            self.buckets = Buckets(self._size_of)
        if old is None or old.error != faults.error:
            self._seen: Counter[Script] = Counter()

    def _size_of(self, name: str) -> Size:
        size, factor = published(name), self._faults.throttle or 1.0
        # At least one token, or nothing would ever pass.
        return Size(max(1.0, size.burst * factor), size.refill_per_s * factor)

    def before(self, action: str, now: float, *, filtered: bool = True, resources: int = 0) -> None:
        """To be asked before the effect. Raises ApiError, or Lost.

        The order is EC2's: a call that never arrives costs no token, a call that is throttled is not looked at.
        """
        if self._hit(self._faults.lost_request, action):
            raise Lost(action, effect=False)
        if self._faults.throttle is not None:
            self.buckets.admit(action, now, filtered=filtered, resources=resources)
        if action in self._faults.deny or ANY in self._faults.deny:
            raise ApiError("UnauthorizedOperation", "You are not authorized to perform this operation.", 403)
        for script in self._faults.error:
            if script.action in (action, ANY) and self._due(script):
                raise ApiError(script.code, f"Injected into {action}.", STATUS.get(script.code, 400))

    def after(self, action: str) -> None:
        """To be asked after the effect, with an answer in hand. Raises Lost."""
        if self._hit(self._faults.lost_reply, action):
            raise Lost(action, effect=True)

    def _due(self, script: Script) -> bool:
        if script.probability:
            return self._rng.random() < script.probability
        self._seen[script] += 1
        return self._seen[script] == script.nth or self._seen[script] <= script.first

    def _hit(self, chances: Chances, action: str) -> bool:
        """The action's own probability, or that of `*`. Nothing is drawn when there is none: seeds stay comparable."""
        probability = dict(chances).get(action, dict(chances).get(ANY, 0.0))
        return probability > 0 and self._rng.random() < probability
