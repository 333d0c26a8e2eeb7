# SPDX-License-Identifier: Apache-2.0
"""The part of the control API that is about the cloud: faults, recorded calls, subnet maps.

Knows requests and answers as plain values. Must never hold state: the cloud, its call log and the names of nodes are
given. The lab daemon serves it beside `control`; input that cannot be used raises `InputError`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from vpccni.errors import InputError, TopologyError
from vpccni.lab.cloud import faults, profile
from vpccni.lab.cloud.cloud import Cloud
from vpccni.lab.cloud.faults import NO_FAULTS
from vpccni.lab.cloud.resources import Eni, Subnet
from vpccni.lab.cloud.subnetmap import subnet_map
from vpccni.lab.ec2.calls import CallLog, Entry, Total, summed

MACHINE = "machine"  # who calls from outside the box: people, scripts, tests


class CloudControl:
    """Questions and orders about one running cloud."""

    def __init__(
        self,
        cloud: Cloud,
        calls: CallLog,
        nodes: Callable[[], Mapping[str, str]],
        actions: frozenset[str],
        changed: Callable[[], None],
    ) -> None:
        """`nodes()`: instance id -> node name. `actions`: all that EC2 has. `changed` is called after an order."""
        self._cloud, self._calls, self._nodes = cloud, calls, nodes
        self._actions, self._changed = actions, changed

    # -- faults

    def faults(self) -> dict[str, Any]:
        """What goes wrong at this moment, in the words of `lab fault set`."""
        self._cloud.settle()
        return {
            "profile": self._cloud.profile.name,
            "faults": faults.render(self._cloud.faults),
            "buckets": self._cloud.gate.buckets.levels(self._cloud.now),
            "tenant_interfaces": sum(bool(eni.requester) for eni in self._cloud.enis.values()),
        }

    def set_faults(self, order: Mapping[str, Any]) -> dict[str, Any]:
        """`profile` first, then `clear` (names; all when the list is empty), then `set` (name -> text)."""
        try:
            wanted = self._cloud.faults
            day = profile.load(order["profile"]) if order.get("profile") else None
            if day is not None:
                wanted = day.faults
            if "clear" in order:
                wanted = faults.change(wanted, dict.fromkeys(order["clear"], "off")) if order["clear"] else NO_FAULTS
            wanted = faults.change(wanted, order.get("set", {}))
        except ValueError as error:
            raise InputError("change the faults", str(error), hint="vpccni lab fault list") from error
        unknown = sorted(faults.actions_of(wanted) - self._actions)
        if unknown:
            raise InputError(
                "change the faults", f"EC2 has no action {', '.join(unknown)}",
                hint="they are spelt as in the API reference, such as AttachNetworkInterface; vpccni lab calls lists"
                " those in use",
            )  # fmt: skip
        if day is not None:
            self._cloud.set_profile(day)
        self._cloud.set_faults(wanted)
        self._changed()
        return self.faults()

    # -- calls

    def calls(self, query: Mapping[str, str]) -> dict[str, Any]:
        """`node`, `since_s` (seconds ago), `after` (number of a call), `last` (how many to list one by one).

        Totals are of all calls since the start, or, when anything is asked for, of those still remembered.
        """
        names = self._callers()
        node = query.get("node", "")
        if node and node not in (*names.values(), MACHINE):
            known = ", ".join([*dict.fromkeys(names.values()), MACHINE])
            raise TopologyError(f"list the calls of {node!r}", f"there is no such caller; accepted are {known}")
        earliest = time.time() - float(query["since_s"]) if "since_s" in query else 0.0
        after, last = int(query.get("after", 0)), int(query.get("last", 20))
        chosen = self._calls.entries(
            lambda entry: (
                entry.at >= earliest and entry.number > after and (not node or names.get(entry.client, MACHINE) == node)
            )
        )
        restricted = bool(node or "since_s" in query or after)
        totals = summed(chosen) if restricted else self._calls.totals()
        return {
            "totals": [_total(action, total) for action, total in totals.items()],
            "calls": [_entry(entry, names.get(entry.client, MACHINE)) for entry in chosen[-last:]] if last else [],
            "forgotten": self._calls.forgotten,
        }

    def _callers(self) -> dict[str, str]:
        """Address -> node. The endpoint sees a node by its primary address."""
        instances = self._cloud.instances
        primaries = {
            instance_id: self._cloud.enis.get(instances[instance_id].primary_eni_id)
            for instance_id in self._nodes()
            if instance_id in instances
        }
        return {str(eni.primary): self._nodes()[one] for one, eni in primaries.items() if eni is not None}

    # -- subnets

    def subnet(self, name: str) -> dict[str, Any]:
        """The map of a subnet by id or by the topology's name."""
        self._cloud.settle()
        found = self._find(name)
        drawn = subnet_map(self._cloud, found, self._holder)
        return {
            "subnet_id": drawn.subnet_id,
            "name": drawn.name,
            "cidr": str(drawn.network),
            "zone": found.zone,
            "free_addresses": drawn.free,
            "blocks_by_state": drawn.count(),
            "reservations": [asdict(item) | {"network": str(item.network)} for item in found.v4.reservations],
            "blocks": [
                {
                    "cidr": str(block.network),
                    "state": block.state,
                    "free": block.free,
                    "reservation": block.reservation or None,
                    "occupants": [
                        {
                            "address": str(one.network.network_address),
                            "eni_id": one.eni_id,
                            "role": one.role,
                            "holder": one.holder,
                        }
                        for one in block.occupants
                    ],
                }
                for block in drawn.blocks
            ],
        }  # fmt: skip

    def _find(self, name: str) -> Subnet:
        for subnet in self._cloud.subnets.values():
            if name in (subnet.subnet_id, subnet.tags.get("Name")):
                return subnet
        known = ", ".join(f"{one.tags.get('Name', '-')} ({one.subnet_id})" for one in self._cloud.subnets.values())
        raise TopologyError(f"draw subnet {name!r}", f"there is none; subnets are {known}", code="no-such-subnet")

    def _holder(self, eni: Eni) -> str:
        if eni.attachment is not None:
            node = self._nodes().get(eni.attachment.instance_id, eni.attachment.instance_id)
            return f"node {node}, device {eni.attachment.device}"
        return f"{eni.requester}: {eni.description}" if eni.requester else (eni.description or "an interface of nobody")


def _total(action: str, total: Total) -> dict[str, Any]:
    return {
        "action": action,
        "calls": total.calls,
        "succeeded": total.codes.get("", 0),
        "codes": {code: number for code, number in sorted(total.codes.items()) if code},
        "mean_s": round(total.took_s / total.calls, 6),
        "worst_s": round(total.worst_s, 6),
    }


def _entry(entry: Entry, caller: str) -> dict[str, Any]:
    return {**asdict(entry), "took_s": round(entry.took_s, 6), "code": entry.code or None, "caller": caller}
