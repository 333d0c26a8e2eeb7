# SPDX-License-Identifier: Apache-2.0
"""Tags of all resources, with EC2's limits.

Knows the rules for keys and values and where tags are kept. Must never give a tag a meaning: that is for the readers.
Part of `Cloud`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from vpccni.lab.cloud.errors import ApiError, invalid, not_found
from vpccni.lab.cloud.resources import TAGGABLE
from vpccni.lab.cloud.world import World

MAX_TAGS, MAX_KEY, MAX_VALUE = 50, 128, 256


def check_tags(tags: Mapping[str, str], existing: Mapping[str, str] | None = None) -> None:
    """Refuse what EC2 refuses: too many tags, too long keys or values, the reserved prefix."""
    for key, value in tags.items():
        if not key or len(key) > MAX_KEY:
            raise invalid(f"Tag key '{key}' must be 1 to {MAX_KEY} characters long")
        if len(value) > MAX_VALUE:
            raise invalid(f"The value of tag '{key}' is longer than {MAX_VALUE} characters")
        if key.lower().startswith("aws:"):
            raise invalid(f"Tag keys starting with 'aws:' are reserved for internal use: {key}")
    if len({*tags, *(existing or {})}) > MAX_TAGS:
        raise ApiError("TagLimitExceeded", f"The maximum number of tags for a resource ({MAX_TAGS}) is exceeded.")


class TagOperations(World):
    """Create, delete, list."""

    def create_tags(self, resource_ids: Sequence[str], tags: Mapping[str, str]) -> None:
        """CreateTags: on all resources or on none."""
        self.settle()
        kept = [self.tags_of(resource_id) for resource_id in resource_ids]
        for existing in kept:
            check_tags(tags, existing)
        for existing in kept:
            existing.update(tags)

    def delete_tags(self, resource_ids: Sequence[str], tags: Mapping[str, str | None]) -> None:
        """DeleteTags: by key, or by key and value; no tags at all: every tag of the resources goes."""
        self.settle()
        kept = [self.tags_of(resource_id) for resource_id in resource_ids]
        for existing in kept:
            for key in list(existing) if not tags else [key for key in tags if key in existing]:
                if tags.get(key) in (None, existing[key]):
                    del existing[key]

    def tags_of(self, resource_id: str) -> dict[str, str]:
        """The tags of a resource of any kind, or the NotFound of its kind. An id of no known kind is InvalidID."""
        prefix = resource_id.rpartition("-")[0]
        tables: dict[str, Mapping[str, object]] = {
            "eni": self.enis,
            "subnet": self.subnets,
            "vpc": self.vpcs,
            "i": self.instances,
            "sg": self.groups,
        }
        if prefix not in TAGGABLE:
            raise ApiError("InvalidID", f"The ID '{resource_id}' is not valid")
        if resource_id not in tables[prefix]:
            raise not_found(prefix, resource_id)
        return {
            "eni": lambda: self.eni(resource_id).tags,
            "subnet": lambda: self.subnets[resource_id].tags,
            "vpc": lambda: self.vpcs[resource_id].tags,
            "i": lambda: self.instances[resource_id].tags,
            "sg": lambda: self.groups[resource_id].tags,
        }[prefix]()

    def all_tags(self) -> Iterator[tuple[str, str, str, str]]:
        """(resource id, resource type, key, value) of every tag, in order of the resources' creation."""
        resources = [
            *((eni.serial, eni.eni_id) for eni in self.listed_enis().values()),
            *((subnet.serial, subnet.subnet_id) for subnet in self.subnets.values()),
            *((vpc.serial, vpc.vpc_id) for vpc in self.vpcs.values()),
            *((instance.serial, instance.instance_id) for instance in self.instances.values()),
            *((group.serial, group.group_id) for group in self.groups.values()),
        ]
        for _, resource_id in sorted(resources):
            for key, value in self.tags_of(resource_id).items():
                yield resource_id, TAGGABLE[resource_id.rpartition("-")[0]], key, value
