# SPDX-License-Identifier: Apache-2.0
"""Have and want -> requests that turn one into the other, and the inverse of each request.

Knows what makes two kernel objects the same object, and what the kernel takes away on its own when something else goes.
Must never know whose objects they are: `have` holds what the caller owns and nothing else. `nodenet`'s and `podnet`'s
callers pass the result to `host.kernel`.

What is new is added before what is old is removed, so that no packet meets a gap. IPv4 addresses are the exception: an
address that is added beside an older one of its subnet becomes its secondary and would go with it, so there the old one
goes first, and routes that the kernel dropped with a device's last address are written again.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import replace as changed
from typing import TypeVar

from vpccni.netlink.values import Address, Link, Neighbour, Request, Route, Rule, Value, add, delete, replace, set_link

T = TypeVar("T")

_LINK_FIELDS = ("mtu", "mac", "alias", "group", "up")


def identity(value: Value) -> Hashable:
    """What the kernel tells objects apart by: two values with one identity cannot be there side by side."""
    if isinstance(value, Link):
        return "link", value.index or value.name
    if isinstance(value, Address):
        return "address", value.index, value.interface
    if isinstance(value, Route):
        return "route", value.dst, value.table, value.metric
    if isinstance(value, Rule):
        # Without the protocol, which makes no difference to packets. Kernels differ: some refuse the same rule with
        # another protocol as a duplicate, Linux 6.18 keeps both.
        return "rule", changed(value, protocol=0)
    return "neighbour", value.index, value.dst, value.proxy


def diff(have: Iterable[Value], want: Iterable[Value]) -> list[Request]:
    """Requests in a safe order; empty when everything wanted is there and nothing else is.

    Links are only changed, in the fields that `want` names, never created or deleted. An untagged rule that is
    otherwise right stays as it is: its protocol cannot be changed on every kernel without removing it first.
    """
    observed: dict[Hashable, list[Value]] = {}
    for value in have:
        observed.setdefault(identity(value), []).append(value)
    wanted = {identity(value): value for value in want}
    surplus = [value for key, values in observed.items() if key not in wanted for value in values]
    surplus += [extra for key, values in observed.items() if key in wanted for extra in _extra(values, wanted[key])]
    bereft = {value.index for value in surplus if isinstance(value, Address)}

    requests = [each for value in _of(wanted.values(), Link) for each in _link_changes(observed, value)]
    requests += [delete(value) for value in _of(surplus, Address)]
    for address in _of(wanted.values(), Address):
        if address.index in bereft or identity(address) not in observed:
            requests.append(replace(address))
    for route in sorted(_of(wanted.values(), Route), key=_nearest_first):
        if route.index in bereft or route not in observed.get(identity(route), ()):
            requests.append(replace(route))
    for neighbour in _of(wanted.values(), Neighbour):
        if neighbour not in observed.get(identity(neighbour), ()):
            requests.append(replace(neighbour))
    requests += [add(rule) for rule in _of(wanted.values(), Rule) if identity(rule) not in observed]
    # Without a protocol a deletion matches any: what names one goes first, or its twin would go in its place.
    requests += [delete(rule) for rule in sorted(_of(surplus, Rule), key=lambda rule: not rule.protocol)]
    requests += [delete(route) for route in sorted(_of(surplus, Route), key=_nearest_first, reverse=True)]
    return requests + [delete(neighbour) for neighbour in _of(surplus, Neighbour)]


def inverse(request: Request, have: Iterable[Value]) -> Request:
    """What takes `request` back, given the objects that were there before it."""
    value, key = request.value, identity(request.value)
    before = next((each for each in have if identity(each) == key), None)
    if request.verb == "set":
        if not isinstance(before, Link):
            raise ValueError(f"no inverse of {request}: the link before it is unknown")
        return set_link(before, *request.fields)
    if request.verb == "delete":
        return add(before if before is not None else value)
    if before is not None and isinstance(before, Address | Route | Neighbour):
        return replace(before)
    return delete(value)


def _extra(values: Sequence[Value], want: Value) -> list[Value]:
    """Second and further objects of one identity, which only routes and duplicate rules have."""
    if len(values) == 1 or isinstance(want, Link | Address):
        return []
    keep = next((value for value in values if value == want), values[0])
    return [value for value in values if value is not keep]


def _link_changes(observed: dict[Hashable, list[Value]], want: Link) -> list[Request]:
    have = next((each for each in _of(observed.get(identity(want), ()), Link)), None)
    fields = [name for name in _LINK_FIELDS if getattr(want, name)]
    if have is not None:
        fields = [name for name in fields if getattr(have, name) != getattr(want, name)]
    return [set_link(want, *fields)] if fields else []


def _nearest_first(route: Route) -> tuple[bool, int]:
    """Routes to gateways before routes by way of them."""
    return route.gateway is not None, -route.dst.prefixlen


def _of(values: Iterable[object], kind: type[T]) -> list[T]:
    return [value for value in values if isinstance(value, kind)]
