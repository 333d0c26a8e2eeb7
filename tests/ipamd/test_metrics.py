# SPDX-License-Identifier: Apache-2.0
"""Metrics carry the names of the Amazon VPC CNI, so that its dashboards show them."""

from __future__ import annotations

from ipaddress import IPv4Address

from vpccni.core.pool import Block, Eni, PodIdentity, PodKey, Pool
from vpccni.ipamd.metrics import Metrics

COUNTERS = {
    "awscni_add_ip_req_count",
    "awscni_del_ip_req_count",
    "awscni_no_available_ip_addresses",
    "awscni_ec2api_req_count",
    "awscni_ec2api_error_count",
    "awscni_aws_api_error_count",
}


def lines(metrics: Metrics) -> list[str]:
    return metrics.render().decode().splitlines()


def test_counters_have_the_names_that_dashboards_know() -> None:
    metrics = Metrics()
    metrics.add_request()
    metrics.del_request("PodDeleted")
    metrics.no_address()
    metrics.ec2_call("CreateNetworkInterface", 0.1, "RequestLimitExceeded")
    text = lines(metrics)
    assert {line.split()[2] for line in text if line.startswith("# TYPE") and line.endswith(" counter")} >= COUNTERS
    assert "awscni_add_ip_req_count 1.0" in text
    assert 'awscni_del_ip_req_count{reason="PodDeleted"} 1.0' in text
    assert 'awscni_ec2api_error_count{fn="CreateNetworkInterface"} 1.0' in text
    assert not [line for line in text if "_total" in line or "_created" in line]
    assert any(line.startswith("awscni_aws_api_latency_ms_sum") for line in text)


def test_gauges_show_the_pool_of_the_moment() -> None:
    metrics, pool = Metrics(), Pool()
    metrics.bind_pool(pool, lambda: (3, 27))
    blocks = tuple(Block.of(IPv4Address(f"10.0.0.{n}")) for n in range(1, 6))
    pool.add_eni(Eni("eni-1", primary=True, blocks=blocks))
    assert "awscni_assigned_ip_addresses 0.0" in lines(metrics)
    pool.assign(PodKey("n", "c", "eth0"), PodIdentity("default", "web"), 1.0)
    text = lines(metrics)
    for expected in (
        "awscni_assigned_ip_addresses 1.0",
        "awscni_total_ip_addresses 5.0",
        "awscni_eni_allocated 1.0",
        "awscni_eni_max 3.0",
        "awscni_ip_max 27.0",
        'awscni_assigned_ip_per_eni{eni="eni-1"} 1.0',
        'awscni_assigned_ip_per_cidr{cidr="10.0.0.1/32"} 1.0',
    ):
        assert expected in text
