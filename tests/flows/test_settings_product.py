# SPDX-License-Identifier: Apache-2.0
"""The whole matrix, each row with its negatives, under every setting that changes it, in both rule layouts."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import pytest
from flow_labs import FlowLab
from labs import own_lab

pytestmark = [pytest.mark.lab, pytest.mark.long, pytest.mark.timeout(400)]

SITE, INTERNET = "203.0.113.0/24", "198.51.100.0/24"
DEFAULTS = {
    "AWS_VPC_K8S_CNI_EXTERNALSNAT": "false",
    "AWS_VPC_CNI_NODE_PORT_SUPPORT": "true",
    "AWS_VPC_K8S_CNI_EXCLUDE_SNAT_CIDRS": "",
    "AWS_EXTERNAL_SERVICE_CIDRS": "",
    "AWS_VPC_K8S_CNI_RANDOMIZESNAT": "prng",
}
CHANGES = {
    "defaults": {},
    "external": {"AWS_VPC_K8S_CNI_EXTERNALSNAT": "true"},
    "no-node-port": {"AWS_VPC_CNI_NODE_PORT_SUPPORT": "false"},
    "external-no-node-port": {"AWS_VPC_K8S_CNI_EXTERNALSNAT": "true", "AWS_VPC_CNI_NODE_PORT_SUPPORT": "false"},
    "excluded": {"AWS_VPC_K8S_CNI_EXCLUDE_SNAT_CIDRS": f"{SITE},{INTERNET}"},
    "service": {"AWS_EXTERNAL_SERVICE_CIDRS": SITE},
    "service-excluded": {"AWS_EXTERNAL_SERVICE_CIDRS": SITE, "AWS_VPC_K8S_CNI_EXCLUDE_SNAT_CIDRS": SITE},
    "service-external": {"AWS_EXTERNAL_SERVICE_CIDRS": SITE, "AWS_VPC_K8S_CNI_EXTERNALSNAT": "true"},
    "service-no-node-port": {"AWS_EXTERNAL_SERVICE_CIDRS": SITE, "AWS_VPC_CNI_NODE_PORT_SUPPORT": "false"},
    "hashrandom": {"AWS_VPC_K8S_CNI_RANDOMIZESNAT": "hashrandom"},
    "ports-kept": {"AWS_VPC_K8S_CNI_RANDOMIZESNAT": "none"},
}
LAYOUTS = ("per-pod", "shared")
BACKENDS = ("nftables", "iptables-legacy")


@pytest.mark.parametrize(("layout", "change"), list(product(LAYOUTS, CHANGES)))
def test_the_matrix_holds_and_each_object_is_needed(flow_lab: FlowLab, layout: str, change: str) -> None:
    flow_lab.restart({**DEFAULTS, "VPCCNI_RULE_LAYOUT": layout, **CHANGES[change]})
    results = flow_lab.selftest("--node", "1", "--negatives")
    verdicts = [row["verdict"] for row in results]
    assert set(verdicts) == {"passed"}
    assert sum(bool(row["negative"]) for row in results) >= 50
    by_site = {(row["name"], row["protocol"]): row["expected"] for row in results if not row["negative"]}
    ports = "kept" if change == "ports-kept" else "random"
    if change in ("defaults", "hashrandom", "ports-kept"):
        assert by_site["secondary-to-site", "tcp"].endswith(f"port {ports}")


@pytest.mark.parametrize(("backend", "change"), [*product(BACKENDS[:1], CHANGES), (BACKENDS[1], "defaults")])
def test_the_matrix_holds_with_every_firewall_backend(flow_lab: FlowLab, backend: str, change: str) -> None:
    flow_lab.restart({**DEFAULTS, "VPCCNI_RULE_LAYOUT": "per-pod", "VPCCNI_FIREWALL": backend, **CHANGES[change]})
    try:
        results = flow_lab.selftest("--node", "1", "--negatives")
        services = flow_lab.selftest("--node", "1", "--negatives", "--services", "iptables", "--rows", "5-8,13-15")
    finally:
        flow_lab.restart({"VPCCNI_FIREWALL": "auto"})
    for played in (results, services):
        assert {row["verdict"] for row in played} == {"passed"}
        assert sum(bool(row["negative"]) for row in played) >= 15


@pytest.fixture(params=["ipv6", "dual-stack"])
def six(request) -> Iterator[FlowLab]:
    prefixes = ("--env", "ENABLE_PREFIX_DELEGATION=true")
    families = {
        "ipv6": ("--env", "ENABLE_IPv6=true", "--env", "ENABLE_IPv4=false"),
        "dual-stack": ("--env", "VPCCNI_DUAL_STACK=true"),
    }
    with own_lab(FlowLab) as lab:
        lab.bring_up("--ipv6", *prefixes, *families[request.param])
        yield lab


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_matrix_holds_with_ipv6(six: FlowLab, layout: str) -> None:
    six.restart({"VPCCNI_RULE_LAYOUT": layout})
    results = [row for row in six.selftest("--node", "1", "--negatives") if row["version"] == 6]
    assert {row["verdict"] for row in results} <= {"passed", "skipped"}
    passed = {row["name"] for row in results if row["verdict"] == "passed"}
    assert {"primary-to-primary", "primary-to-far-pod", "primary-to-internet-ipv6", "vpc-host-to-primary"} <= passed
    assert sum(bool(row["negative"]) for row in results) >= 8
