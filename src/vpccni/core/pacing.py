# SPDX-License-Identifier: Apache-2.0
"""When the next EC2 call of an action may be made, so that a fleet that cannot see itself shares one account's rate.

Knows the published sizes of EC2's token buckets and what this node has seen of them: admissions and throttles. Must
never read a clock or draw a number: the moment and a draw from [0, 1) are arguments. The daemon asks before each call
and reports how it went; the simulator does the same for a thousand nodes.

The rule. A call is made at once until EC2 says RequestLimitExceeded: a lone node never waits. Then:

- With a fleet hint (how many nodes are starting up now), the node draws its slot once, from the time that the account
  needs to serve all of them, and does everything that needs tokens in and after its slot. The tightest bucket that a
  starting node needs is AttachNetworkInterface's; slots at its pace are below every other bucket's, so that after the
  first refusal calls are admitted almost always.
- Without a hint, full jitter over a window that doubles with every refusal in a row of the same action.
- While an action is refused, only one call of it is made at a time, spaced, however many steps want one.

A node that knows nothing but its own refusals cannot have both few wasted calls and a quick end: the number of
competitors is what it lacks. That is why there is a hint.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

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

FIRST_S, LAST_S = 5.0, 120.0  # windows without a hint
FIRST_READ_S = 15.0
MARGIN_S = 15.0  # after the last refusal of a read, for which the queue is still taken to have been full
QUIET_S = 300.0  # without a refusal for so long, the next one begins a new episode
GATHER_S = 2.0  # Amazon VPC CNI 1.23 looks every 5 s, which gathers too, but also when nothing is left
LONGEST_S = 300.0  # what is inferred without a hint is not trusted further: EC2 may have been out, not busy
SPACING_S = 1.0  # between two calls of an action that is being refused


def rate_of(action: str) -> Rate:
    """The published bucket of an action."""
    return RATES.get(action) or (READ if action.startswith(READ_VERBS) else CHANGE)


def is_read(action: str) -> bool:
    """Whether the action changes nothing."""
    return action.startswith(READ_VERBS)


def act_at(short_since: float, available: int, spare: int, now: float) -> float:
    """When a pool that is short is to grow: at once when nothing is available, for a pod is being refused; else a
    moment after it became short, so that one call brings what pods that come together need."""
    return now if available * 2 < spare else max(now, short_since + GATHER_S)


def serving_s(fleet: int, rate: Rate = CHANGE) -> float:
    """How long a bucket needs to admit one call of each of so many nodes, all of which ask at once."""
    return max(0.0, (fleet - rate.burst) / rate.refill_per_s)


@dataclass(slots=True)
class _Action:
    refused: int = 0  # in a row
    until: float = 0.0


@dataclass(slots=True)
class Pacer:
    """One node's view of the account's buckets. All times are seconds on one clock.

    `fleet`: how many nodes are starting at this time, this one included; 0: unknown, or nobody is. `since`: when the
    first of them started, None: with this one. Both may be set at any time, and are to be taken back when the node is
    young no more. A good source is the API server's list of nodes, those younger than some minutes.
    """

    fleet: int = 0
    since: float | None = None
    _actions: dict[str, _Action] = field(default_factory=dict)
    _slot: float = 0.0
    _began: float | None = None  # when this node's first call was made, the first ever or the first after a quiet time
    _refused_at: float = float("-inf")
    _served: bool = False  # a change was admitted: this node is under way

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
        elif state is not None and not self._served and not self.fleet and self._began is not None:
            # Queued for a read: as many as were admitted before will be before us where changes are admitted.
            slower = rate_of(action).refill_per_s / CHANGE.refill_per_s
            seen_empty = self._refused_at + MARGIN_S  # not later: there may be nobody left
            place = self._began + (min(now, seen_empty) - self._began) * slower
            self._slot = max(self._slot, min(place, now + LONGEST_S))

    def refused(self, action: str, now: float, draw: float) -> float:
        """EC2 answered RequestLimitExceeded; until when calls of this action wait. `draw` is uniform in [0, 1)."""
        state = self._actions.setdefault(action, _Action())
        state.refused += 1
        self._refused_at = now
        began = now if self._began is None else self._began
        past_s = now - (began if self.since is None else min(self.since, began))
        ahead_s = serving_s(self.fleet) - past_s
        first_s = FIRST_READ_S if is_read(action) and not self._served else FIRST_S
        window_s = max(ahead_s, min(LAST_S, first_s * 2 ** (state.refused - 1)))
        if ahead_s <= 0 and not self._served:
            window_s = max(
                window_s, min(past_s / 2, LONGEST_S)
            )  # the hint was too low: it will take longer in proportion
        state.until = now + 1.0 / rate_of(action).refill_per_s + draw * window_s
        if ahead_s > 0 and not self._served:
            self._slot = state.until  # whatever else this node wants, as many others want it too
        return state.until

    def refusing(self, now: float) -> float | None:
        """Until when something is held back; None when nothing is. For explanations."""
        latest = max([self._slot, *(state.until for state in self._actions.values())], default=0.0)
        return latest if latest > now else None
