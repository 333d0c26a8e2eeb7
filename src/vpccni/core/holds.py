# SPDX-License-Identifier: Apache-2.0
"""What EC2's last answers and the node's state forbid for now, as a value.

Knows which request is refused until when. Must never know why in detail (`ipamd.holds` keeps the book and its reasons).
The engine passes it to `plan`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Holds:
    """Times in Unix seconds, 0 for none.

    `subnets`: subnet id -> until when it gets no request, because it had no free address.
    `subnet_free`: subnet id -> free addresses, where known; a request asks for no more than that.
    `fragmented`: subnet id -> until when it gets no request for a /28, because it had none that is free.
    `enis`: ENI id -> until when it gets no request, because EC2 says that it is full.
    `attach_until`: no ENI can be created until then (every allowed subnet is full, or EC2 refused it).
    `attach_prefixes_until`: no ENI with a /28 can be created until then.
    `singles`: whether single addresses are taken where no /28 is free (VPCCNI_PREFIX_FALLBACK).
    `throttled_until`: no EC2 call at all. `paused`: why pool changes are switched off ("" = they are not), such as a
    daemon that is stopping. `cordoned`: why the node neither grows nor frees ENIs ("" = it does); addresses that are
    over are given back all the same.
    """

    subnets: Mapping[str, float] = field(default_factory=dict)
    subnet_free: Mapping[str, int] = field(default_factory=dict)
    fragmented: Mapping[str, float] = field(default_factory=dict)
    enis: Mapping[str, float] = field(default_factory=dict)
    attach_until: float = 0.0
    attach_prefixes_until: float = 0.0
    singles: bool = False
    throttled_until: float = 0.0
    paused: str = ""
    cordoned: str = ""

    def no_prefix_until(self, now: float) -> float:
        """Until when some request for a /28 is held back; 0 when none is."""
        until = max([*self.fragmented.values(), self.attach_prefixes_until], default=0.0)
        return until if until > now else 0.0
