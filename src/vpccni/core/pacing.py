# SPDX-License-Identifier: Apache-2.0
"""When the next EC2 call of an action may be made, so that a fleet that cannot see itself shares one account's rate.

Knows the published sizes of EC2's token buckets and what this node has seen of them: admissions and throttles. Must
never read a clock or draw a number: the moment and a draw from [0, 1) are arguments. The daemon asks before each call
and reports how it went; the simulator does the same for a thousand nodes.

The rule. A call is made at once until EC2 says RequestLimitExceeded: a lone node never waits. Then:

- A node that knows its place among those that start with it (`core.census`) has a slot: the moment at which the
  account's tightest bucket, AttachNetworkInterface's, serves that place. It does everything that needs tokens in and
  after its slot. Slots at that pace are below every other bucket's, so that calls are admitted almost always.
- Without a place, full jitter over a window that doubles with every refusal in a row of the same action.
- While an action is refused, only one call of it is made at a time, spaced, however many steps want one.

The one thing that cannot be had cheaply is the place itself: all nodes ask for it at once. Reads are admitted four
times as fast as changes, so the queue for it is gone while the first quarter of the slots passes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from vpccni.core.census import YOUNG_S, Place
from vpccni.core.stats import Tally

READ_VERBS = ("Describe", "List", "Get", "Search")


@dataclass(frozen=True, slots=True)
class Rate:
    """A token bucket per account, Region and action: `burst` tokens at most, `refill_per_s` new ones."""

    burst: float
    refill_per_s: float


# EC2 developer guide, "Request throttling for the Amazon EC2 API".
READ = Rate(100, 20)
CHANGE = Rate(50, 5)  # what is not listed: AttachNetworkInterface, DetachNetworkInterface
RATES: Mapping[str, Rate] = {
    **dict.fromkeys(
        (
            "CreateNetworkInterface",
            "DeleteNetworkInterface",
            "ModifyNetworkInterfaceAttribute",
            "AssignPrivateIpAddresses",
            "UnassignPrivateIpAddresses",
            "AssignIpv6Addresses",
        ),
        Rate(100, 5),
    ),
    **dict.fromkeys(("CreateTags", "DeleteTags"), Rate(100, 10)),
}

FIRST_S, LAST_S = 5.0, 120.0  # windows without a place
# Windows of a node that was admitted nowhere yet and so knows nothing: as many others may be in the same position.
FIRST_READ_S, LAST_READ_S = 20.0, 40.0
PACE = 0.97  # slots are served a little slower than EC2 could, or every call that comes late finds an empty bucket
MISSED_S, MISSED_GROWTH = 10.0, 1.5  # windows of a node whose slot has passed: it must be about its turn
MARGIN_S = 15.0  # after the last refusal of a read, for which the queue is still taken to have been full
LONGEST_S = 300.0  # what is inferred without a place is not trusted further: EC2 may have been out, not busy
QUIET_S = 300.0  # without a refusal for so long, the next one begins a new episode
GATHER_S = 2.0  # Amazon VPC CNI 1.23 looks every 5 s, which gathers too, but also when nothing is left
HURRY_S = 0.5  # the same when pods have been refused already
SPACING_S = 1.0  # between two calls of an action that is being refused


def rate_of(action: str) -> Rate:
    """The published bucket of an action."""
    return RATES.get(action) or (READ if action.startswith(READ_VERBS) else CHANGE)


def is_read(action: str) -> bool:
    """Whether the action changes nothing."""
    return action.startswith(READ_VERBS)


def act_at(short_since: float, tally: Tally, spare: int, now: float) -> float:
    """When a pool that is short is to grow: a moment after it became short, so that one call brings what pods that
    come together need. At once when less than half of the spare addresses are left and nobody was refused yet; pods
    that were refused ask again in seconds, and others may be refused right behind them."""
    if tally.waiting:
        return max(now, short_since + HURRY_S)
    return now if tally.available * 2 < spare else max(now, short_since + GATHER_S)


def serving_s(fleet: int, rate: Rate = CHANGE) -> float:
    """How long a bucket needs to admit one call of each of so many nodes, all of which ask at once."""
    return max(0.0, (fleet - rate.burst) / rate.refill_per_s)


def turn_s(rank: int) -> float:
    """When a node of that place has its turn, after the first one started."""
    return serving_s(rank) / PACE


@dataclass(slots=True)
class _Action:
    refused: int = 0  # in a row
    until: float = 0.0


@dataclass(slots=True)
class Pacer:
    """One node's view of the account's buckets. All times are seconds on one clock."""

    _actions: dict[str, _Action] = field(default_factory=dict)
    _slot: float = 0.0
    _turn: float | None = None  # when the account serves this node's place, if that is known
    _told_at: float = 0.0
    _began: float | None = None  # when this node's first call was made, the first ever or the first after a quiet time
    _refused_at: float = float("-inf")
    _served: bool = False  # a change was admitted: this node is under way

    def told(self, place: Place, now: float) -> None:
        """This node's place among those that start now. It counts for as long as an instance is young."""
        began = now if self._began is None else self._began
        self._turn, self._told_at = began - place.lead_s + turn_s(place.rank), now
        if self._refused_at >= began and not self._served:  # there is a queue; otherwise the first refusal will tell
            self._slot = self._turn  # instead of what was inferred from the queue

    def free_at(self, action: str, now: float) -> float:
        """When a call could be made; nothing is reserved. A step whose first call must wait is better planned anew at
        that time than begun now: what the node needs by then goes into one call."""
        state = self._actions.get(action)
        return max(now, self._slot, state.until if state else 0.0)

    def reserve(self, action: str, now: float) -> float:
        """When the call may be made: `now`, or later while EC2 refuses. Every call reserves once, then is made."""
        if self._began is None or now - max(self._refused_at, self._slot, self._began) > QUIET_S:
            self._began = now
        at = self.free_at(action, now)
        state = self._actions.get(action)
        if state is not None and state.refused:
            state.until = at + SPACING_S
        return at

    def admitted(self, action: str, now: float) -> None:
        """EC2 took a token and looked at the call; whether it then did what was asked is another matter."""
        state = self._actions.pop(action, None)
        if not is_read(action):
            self._served = True
        elif state is not None and not self._served and self._turn is None and self._began is not None:
            # Queued for a read: as many as were admitted before will be before us where changes are admitted.
            slower = rate_of(action).refill_per_s / CHANGE.refill_per_s
            queued_s = min(now, self._refused_at + MARGIN_S) - self._began
            self._slot = max(self._slot, min(self._began + queued_s * slower, now + LONGEST_S))

    def refused(self, action: str, now: float, draw: float) -> float:
        """EC2 answered RequestLimitExceeded; until when calls of this action wait. `draw` is uniform in [0, 1)."""
        state = self._actions.setdefault(action, _Action())
        state.refused += 1
        self._refused_at = now
        turn = self._turn if now - self._told_at <= YOUNG_S else None
        if turn is not None and turn > now + SPACING_S:
            state.until = turn
            if not self._served:
                self._slot = turn  # whatever else this node wants, as many others want it too
        else:
            window_s = self._window_s(action, state.refused, placed=turn is not None)
            state.until = now + 1.0 / rate_of(action).refill_per_s + draw * window_s
        return state.until

    def _window_s(self, action: str, refused: int, *, placed: bool) -> float:
        """The window for a call that was refused so many times in a row."""
        if placed:
            return float(min(LAST_S, MISSED_S * MISSED_GROWTH ** (refused - 1)))
        if is_read(action) and not self._served:
            return float(min(LAST_READ_S, FIRST_READ_S * 2 ** (refused - 1)))
        return float(min(LAST_S, FIRST_S * 2 ** (refused - 1)))

    def crowded(self, now: float) -> bool:
        """Whether EC2 refused a call a moment ago: the next calls should bring as much as possible."""
        return now - self._refused_at < QUIET_S

    def refusing(self, now: float) -> float | None:
        """Until when something is held back; None when nothing is. For explanations."""
        latest = max([self._slot, *(state.until for state in self._actions.values())], default=0.0)
        return latest if latest > now else None
