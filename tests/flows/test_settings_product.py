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
LAYOUTS = {"per-pod": "nftables", "shared": "iptables"}  # and kube-proxy's mode with each
BACKENDS = ("nftables", "iptables-legacy")


@pytest.mark.parametrize(("layout", "change"), list(product(LAYOUTS, CHANGES)))
def test_the_matrix_holds_and_each_object_is_needed(flow_lab: FlowLab, layout: str, change: str) -> None:
    flow_lab.restart({**DEFAULTS, "VPCCNI_RULE_LAYOUT": layout, **CHANGES[change]})
    # Both protocols need the same objects: once is enough.
    every = ["--negatives"] if change == "defaults" else ["--negatives", "--protocol", "tcp"]
    results = flow_lab.selftest("--node", "1", "--services", LAYOUTS[layout], *every)
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
    every = ["--node", "1", "--negatives", "--protocol", "tcp" if change != "defaults" else "udp"]
    try:
        results = flow_lab.selftest(*every)
        services = flow_lab.selftest(*every, "--services", "iptables", "--rows", "5-8,13-15")
    finally:
        flow_lab.restart({"VPCCNI_FIREWALL": "auto"})
    for played in (results, services):
        assert {row["verdict"] for row in played} == {"passed"}
        assert sum(bool(row["negative"]) for row in played) >= 15


@pytest.fixture(params=["ipv6", "dual-stack"])
def six(request) -> Iterator[FlowLab]:
    # A /80 never runs out: only where pods have IPv4 addresses as well do some of them live on a second ENI.
    families = {
        "ipv6": ("ENABLE_IPv6=true", "ENABLE_IPv4=false", "ENABLE_PREFIX_DELEGATION=true"),
        "dual-stack": ("VPCCNI_DUAL_STACK=true",),
    }
    with own_lab(FlowLab) as lab:
        lab.bring_up("--ipv6", *(word for each in families[request.param] for word in ("--env", each)))
        lab.dual_stack = request.param == "dual-stack"
        yield lab


PRIMARY = {"primary-to-primary", "primary-to-far-pod", "primary-to-internet-ipv6", "vpc-host-to-primary",
           "primary-to-service-far", "primary-to-own-service", "primary-to-service-outside",
           "site-to-node-port-primary", "internet-to-node-port-far"}  # fmt: skip
SECONDARY = {"secondary-to-secondary", "secondary-to-far-pod", "secondary-to-internet-ipv6", "vpc-host-to-secondary",
             "secondary-to-service-far", "secondary-to-service-here", "secondary-to-own-service",
             "secondary-to-service-outside", "internet-to-node-port-secondary"}  # fmt: skip


@pytest.mark.parametrize(("layout", "services"), [("per-pod", "nftables"), ("shared", "iptables")])
def test_the_matrix_holds_with_ipv6(six: FlowLab, layout: str, services: str) -> None:
    six.restart({"VPCCNI_RULE_LAYOUT": layout})
    every = six.selftest("--node", "1", "--negatives", "--services", services, "--family", "6")
    results = [row for row in every if row["version"] == 6]
    assert {row["verdict"] for row in results} <= {"passed", "skipped"}
    for protocol in ("tcp", "udp"):
        passed = {row["name"] for row in results if (row["verdict"], row["protocol"]) == ("passed", protocol)}
        assert passed >= (PRIMARY | SECONDARY if six.dual_stack else PRIMARY), protocol
        negatives = [row for row in results if row["negative"] and row["protocol"] == protocol]
        assert len(negatives) >= (40 if six.dual_stack else 15)
