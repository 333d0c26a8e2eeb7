# SPDX-License-Identifier: Apache-2.0
"""Links, addresses, routes, rules and neighbours as frozen values, and requests about them.

Knows what the kernel's objects are made of and how `ip` writes them. Must never open anything: `core` imports this.
A value is canonical, so that what was asked for equals what a dump returns (where the kernel adds something of its own,
such as metric 1024 to an IPv6 route, the value adds it too); `str()` is `ip`'s output line without its padding.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
)
from typing import Literal

from vpccni.netlink.names import (
    PROTOCOL_BOOT,
    PROTOCOL_KERNEL,
    ROUTE_KINDS,
    RULE_KINDS,
    SCOPES,
    TABLE_MAIN,
    protocol_name,
    table_name,
)

IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network
IPInterface = IPv4Interface | IPv6Interface

FULL_MASK = 0xFFFFFFFF
IPV6_ROUTE_METRIC = 1024  # what the kernel puts on an IPv6 route that comes without a metric


def _device(dev: str, index: int) -> str:
    """The device's name, or `ifN` as `ip` prints an index that it cannot resolve."""
    return dev or f"if{index}"


def _prefix(network: IPNetwork) -> str:
    """`default`, a bare address for a host prefix, or address/length."""
    if network.prefixlen == 0:
        return "default"
    return str(network.network_address) if network.prefixlen == network.max_prefixlen else str(network)


@dataclass(frozen=True, slots=True)
class Link:
    """A network device. A zero, empty or None field means "leave it to the kernel" when asking.

    `queues` counts transmit and receive queues alike. `netns_fd` is the descriptor of the namespace in which to create
    the device (or, in a "set", to which to move it); dumps never return it. `peer` is a veth's other end, whose MTU,
    MAC, queues and namespace are its own: nothing is inherited. `link_index` is IFLA_LINK: the lower device of a vlan,
    or, read from the kernel, the peer of a veth, in the namespace `link_netnsid` (None: the same namespace).
    `lower_up` (carrier) is observed only. `alias` and `addr_gen_none` (no IPv6 link-local address is generated) can be
    asked for in a "set" only: the kernel ignores the one and refuses the other in an "add".
    """

    name: str
    index: int = 0
    kind: str = ""
    mac: str = ""
    mtu: int = 0
    up: bool = False
    alias: str = ""
    group: int = 0
    txqlen: int | None = None
    queues: int = 0
    netns_fd: int | None = None
    peer: Link | None = None
    link_index: int = 0
    link_netnsid: int | None = None
    addr_gen_none: bool = False
    lower_up: bool = field(default=False, compare=False)

    def __str__(self) -> str:
        flags = ",".join(name for name, on in (("UP", self.up), ("LOWER_UP", self.lower_up)) if on)
        words = [f"{self.index}: {self.name}{f'@if{self.link_index}' if self.link_index else ''}: <{flags}>"]
        words += [f"mtu {self.mtu}"] if self.mtu else []
        words += [f"group {self.group}"] if self.group else []
        words += [f"link/ether {self.mac}"] if self.mac else []
        words += [f"link-netnsid {self.link_netnsid}"] if self.link_netnsid is not None else []
        words += ["addrgenmode none"] if self.addr_gen_none else []
        words += [self.kind] if self.kind else []
        words += [f"alias {self.alias}"] if self.alias else []
        return " ".join(words)


@dataclass(frozen=True, slots=True)
class Address:
    """An address with its prefix length on a device.

    IPv6 scopes follow from the address (the kernel computes them), so `scope` is overruled there. `nodad` skips
    duplicate address detection; `noprefixroute` keeps the kernel from adding the connected route.
    """

    interface: IPInterface
    index: int
    dev: str = field(default="", compare=False)
    scope: str = "global"
    broadcast: IPv4Address | None = None
    nodad: bool = False
    noprefixroute: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.interface, IPv6Interface):
            address = self.interface.ip
            scope = "link" if address.is_link_local else "host" if address.is_loopback else "global"
            object.__setattr__(self, "scope", "site" if address.is_site_local else scope)

    def __str__(self) -> str:
        words = ["inet" if self.interface.version == 4 else "inet6", str(self.interface)]
        words += [f"brd {self.broadcast}"] if self.broadcast else []
        words += [f"scope {self.scope}"]
        words += ["nodad"] if self.nodad else []
        words += ["noprefixroute"] if self.noprefixroute else []
        return " ".join([*words, _device(self.dev, self.index)])


@dataclass(frozen=True, slots=True)
class Route:
    """A route; `index` 0 means no device (blackhole and its like).

    In a deletion protocol 0, metric 0, scope "nowhere", kind "unspec", index 0 and a missing gateway or prefsrc are
    wildcards. IPv6 knows no scope (always "global") and its metric 0 becomes 1024, except on local and anycast routes.
    `unmodelled` names features of a dumped route that this type cannot express (such a route equals no modelled one and
    cannot be asked for).
    """

    dst: IPNetwork
    index: int
    dev: str = field(default="", compare=False)
    gateway: IPAddress | None = None
    table: int = TABLE_MAIN
    scope: str = "global"
    protocol: int = PROTOCOL_BOOT
    prefsrc: IPAddress | None = None
    metric: int = 0
    kind: str = "unicast"
    onlink: bool = False
    unmodelled: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.dst.version == 6:
            object.__setattr__(self, "scope", "global")
            if not self.metric and self.kind not in ("local", "anycast"):
                object.__setattr__(self, "metric", IPV6_ROUTE_METRIC)

    def __str__(self) -> str:
        words = [self.kind] if self.kind != "unicast" else []
        words += [_prefix(self.dst), *self._via()]
        words += [f"table {table_name(self.table)}"] if self.table != TABLE_MAIN else []
        words += [f"proto {protocol_name(self.protocol)}"] if self.protocol != PROTOCOL_BOOT else []
        words += [f"scope {self.scope}"] if self.scope != "global" else []
        return " ".join([*words, *self._preference(), *(f"({name})" for name in self.unmodelled)])

    def _via(self) -> list[str]:
        words: list[str] = []
        if self.gateway is not None:
            foreign = "inet6 " if self.gateway.version > self.dst.version else ""
            words += [f"via {foreign}{self.gateway}"]
        return words + ([f"dev {_device(self.dev, self.index)}"] if self.index or self.dev else [])

    def _preference(self) -> list[str]:
        words = [f"src {self.prefsrc}"] if self.prefsrc is not None else []
        words += [f"metric {self.metric}"] if self.metric or self.dst.version == 6 else []
        return words + (["onlink"] if self.onlink else [])

    def _command(self, deletion: bool) -> str:
        # `ip` guesses a scope and a protocol when none is given, differently for add and del: so both are written out.
        words = [self.kind] if self.kind not in ("unicast", "unspec") else []
        words += [_prefix(self.dst), *self._via(), f"table {table_name(self.table)}"]
        words += [f"proto {protocol_name(self.protocol)}"] if deletion or self.protocol != PROTOCOL_BOOT else []
        words += [f"scope {self.scope}"] if self.dst.version == 4 else []
        return " ".join([*words, *self._preference()])


@dataclass(frozen=True, slots=True)
class Rule:
    """A policy routing rule. `family` (4 or 6) is taken from `src` or `dst` when one is given.

    `fwmask` 0 with a mark becomes the full mask, a prefix of length 0 becomes None ("all"). In a deletion a field left
    at its default is a wildcard (but not the priority), and the kernel deletes the first match only. `target` is the
    priority at which a rule of kind "goto" goes on: a jump, whatever stands in between. `unmodelled`: as in `Route`.
    """

    priority: int
    table: int = 0
    src: IPNetwork | None = None
    dst: IPNetwork | None = None
    fwmark: int = 0
    fwmask: int = 0
    iif: str = ""
    oif: str = ""
    protocol: int = 0
    family: int = 4
    suppress_prefixlength: int | None = None
    kind: str = "lookup"
    target: int = 0
    unmodelled: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        prefix = self.src if self.src is not None else self.dst
        if prefix is not None and prefix.version != self.family:
            object.__setattr__(self, "family", prefix.version)
        if self.fwmark and not self.fwmask:
            object.__setattr__(self, "fwmask", FULL_MASK)
        if self.src is not None and self.dst is not None and self.src.version != self.dst.version:
            raise ValueError(f"rule {self.priority}: source {self.src} and destination {self.dst} differ in family")
        if self.src is not None and not self.src.prefixlen:
            object.__setattr__(self, "src", None)
        if self.dst is not None and not self.dst.prefixlen:
            object.__setattr__(self, "dst", None)

    def __str__(self) -> str:
        words = [f"{self.priority}: from", _prefix(self.src) if self.src is not None else "all", *self._selectors()]
        words += [f"lookup {table_name(self.table)}"] if self.kind == "lookup" else self._action()
        words += self._suppress()
        shown = self.protocol not in (0, PROTOCOL_KERNEL)
        words += [f"proto {protocol_name(self.protocol)}"] if shown else []
        return " ".join([*words, *(f"({name})" for name in self.unmodelled)])

    def _selectors(self) -> list[str]:
        words = [f"to {_prefix(self.dst)}"] if self.dst is not None else []
        if self.fwmask:
            words += [f"fwmark {self.fwmark:#x}" + (f"/{self.fwmask:#x}" if self.fwmask != FULL_MASK else "")]
        words += [f"iif {self.iif}"] if self.iif else []
        return words + ([f"oif {self.oif}"] if self.oif else [])

    def _action(self) -> list[str]:
        return ["goto", str(self.target)] if self.kind == "goto" else [self.kind]

    def _suppress(self) -> list[str]:
        length = self.suppress_prefixlength
        return [] if length is None else [f"suppress_prefixlength {length}"]

    def _command(self) -> str:
        words = [f"pref {self.priority}"]
        words += [f"from {self.src}"] if self.src is not None else []
        words += self._selectors()
        if self.kind != "lookup":
            words += self._action()
        elif self.table:
            words += [f"table {table_name(self.table)}"]
        words += self._suppress()
        return " ".join([*words, *([f"protocol {protocol_name(self.protocol)}"] if self.protocol else [])])


@dataclass(frozen=True, slots=True)
class Neighbour:
    """An ARP or ND entry, or with `proxy` an address that the device answers for.

    `state` is what a dump saw ("reachable", "stale", ...) and takes no part in comparison; `permanent` does.
    """

    dst: IPAddress
    index: int
    dev: str = field(default="", compare=False)
    mac: str = ""
    permanent: bool = True
    proxy: bool = False
    state: str = field(default="", compare=False)

    def __str__(self) -> str:
        words = [str(self.dst), f"dev {_device(self.dev, self.index)}"]
        words += [f"lladdr {self.mac}"] if self.mac else []
        state = "permanent" if self.permanent else self.state
        return " ".join([*words, "proxy" if self.proxy else state.upper()]).rstrip()


Value = Link | Address | Route | Rule | Neighbour
Verb = Literal["add", "replace", "delete", "set"]

# What a "set" of a link may change. "name" renames: the kernel takes up to 20 ms for it, so never on a hot path.
_UNSET: dict[str, object] = {
    "up": False,
    "mtu": 0,
    "mac": "",
    "alias": "",
    "group": 0,
    "txqlen": None,
    "addr_gen_none": False,
    "netns_fd": None,
}
SETTABLE = (*_UNSET, "name")


@dataclass(frozen=True, slots=True)
class Request:
    """One change of the kernel's state. `str()` is the `ip` command that has the same effect.

    `only` (verb "set") names the Link fields to write, also when they are zero: `up` with False takes a link down.
    """

    verb: Verb
    value: Value
    only: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        reason = _objection(self)
        if reason:
            raise ValueError(f"no such request: {self.verb} {self.value}: {reason}")

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields that a "set" writes, in a fixed order."""
        value = self.value
        if self.only or not isinstance(value, Link):
            return tuple(name for name in SETTABLE if name in self.only)
        return tuple(name for name, unset in _UNSET.items() if getattr(value, name) != unset)

    def __str__(self) -> str:
        from vpccni.netlink.command import command  # narration is rare; the hot path must not pay for it

        return command(self)


def _objection(request: Request) -> str:
    """Why the kernel cannot be asked this, or an empty string."""
    value, verb = request.value, request.verb
    if isinstance(value, Link):
        if verb == "replace":
            return "links are added and set, not replaced"
        if verb == "add" and (value.alias or value.addr_gen_none):
            return "alias and addr_gen_none go into a set (in an add the kernel ignores the one, refuses the other)"
        if not (value.index or value.name or (verb == "delete" and value.group)):
            return "neither index nor name"
        if "name" in request.only and not value.index:
            return "a rename needs the index"
        return next((f"field {name} cannot be set" for name in request.only if name not in SETTABLE), "")
    if verb == "set":
        return "only links are set"
    if isinstance(value, Route | Rule) and value.unmodelled and verb != "delete":
        return f"it has {', '.join(value.unmodelled)}"
    if isinstance(value, Route):
        return "" if value.kind in ROUTE_KINDS and value.scope in SCOPES else "unknown kind or scope"
    if isinstance(value, Rule):
        if verb == "replace":
            return "the kernel has no replace for rules (it would add a duplicate)"
        if value.kind not in RULE_KINDS:
            return "unknown kind"
        if (value.kind == "goto") != bool(value.target):
            return "goto and a target need each other"
        # For an added rule without a table the kernel would pick an unused table of its own.
        return "no table" if verb == "add" and value.kind == "lookup" and not value.table else ""
    return ""


def add(value: Value) -> Request:
    """Create; EEXIST when it is there."""
    return Request("add", value)


def replace(value: Address | Route | Neighbour) -> Request:
    """Create or overwrite."""
    return Request("replace", value)


def delete(value: Value) -> Request:
    """Remove; ESRCH (routes), ENOENT (rules, neighbours), EADDRNOTAVAIL (addresses) or ENODEV (links) when absent.

    A link goes by index, else by name; a Link with neither but with a group deletes the whole group at once, which
    costs one grace period instead of one per link.
    """
    return Request("delete", value)


def set_link(value: Link, *only: str) -> Request:
    """Change an existing link, found by index, else by name.

    Without `only`, every field that is not at its default is written (a name beside an index is not: renaming has to
    be asked for as `only="name"`).
    """
    return Request("set", value, only)


def delete_group(group: int) -> Request:
    """Remove all links of a device group in one go."""
    return Request("delete", Link("", group=group))
