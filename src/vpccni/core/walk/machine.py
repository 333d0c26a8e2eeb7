# SPDX-License-Identifier: Apache-2.0
"""What a firewall asks about its machine, answered from the machine's observed addresses and routes.

Knows the local table, and which address stands for a device. Must never know a rule of the firewall. `walk` hands the
answers to `walk.hooks` with each packet.
"""

from __future__ import annotations

from vpccni.core.conventions import TABLE_LOCAL
from vpccni.core.walk.fib import Question, best, choose
from vpccni.core.walk.meeting import Machine
from vpccni.core.walk.values import Stack
from vpccni.netlink.values import IPAddress, Route


def machine(stack: Stack) -> Machine:
    """The machine of a stack."""
    return Machine(
        lambda address, device: _address_type(stack, address, device),
        lambda source, target, mark: device_of(
            stack, choose(stack.rules, stack.routes, Question(source, target, mark)).route
        ),
        lambda device, version: address_of(stack, device, version),
        lambda device, version: primary(stack, device, version),
        stack.links,
    )


def device_of(stack: Stack, route: Route | None) -> str:
    """The device of a route, empty without one."""
    return (stack.device(route.index) or route.dev) if route is not None else ""


def address_of(stack: Stack, device: str, version: int) -> IPAddress | None:
    """What MASQUERADE takes: the device's own address, or the main one of the machine."""
    own = primary(stack, device, version)
    every = (each.interface.ip for each in stack.addresses if _is_global(each.interface.version, each.scope, version))
    return own or next(every, None)


def primary(stack: Stack, device: str, version: int) -> IPAddress | None:
    """A device's first address."""
    own = (each for each in stack.addresses if stack.device(each.index) == device)
    return next((each.interface.ip for each in own if _is_global(each.interface.version, each.scope, version)), None)


def _is_global(version: int, scope: str, wanted: int) -> bool:
    return version == wanted and scope == "global"


def _address_type(stack: Stack, address: IPAddress, device: str) -> str:
    """As inet_dev_addr_type does: by the local table, and everything else is unicast."""
    if address.is_multicast:
        return "multicast"
    own = (each for each in stack.addresses if not device or stack.device(each.index) == device)
    if any(each.interface.ip == address for each in own):
        return "local"
    route = best(stack.routes, TABLE_LOCAL, address)
    return route.kind if route is not None and (not device or device_of(stack, route) == device) else "unicast"
