# SPDX-License-Identifier: Apache-2.0
"""The introspection API on 127.0.0.1:61679, in the JSON shapes of the Amazon VPC CNI.

Knows those shapes: `/v1/enis` of 1.23 (container ids blanked), `/v1/pods` as releases up to 1.9 had it, and the two
settings documents. Must never change anything. Support scripts, dashboards and people with curl read it.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from datetime import UTC, datetime

import msgspec
from aiohttp import web

from vpccni.aws.values import IPAddress, IPNetwork
from vpccni.core.block import HeldBlock
from vpccni.core.eni import HeldEni
from vpccni.core.pool import Pool
from vpccni.errors import InputError
from vpccni.ipamd.decisions import Decisions
from vpccni.ipamd.inspection import Inspection
from vpccni.ipamd.metrics import CONTENT_TYPE as METRICS_TYPE
from vpccni.settings import Settings

NEVER = "0001-01-01T00:00:00Z"  # Go's zero time
RANDOMIZE = {"none": 0, "hashrandom": 1, "prng": 2}
Json = dict[str, object]


def enis(pool: Pool, now: float) -> Json:
    """`/v1/enis`: network card -> totals and ENIs with their blocks and the addresses that were ever used."""
    cooling = pool.cooling(now)
    document: Json = {}
    for card in sorted({held.eni.card for held in pool.held()}):
        held_here = [held for held in pool.held() if held.eni.card == card]
        document[str(card)] = {
            "TotalIPs": sum(held.total for held in held_here),
            "AssignedIPs": sum(held.assigned for held in held_here),
            "ENIs": {held.eni.id: _eni(pool, held, cooling) for held in held_here},
        }
    return document


def pods(pool: Pool) -> Json:
    """`/v1/pods`: `<pod>_<namespace>_<container id>` -> address and device number; `IPs` of a pod with several,
    `EgressIP` of one with a local address."""
    return {
        f"{grant.pod.name}_{grant.pod.namespace}_{grant.key.container_id}": {
            "IP": str(grant.addresses[0].address),
            "DeviceNumber": grant.addresses[0].device,
            **({"IPs": [str(at.address) for at in grant.addresses]} if len(grant.addresses) > 1 else {}),
            **({"EgressIP": str(grant.egress)} if grant.egress is not None else {}),
        }
        for grant in pool.grants()
    }


def networkutils_settings(settings: Settings) -> Json:
    """`/v1/networkutils-env-settings`, keys in alphabetical order; empty lists are null as in Go."""
    return {
        "AWS_EXTERNAL_SERVICE_CIDRS": [str(cidr) for cidr in settings.external_service_cidrs] or None,
        "AWS_VPC_CNI_NODE_PORT_SUPPORT": settings.node_port_support,
        "AWS_VPC_ENI_MTU": settings.eni_mtu,
        "AWS_VPC_K8S_CNI_CONNMARK": settings.connmark,
        "AWS_VPC_K8S_CNI_EXCLUDE_SNAT_CIDRS": [str(cidr) for cidr in settings.exclude_snat_cidrs] or None,
        "AWS_VPC_K8S_CNI_EXTERNALSNAT": settings.external_snat,
        "AWS_VPC_K8S_CNI_RANDOMIZESNAT": RANDOMIZE[settings.randomize_snat],
        "AWS_VPC_K8S_CNI_VETHPREFIX": settings.veth_prefix,
    }


def ipamd_settings(settings: Settings) -> Json:
    """`/v1/ipamd-env-settings`: the five that the Amazon VPC CNI shows."""
    return {
        "AWS_MANAGE_ENIS_NON_SCHEDULABLE": settings.manage_enis_non_schedulable,
        "AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG": settings.custom_networking,
        "ENABLE_SUBNET_DISCOVERY": settings.enable_subnet_discovery,
        "WARM_ENI_TARGET": settings.warm_eni_target,
        "WARM_IP_TARGET": settings.warm_ip_target,
    }


def make_app(
    pool: Pool,
    settings: Settings,
    now: Callable[[], float],
    decisions: Decisions | None = None,
    inspection: Inspection | None = None,
) -> web.Application:
    """The application; unknown paths answer with the list of paths, as the Go daemon does."""
    documents: dict[str, Callable[[], object]] = {
        "/v1/enis": lambda: enis(pool, now()),
        "/v1/eni-configs": lambda: "default",
        "/v1/pods": lambda: pods(pool),
        "/v1/networkutils-env-settings": lambda: networkutils_settings(settings),
        "/v1/ipamd-env-settings": lambda: ipamd_settings(settings),
    }

    async def answer(request: web.Request) -> web.Response:
        document = documents.get(request.path, lambda: {"AvailableCommands": list(documents)})
        return web.Response(body=msgspec.json.encode(document()), content_type="application/json")

    async def why(request: web.Request) -> web.Response:
        try:
            assert decisions is not None
            body = decisions.document(request.query)
        except InputError as error:
            return web.json_response({"error": str(error)}, status=400)
        return web.Response(body=msgspec.json.encode(body), content_type="application/json")

    app = web.Application()
    if decisions is not None:
        app.router.add_get("/v1/decisions", why)
    if inspection is not None:
        inspection.add_to(app)
    app.router.add_route("*", "/{path:.*}", answer)
    return app


def metrics_app(render: Callable[[], bytes]) -> web.Application:
    """Prometheus' endpoint: `/metrics`, everything else is 404."""

    async def answer(_request: web.Request) -> web.Response:
        return web.Response(body=render(), headers={"Content-Type": METRICS_TYPE})

    app = web.Application()
    app.router.add_get("/metrics", answer)
    return app


def _eni(pool: Pool, held: HeldEni, cooling: dict[IPAddress, float]) -> Json:
    eni = held.eni
    blocks = sorted(held.blocks.values(), key=lambda each: (each.block.network.version, each.base))
    return {
        "ID": eni.id,
        "IsPrimary": eni.primary,
        "IsTrunk": eni.trunk,
        "IsEFA": eni.efa,
        "DeviceNumber": eni.device,
        "AvailableIPv4Cidrs": {str(b.block): _cidr(pool, b, cooling) for b in blocks if b.block.network.version == 4},
        "IPv6Cidrs": {str(b.block): _cidr(pool, b, cooling) for b in blocks if b.block.network.version == 6},
        "IsExcludedForPodIPs": not eni.usable_for_pods,
        "RouteTableID": eni.table,
        "SubnetID": eni.subnet_id,
    }


def _cidr(pool: Pool, held: HeldBlock, cooling: dict[IPAddress, float]) -> Json:
    network = held.block.network
    addresses = [held.address(offset) for offset in sorted(held.owned | held.cooling)]
    return {
        "Cidr": {"IP": str(network.network_address), "Mask": _mask(network)},
        "IPAddresses": {str(address): _address(pool, address, cooling) for address in addresses},
        "IsPrefix": held.size > 1,
        "AddressFamily": "",
    }


def _address(pool: Pool, address: IPAddress, cooling: dict[IPAddress, float]) -> Json:
    key = pool.owner(address)
    grant = pool.grant(key) if key else None
    if grant is None:
        return {
            "Address": str(address),
            "IPAMKey": {"networkName": "", "containerID": "", "ifName": ""},
            "IPAMMetadata": {},
            "AssignedTime": NEVER,
            "UnassignedTime": _moment(cooling.get(address)),
        }
    metadata: Json = {
        "k8sPodNamespace": grant.pod.namespace,
        "k8sPodName": grant.pod.name,
        "interfacesCount": grant.interfaces,
    }
    return {
        "Address": str(address),
        # Container ids and interface names are blanked, as in 1.23.
        "IPAMKey": {"networkName": grant.key.network, "containerID": "", "ifName": ""},
        "IPAMMetadata": {name: value for name, value in metadata.items() if value},
        "AssignedTime": _moment(grant.assigned_at),
        "UnassignedTime": NEVER,
    }


def _mask(network: IPNetwork) -> str:
    return base64.b64encode(network.netmask.packed).decode()


def _moment(at: float | None) -> str:
    if at is None:
        return NEVER
    return datetime.fromtimestamp(at, UTC).isoformat().replace("+00:00", "Z")
