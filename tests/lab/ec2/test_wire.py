# SPDX-License-Identifier: Apache-2.0
"""The wire itself: malformed requests, throttling, lost answers, latency, change notices, start-up."""

from __future__ import annotations

import asyncio
import http.client
import random
import subprocess
import sys
import time
from urllib.parse import urlencode

import pytest
from botocore.exceptions import ClientError
from tests.lab.ec2.ec2_box import Box, Server, new_client

from vpccni.lab.cloud.cloud import Cloud
from vpccni.lab.cloud.errors import throttled
from vpccni.lab.cloud.faults import NO_FAULTS, change
from vpccni.lab.cloud.profile import INSTANT, parse
from vpccni.lab.ec2.admission import Call, Weather
from vpccni.lab.ec2.app import OPERATIONS, make_app
from vpccni.lab.ec2.model import load


def _post(port: int, **parameters: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    body = urlencode({"Version": "2016-11-15"} | {name.replace("__", "."): text for name, text in parameters.items()})
    connection.request("POST", "/", body, {"Content-Type": "application/x-www-form-urlencoded; charset=utf-8"})
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, text


@pytest.mark.parametrize(
    ("parameters", "code"),
    [
        ({}, "MissingAction"),
        ({"Action": "Fly"}, "InvalidAction"),
        ({"Action": "CreateVolume"}, "UnsupportedOperation"),
        ({"Action": "DescribeSubnets", "Colour": "red"}, "UnknownParameter"),
        ({"Action": "DescribeSubnets", "Filter__1__Colour": "red"}, "UnknownParameter"),
        ({"Action": "DescribeSubnets", "MaxResults": "many"}, "InvalidParameterValue"),
        ({"Action": "DescribeSubnets", "MaxResults": "4"}, "InvalidParameterValue"),
        ({"Action": "DescribeSubnets", "MaxResults": "1001"}, "InvalidParameterValue"),
        ({"Action": "DescribeSubnets", "DryRun": "perhaps"}, "InvalidParameterValue"),
        ({"Action": "DescribeSubnets", "SubnetId": "subnet-1"}, "InvalidParameterValue"),
        ({"Action": "DescribeSubnets", "SubnetId__x": "subnet-1"}, "InvalidParameterValue"),
        ({"Action": "DescribeSubnets", "Filter__1": "x"}, "InvalidParameterValue"),
        ({"Action": "DescribeSubnets", "Filter__1__Name": "vpc-id"}, "InvalidParameterValue"),
        ({"Action": "AttachNetworkInterface", "DeviceIndex": "1"}, "MissingParameter"),
    ],
)
def test_malformed_requests_get_their_own_code_and_400(box: Box, parameters: dict[str, str], code: str) -> None:
    status, text = _post(box.server.port, **parameters)
    assert status == 400 and f"<Code>{code}</Code>" in text and "<RequestID>" in text, text


def test_a_get_with_a_query_string_is_answered_too(box: Box) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", box.server.port, timeout=5)
    connection.request("GET", "/?Action=DescribeVpcs&Version=2016-11-15")
    answer = connection.getresponse()
    assert answer.status == 200 and b"<vpcSet>" in answer.read()
    connection.close()


def test_texts_survive_xml(box: Box) -> None:
    eni_id = box.eni(box.subnet(), Description="<&>\"' 한국")
    assert box.describe(eni_id)["Description"] == "<&>\"' 한국"
    assert "&lt;tag&gt;" in _post(box.server.port, Action="<tag>")[1]


def test_every_answer_has_a_request_id_of_its_own(box: Box) -> None:
    ids = {box.ec2.describe_vpcs()["ResponseMetadata"]["RequestId"] for _ in range(3)}
    assert len(ids) == 3


def test_changes_are_announced_and_reads_are_not(box: Box) -> None:
    box.wait(100)
    subnet = box.subnet()
    box.wait(0)
    before = box.changes
    box.ec2.describe_network_interfaces(Filters=[{"Name": "vpc-id", "Values": [subnet.vpc_id]}])
    assert box.changes == before
    eni_id = box.eni(subnet)
    assert box.changes == before + 1
    with pytest.raises(ClientError):
        box.ec2.create_tags(Resources=["eni-0123456789abcdef0"], Tags=[{"Key": "a", "Value": "b"}])
    box.attach(eni_id, box.instance(subnet))
    after = box.changes
    box.time += 10  # due while nobody looked: a read lets it happen, and says so
    box.ec2.detach_network_interface(AttachmentId=box.describe(eni_id)["Attachment"]["AttachmentId"])
    box.time += 10
    box.describe(eni_id)
    assert box.changes >= after + 2


class Script:
    """An admission that throttles the first calls, then loses the answers of the next ones."""

    def __init__(self, throttle: int = 0, lose: int = 0) -> None:
        self.throttle, self.lose, self.calls = throttle, lose, list[Call]()

    async def before(self, call: Call) -> None:
        self.calls.append(call)
        if self.throttle:
            self.throttle -= 1
            raise throttled()

    async def after(self, call: Call) -> bool:
        self.lose -= 1
        return self.lose < 0


def _scripted(script: Script):
    cloud = Cloud(time.time, random.Random(1), INSTANT)
    return cloud, Server(make_app(cloud, admission=script))


def test_throttling_is_a_503_that_sdks_know_and_retry() -> None:
    script = Script(throttle=2)
    _, server = _scripted(script)
    try:
        status, text = _post(server.port, Action="DescribeVpcs")
        assert status == 503 and "<Code>RequestLimitExceeded</Code>" in text
        client = new_client(server.url)
        with pytest.raises(ClientError) as caught:
            client.describe_vpcs()
        assert caught.value.response["Error"]["Code"] == "RequestLimitExceeded"
        assert client.describe_vpcs()["Vpcs"] == []
        assert [call.access_key for call in script.calls] == ["", "AKIATEST", "AKIATEST"]
    finally:
        server.stop()


def test_a_lost_answer_had_its_effect_and_the_token_finds_it_again() -> None:
    from ipaddress import IPv4Network

    cloud, server = _scripted(Script(lose=1))
    try:
        vpc = cloud.create_vpc([IPv4Network("10.0.0.0/16")])
        subnet = cloud.create_subnet(vpc.vpc_id, IPv4Network("10.0.0.0/24"))
        create = {"Action": "CreateNetworkInterface", "SubnetId": subnet.subnet_id, "ClientToken": "t"}
        with pytest.raises((http.client.HTTPException, ConnectionError)):
            _post(server.port, **create)
        (eni_id,) = cloud.enis
        status, text = _post(server.port, **create)
        assert status == 200 and eni_id in text and len(cloud.enis) == 1
    finally:
        server.stop()


def test_latency_is_the_profiles_for_the_action() -> None:
    slept: list[float] = []

    async def sleep(delay_s: float) -> None:
        slept.append(delay_s)

    profile = parse("slow", "[latency]\ndefault = 0.1\nAttachNetworkInterface = 0.4\n")
    cloud = Cloud(time.time, random.Random(1), profile)
    latency = Weather(cloud, random.Random(1), sleep)
    for action in ("DescribeVpcs", "AttachNetworkInterface"):
        asyncio.run(latency.before(Call(action, {}, "", "")))
    assert slept == [0.1, 0.4]
    cloud.set_faults(change(NO_FAULTS, {"latency": "3"}))
    asyncio.run(latency.before(Call("AttachNetworkInterface", {}, "", "")))
    assert slept[2] == pytest.approx(1.2)


def test_the_served_operations_exist_in_ec2_and_a_made_up_one_does_not() -> None:
    model = load(OPERATIONS)
    assert set(model.inputs) == set(OPERATIONS) <= model.known
    with pytest.raises(KeyError):
        load(["FlyAway"])


def test_serving_starts_without_botocore_and_in_well_under_a_second() -> None:
    program = (
        "import sys, time, random\n"
        "started = time.perf_counter()\n"
        "from vpccni.lab.cloud.cloud import Cloud\n"
        "from vpccni.lab.ec2.app import make_app\n"
        "make_app(Cloud(time.time, random.Random(1)))\n"
        "assert 'botocore' not in sys.modules and 'boto3' not in sys.modules\n"
        "print(time.perf_counter() - started)\n"
    )
    best_s = min(
        float(subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout)
        for _ in range(2)
    )
    assert best_s < 1.0
