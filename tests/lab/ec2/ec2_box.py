# SPDX-License-Identifier: Apache-2.0
"""A cloud with a hand-driven clock behind a real HTTP endpoint on loopback, and unmodified clients for it."""

from __future__ import annotations

import asyncio
import random
import threading
from ipaddress import IPv4Network, IPv6Network
from typing import Any

import pytest
from aiohttp import web
from botocore.exceptions import ClientError

from vpccni.lab.cloud.cloud import Cloud
from vpccni.lab.cloud.invariants import fingerprint, violations
from vpccni.lab.cloud.profile import parse
from vpccni.lab.cloud.resources import Instance, Subnet, Vpc
from vpccni.lab.cloud.topology import NewInstance
from vpccni.lab.ec2.app import make_app

# Whole seconds, so that a test can name the moment; no latency, so that it need not wait.
PROFILE = """
[delays]
create = 1
attach = 2
link = 1
metadata_mac = 1
metadata_addresses = 1
metadata_change = 1
unplug = 1
detach = 4
terminate = 2
"""
CREDENTIALS = {"aws_access_key_id": "AKIATEST", "aws_secret_access_key": "secret", "region_name": "us-west-2"}


class Server:
    """An application served by a thread of its own."""

    def __init__(self, app: web.Application) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._runner = web.AppRunner(app)
        self.port: int = asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(10)
        self.url = f"http://127.0.0.1:{self.port}"

    async def _start(self) -> int:
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        return int(self._runner.addresses[0][1])

    def stop(self) -> None:
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()


def new_client(url: str, **config: Any):
    import boto3
    from botocore.config import Config

    return boto3.client(
        "ec2", endpoint_url=url, config=Config(retries={"total_max_attempts": 1}, **config), **CREDENTIALS
    )


class Box:
    """One cloud for many tests; each test makes a VPC of its own and looks at nothing else."""

    def __init__(self) -> None:
        self.time = 1_000_000.0
        self.cloud = Cloud(lambda: self.time, random.Random(7), parse("test", PROFILE))
        self.changes = 0
        self.server = Server(make_app(self.cloud, self._changed))
        self.ec2 = new_client(self.server.url)

    def _changed(self) -> None:
        self.changes += 1

    def vpc(self, *cidrs: str) -> Vpc:
        return self.cloud.create_vpc(
            [IPv4Network(cidr) for cidr in cidrs or ("10.0.0.0/16",)], ipv6_cidrs=[IPv6Network("2001:db8::/56")]
        )

    def subnet(
        self, cidr: str = "10.0.0.0/24", zone: str = "", *, vpc: Vpc | None = None, ipv6: bool = False
    ) -> Subnet:
        vpc_id = (vpc or self.vpc()).vpc_id
        ipv6_cidr = IPv6Network("2001:db8::/64") if ipv6 else None
        return self.cloud.create_subnet(vpc_id, IPv4Network(cidr), zone, ipv6_cidr=ipv6_cidr)

    def instance(self, subnet: Subnet, instance_type: str = "t3.medium") -> Instance:
        return self.cloud.run_instance(NewInstance(instance_type, subnet.subnet_id))

    def eni(self, subnet: Subnet, **parameters: Any) -> str:
        made = self.ec2.create_network_interface(SubnetId=subnet.subnet_id, **parameters)
        return str(made["NetworkInterface"]["NetworkInterfaceId"])

    def describe(self, eni_id: str) -> dict[str, Any]:
        return self.ec2.describe_network_interfaces(NetworkInterfaceIds=[eni_id])["NetworkInterfaces"][0]

    def attach(self, eni_id: str, instance: Instance, device: int = 1, **parameters: Any) -> str:
        """Attach, and live through the whole life cycle."""
        answer = self.ec2.attach_network_interface(
            NetworkInterfaceId=eni_id, InstanceId=instance.instance_id, DeviceIndex=device, **parameters
        )
        self.wait(10)
        return str(answer["AttachmentId"])

    def free(self, subnet: Subnet) -> int:
        answer = self.ec2.describe_subnets(SubnetIds=[subnet.subnet_id])
        return int(answer["Subnets"][0]["AvailableIpAddressCount"])

    def wait(self, duration_s: float) -> list[object]:
        """Let time pass; the events of it."""
        self.time += duration_s
        return list(self.cloud.advance(self.time))

    def refused(self, code: str, operation: str, **parameters: Any) -> str:
        """Assert that the call is refused with this code and has changed nothing; the message."""
        before = fingerprint(self.cloud)
        with pytest.raises(ClientError) as caught:
            getattr(self.ec2, operation)(**parameters)
        answer = caught.value.response
        assert answer["Error"]["Code"] == code, answer["Error"]
        assert answer["ResponseMetadata"]["HTTPStatusCode"] == (412 if code == "DryRunOperation" else 400)
        assert fingerprint(self.cloud) == before, "a refused call has changed something"
        return str(answer["Error"]["Message"])

    def check(self) -> None:
        assert violations(self.cloud) == []
