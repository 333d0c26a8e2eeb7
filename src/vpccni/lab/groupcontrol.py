# SPDX-License-Identifier: Apache-2.0
"""The part of the control API that is about security groups: what there is, allow, revoke, attach.

Knows groups by name and rules as people write them. Must never hold state: the cloud and the names of nodes are given.
The lab daemon serves it beside `control`; input that cannot be used raises `InputError`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from vpccni.errors import InputError
from vpccni.lab.cloud import grouprules
from vpccni.lab.cloud.cloud import Cloud
from vpccni.lab.cloud.errors import ApiError
from vpccni.lab.cloud.interfaces import InterfaceChange
from vpccni.lab.cloud.resources import Eni, SecurityGroup

VERBS = ("allow", "revoke", "attach")


class GroupControl:
    """Questions and orders about the security groups of one running cloud."""

    def __init__(self, cloud: Cloud, nodes: Callable[[], Mapping[str, str]], changed: Callable[[], None]) -> None:
        """`nodes()`: instance id -> node name. `changed` is called after an order."""
        self._cloud, self._nodes, self._changed = cloud, nodes, changed

    def groups(self) -> list[dict[str, Any]]:
        """Every group with its rules and its members."""
        self._cloud.settle()
        return [self._group(group) for group in sorted(self._cloud.groups.values(), key=lambda one: one.serial)]

    def order(self, wanted: Mapping[str, Any]) -> list[dict[str, Any]]:
        """`verb` allow or revoke with `group`, `rule`; attach with `target` (node or interface), `groups`."""
        verb = wanted["verb"]
        if verb not in VERBS:
            raise InputError(f"{verb} that", f"accepted are {', '.join(VERBS)}")
        try:
            if verb == "attach":
                self._attach(wanted["target"], wanted["groups"])
            else:
                self._change(verb, wanted["group"], wanted["rule"])
        except ApiError as error:
            raise InputError(f"{verb} that", f"EC2 answers {error}", hint="vpccni lab sg list") from error
        self._changed()
        return self.groups()

    def _change(self, verb: str, name: str, text: str) -> None:
        group_id = self._id(name)
        try:
            rules = grouprules.parse(text, self._ids())
        except ValueError as error:
            raise InputError(f"{verb} that", str(error), hint="vpccni lab sg --help") from error
        if verb == "allow":
            self._cloud.authorize(group_id, rules)
        else:
            self._cloud.revoke(group_id, rules)

    def _attach(self, target: str, names: list[str]) -> None:
        group_ids = tuple(self._id(name) for name in names)
        for eni in self._enis(target):
            self._cloud.modify_network_interface(eni.eni_id, InterfaceChange(group_ids=group_ids))

    def _enis(self, target: str) -> list[Eni]:
        if target in self._cloud.enis:
            return [self._cloud.enis[target]]
        for instance_id, name in self._nodes().items():
            if target.removeprefix("node/") == name:
                return list(self._cloud.enis_of(instance_id))
        known = ", ".join(self._nodes().values())
        raise InputError(f"attach to {target!r}", f"it is neither an interface nor one of the nodes {known}")

    def _ids(self) -> dict[str, str]:
        return {group.name: group.group_id for group in self._cloud.groups.values()}

    def _id(self, name: str) -> str:
        ids = self._ids()
        if name in ids.values():
            return name
        if name not in ids:
            raise InputError(f"find security group {name!r}", f"there is none; groups are {', '.join(sorted(ids))}")
        return ids[name]

    def _group(self, group: SecurityGroup) -> dict[str, Any]:
        names = {group_id: name for name, group_id in self._ids().items()}
        members = [eni for eni in self._cloud.enis.values() if group.group_id in eni.group_ids]
        return {
            "group_id": group.group_id,
            "name": group.name,
            "rules": [
                {
                    "rule_id": rule.rule_id,
                    "egress": rule.egress,
                    "rule": str(rule).replace(str(rule.peer), names.get(str(rule.peer), str(rule.peer))),
                }
                for rule in group.rules.values()
            ],
            "members": [
                {
                    "eni_id": eni.eni_id,
                    "node": self._nodes().get(eni.attachment.instance_id) if eni.attachment else None,
                    "address": str(eni.primary),
                }
                for eni in sorted(members, key=lambda eni: eni.serial)
            ],
        }  # fmt: skip
