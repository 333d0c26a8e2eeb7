# SPDX-License-Identifier: Apache-2.0
"""The introspection documents have the shapes that the Amazon VPC CNI's readers expect."""

from __future__ import annotations

import asyncio
import json
from ipaddress import IPv4Address, IPv4Network

from aiohttp.test_utils import TestClient, TestServer

from vpccni.core.pool import Block, Eni, PodIdentity, PodKey, Pool
from vpccni.ipamd import introspection
from vpccni.settings import parse

NOW = 1_700_000_005.0


def pool_with_a_pod_and_a_cooling_address() -> Pool:
    pool = Pool()
    blocks = tuple(Block.of(IPv4Address(f"10.0.0.{n}")) for n in (5, 6, 7))
    pool.add_eni(Eni("eni-0", primary=True, subnet_id="subnet-1", blocks=blocks))
    pool.assign(PodKey("aws-cni", "abc", "eth0"), PodIdentity("default", "web-0"), NOW)
    pool.assign(PodKey("aws-cni", "def", "eth0"), PodIdentity("default", "web-1"), NOW)
    pool.release(PodKey("aws-cni", "def", "eth0"), NOW + 1)
    return pool


def test_enis_is_byte_for_byte_the_shape_of_1_23() -> None:
    document = introspection.enis(pool_with_a_pod_and_a_cooling_address(), NOW + 2)
    eni = document["0"]["ENIs"]["eni-0"]  # type: ignore[index]
    assert document["0"]["TotalIPs"] == 3 and document["0"]["AssignedIPs"] == 1  # type: ignore[index]
    assert {name: eni[name] for name in eni if name not in ("AvailableIPv4Cidrs", "IPv6Cidrs")} == {
        "ID": "eni-0",
        "IsPrimary": True,
        "IsTrunk": False,
        "IsEFA": False,
        "DeviceNumber": 0,
        "IsExcludedForPodIPs": False,
        "RouteTableID": 254,
        "SubnetID": "subnet-1",
    }
    assert eni["AvailableIPv4Cidrs"]["10.0.0.5/32"] == {
        "Cidr": {"IP": "10.0.0.5", "Mask": "/////w=="},
        "IPAddresses": {
            "10.0.0.5": {
                "Address": "10.0.0.5",
                "IPAMKey": {"networkName": "aws-cni", "containerID": "", "ifName": ""},
                "IPAMMetadata": {"k8sPodNamespace": "default", "k8sPodName": "web-0", "interfacesCount": 1},
                "AssignedTime": "2023-11-14T22:13:25Z",
                "UnassignedTime": "0001-01-01T00:00:00Z",
            }
        },
        "IsPrefix": False,
        "AddressFamily": "",
    }
    cooling = eni["AvailableIPv4Cidrs"]["10.0.0.6/32"]["IPAddresses"]["10.0.0.6"]
    assert cooling["UnassignedTime"] == "2023-11-14T22:13:26Z"
    assert cooling["IPAMMetadata"] == {}
    assert eni["AvailableIPv4Cidrs"]["10.0.0.7/32"]["IPAddresses"] == {}  # never used: absent


def test_a_prefix_shows_its_mask_and_only_addresses_in_use() -> None:
    pool = Pool()
    pool.add_eni(Eni("eni-0", blocks=(Block(IPv4Network("10.0.0.16/28")),)))
    cidrs = introspection.enis(pool, NOW)["0"]["ENIs"]["eni-0"]["AvailableIPv4Cidrs"]  # type: ignore[index]
    assert cidrs["10.0.0.16/28"]["Cidr"] == {"IP": "10.0.0.16", "Mask": "////8A=="}
    assert cidrs["10.0.0.16/28"]["IsPrefix"] is True


def test_pods_name_address_and_device() -> None:
    expected = {"web-0_default_abc": {"IP": "10.0.0.5", "DeviceNumber": 0}}
    assert introspection.pods(pool_with_a_pod_and_a_cooling_address()) == expected


def test_settings_documents_hold_the_keys_that_people_curl_for() -> None:
    settings = parse({"AWS_VPC_K8S_CNI_EXCLUDE_SNAT_CIDRS": "10.12.0.0/16", "WARM_IP_TARGET": "5"})
    network = introspection.networkutils_settings(settings)
    assert list(network) == sorted(network)
    assert network["AWS_VPC_ENI_MTU"] == 9001
    assert network["AWS_VPC_K8S_CNI_CONNMARK"] == 128
    assert network["AWS_VPC_K8S_CNI_EXCLUDE_SNAT_CIDRS"] == ["10.12.0.0/16"]
    assert network["AWS_EXTERNAL_SERVICE_CIDRS"] is None
    assert network["AWS_VPC_K8S_CNI_RANDOMIZESNAT"] == 2
    daemon = introspection.ipamd_settings(settings)
    assert (daemon["WARM_IP_TARGET"], daemon["WARM_ENI_TARGET"]) == (5, 1)
    assert list(daemon) == sorted(daemon)


def test_unknown_paths_list_what_there_is_and_metrics_are_elsewhere() -> None:
    async def story() -> None:
        app = introspection.make_app(Pool(), parse({}), lambda: NOW)
        async with TestClient(TestServer(app)) as client:
            answer = await client.get("/nonsense")
            assert answer.status == 200
            commands = json.loads(await answer.read())["AvailableCommands"]
            assert {"/v1/enis", "/v1/pods", "/v1/networkutils-env-settings", "/v1/ipamd-env-settings"} <= set(commands)
            assert json.loads(await (await client.get("/v1/enis")).read()) == {}
        async with TestClient(TestServer(introspection.metrics_app(lambda: b"x 1\n"))) as client:
            assert await (await client.get("/metrics")).text() == "x 1\n"
            assert (await client.get("/")).status == 404

    asyncio.run(story())
