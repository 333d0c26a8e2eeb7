# SPDX-License-Identifier: Apache-2.0
"""The two sagas that could leak: attaching a new ENI and freeing one. Journalled, idempotent, committed or undone.

Knows the order of EC2 calls and what undoes each. Must never decide that an ENI is needed, nor touch the pool or the
kernel: waiting for the link and wiring the ENI are callables that the engine passes in.

    attach   intent -> create(ClientToken) -> intent+eni -> attach -> delete on termination -> attached -> link -> done
             any failure: detach if attached, delete, done. If even that fails the intent stays and `undo` repeats it.
    free     intent -> detach -> available -> delete -> done. Repeating it from the start is harmless.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import TypeVar

from vpccni.aws import tags as eni_tags
from vpccni.aws.values import Interface, NodeIdentity
from vpccni.clock import Clock
from vpccni.errors import CloudError, VpcCniError
from vpccni.ipamd import records
from vpccni.ipamd.cloudcalls import CloudCalls, Postponed
from vpccni.ipamd.journal import Record
from vpccni.ipamd.records import Intent

T = TypeVar("T")

log = logging.getLogger(__name__)

ATTACH_LIMIT_S = 120.0  # EC2 documents no bound; the slowest attach seen in public reports is well below
DETACH_LIMIT_S = 300.0
POLL_FIRST_S, POLL_LAST_S = 0.05, 5.0
CONSISTENT_S = 10.0  # how long EC2's readers may lag behind its writers
DEVICE_SLOTS = 100


@dataclass(frozen=True, slots=True)
class NewEni:
    """What to create and where to attach it."""

    subnet_id: str
    security_groups: Sequence[str]
    card: int
    address_count: int
    prefix_count: int
    reason: str
    ip_version: int = 4
    beside_prefix_count: int = 0  # prefixes of the other family


class Sagas:
    """Runs sagas for one node. `open` maps the token of every unfinished saga to its intent."""

    def __init__(
        self,
        node: NodeIdentity,
        calls: CloudCalls,
        record: Callable[[Record], Awaitable[None]],
        clock: Clock,
        token: Callable[[], str],
        own_tags: Callable[[float], Mapping[str, str]],
        slots: frozenset[tuple[int, int]] | None = None,
    ) -> None:
        """`record` makes a record durable; `token` makes a fresh ClientToken; `own_tags(now)` the new ENI's tags;
        `slots` are the (card, device) pairs in use, None when that is not known."""
        self._node, self._calls, self._record, self._clock = node, calls, record, clock
        self._token, self._own_tags = token, own_tags
        self._claimed: set[tuple[int, int]] = set()  # (card, device) slots of sagas under way
        self._slots = None if slots is None else set(slots)  # in use, as far as is known
        self._slots_lock = asyncio.Lock()
        self._running: set[str] = set()
        self.open: dict[str, Intent] = {}
        self.undone_at = inf  # when an attach was first undone since this was reset to inf: worth a sweep later

    async def attach(self, new: NewEni, link_up: Callable[[Interface], Awaitable[None]]) -> Interface:
        """Create and attach an ENI; returns it as EC2 reports it once attached and its link is there.

        `link_up` returns when the kernel shows the link and the node is routed for it. Raises CloudError or HostError
        after everything was undone.
        """
        intent = Intent(self._token(), "attach", self._clock.now(), subnet_id=new.subnet_id, reason=new.reason)
        self._running.add(intent.token)
        try:
            await self._write(intent)
            try:
                interface = await self._create(new, intent.token)
            except CloudError as error:
                if error.changed_nothing:  # there is nothing to search for and undo
                    await self._finish(intent.token)
                raise
            await self._write(records.with_eni(intent, interface.eni_id))
            attached = await self._attach(interface, new.card)
            await link_up(attached)
        except Postponed:
            raise
        except (VpcCniError, asyncio.CancelledError) as error:
            log.warning("attaching an ENI failed and is undone", extra={"facts": {"why": error, "token": intent.token}})
            self.undone_at = min(self.undone_at, self._clock.now())
            await asyncio.shield(self.undo(intent.token))
            raise
        finally:
            self._running.discard(intent.token)
        await self._finish(intent.token)
        return attached

    async def free(self, eni_id: str, reason: str) -> None:
        """Detach and delete an ENI. Raises CloudError; what EC2 had begun by then, `retry_open` ends."""
        intent = Intent(self._token(), "free", self._clock.now(), eni_id=eni_id, reason=reason)
        self._running.add(intent.token)
        try:
            await self._write(intent)
            await self._remove(eni_id)
            await self._finish(intent.token)
        except CloudError:
            interface = await self._describe(eni_id)
            if _status(interface) == "attached":  # nothing has begun: it stays an ordinary ENI of the node
                await self._finish(intent.token)
            raise
        finally:
            self._running.discard(intent.token)

    def busy(self) -> frozenset[str]:
        """ENIs of unfinished sagas: nobody else's business."""
        return frozenset(intent.eni_id for intent in self.open.values())

    async def retry_open(self) -> list[str]:
        """End the sagas that stayed open; the ENIs that are gone now."""
        gone = []
        for token, intent in list(self.open.items()):
            if token not in self._running:
                await self.undo(token)
                if token not in self.open and intent.eni_id:
                    gone.append(intent.eni_id)
        return gone

    async def undo(self, token: str) -> None:
        """Bring an unfinished saga to its end: nothing of it is left in EC2. Errors are logged and it stays open."""
        intent = self.open.get(token)
        if intent is None:
            return
        try:
            for eni_id in [intent.eni_id] if intent.eni_id else await self._created_by(intent):
                await self._remove(eni_id)
        except CloudError as error:
            log.warning("a saga stays open: %s", error, extra={"facts": {"token": token, "eni": intent.eni_id}})
            return
        await self._finish(token)

    async def adopt(self, intents: Mapping[str, Intent], attached: Sequence[Interface]) -> None:
        """Take over the unfinished sagas of a daemon that died; `retry_open` undoes what is not on the instance.

        An ENI that made it onto the instance is simply used: the reconciler finds it. A `free` whose detach had
        not begun is forgotten, the plan frees it again if it is still wanted.
        """
        here = {eni.eni_id for eni in attached if _status(eni) in ("attaching", "attached")}
        self.open = dict(intents)
        for token, intent in intents.items():
            if intent.eni_id in here:
                await self._finish(token)

    async def sweep(self, youngest_s: float) -> list[str]:
        """Delete ENIs that this node made, that are attached nowhere and belong to no saga; their ids.

        `youngest_s`: the least age. Never another node's or cluster's: every node of Amazon VPC CNI 1.23 lists and
        deletes in the whole VPC. One without its time of creation is marked now and looked at again in the next sweep.
        """
        now = self._clock.now()
        mine = self._own_tags(now)
        busy = {intent.eni_id for intent in self.open.values()}
        swept = []
        for eni in await self._owned():
            ours = eni.description == eni_tags.description(self._node.instance_id) and all(
                eni.tags.get(key) == mine.get(key) for key in (eni_tags.INSTANCE_TAG, eni_tags.CLUSTER_TAG)
            )
            if not ours or eni.attachment is not None or eni.status != "available" or eni.eni_id in busy:
                continue
            created_at = eni_tags.created_at(eni.tags)
            if created_at is None:
                await self._mark(eni, mine)
            elif now - created_at >= youngest_s:
                log.warning("deleting a leaked ENI", extra={"facts": {"eni": eni.eni_id, "created_at": created_at}})
                await self._remove(eni.eni_id)
                swept.append(eni.eni_id)
        return swept

    async def _mark(self, eni: Interface, mine: Mapping[str, str]) -> None:
        created = {eni_tags.CREATED_TAG: mine[eni_tags.CREATED_TAG]}
        await self._calls.run("CreateTags", lambda: self._calls.interfaces.tag(eni.eni_id, created))

    async def _create(self, new: NewEni, token: str) -> Interface:
        return await self._calls.run(
            "CreateNetworkInterface",
            lambda: self._calls.interfaces.create(
                new.subnet_id,
                new.security_groups,
                description=eni_tags.description(self._node.instance_id),
                tags={**self._own_tags(self._clock.now()), eni_tags.SAGA_TAG: token},
                address_count=new.address_count,
                prefix_count=new.prefix_count,
                ip_version=new.ip_version,
                beside_prefix_count=new.beside_prefix_count,
                client_token=token,
            ),
            first=True,
        )

    async def _attach(self, interface: Interface, card: int) -> Interface:
        remembered = self._slots is not None
        try:
            attachment_id = await self._hang(interface.eni_id, card)
        except CloudError as error:
            if error.aws_code != "InvalidParameterValue" or not remembered:
                raise
            attachment_id = await self._hang(interface.eni_id, card)  # somebody else took what we thought free
        await self._calls.run(
            "ModifyNetworkInterfaceAttribute",
            lambda: self._calls.interfaces.delete_on_termination(interface.eni_id, attachment_id),
        )
        return await self._until_status(interface.eni_id, "attached", ATTACH_LIMIT_S)

    async def _hang(self, eni_id: str, card: int) -> str:
        """Attach at a device index that is free as far as we know; the attachment's id. A refusal ends knowing."""
        device = await self._claim_slot(card)
        try:
            attachment_id = await self._patiently(
                "AttachNetworkInterface",
                lambda: self._calls.interfaces.attach(eni_id, self._node.instance_id, device, card),
                # A fresh id may not be known everywhere yet (eventual consistency of EC2).
                again={"InvalidNetworkInterfaceID.NotFound"},
                limit_s=CONSISTENT_S,
            )
        except BaseException:
            self._slots = None
            raise
        finally:
            self._claimed.discard((card, device))
        if self._slots is not None:
            self._slots.add((card, device))
        return attachment_id

    async def _claim_slot(self, card: int) -> int:
        async with self._slots_lock:
            if self._slots is None:
                used = await self._calls.run(
                    "DescribeInstances", lambda: self._calls.inventory.occupied_slots(self._node.instance_id)
                )
                self._slots = set(used)
            taken = self._slots | self._claimed
            for device in range(DEVICE_SLOTS):
                if (card, device) not in taken:
                    self._claimed.add((card, device))
                    return device
        raise CloudError(
            "attach an ENI",
            f"no device index is free on network card {card}",
            hint="detach interfaces that nobody uses from this instance",
            evidence={"instance": self._node.instance_id},
            code="no-device-index",
        )

    async def _remove(self, eni_id: str) -> None:
        interface = await self._describe(eni_id)
        if interface is None:
            return
        attachment = interface.attachment
        if attachment and attachment.status != "detached":
            if attachment.status != "detaching":
                await self._calls.run(
                    "DetachNetworkInterface", lambda: self._calls.interfaces.detach(attachment.attachment_id)
                )
            try:
                await self._until_status(eni_id, "available", DETACH_LIMIT_S)
            except CloudError as error:
                if error.evidence.get("status") != "gone":
                    raise
            if self._slots is not None:
                self._slots.discard((attachment.card, attachment.device))
        await self._patiently(
            "DeleteNetworkInterface",
            lambda: self._calls.interfaces.delete(eni_id),
            again={"InvalidParameterValue", "InvalidNetworkInterface.InUse"},  # "in use" is usual right after a detach
            limit_s=60.0,
        )

    async def _created_by(self, intent: Intent) -> list[str]:
        """The ENI that this saga's create call made without our learning of it: it carries the saga's token."""
        owned = await self._owned()
        return [eni.eni_id for eni in owned if eni.tags.get(eni_tags.SAGA_TAG) == intent.token]

    async def _owned(self) -> Sequence[Interface]:
        return await self._calls.run(
            "DescribeNetworkInterfaces", lambda: self._calls.inventory.owned(self._node.instance_id)
        )

    async def _describe(self, eni_id: str) -> Interface | None:
        found = await self._calls.run("DescribeNetworkInterfaces", lambda: self._calls.inventory.interfaces([eni_id]))
        return found[0] if found else None

    async def _until_status(self, eni_id: str, wanted: str, limit_s: float) -> Interface:
        """Poll EC2 until the attachment is `attached` or the interface `available`; raises CloudError at the limit."""
        started_at, pause_s = self._clock.now(), POLL_FIRST_S
        while True:
            interface = await self._describe(eni_id)
            status = _status(interface)
            if interface is not None and status == wanted:
                return interface
            waited_s = self._clock.now() - started_at
            # A reader that lags behind may not know a fresh ENI at all, and may show an old status.
            vanished = interface is None and waited_s >= CONSISTENT_S
            if waited_s >= limit_s or vanished:
                raise CloudError(
                    f"see {eni_id} {wanted}",
                    f"EC2 still says {status} after {waited_s:.0f} s",
                    hint="look at the interface in the EC2 console; the daemon undoes and tries again",
                    evidence={"eni": eni_id, "status": status},
                    code="eni-stuck",
                )
            await self._clock.sleep(pause_s)
            pause_s = min(POLL_LAST_S, pause_s * 1.5)

    async def _patiently(self, action: str, call: Callable[[], T], *, again: set[str], limit_s: float) -> T:
        deadline, pause_s = self._clock.now() + limit_s, POLL_FIRST_S
        while True:
            try:
                return await self._calls.run(action, call)
            except CloudError as error:
                if error.aws_code not in again or self._clock.now() + pause_s > deadline:
                    raise
            await self._clock.sleep(pause_s)
            pause_s = min(POLL_LAST_S, pause_s * 2)

    async def _write(self, intent: Intent) -> None:
        self.open[intent.token] = intent
        await self._record(records.intended(intent))

    async def _finish(self, token: str) -> None:
        await self._record(records.finished(token))
        self.open.pop(token, None)  # from here on the reconciler may touch the ENI


def _status(interface: Interface | None) -> str:
    if interface is None:
        return "gone"
    if interface.attachment is None or interface.attachment.status == "detached":
        return interface.status
    return interface.attachment.status
