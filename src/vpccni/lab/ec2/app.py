# SPDX-License-Identifier: Apache-2.0
"""EC2 as a web application: one POST is one operation.

Knows HTTP, the table of served operations, and the order of checks: action, parameters, DryRun, admission, effect.
Must never know the rules of EC2 (the model) or the fabric (it only says that something changed). The lab's daemon
runs it on loopback and inside the namespaces, the tests on loopback.
"""

from __future__ import annotations

import random
import re
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

from aiohttp import web

from vpccni.lab.cloud.cloud import Cloud
from vpccni.lab.cloud.errors import ApiError
from vpccni.lab.ec2 import change, describe
from vpccni.lab.ec2.admission import Admission, Call, Latency
from vpccni.lab.ec2.model import ServiceModel, load
from vpccni.lab.ec2.query import QueryParser
from vpccni.lab.ec2.xml import XmlRenderer, error_answer

Operation = Callable[[Cloud, Mapping[str, Any]], Mapping[str, Any]]

DESCRIBES: Mapping[str, Operation] = {
    "DescribeAvailabilityZones": describe.availability_zones,
    "DescribeInstances": describe.instances,
    "DescribeInstanceTypes": describe.instance_types,
    "DescribeNetworkInterfaceAttribute": describe.network_interface_attribute,
    "DescribeNetworkInterfaces": describe.network_interfaces,
    "DescribeSecurityGroups": describe.security_groups,
    "DescribeSubnets": describe.subnets,
    "DescribeTags": describe.tags,
    "DescribeVpcs": describe.vpcs,
}
CHANGES: Mapping[str, Operation] = {
    "AssignIpv6Addresses": change.assign_ipv6_addresses,
    "AssignPrivateIpAddresses": change.assign_private_ip_addresses,
    "AttachNetworkInterface": change.attach_network_interface,
    "CreateNetworkInterface": change.create_network_interface,
    "CreateSecurityGroup": change.create_security_group,
    "CreateSubnet": change.create_subnet,
    "CreateSubnetCidrReservation": change.create_subnet_cidr_reservation,
    "CreateTags": change.create_tags,
    "DeleteNetworkInterface": change.delete_network_interface,
    "DeleteSubnet": change.delete_subnet,
    "DeleteTags": change.delete_tags,
    "DetachNetworkInterface": change.detach_network_interface,
    "ModifyNetworkInterfaceAttribute": change.modify_network_interface_attribute,
    "TerminateInstances": change.terminate_instances,
    "UnassignIpv6Addresses": change.unassign_ipv6_addresses,
    "UnassignPrivateIpAddresses": change.unassign_private_ip_addresses,
}
OPERATIONS: Mapping[str, Operation] = {**DESCRIBES, **CHANGES}
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

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """One operation, or EC2's refusal."""
        request_id = self.new_id()
        try:
            call = await self._call(request)
            await self.admission.before(call)
            body, status = self._effect(call, request_id), 200
            if not await self.admission.after(call):
                return _lost(request)
        except ApiError as error:
            body, status = error_answer(error, request_id), error.status
        return web.Response(
            text=body,
            status=status,
            content_type="text/xml",
            charset="UTF-8",
            headers={"x-amzn-requestid": request_id, "Cache-Control": "no-cache, no-store"},
        )

    async def _call(self, request: web.Request) -> Call:
        pairs = parse_qsl(request.query_string, keep_blank_values=True)
        pairs += parse_qsl(await request.text(), keep_blank_values=True)
        action = next((value for name, value in pairs if name == "Action"), "")
        if not action:
            raise ApiError("MissingAction", "The request must contain the parameter Action")
        if action not in self.model.known:
            raise ApiError("InvalidAction", f"The action {action} is not valid for this web service.")
        if action not in OPERATIONS:
            raise ApiError("UnsupportedOperation", f"The action {action} is not modelled by this VPC in a box.")
        parameters = self.parser.parse(action, pairs)
        if parameters.get("DryRun"):
            raise ApiError("DryRunOperation", "Request would have succeeded, but DryRun flag is set.", 412)
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


def _lost(request: web.Request) -> web.StreamResponse:
    """Hang up instead of answering, as a broken connection does."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response(status=500)  # nobody reads it


def make_app(
    cloud: Cloud,
    on_change: Callable[[], None] = lambda: None,
    *,
    admission: Admission | None = None,
    rng: random.Random | None = None,
) -> web.Application:
    """The application. `on_change` is called after whatever may have changed the model (fetch `cloud.advance`).

    Without an `admission`, calls only take the time that the cloud's profile says. `rng` makes request ids and
    latencies repeatable.
    """
    own_rng = rng or random.Random(cloud.rng.getrandbits(64))
    model = load(OPERATIONS)
    endpoint = Endpoint(
        cloud=cloud,
        model=model,
        parser=QueryParser(model),
        renderer=XmlRenderer(model),
        admission=admission or Latency(cloud.profile, own_rng),
        on_change=on_change,
        new_id=lambda: str(uuid.UUID(int=own_rng.getrandbits(128), version=4)),
    )
    app = web.Application(client_max_size=2**20)
    app.router.add_route("*", "/", endpoint.handle)
    return app
