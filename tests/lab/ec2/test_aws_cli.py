# SPDX-License-Identifier: Apache-2.0
"""The unmodified AWS CLI against the endpoint, paging included."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.lab.ec2.ec2_box import Box

AWS = Path(sys.executable).with_name("aws")
pytestmark = pytest.mark.skipif(not AWS.exists(), reason="the AWS CLI is not installed")


def _aws(box: Box, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": "/nonexistent",
        "AWS_ACCESS_KEY_ID": "AKIATEST",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-west-2",
        "AWS_ENDPOINT_URL_EC2": box.server.url,
        "AWS_MAX_ATTEMPTS": "1",
    }
    command = [str(AWS), "--output", "json", "ec2", *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


def _json(box: Box, *words: str) -> Any:
    done = _aws(box, *words)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout) if done.stdout else None


def test_an_interface_is_created_described_and_deleted_by_the_cli(box: Box) -> None:
    subnet = box.subnet()
    made = _json(
        box, "create-network-interface", "--subnet-id", subnet.subnet_id, "--secondary-private-ip-address-count", "2",
        "--tag-specifications", "ResourceType=network-interface,Tags=[{Key=a,Value=b}]",
    )["NetworkInterface"]  # fmt: skip
    assert len(made["PrivateIpAddresses"]) == 3 and made["TagSet"] == [{"Key": "a", "Value": "b"}]
    eni_id = made["NetworkInterfaceId"]
    listed = _json(box, "describe-network-interfaces", "--filters", f"Name=vpc-id,Values={subnet.vpc_id}")
    assert [eni["NetworkInterfaceId"] for eni in listed["NetworkInterfaces"]] == [eni_id]
    assert _json(box, "delete-network-interface", "--network-interface-id", eni_id) is None
    gone = _aws(box, "describe-network-interfaces", "--network-interface-ids", eni_id)
    assert gone.returncode != 0 and "InvalidNetworkInterfaceID.NotFound" in gone.stderr


def test_the_cli_pages_through_everything_once(box: Box) -> None:
    subnet = box.subnet()
    made = [box.eni(subnet) for _ in range(12)]
    words = ("describe-network-interfaces", "--filters", f"Name=vpc-id,Values={subnet.vpc_id}")
    paged = _json(box, *words, "--page-size", "5")
    assert [eni["NetworkInterfaceId"] for eni in paged["NetworkInterfaces"]] == made
    first = _json(box, *words, "--max-items", "7", "--page-size", "5")
    assert [eni["NetworkInterfaceId"] for eni in first["NetworkInterfaces"]] == made[:7]
    rest = _json(box, *words, "--starting-token", first["NextToken"])
    assert [eni["NetworkInterfaceId"] for eni in rest["NetworkInterfaces"]] == made[7:]


def test_a_dry_run_of_the_cli_fails_as_against_aws(box: Box) -> None:
    done = _aws(box, "create-network-interface", "--subnet-id", box.subnet().subnet_id, "--dry-run")
    assert done.returncode != 0 and "DryRunOperation" in done.stderr


def test_rules_of_a_security_group_are_allowed_shown_and_revoked_by_the_cli(box: Box) -> None:
    vpc_id = box.vpc().vpc_id
    made = _json(box, "create-security-group", "--group-name", "web", "--description", "d", "--vpc-id", vpc_id)
    rule = ("--group-id", made["GroupId"], "--protocol", "tcp", "--port", "80", "--cidr", "10.0.0.0/8")
    assert _json(box, "authorize-security-group-ingress", *rule)["Return"] is True
    twice = _aws(box, "authorize-security-group-ingress", *rule)
    assert twice.returncode != 0 and "InvalidPermission.Duplicate" in twice.stderr
    (shown,) = _json(box, "describe-security-groups", "--group-ids", made["GroupId"])["SecurityGroups"]
    assert [one["ToPort"] for one in shown["IpPermissions"]] == [80]
    assert _json(box, "revoke-security-group-ingress", *rule)["Return"] is True
    gone = _aws(box, "revoke-security-group-ingress", *rule)
    assert gone.returncode != 0 and "InvalidPermission.NotFound" in gone.stderr
