# SPDX-License-Identifier: Apache-2.0
"""Session tokens of the metadata service, version 2.

Knows their life times (EC2 user guide: 1 second to 6 hours). Must never know HTTP; `lab.imds.service` calls it.
"""

from __future__ import annotations

import base64
import random

MIN_TTL_S, MAX_TTL_S = 1, 21600


class Tokens:
    """Tokens that were issued and when they end. Expired ones are forgotten as new ones are issued."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._ends_at: dict[str, float] = {}

    def issue(self, now: float, ttl_s: int) -> str:
        """A new token that is good for `ttl_s` seconds. Raises ValueError outside 1..21600."""
        if not MIN_TTL_S <= ttl_s <= MAX_TTL_S:
            raise ValueError(f"{ttl_s} s is outside {MIN_TTL_S}..{MAX_TTL_S}")
        self._ends_at = {token: end for token, end in self._ends_at.items() if end > now}
        token = base64.urlsafe_b64encode(b"\0\4\0" + self._rng.randbytes(37)).decode()
        self._ends_at[token] = now + ttl_s
        return token

    def valid(self, now: float, token: str) -> bool:
        """Whether the token was issued here and has not ended."""
        return self._ends_at.get(token, now) > now
