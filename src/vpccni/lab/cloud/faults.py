# SPDX-License-Identifier: Apache-2.0
"""What can go wrong with EC2, as values: throttling, refusals, lost replies, stale answers, other tenants.

Knows each fault, how it is written (`lost-reply=CreateNetworkInterface:0.1`) and what it accepts. Must never make
anything fail: `gate` and the model do. Profiles, `vpccni lab fault` and the simulator use the same words.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

ANY = "*"
MAX_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class Script:
    """Calls of `action` (`*`: of any) fail with `code`: each with `probability`, or the `nth` from now on, or the
    next `first` ones. Exactly one of the three is not zero."""

    action: str
    code: str
    probability: float = 0.0
    nth: int = 0
    first: int = 0

    def __str__(self) -> str:
        when = f"#{self.nth}" if self.nth else f"{self.first}x" if self.first else f"{self.probability:g}"
        return f"{self.action}:{self.code}:{when}"


@dataclass(frozen=True, slots=True)
class Lag:
    """With `probability` a change is not seen for `mean_s` seconds on average."""

    probability: float = 0.0
    mean_s: float = 0.0

    def __str__(self) -> str:
        return f"{self.probability:g}:{self.mean_s:g}" if self.probability else "off"


@dataclass(frozen=True, slots=True)
class Tenancy:
    """Others take and give back addresses of the same subnets, `rate_per_s` changes a second, up to `share` of each."""

    rate_per_s: float = 0.0
    share: float = 0.5

    def __str__(self) -> str:
        return f"{self.rate_per_s:g}/s:{self.share * 100:g}%" if self.rate_per_s else "off"


Chances = tuple[tuple[str, float], ...]  # (action, probability), in the order given


@dataclass(frozen=True, slots=True)
class Faults:
    """All faults of one moment. Field names are the setting's name with `-` for `_`; see `SETTINGS`.

    `throttle` scales the published buckets, None: no throttling. `latency` scales the profile's latencies.
    """

    throttle: float | None = None
    latency: float = 1.0
    deny: tuple[str, ...] = ()
    error: tuple[Script, ...] = ()
    lost_request: Chances = ()
    lost_reply: Chances = ()
    new_id: Lag = Lag()
    stale: Lag = Lag()
    tenants: Tenancy = Tenancy()


NO_FAULTS = Faults()


@dataclass(frozen=True, slots=True)
class Setting:
    """One fault: how it is written, and what it does."""

    name: str
    accepts: str
    does: str
    parse: Callable[[str], Any]
    render: Callable[[Any], str]

    @property
    def field(self) -> str:
        """Its name in `Faults`."""
        return self.name.replace("-", "_")


def change(faults: Faults, settings: Mapping[str, str]) -> Faults:
    """The faults with some of them set anew. ValueError names every setting that is wrong and what it accepts."""
    values, wrong = {}, []
    for name, text in settings.items():
        setting = SETTINGS.get(name)
        if setting is None:
            wrong.append(f"{name}: no such fault; there are {', '.join(SETTINGS)}")
            continue
        try:
            values[setting.field] = getattr(NO_FAULTS, setting.field) if text == "off" else setting.parse(text)
        except ValueError as error:
            why = f" ({error})" if str(error) and "could not convert" not in str(error) else ""
            wrong.append(f"{name}={text}{why}: accepted is off or {setting.accepts}")
    if wrong:
        raise ValueError("; ".join(wrong))
    return replace(faults, **values)


def render(faults: Faults) -> dict[str, str]:
    """Every fault as it would be written."""
    return {name: setting.render(getattr(faults, setting.field)) for name, setting in SETTINGS.items()}


# -- how each is written ---------------------------------------------------------------------------------------------


def _number(text: str, low: float, high: float, what: str) -> float:
    value = float(text)
    if not low <= value <= high:  # also refuses nan
        raise ValueError(f"{what} is {low:g} to {high:g}")
    return value


def _probability(text: str) -> float:
    return _number(text, 0.0, 1.0, "a probability")


def _action(text: str) -> str:
    # EC2 has eight hundred actions; a misspelt one is found by the server, which knows them all.
    if text != ANY and not (text.isalnum() and text[:1].isupper()):
        raise ValueError(f"{text!r} is no action")
    return text


def _throttle(text: str) -> float:
    return 1.0 if text == "on" else _number(text, 0.01, 100.0, "a factor")


def _factor(text: str) -> float:
    return _number(text, 0.0, 100.0, "a factor")


def _actions(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(_action(part) for part in text.split(",")))


def _chances(text: str) -> Chances:
    chosen: dict[str, float] = {}
    for part in text.split(","):
        action, separator, probability = part.partition(":")
        chosen[_action(action)] = _probability(probability) if separator else 1.0
    return tuple(chosen.items())


def _scripts(text: str) -> tuple[Script, ...]:
    return tuple(_script(part) for part in text.split(","))


def _script(text: str) -> Script:
    parts = text.split(":")
    if len(parts) not in (2, 3) or not parts[1]:
        raise ValueError(f"{text!r} is not ACTION:CODE[:WHEN]")
    action, code, when = _action(parts[0]), parts[1], parts[2] if len(parts) == 3 else "1"
    if when.startswith("#"):
        return Script(action, code, nth=int(_number(when[1:], 1, 1e6, "the number of a call")))
    if when.endswith("x"):
        return Script(action, code, first=int(_number(when[:-1], 1, 1e6, "a number of calls")))
    return Script(action, code, probability=_probability(when))


def _lag(text: str) -> Lag:
    probability, separator, mean_s = text.partition(":")
    if not separator:
        raise ValueError(f"{text!r} is not PROBABILITY:SECONDS")
    return Lag(_probability(probability), _number(mean_s, 0.0, MAX_SECONDS, "the lag"))


def _tenancy(text: str) -> Tenancy:
    rate, _, share = text.partition(":")
    if not rate.endswith("/s"):
        raise ValueError(f"{rate!r} is not RATE/s")
    if share and not share.endswith("%"):
        raise ValueError(f"{share!r} is not SHARE%")
    percent = _number(share.removesuffix("%"), 0.0, 100.0, "a share") if share else 50.0
    return Tenancy(_number(rate.removesuffix("/s"), 0.0, 1000.0, "a rate"), percent / 100)


def _shown_throttle(value: float | None) -> str:
    return "off" if value is None else "on" if value == 1.0 else f"{value:g}"


def _shown_chances(value: Chances) -> str:
    return ",".join(f"{action}:{probability:g}" for action, probability in value) or "off"


def _shown_list(value: tuple[object, ...]) -> str:
    return ",".join(map(str, value)) or "off"


_CHANCES = "ACTION:PROBABILITY,..., such as CreateNetworkInterface:0.1 or *:0.02"
SETTINGS: Mapping[str, Setting] = {
    setting.name: setting
    for setting in (
        Setting(
            "throttle", "on, or a factor of the published buckets, such as 0.2",
            "an empty bucket answers RequestLimitExceeded", _throttle, _shown_throttle,
        ),
        Setting(
            "latency", "a factor of the profile's latencies, 0 to 100",
            "every call takes longer", _factor, lambda value: f"{value:g}",
        ),
        Setting("deny", "ACTION,...", "the action answers UnauthorizedOperation", _actions, _shown_list),
        Setting(
            "error",
            "ACTION:CODE:WHEN,... where WHEN is a probability, #N (the Nth call from now) or Nx (the next N calls)",
            "the action answers CODE, without effect", _scripts, _shown_list,
        ),
        Setting("lost-request", _CHANCES, "the connection breaks before the effect", _chances, _shown_chances),
        Setting("lost-reply", _CHANCES, "the connection breaks after the effect", _chances, _shown_chances),
        Setting(
            "new-id", "PROBABILITY:SECONDS, such as 0.2:2",
            "a new interface is NotFound for that long on average", _lag, str,
        ),
        Setting(
            "stale", "PROBABILITY:SECONDS, such as 0.2:2",
            "describes show addresses as before a change for that long", _lag, str,
        ),
        Setting(
            "tenants", "RATE/s[:SHARE%], such as 5/s:60%",
            "others take and fragment the subnets, up to that share", _tenancy, str,
        ),
    )
}  # fmt: skip


def actions_of(faults: Faults) -> frozenset[str]:
    """Every action that a fault names, to be checked against those that exist."""
    named = {*faults.deny, *(script.action for script in faults.error)}
    named |= {action for action, _ in (*faults.lost_request, *faults.lost_reply)}
    return frozenset(named - {ANY})
