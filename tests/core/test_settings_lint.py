# SPDX-License-Identifier: Apache-2.0
"""Contradictions of settings: each rule fires on its case and is silent on the neighbouring one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpccni.core.limits import branches, limits, matching
from vpccni.core.settings_fit import for_subnet, for_type
from vpccni.core.settings_lint import contradictions
from vpccni.errors import SettingsError
from vpccni.settings import explain, parse


def environment(text: str) -> dict[str, str]:
    return dict(word.split("=", 1) for word in text.split())


def alone(text: str) -> set[str]:
    """Codes of what settings say against each other; features that are not built are another matter."""
    environ = environment(text)
    return {finding.code for finding in contradictions(parse(environ), environ)} - {"not-in-this-version"}


def on(instance_type: str, text: str) -> set[str]:
    environ = environment(text)
    return {f.code for f in for_type(parse(environ), environ, limits(instance_type), branches(instance_type))}


CNI = "AWS_VPC_K8S_CNI_"

ALONE = [
    ("warm-eni-target-unused", "WARM_IP_TARGET=5 WARM_ENI_TARGET=2", "WARM_IP_TARGET=5"),
    ("warm-eni-target-unused", "MINIMUM_IP_TARGET=5 WARM_ENI_TARGET=1", "WARM_ENI_TARGET=1"),
    ("warm-eni-target-unused", "ENABLE_PREFIX_DELEGATION=true WARM_ENI_TARGET=1", "ENABLE_PREFIX_DELEGATION=true"),
    ("warm-prefix-target-unused", "WARM_PREFIX_TARGET=2", "WARM_PREFIX_TARGET=2 ENABLE_PREFIX_DELEGATION=true"),
    ("warm-prefix-target-unused", "WARM_IP_TARGET=5 WARM_PREFIX_TARGET=1 ENABLE_PREFIX_DELEGATION=true",
     "WARM_IP_TARGET=5 ENABLE_PREFIX_DELEGATION=true"),
    ("minimum-ip-target-unused", "WARM_IP_TARGET=5 MINIMUM_IP_TARGET=5", "WARM_IP_TARGET=2 MINIMUM_IP_TARGET=30"),
    ("targets-with-ipv6", "ENABLE_IPv4=false ENABLE_IPv6=true ENABLE_PREFIX_DELEGATION=true WARM_PREFIX_TARGET=2",
     "ENABLE_IPv4=false ENABLE_IPv6=true ENABLE_PREFIX_DELEGATION=true WARM_PREFIX_TARGET=1"),
    ("targets-with-ipv6", "ENABLE_IPv4=false ENABLE_IPv6=true ENABLE_PREFIX_DELEGATION=true WARM_IP_TARGET=2",
     "VPCCNI_DUAL_STACK=true ENABLE_PREFIX_DELEGATION=true WARM_IP_TARGET=2"),
    ("no-spare-addresses", "WARM_ENI_TARGET=0", "WARM_ENI_TARGET=0 WARM_IP_TARGET=2"),
    ("targets-without-provisioning", "WARM_IP_TARGET=5 DISABLE_NETWORK_RESOURCE_PROVISIONING=true",
     "DISABLE_NETWORK_RESOURCE_PROVISIONING=true"),
    ("targets-without-provisioning", "MAX_ENI=2 ENABLE_IMDS_ONLY_MODE=true", "ENABLE_IMDS_ONLY_MODE=true"),
    ("no-eni-for-pods", f"MAX_ENI=1 {CNI}CUSTOM_NETWORK_CFG=true", f"MAX_ENI=2 {CNI}CUSTOM_NETWORK_CFG=true"),
    ("no-eni-for-pods", f"MAX_ENI=2 {CNI}CUSTOM_NETWORK_CFG=true ENABLE_POD_ENI=true", "MAX_ENI=1"),
    ("warm-eni-target-too-large", "WARM_ENI_TARGET=2 MAX_ENI=2", "WARM_ENI_TARGET=1 MAX_ENI=2"),
    ("v6-egress-unused", "ENABLE_V6_EGRESS=true ENABLE_IPv4=false ENABLE_IPv6=true ENABLE_PREFIX_DELEGATION=true",
     "ENABLE_IPv4=false ENABLE_IPv6=true ENABLE_PREFIX_DELEGATION=true"),
    ("v6-egress-without-ipv6", "ENABLE_V6_EGRESS=true DISABLE_POD_V6=true", "ENABLE_V6_EGRESS=true"),
    ("no-cooldown", "IP_COOLDOWN_PERIOD=0", "IP_COOLDOWN_PERIOD=1"),
    ("long-cooldown", "IP_COOLDOWN_PERIOD=301", "IP_COOLDOWN_PERIOD=300"),
    ("switch-missing", "POD_SECURITY_GROUP_ENFORCING_MODE=standard",
     "POD_SECURITY_GROUP_ENFORCING_MODE=standard ENABLE_POD_ENI=true"),
    ("switch-missing", "DISABLE_TCP_EARLY_DEMUX=true", "DISABLE_TCP_EARLY_DEMUX=false"),
    ("switch-missing", "ENI_CONFIG_LABEL_DEF=topology.kubernetes.io/zone",
     f"ENI_CONFIG_LABEL_DEF=topology.kubernetes.io/zone {CNI}CUSTOM_NETWORK_CFG=true"),
    ("probes-need-early-demux-off", "ENABLE_POD_ENI=true", "ENABLE_POD_ENI=true DISABLE_TCP_EARLY_DEMUX=true"),
    ("discovery-without-ec2", "ENABLE_IMDS_ONLY_MODE=true ENABLE_SUBNET_DISCOVERY=true",
     "ENABLE_IMDS_ONLY_MODE=true ENABLE_SUBNET_DISCOVERY=false"),
    ("custom-networking-without-ec2", f"ENABLE_IMDS_ONLY_MODE=true {CNI}CUSTOM_NETWORK_CFG=true",
     f"{CNI}CUSTOM_NETWORK_CFG=true"),
    ("snat-setting-unused", f"{CNI}EXTERNALSNAT=true {CNI}EXCLUDE_SNAT_CIDRS=10.0.0.0/8",
     f"{CNI}EXCLUDE_SNAT_CIDRS=10.0.0.0/8"),
    ("snat-setting-unused", f"{CNI}EXTERNALSNAT=true {CNI}RANDOMIZESNAT=none", f"{CNI}RANDOMIZESNAT=none"),
    ("firewall-unused", "VPCCNI_FIREWALL=nftables ENABLE_IPv4=false ENABLE_IPv6=true ENABLE_V4_EGRESS=false "
     "ENABLE_PREFIX_DELEGATION=true",
     "VPCCNI_FIREWALL=nftables ENABLE_IPv4=false ENABLE_IPv6=true ENABLE_PREFIX_DELEGATION=true"),
    ("pod-mtu-above-eni-mtu", "AWS_VPC_ENI_MTU=1500 POD_MTU=1501", "AWS_VPC_ENI_MTU=1500 POD_MTU=1500"),
    ("metadata-disabled", "AWS_EC2_METADATA_DISABLED=true", "AWS_EC2_METADATA_DISABLED=false"),
    ("misspelled-setting", "WARM_IP_TARGTE=1", "WARM_IP_TARGET=1"),
    ("unknown-setting", "VPCCNI_COLOUR=red", "COLOUR=red"),
    ("aliases-differ", "AWS_EC2_ENDPOINT=http://a AWS_ENDPOINT_URL_EC2=http://b", "AWS_EC2_ENDPOINT=http://a"),
    ("setting-without-effect", "ENABLE_NFTABLES=true", "VPC_CNI_VERSION=v1.23.1"),
]  # fmt: skip

ON_TYPE = [
    ("prefixes-need-nitro", "m4.large", "m5.large", "ENABLE_PREFIX_DELEGATION=true", "WARM_ENI_TARGET=1"),
    ("prefixes-need-nitro", "m4.large", "m5.large", "VPCCNI_DUAL_STACK=true", "WARM_ENI_TARGET=1"),
    ("type-has-no-ipv6", "m1.large", "m4.large", "VPCCNI_DUAL_STACK=true", "WARM_ENI_TARGET=1"),
    ("no-trunk-on-this-type", "t3.large", "m5.large", "ENABLE_POD_ENI=true", "WARM_ENI_TARGET=1"),
    ("max-eni-above-type", "m5.large", "m5.xlarge", "MAX_ENI=4", "MAX_ENI=3"),
    ("minimum-ip-target-too-large", "m5.large", "m5.xlarge", "MINIMUM_IP_TARGET=28", "MINIMUM_IP_TARGET=27"),
    ("minimum-ip-target-too-large", "m5.large", "c5.4xlarge", "MINIMUM_IP_TARGET=19 MAX_ENI=2", "MINIMUM_IP_TARGET=19"),
    ("warm-ip-target-too-large", "t3.small", "m5.large", "WARM_IP_TARGET=10", "WARM_IP_TARGET=9"),
    ("warm-eni-target-too-large", "m5.large", "m5.xlarge", "WARM_ENI_TARGET=3", "WARM_ENI_TARGET=2"),
    ("warm-prefix-target-too-large", "t3.small", "m5.large", "WARM_PREFIX_TARGET=10 ENABLE_PREFIX_DELEGATION=true",
     "WARM_PREFIX_TARGET=9 ENABLE_PREFIX_DELEGATION=true"),
    ("max-pods-too-large", "m5.large", "m5.xlarge", "VPCCNI_MAX_PODS=28", "VPCCNI_MAX_PODS=27"),
    ("one-network-card", "m5.large", "p4d.24xlarge", "ENABLE_MULTI_NIC=true", "ENABLE_MULTI_NIC=false"),
    ("max-eni-per-card", "p4d.24xlarge", "m5.large", "ENABLE_MULTI_NIC=true MAX_ENI=2", "ENABLE_MULTI_NIC=true"),
]  # fmt: skip


@pytest.mark.parametrize(("code", "wrong", "right"), ALONE)
def test_a_contradiction_is_named_and_its_neighbour_is_not(code: str, wrong: str, right: str) -> None:
    assert code in alone(wrong)
    assert code not in alone(right)


@pytest.mark.parametrize(("code", "small", "large", "wrong", "right"), ON_TYPE)
def test_what_a_type_cannot_follow_is_named_and_what_it_can_is_not(
    code: str, small: str, large: str, wrong: str, right: str
) -> None:
    assert code in on(small, wrong)
    assert code not in on(large, wrong)
    assert code not in on(small, right)


def test_nothing_is_said_about_the_defaults_on_any_type() -> None:
    settings = parse({})
    assert contradictions(settings, {}) == []
    for found in matching():
        assert for_type(settings, {}, found, branches(found.instance_type)) == []


def test_the_defaults_of_the_manifest_are_no_contradiction() -> None:
    assert alone("WARM_ENI_TARGET=1 ENABLE_IPv4=true AWS_VPC_ENI_MTU=9001") == set()


@pytest.mark.parametrize(
    ("text", "length", "expected"),
    [
        ("WARM_ENI_TARGET=1", 28, {"subnet-below-one-full-node"}),  # 11 free, 10 at rest, 30 when full
        ("WARM_ENI_TARGET=2", 28, {"subnet-too-small"}),
        ("WARM_ENI_TARGET=1", 26, set()),
        ("MINIMUM_IP_TARGET=20", 28, {"subnet-too-small"}),
        ("MINIMUM_IP_TARGET=2", 28, {"subnet-below-one-full-node"}),
        ("ENABLE_PREFIX_DELEGATION=true", 27, {"subnet-below-one-full-node", "subnet-without-prefixes"}),
        ("ENABLE_PREFIX_DELEGATION=true", 22, set()),
    ],
)
def test_a_subnet_that_cannot_feed_one_node_is_named(text: str, length: int, expected: set[str]) -> None:
    found = for_subnet(parse(environment(text)), limits("m5.large"), 9, length)
    assert {finding.code for finding in found} == expected


def test_every_finding_says_what_why_and_what_to_do() -> None:
    for _, wrong, _ in ALONE:
        environ = environment(wrong)
        for finding in contradictions(parse(environ), environ):
            assert finding.what and finding.why and finding.next_step
            assert set(finding.variables) <= {*environ, *(row.variable for row in explain())}
            assert f"[{finding.code}]" in str(finding) and "Next: " in str(finding)


def test_the_worst_comes_first() -> None:
    environ = environment(
        f"IP_COOLDOWN_PERIOD=0 MAX_ENI=1 {CNI}CUSTOM_NETWORK_CFG=true POD_MTU=9001 AWS_VPC_ENI_MTU=1500"
    )
    found = [finding.severity for finding in contradictions(parse(environ), environ)]
    assert found == sorted(found, key=["unusable", "contradiction", "warning"].index)
    assert found[0] == "unusable" and found[-1] == "warning"


NUMBERS = (
    "WARM_ENI_TARGET",
    "WARM_IP_TARGET",
    "MINIMUM_IP_TARGET",
    "WARM_PREFIX_TARGET",
    "MAX_ENI",
    "IP_COOLDOWN_PERIOD",
)
SWITCHES = (
    "ENABLE_PREFIX_DELEGATION",
    "ENABLE_POD_ENI",
    "ENABLE_MULTI_NIC",
    f"{CNI}CUSTOM_NETWORK_CFG",
    f"{CNI}EXTERNALSNAT",
)


@given(
    st.dictionaries(st.sampled_from(NUMBERS), st.integers(0, 400).map(str)),
    st.dictionaries(st.sampled_from(SWITCHES), st.sampled_from(["true", "false"])),
    st.sampled_from(["t2.micro", "t3.nano", "m5.large", "p4d.24xlarge", "m5.metal"]),
    st.integers(16, 28),
)
def test_any_settings_on_any_type_are_judged_without_a_fault(
    numbers: dict[str, str], switches: dict[str, str], name: str, length: int
) -> None:
    environ = numbers | switches
    try:
        settings = parse(environ)
    except SettingsError:
        return
    found = contradictions(settings, environ) + for_type(settings, environ, limits(name), branches(name))
    found += for_subnet(settings, limits(name), branches(name), length)
    assert len({(finding.code, finding.variables) for finding in found}) == len(found)
