# SPDX-License-Identifier: Apache-2.0
"""How a day in EC2 goes: named sets of delays and faults.

Knows delays as log-normal distributions and reads the named profiles that ship with the package. Must never know what
is delayed by them beyond the names. `Cloud` draws the life-cycle delays, `lab.ec2` the latency of calls.

Public measurements give means only; the shape (log-normal, sigma about 0.35) is an assumption and a parameter.
"""

from __future__ import annotations

import math
import random
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from importlib import resources

from vpccni.lab.cloud.faults import NO_FAULTS, Faults, change


@dataclass(frozen=True, slots=True)
class Delay:
    """A log-normal delay: mean in seconds, and the sigma of its logarithm (0: always the mean)."""

    mean_s: float
    sigma: float = 0.0

    def draw(self, rng: random.Random) -> float:
        """One delay in seconds."""
        if self.mean_s <= 0.0 or self.sigma <= 0.0:
            return max(self.mean_s, 0.0)
        return self.mean_s * math.exp(rng.gauss(0.0, self.sigma) - self.sigma**2 / 2)


NONE = Delay(0.0)


@dataclass(frozen=True, slots=True)
class Profile:
    """All delays of one kind of day.

    `create`: pending to available. `attach`: attaching to attached; then `link` until the device shows up, then
    `metadata_mac` until the metadata service lists the MAC (with the primary address only), then `metadata_addresses`
    until it lists all of them. `metadata_change` is its lag for any later change. `unplug`: detach until the link is
    gone; `detach`: detach until the attachment is gone. `terminate`: shutting-down to terminated.
    `latency` is per API action, `default_latency` for the others. `faults` are in force from the start.
    """

    name: str = "instant"
    create: Delay = NONE
    attach: Delay = NONE
    link: Delay = NONE
    metadata_mac: Delay = NONE
    metadata_addresses: Delay = NONE
    metadata_change: Delay = NONE
    unplug: Delay = NONE
    detach: Delay = NONE
    terminate: Delay = NONE
    default_latency: Delay = NONE
    latency: Mapping[str, Delay] = field(default_factory=dict)
    faults: Faults = NO_FAULTS

    def latency_of(self, action: str) -> Delay:
        """How long a call of this action takes before it answers."""
        return self.latency.get(action, self.default_latency)


INSTANT = Profile()


def parse(name: str, text: str) -> Profile:
    """A profile from TOML: `sigma`, `[delays]` and `[latency]` in seconds, `[faults]` in the words of `lab fault set`.

    Raises ValueError, naming every key that is unknown and every fault that cannot be read.
    """
    table = tomllib.loads(text)
    sigma = float(table.get("sigma", 0.0))
    known = {item.name for item in fields(Profile)} - {"name", "latency", "default_latency", "faults"}
    delays = table.get("delays", {})
    latency = dict(table.get("latency", {}))
    unknown = sorted(set(delays) - known) + sorted(set(table) - {"sigma", "delays", "latency", "faults"})
    if unknown:
        raise ValueError(f"profile {name}: unknown keys {', '.join(unknown)}; known delays: {', '.join(sorted(known))}")
    default = Delay(float(latency.pop("default", 0.0)), sigma)
    return Profile(
        name=name,
        default_latency=default,
        latency={action: Delay(float(mean_s), sigma) for action, mean_s in latency.items()},
        faults=change(NO_FAULTS, {key: str(value) for key, value in table.get("faults", {}).items()}),
        **{key: Delay(float(mean_s), sigma) for key, mean_s in delays.items()},
    )


def names() -> list[str]:
    """The profiles that ship with the package."""
    folder = resources.files("vpccni.lab.cloud").joinpath("profiles")
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def load(name: str) -> Profile:
    """A profile by name. Raises ValueError, listing the names that exist."""
    if name not in names():
        raise ValueError(f"no profile {name!r}; there are: {', '.join(names())}")
    path = resources.files("vpccni.lab.cloud").joinpath("profiles", f"{name}.toml")
    return parse(name, path.read_text(encoding="utf-8"))
