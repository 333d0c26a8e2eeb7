# SPDX-License-Identifier: Apache-2.0
"""What the journal's lines mean: grants, releases, cooldowns and EC2 intents, there and back.

Knows how a value becomes a record and how a list of records becomes a state again. Must never touch a file or decide
what is still true: `ipamd.recovery` compares the state with the kernel and EC2.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from typing import Any, Literal

from vpccni.aws.values import IPAddress
from vpccni.core.grant import Grant, GrantedAddress, PodIdentity, PodKey
from vpccni.errors import StateError
from vpccni.ipamd.journal import Record

IntentKind = Literal["attach", "free"]


@dataclass(frozen=True, slots=True)
class Intent:
    """An EC2 saga under way. `token` is its identity and the ClientToken of its create call; `at` in Unix seconds."""

    token: str
    kind: IntentKind
    at: float
    eni_id: str = ""
    subnet_id: str = ""
    reason: str = ""


@dataclass(slots=True)
class JournalState:
    """What a journal says: who owns what, what was released when (Unix seconds), which sagas were not finished."""

    grants: dict[PodKey, Grant] = field(default_factory=dict)
    released: dict[IPAddress, float] = field(default_factory=dict)
    intents: dict[str, Intent] = field(default_factory=dict)


def granted(grant: Grant) -> Record:
    """The record of a grant, written before the pod is wired."""
    places = [[str(at.address), at.eni_id, at.card, at.device, at.table] for at in grant.addresses]
    pod = [grant.pod.namespace, grant.pod.name, grant.pod.uid]
    local = {"egress": str(grant.egress)} if grant.egress is not None else {}
    return {"t": "grant", "key": _key(grant.key), "pod": pod, "addresses": places, "at": grant.assigned_at, **local}


def released(grant: Grant, now: float) -> Record:
    """The record of a release after use, written after the pod is unwired: its addresses cool from `now` on."""
    return {"t": "release", "key": _key(grant.key), "addresses": [str(at.address) for at in grant.addresses], "at": now}


def cooling(address: IPAddress, since: float) -> Record:
    """The record that compaction keeps of a release that is still cooling."""
    return {"t": "cooling", "address": str(address), "at": since}


def intended(intent: Intent) -> Record:
    """The record of a saga's start, and of each thing learnt on its way (the last record of a token counts)."""
    return {
        "t": "intent",
        "token": intent.token,
        "kind": intent.kind,
        "at": intent.at,
        "eni": intent.eni_id,
        "subnet": intent.subnet_id,
        "reason": intent.reason,
    }


def finished(token: str) -> Record:
    """The record of a saga's end, committed or undone."""
    return {"t": "done", "token": token}


def snapshot(state: JournalState) -> list[Record]:
    """The shortest list of records that replays to `state`."""
    records: list[Record] = [granted(grant) for grant in state.grants.values()]
    records += [cooling(address, since) for address, since in state.released.items()]
    records += [intended(intent) for intent in state.intents.values()]
    return records


def replay(records: Iterable[Record]) -> JournalState:
    """The state after all records. Raises StateError (`journal-corrupt`) for a record that is not one of ours."""
    state = JournalState()
    for record in records:
        try:
            _apply(state, record)
        except (KeyError, ValueError, TypeError, IndexError) as error:
            raise StateError(
                "replay the journal", f"{record} is not a record of it: {error!r}", code="journal-corrupt"
            ) from error
    return state


def _apply(state: JournalState, record: Mapping[str, Any]) -> None:
    match record["t"]:
        case "grant":
            grant = _grant(record)
            state.grants[grant.key] = grant
            for place in grant.addresses:
                state.released.pop(place.address, None)
        case "release":
            state.grants.pop(PodKey(*record["key"]), None)
            for address in record["addresses"]:
                state.released[ip_address(address)] = float(record["at"])
        case "cooling":
            state.released[ip_address(record["address"])] = float(record["at"])
        case "intent":
            intent = Intent(
                record["token"], record["kind"], record["at"], record["eni"], record["subnet"], record["reason"]
            )
            state.intents[intent.token] = intent
        case "done":
            state.intents.pop(record["token"], None)
        case other:
            raise ValueError(f"unknown type {other!r}")


def _grant(record: Mapping[str, Any]) -> Grant:
    places = tuple(
        GrantedAddress(ip_address(address), eni_id, card, device, table)
        for address, eni_id, card, device, table in record["addresses"]
    )
    local = ip_address(record["egress"]) if "egress" in record else None
    return Grant(PodKey(*record["key"]), PodIdentity(*record["pod"]), places, float(record["at"]), local)


def _key(key: PodKey) -> list[str]:
    return [key.network, key.container_id, key.ifname]


def with_eni(intent: Intent, eni_id: str) -> Intent:
    """The same saga, now that its interface is known."""
    return replace(intent, eni_id=eni_id)
