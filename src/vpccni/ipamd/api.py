# SPDX-License-Identifier: Apache-2.0
"""The CNI commands as the daemon serves them: request in, (exit code, stdout) out, never an exception.

Knows which transition each command is and how its outcome is rendered in the caller's CNI version. Must never touch
kernel, disk or EC2 itself. `ipamd.server` calls `handle` with each relayed request, `ipamd.program` with queued DELs.
"""

from __future__ import annotations

import logging
from typing import Protocol

from vpccni.cni import result
from vpccni.cni.netconf import stated_version
from vpccni.cni.request import (
    NIC_CONFIG,
    AddRequest,
    CheckRequest,
    DelRequest,
    GcRequest,
    Request,
    StatusRequest,
    parse,
)
from vpccni.cni.result import NicResult
from vpccni.cni.wire import RelayRequest
from vpccni.core.conventions import EGRESS_NIC
from vpccni.core.grant import PodIdentity, PodKey
from vpccni.core.podnet import PodWiring
from vpccni.errors import (
    CNI_INVALID_ENVIRONMENT,
    CNI_PLUGIN_NOT_AVAILABLE,
    CNI_UNKNOWN_CONTAINER,
    DaemonNotReady,
    HostError,
    NetconfError,
    NoAddress,
    VpcCniError,
)
from vpccni.ipamd.attachments import Attachments, Wired
from vpccni.ipamd.decisions import Decisions

log = logging.getLogger(__name__)

Reply = tuple[int, bytes]


class RequestMeter(Protocol):
    """Where requests are counted."""

    def add_request(self) -> None:
        """An ADD came in."""

    def del_request(self, reason: str) -> None:
        """A DEL came in."""

    def no_address(self) -> None:
        """An ADD was refused for want of an address."""


class Readiness(Protocol):
    """Whether ADDs can be served."""

    def not_ready(self) -> DaemonNotReady | None:
        """Why not, or None."""


class Growth(Protocol):
    """What makes the pool larger."""

    def wake(self) -> None:
        """An ADD found nothing: grow now."""

    def explain(self, refusal: NoAddress) -> NoAddress:
        """The refusal with the reason why nothing is there yet."""


class Api:
    """Dispatches typed requests."""

    def __init__(
        self,
        attachments: Attachments,
        readiness: Readiness,
        meter: RequestMeter,
        growth: Growth,
        decisions: Decisions,
    ) -> None:
        self._attachments, self._readiness, self._meter, self._growth = attachments, readiness, meter, growth
        self._decisions = decisions

    async def handle(self, relayed: RelayRequest, netns_fd: int | None) -> Reply:
        """Serve one request. The reply is an error object with exit code 1 for anything that went wrong."""
        version = stated_version(relayed.stdin)
        request: Request | None = None
        try:
            request = parse(relayed)
            stdout = await self._serve(request, netns_fd)
        except VpcCniError as error:
            self._refused(relayed, request, error)
            return 1, result.render_error(version, error)
        except Exception as fault:
            log.exception("a request failed in an unexpected way", extra={"facts": {"command": relayed.command}})
            hint = "see the daemon's log; report it"
            unexpected = HostError(f"serve {relayed.command}", repr(fault), code="internal-error", hint=hint)
            self._refused(relayed, request, unexpected)
            return 1, result.render_error(version, unexpected)
        return 0, stdout

    async def _serve(self, request: Request, netns_fd: int | None) -> bytes:
        match request:
            case AddRequest():
                return await self._add(request, netns_fd)
            case DelRequest():
                return await self._delete(request)
            case CheckRequest():
                return await self._check(request, netns_fd)
            case GcRequest():
                return await self._collect(request)
            case StatusRequest():
                return self._status()
            case _:
                return result.render_version()

    async def _add(self, request: AddRequest, netns_fd: int | None) -> bytes:
        self._meter.add_request()
        closed = self._readiness.not_ready()
        if closed is not None:
            raise closed
        if netns_fd is None:
            raise NetconfError(
                "wire the pod",
                f"CNI_NETNS {request.netns} was not handed over",
                hint="the namespace must exist and be readable when the plugin starts",
                code="namespace-missing",
                cni_code=CNI_INVALID_ENVIRONMENT,
            )
        key, pod = _key(request), _pod(request)
        if request.unknown_nic_config:
            log.info("annotation ignored", extra={"facts": {"pod": str(pod), NIC_CONFIG: request.unknown_nic_config}})
        try:
            wired = await self._attachments.add(key, pod, netns_fd, every_card=request.multi_nic)
        except NoAddress as refusal:
            self._meter.no_address()
            self._growth.wake()
            raise self._growth.explain(refusal) from None
        self._decisions.served(str(pod))
        log.info(
            "added", extra={"facts": {"pod": str(pod), "address": str(wired.grant), "container": key.container_id}}
        )
        return result.render_add(
            request.config.cni_version,
            nics_of(wired),
            request.netns,
            prev_result=request.config.prev_result.raw if request.config.prev_result else None,
        )

    async def _delete(self, request: DelRequest) -> bytes:
        self._meter.del_request("PodDeleted" if request.config.prev_result else "SetupNSFailed")
        key, pod = _key(request), _pod(request)
        grant = await self._attachments.delete(key, pod)
        if grant is not None:
            log.info("deleted", extra={"facts": {"pod": str(pod), "released": str(grant)}})
        elif request.config.prev_result is not None:
            named = [address.ip for nic in request.config.prev_result.nics for address in nic.addresses]
            await self._attachments.sweep(key, pod, named)
        return b""

    async def _check(self, request: CheckRequest, netns_fd: int | None) -> bytes:
        problems = await self._attachments.check(_key(request), netns_fd)
        if problems is None:
            raise NetconfError(
                "check the pod",
                f"{_pod(request)} has no address here",
                hint="delete the sandbox; the runtime makes a new one",
                code="unknown-pod",
                cni_code=CNI_UNKNOWN_CONTAINER,
            )
        if problems:
            raise HostError(
                "confirm the pod's wiring",
                "; ".join(problems),
                hint="delete the pod; its replacement is wired anew",
                code="wiring-differs",
            )
        return b""

    async def _collect(self, request: GcRequest) -> bytes:
        valid = request.config.valid_attachments or frozenset()
        strays = self._attachments.strays(request.config.name, frozenset((at.container_id, at.ifname) for at in valid))
        errors = []
        for key in strays:
            try:
                await self._attachments.delete(key)
                log.info(
                    "collected a pod that the runtime does not know", extra={"facts": {"container": key.container_id}}
                )
            except VpcCniError as error:  # CNI 1.1.0, GC: go on, report at the end
                errors.append(str(error))
        if errors:
            raise HostError(
                "collect every stray", "; ".join(errors), hint="the next GC tries again", code="gc-incomplete"
            )
        return b""

    def _status(self) -> bytes:
        refusal = self._readiness.not_ready()
        if refusal is not None:
            refusal.cni_error_code = CNI_PLUGIN_NOT_AVAILABLE
            raise refusal
        tally = self._attachments.tally()
        if not tally.available:
            empty = NoAddress(
                "serve an ADD",
                f"none of {tally.total} addresses is available",
                code="pool-empty",
                hint="the pool grows in the background",
                evidence={"assigned": tally.assigned, "cooling": tally.cooling},
                cni_code=CNI_PLUGIN_NOT_AVAILABLE,
            )
            raise self._growth.explain(empty)
        return b""

    def _refused(self, relayed: RelayRequest, request: Request | None, error: VpcCniError) -> None:
        container = relayed.env.get("CNI_CONTAINERID", "")
        facts = {
            "command": relayed.command,
            "code": error.error_code,
            "cni_code": error.cni_error_code,
            **error.evidence,
        }
        log.warning("%s", error, extra={"facts": {**facts, "container": container}})
        if relayed.command == "ADD":
            pod = str(_pod(request)) if isinstance(request, AddRequest) else ""
            self._decisions.refused(error, pod, container)


def nics_of(wired: Wired) -> list[NicResult]:
    """The interfaces of a wired pod for its CNI result. That for egress comes without its address, as upstream."""
    return [_nic(wiring) for wiring in wired.wirings]


def _nic(wiring: PodWiring) -> NicResult:
    egress = wiring.plan.nic == EGRESS_NIC
    first = wiring.addresses[0]
    return NicResult(
        host_name=wiring.link.name,
        ifname=wiring.inside.name,
        addresses=() if egress else tuple(each.address for each in wiring.addresses),
        table=first.table,
        device=first.device,
        host_mac=wiring.plan.host_mac,
        pod_mac=wiring.plan.pod_mac,
        mtu=wiring.plan.mtu,
        egress=egress,
    )


def _key(request: AddRequest | DelRequest | CheckRequest) -> PodKey:
    return PodKey(request.config.name, request.container_id, request.ifname)


def _pod(request: AddRequest | DelRequest | CheckRequest) -> PodIdentity:
    return PodIdentity(request.pod.namespace, request.pod.name, request.pod.uid)
