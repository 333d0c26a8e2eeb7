# SPDX-License-Identifier: Apache-2.0
"""EC2 as a web application: one POST is one operation.

Knows HTTP, the table of served operations, and the order of checks: action, parameters, DryRun, admission, effect.
Must never know the rules of EC2 (the model) or the fabric (it only says that something changed). The lab's daemon
runs it on loopback and inside the namespaces, the tests on loopback.
"""

from __future__ import annotations

import random
import re
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

from aiohttp import web

from vpccni.lab.cloud.cloud import Cloud
from vpccni.lab.cloud.errors import ApiError
from vpccni.lab.cloud.gate import Lost
from vpccni.lab.ec2 import change, describe, groups, vpcs
from vpccni.lab.ec2.admission import Admission, Call, Weather
from vpccni.lab.ec2.calls import LOST_AFTER, LOST_BEFORE, CallLog
from vpccni.lab.ec2.model import ServiceModel, load
from vpccni.lab.ec2.query import QueryParser
from vpccni.lab.ec2.xml import XmlRenderer, error_answer

Operation = Callable[[Cloud, Mapping[str, Any]], Mapping[str, Any]]

DESCRIBES: Mapping[str, Operation] = {
    "DescribeAvailabilityZones": describe.availability_zones,
    "DescribeInstances": describe.instances,
    "DescribeInstanceTypes": describe.instance_types,
    "DescribeNetworkInterfaceAttribute": describe.network_interface_attribute,
    "DescribeNetworkInterfacePermissions": describe.network_interface_permissions,
    "DescribeNetworkInterfaces": describe.network_interfaces,
    "DescribeSecurityGroupRules": groups.describe_rules,
    "DescribeSecurityGroups": describe.security_groups,
    "DescribeSubnets": describe.subnets,
    "DescribeTags": describe.tags,
    "DescribeTrunkInterfaceAssociations": describe.trunk_interface_associations,
    "DescribeVpcs": describe.vpcs,
    "GetSubnetCidrReservations": describe.subnet_cidr_reservations,
}
CHANGES: Mapping[str, Operation] = {
    "AssignIpv6Addresses": change.assign_ipv6_addresses,
    "AssignPrivateIpAddresses": change.assign_private_ip_addresses,
    "AssociateTrunkInterface": change.associate_trunk_interface,
    "AssociateVpcCidrBlock": vpcs.associate_cidr_block,
    "AttachNetworkInterface": change.attach_network_interface,
    "CreateNetworkInterface": change.create_network_interface,
    "CreateNetworkInterfacePermission": change.create_network_interface_permission,
    "AuthorizeSecurityGroupEgress": groups.authorize_egress,
    "AuthorizeSecurityGroupIngress": groups.authorize_ingress,
    "CreateSecurityGroup": change.create_security_group,
    "DeleteSecurityGroup": groups.delete_security_group,
    "RevokeSecurityGroupEgress": groups.revoke_egress,
    "RevokeSecurityGroupIngress": groups.revoke_ingress,
    "CreateSubnet": change.create_subnet,
    "CreateSubnetCidrReservation": change.create_subnet_cidr_reservation,
    "CreateTags": change.create_tags,
    "DeleteNetworkInterface": change.delete_network_interface,
    "DeleteNetworkInterfacePermission": change.delete_network_interface_permission,
    "DeleteSubnet": change.delete_subnet,
    "DeleteSubnetCidrReservation": change.delete_subnet_cidr_reservation,
    "DeleteTags": change.delete_tags,
    "DetachNetworkInterface": change.detach_network_interface,
    "DisassociateTrunkInterface": change.disassociate_trunk_interface,
    "ModifyNetworkInterfaceAttribute": change.modify_network_interface_attribute,
    "TerminateInstances": change.terminate_instances,
    "UnassignIpv6Addresses": change.unassign_ipv6_addresses,
    "UnassignPrivateIpAddresses": change.unassign_private_ip_addresses,
}
OPERATIONS: Mapping[str, Operation] = {**DESCRIBES, **CHANGES}
Pairs = list[tuple[str, str]]
_ACCESS_KEY = re.compile(r"Credential=([^/]+)/")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Everything that one request needs."""

    cloud: Cloud
    model: ServiceModel
    parser: QueryParser
    renderer: XmlRenderer
    admission: Admission
    on_change: Callable[[], None]
    new_id: Callable[[], str]
    calls: CallLog

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """One operation, or EC2's refusal."""
        request_id, started, at = self.new_id(), time.monotonic(), self.cloud.now
        action, subject, code, body, status = "", "", "", "", 200
        try:
            pairs = await _pairs(request)
            action = next((value for name, value in pairs if name == "Action"), "")
            call = self._call(action, pairs, request)
            subject = _subject(call.parameters)
            await self.admission.before(call)
            if call.parameters.get("DryRun"):
                raise ApiError("DryRunOperation", "Request would have succeeded, but DryRun flag is set.", 412)
            body = self._effect(call, request_id)
            if not await self.admission.after(call):
                code, status = LOST_AFTER, 0
        except ApiError as error:
            code, body, status = error.code, error_answer(error, request_id), error.status
        except Lost:
            code, status = LOST_BEFORE, 0
        self.calls.record(
            at=at, action=action if action in self.model.known else "(unknown)", client=request.remote or "", code=code,
            status=status, took_s=time.monotonic() - started, request_id=request_id, subject=subject,
        )  # fmt: skip
        return self._answer(body, status, request_id) if status else _lost(request)

    @staticmethod
    def _answer(body: str, status: int, request_id: str) -> web.Response:
        return web.Response(
            text=body,
            status=status,
            content_type="text/xml",
            charset="UTF-8",
            headers={"x-amzn-requestid": request_id, "Cache-Control": "no-cache, no-store"},
        )

    def _call(self, action: str, pairs: Pairs, request: web.Request) -> Call:
        if not action:
            raise ApiError("MissingAction", "The request must contain the parameter Action")
        if action not in self.model.known:
            raise ApiError("InvalidAction", f"The action {action} is not valid for this web service.")
        if action not in OPERATIONS:
            raise ApiError("UnsupportedOperation", f"The action {action} is not modelled by this VPC in a box.")
        parameters = self.parser.parse(action, pairs)
        signed = _ACCESS_KEY.search(request.headers.get("Authorization", ""))
        return Call(action, parameters, request.remote or "", signed[1] if signed else "")

    def _effect(self, call: Call, request_id: str) -> str:
        self.cloud.settle()
        try:
            answer = OPERATIONS[call.action](self.cloud, call.parameters)
        finally:
            # Also after a read or a refusal: transitions that were due have happened on the way.
            if call.action in CHANGES or self.cloud.has_events:
                self.on_change()
        return self.renderer.answer(call.action, answer, request_id)


async def _pairs(request: web.Request) -> Pairs:
    pairs = parse_qsl(request.query_string, keep_blank_values=True)
    return pairs + parse_qsl(await request.text(), keep_blank_values=True)


def _subject(parameters: Mapping[str, Any]) -> str:
    """The ids that a call names, as far as they fit a line."""
    named = [value for name, value in parameters.items() if name.endswith("Id") and isinstance(value, str)]
    for name, values in parameters.items():
        if name.endswith("Ids") or name == "Resources":
            named += values
    return " ".join(named[:4]) + (f" +{len(named) - 4}" if len(named) > 4 else "")


def _lost(request: web.Request) -> web.StreamResponse:
    """Hang up instead of answering, as a broken connection does."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response(status=500)  # nobody reads it


def known_actions() -> frozenset[str]:
    """Every action that EC2 has, served here or not."""
    return load(()).known


def make_app(
    cloud: Cloud,
    on_change: Callable[[], None] = lambda: None,
    *,
    admission: Admission | None = None,
    rng: random.Random | None = None,
    calls: CallLog | None = None,
) -> web.Application:
    """The application. `on_change` is called after whatever may have changed the model (fetch `cloud.advance`).

    Without an `admission`, latencies and faults are those of the cloud's profile. `rng` makes request ids and latencies
    repeatable. Every call is recorded in `calls`.
    """
    own_rng = rng or random.Random(cloud.rng.getrandbits(64))
    model = load(OPERATIONS)
    endpoint = Endpoint(
        cloud=cloud,
        model=model,
        parser=QueryParser(model),
        renderer=XmlRenderer(model),
        admission=admission or Weather(cloud, own_rng),
        on_change=on_change,
        new_id=lambda: str(uuid.UUID(int=own_rng.getrandbits(128), version=4)),
        calls=CallLog() if calls is None else calls,
    )
    app = web.Application(client_max_size=2**20)
    app.router.add_route("*", "/", endpoint.handle)
    return app
