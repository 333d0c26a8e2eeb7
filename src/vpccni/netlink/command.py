# SPDX-License-Identifier: Apache-2.0
"""A request as the `ip` command that has the same effect, for logs and error messages.

Knows iproute2's command syntax. Must never run anything. `str(Request)` calls it; tests execute what it prints.
A namespace descriptor is written as `/proc/self/fd/N`, a path that `ip` accepts in a child that inherits it.
"""

from __future__ import annotations

from shlex import quote

from vpccni.netlink.values import Address, Link, Neighbour, Request, Route, Rule

_VERBS = {"add": "add", "replace": "replace", "delete": "del", "set": "set"}


def command(request: Request) -> str:
    """The `ip ...` line equal to `request`."""
    value, verb = request.value, _VERBS[request.verb]
    deletion = request.verb == "delete"
    if isinstance(value, Link):
        return f"ip link {verb} {_link(request, value)}"
    if isinstance(value, Route):
        return f"ip {_family(value.dst.version)}route {verb} {value._command(deletion)}"
    if isinstance(value, Rule):
        return f"ip {_family(value.family)}rule {verb} {value._command()}"
    if isinstance(value, Neighbour):
        return f"ip neigh {verb} {_neighbour(value, deletion)}"
    return f"ip addr {verb} {_address(value, deletion)}"


def _family(version: int) -> str:
    return "" if version == 4 else "-6 "


def _address(value: Address, deletion: bool) -> str:
    words = [str(value.interface)]
    if not deletion:
        words += [f"broadcast {value.broadcast}"] if value.broadcast else []
        words += [f"scope {value.scope}"] if value.interface.version == 4 else []
        words += [name for name in ("nodad", "noprefixroute") if getattr(value, name)]
    return " ".join([*words, f"dev {value.dev or f'if{value.index}'}"])


def _neighbour(value: Neighbour, deletion: bool) -> str:
    words = [f"proxy {value.dst}" if value.proxy else str(value.dst)]
    words += [f"lladdr {value.mac}"] if value.mac and not deletion and not value.proxy else []
    words += [f"dev {value.dev or f'if{value.index}'}"]
    if not value.proxy and not deletion:
        words += ["nud permanent" if value.permanent else "nud reachable"]
    return " ".join(words)


def _link(request: Request, value: Link) -> str:
    if request.verb == "delete":
        return value.name or (f"if{value.index}" if value.index else f"group {value.group}")
    if request.verb == "add":
        words = [f"index {value.index}"] if value.index else []
        words += [f"link if{value.link_index}"] if value.link_index else []
        words += _attributes(value) + ([f"type {value.kind}"] if value.kind else [])
        if value.peer is not None:
            words += ["peer", *([f"index {value.peer.index}"] if value.peer.index else []), *_attributes(value.peer)]
        return " ".join(words)
    return " ".join([value.name or f"if{value.index}", *_changes(request, value)])


def _attributes(value: Link) -> list[str]:
    words = [f"name {value.name}"] if value.name else []
    words += ["up"] if value.up else []
    words += [f"address {value.mac}"] if value.mac else []
    words += [f"mtu {value.mtu}"] if value.mtu else []
    words += [f"txqueuelen {value.txqlen}"] if value.txqlen is not None else []
    words += [f"numtxqueues {value.queues} numrxqueues {value.queues}"] if value.queues else []
    words += [f"group {value.group}"] if value.group else []
    return words + ([f"netns /proc/self/fd/{value.netns_fd}"] if value.netns_fd is not None else [])


def _changes(request: Request, value: Link) -> list[str]:
    texts = {
        "up": "up" if value.up else "down",
        "mtu": f"mtu {value.mtu}",
        "mac": f"address {value.mac}",
        "alias": f"alias {quote(value.alias)}",
        "group": f"group {value.group}",
        "txqlen": f"txqueuelen {value.txqlen}",
        "addr_gen_none": f"addrgenmode {'none' if value.addr_gen_none else 'eui64'}",
        "netns_fd": f"netns /proc/self/fd/{value.netns_fd}",
        "name": f"name {value.name}",
    }
    return [texts[name] for name in request.fields]
