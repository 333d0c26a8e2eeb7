# SPDX-License-Identifier: Apache-2.0
"""Security groups: create, delete, allow, revoke.

Knows EC2's rules about names, duplicates, quotas and dependencies. Must never know how a packet is judged: it emits
`GroupRulesChanged`, and who is in a group goes with the interfaces. Part of `Cloud`; a refused call changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from vpccni.lab.cloud.errors import ApiError, not_found
from vpccni.lab.cloud.events import GroupRulesChanged
from vpccni.lab.cloud.grouprules import ALL, EVERYWHERE, GroupRule, rule
from vpccni.lab.cloud.interfaces import InterfaceOperations
from vpccni.lab.cloud.resources import SecurityGroup
from vpccni.lab.cloud.tags import check_tags

MAX_RULES = 60  # EC2's default quota, per direction and IP version
DEFAULT_GROUP = "default"  # every VPC has one; nobody may delete it


class GroupOperations(InterfaceOperations):
    """Create to delete."""

    def group(self, group_id: str) -> SecurityGroup:
        """A security group or InvalidGroup.NotFound."""
        if group_id not in self.groups:
            raise not_found("sg", group_id)
        return self.groups[group_id]

    def create_security_group(
        self, vpc_id: str, name: str, description: str = "", tags: Mapping[str, str] | None = None
    ) -> SecurityGroup:
        """CreateSecurityGroup: names are unique in a VPC. Nothing comes in, everything goes out."""
        self.settle()
        vpc = self.vpc(vpc_id)
        if any(group.name == name for group in self.groups.values() if group.vpc_id == vpc_id):
            message = f"The security group '{name}' already exists for VPC '{vpc_id}'"
            raise ApiError("InvalidGroup.Duplicate", message)
        check_tags(tags or {})
        group = SecurityGroup(
            self.new_id("sg"), self.next_serial(), self.account_id, vpc_id, name, description, dict(tags or {})
        )
        self.groups[group.group_id] = group
        versions = (4, 6) if vpc.ipv6_cidrs else (4,)
        rules = [rule(True, ALL, EVERYWHERE[version]) for version in versions]
        if name == DEFAULT_GROUP:
            rules.append(rule(False, ALL, group.group_id))
        self._add(group, rules)
        return group

    def delete_security_group(self, group_id: str) -> None:
        """DeleteSecurityGroup: only when no interface has it and no other group's rule names it."""
        self.settle()
        group = self.group(group_id)
        if group.name == DEFAULT_GROUP:
            raise ApiError(
                "CannotDelete", f'the specified group: "{group_id}" name: "default" cannot be deleted by a user'
            )
        others = (one for one in self.groups.values() if one is not group)
        named = any(one.peer == group_id for other in others for one in other.rules.values())
        if named or any(group_id in eni.group_ids for eni in self.enis.values()):
            raise ApiError("DependencyViolation", f"resource {group_id} has a dependent object")
        del self.groups[group_id]
        self.emit(GroupRulesChanged(group_id, ()))

    def authorize(self, group_id: str, rules: Sequence[GroupRule]) -> list[GroupRule]:
        """AuthorizeSecurityGroupIngress and -Egress: all of them or none."""
        self.settle()
        group = self.group(group_id)
        keys = {one.key for one in group.rules.values()}
        for one in rules:
            if one.key in keys:
                message = f'the specified rule "{one}, ALLOW" already exists'
                raise ApiError("InvalidPermission.Duplicate", message)
            keys.add(one.key)
            if isinstance(one.peer, str) and self.group(one.peer).vpc_id != group.vpc_id:
                raise not_found("sg", one.peer)
        self._check_quota([*group.rules.values(), *rules])
        return self._add(group, rules)

    def revoke(self, group_id: str, rules: Sequence[GroupRule] = (), rule_ids: Sequence[str] = ()) -> list[GroupRule]:
        """RevokeSecurityGroupIngress and -Egress, by value or by id: all of them or none."""
        self.settle()
        group = self.group(group_id)
        for rule_id in rule_ids:
            if rule_id not in group.rules:
                message = f"The security group rule ID '{rule_id}' does not exist"
                raise ApiError("InvalidSecurityGroupRuleId.NotFound", message)
        by_key = {one.key: one for one in group.rules.values()}
        for one in rules:
            if one.key not in by_key:
                message = "The specified rule does not exist in this security group."
                raise ApiError("InvalidPermission.NotFound", message)
        gone = {
            **{one.key: by_key[one.key] for one in rules},
            **{group.rules[one].key: group.rules[one] for one in rule_ids},
        }
        for one in gone.values():
            del group.rules[one.rule_id]
        self._tell(group)
        return list(gone.values())

    @staticmethod
    def _check_quota(rules: Sequence[GroupRule]) -> None:
        for egress in (False, True):
            for version in (4, 6):
                if sum(one.egress == egress and one.speaks(version) for one in rules) > MAX_RULES:
                    raise ApiError(
                        "RulesPerSecurityGroupLimitExceeded",
                        "The maximum number of rules per security group has been reached.",
                    )

    def _add(self, group: SecurityGroup, rules: Sequence[GroupRule]) -> list[GroupRule]:
        # Numbered, not drawn: rules must not change the ids and addresses that a seed gives.
        made = [replace(one, rule_id=f"sgr-0{self.next_serial():016x}") for one in rules]
        group.rules.update({one.rule_id: one for one in made})
        self._tell(group)
        return made

    def _tell(self, group: SecurityGroup) -> None:
        self.emit(GroupRulesChanged(group.group_id, tuple(group.rules.values())))
