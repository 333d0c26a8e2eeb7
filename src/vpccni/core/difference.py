# SPDX-License-Identifier: Apache-2.0
"""What differs between the kernel and its desired state, as one value: to be applied, counted and shown.

Knows what a change is about and whether an object is missing, wrong or one too many. Must never know how it was seen.
`host.node` makes it, `ipamd.repair` counts it, introspection and `vpccni doctor` show it.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable
from dataclasses import dataclass, replace

from vpccni.core.diff import identity
from vpccni.core.firewall.chains import Tables, rule_states
from vpccni.core.firewall.snat import IptablesRules
from vpccni.core.podnet import Sysctl
from vpccni.core.reasons import firewall_reason, group_of, reason, sysctl_reason
from vpccni.netlink.values import Address, Link, Request, Route, Rule, Value

Change = Request | Sysctl


@dataclass(frozen=True, slots=True)
class ObjectState:
    """One object: `state` is ok, missing, wrong or extra; `why` says why it should be there, or should not."""

    group: str
    subject: str
    state: str
    why: str
    command: str = ""  # what puts it right

    def __str__(self) -> str:
        return f"{self.state:<8} {self.subject}  ({self.why})"


@dataclass(frozen=True, slots=True)
class Difference:
    """What is to be done (`requests`, `sysctls`) so that the kernel holds all that is `desired`.

    `present` are the identities of those objects of ours that the kernel has.
    """

    requests: tuple[Request, ...] = ()
    sysctls: tuple[Sysctl, ...] = ()
    desired: tuple[Value, ...] = ()
    desired_sysctls: tuple[Sysctl, ...] = ()
    present: frozenset[Hashable] = frozenset()

    @property
    def changes(self) -> tuple[Change, ...]:
        """All changes, kernel settings last."""
        return (*self.requests, *self.sysctls)

    @property
    def commands(self) -> list[str]:
        """The changes as `ip` and `sysctl` commands."""
        return [command_of(change) for change in self.changes]

    def without(self, subjects: Collection[str]) -> Difference:
        """The same without the changes of those objects (`subject_of`)."""
        if not subjects:
            return self
        requests = tuple(each for each in self.requests if subject_of(each) not in subjects)
        sysctls = tuple(each for each in self.sysctls if subject_of(each) not in subjects)
        return replace(self, requests=requests, sysctls=sysctls)


def command_of(change: Change) -> str:
    """A change as the command that it equals."""
    if isinstance(change, Request):
        return str(change)
    path, value = change
    return f"sysctl -w {path.replace('/', '.')}={value}"


def kind_of(change: Change) -> str:
    """rule, route, address, link or sysctl."""
    if not isinstance(change, Request):
        return "sysctl"
    names = {Link: "link", Address: "address", Route: "route", Rule: "rule"}
    return names.get(type(change.value), "neighbour")


def subject_of(change: Change) -> str:
    """The object that a change is about, the same one for its removal and its return."""
    if isinstance(change, Request):
        name = change.value.name if isinstance(change.value, Link) else str(change.value)
        return f"{kind_of(change)} {name}"
    return f"sysctl {change[0].replace('/', '.')}"


def object_states(found: Difference) -> list[ObjectState]:
    """One for each desired object, then one for each that should not be there."""
    changed = {identity(request.value): request for request in found.requests if request.verb != "delete"}
    wanted = {identity(value) for value in found.desired}
    shown = [_of(value, changed.get(identity(value)), found) for value in found.desired]
    wrong = dict(found.sysctls)
    for path, value in found.desired_sysctls:
        state = "wrong" if path in wrong else "ok"
        command = command_of((path, value)) if path in wrong else ""
        shown.append(ObjectState("sysctls", f"{path.replace('/', '.')} = {value}", state, sysctl_reason(path), command))
    for request in found.requests:
        if request.verb == "delete" and identity(request.value) not in wanted:
            why = "nothing that the node has needs it any more"
            shown.append(ObjectState(group_of(request.value), str(request.value), "extra", why, str(request)))
    return shown


def firewall_states(have: Tables, want: IptablesRules) -> list[ObjectState]:
    """One for each firewall rule that should be there, and for each that should not."""
    program = "iptables" if want.version == 4 else "ip6tables"
    return [
        ObjectState(
            "firewall",
            f"{program} -t {table} {rule}",
            state,
            firewall_reason(rule) if state != "extra" else "it is not one of the rules that this chain of ours holds",
            "" if state == "ok" else f"{program}-restore",
        )
        for table, rule, state in rule_states(have, want)
    ]


def nftables_states(states: Iterable[tuple[str, str, str]]) -> list[ObjectState]:
    """One for each line of our nftables tables that should be there, and for each that should not, of
    `nftlisting.rule_states`."""
    return [
        ObjectState(
            "firewall",
            f"nft {place}: {rule}",
            state,
            firewall_reason(rule) if state != "extra" else "it is not one of the rules that our table holds",
            "" if state == "ok" else "nft -f -",
        )
        for place, rule, state in states
    ]


def _of(value: Value, request: Request | None, found: Difference) -> ObjectState:
    subject = f"{value.name} up mtu {value.mtu}" if isinstance(value, Link) else str(value)
    if request is None:
        return ObjectState(group_of(value), subject, "ok", reason(value))
    state = "wrong" if identity(value) in found.present else "missing"
    return ObjectState(group_of(value), subject, state, reason(value), str(request))
