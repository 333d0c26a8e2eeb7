# SPDX-License-Identifier: Apache-2.0
"""Settings that contradict each other, whatever the instance: each with its code, why, and the next step.

Knows the documented precedence of the Amazon VPC CNI 1.23 and where one setting takes the effect from another. Must
never read the environment, nor judge syntax: `settings.parse` has done that. The daemon logs the findings at its start
(`contradictions`), `vpccni settings lint` prints them; `core.settings_fit` adds what an instance type cannot follow.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from vpccni.core.findings import Finding, Given
from vpccni.settings import Settings

LONG_COOLDOWN_S = 300
_WARM = ("WARM_ENI_TARGET", "WARM_IP_TARGET", "MINIMUM_IP_TARGET", "WARM_PREFIX_TARGET", "MAX_ENI")


def contradictions(settings: Settings, given: Mapping[str, str]) -> list[Finding]:
    """All findings. `given`: the variables that somebody has set; the environment that was parsed will do."""
    named = Given(given)
    found = [
        *_startable(settings),
        *_targets(settings, named),
        *_enis(settings, named),
        *_modes(settings, named),
        *_dataplane(settings, named),
        *(_from_parsing(text) for text in settings.warnings),
    ]
    order = ("unusable", "contradiction", "warning")
    return sorted(found, key=lambda finding: order.index(finding.severity))


def _startable(s: Settings) -> Iterator[Finding]:
    for name in s.not_built:
        yield Finding(
            "not-in-this-version",
            "unusable",
            (name,),
            f"{name} is switched on",
            "this version does not have the feature, and the daemon would not pretend to",
            f"unset {name}",
        )
    if s.imds_disabled:
        yield Finding(
            "metadata-disabled",
            "unusable",
            ("AWS_EC2_METADATA_DISABLED",),
            "AWS_EC2_METADATA_DISABLED=true",
            "the daemon learns from the metadata service which instance it runs on and never becomes ready without it",
            "unset AWS_EC2_METADATA_DISABLED for the daemon",
        )


def _targets(s: Settings, given: Given) -> Iterator[Finding]:
    if s.ip_targets_defined:
        setting = " and ".join(name for name, value in _ip_targets(s) if value)
        for name in given.any("WARM_ENI_TARGET", "WARM_PREFIX_TARGET"):
            yield Finding(
                f"{name.lower().replace('_', '-')}-unused",
                "contradiction",
                (name, *(each for each, value in _ip_targets(s) if value)),
                f"{name} has no effect",
                f"{setting} decides alone how many addresses are kept",
                f"unset {name}, or the address targets",
            )
    elif s.enable_prefix_delegation and "WARM_ENI_TARGET" in given:
        yield Finding(
            "warm-eni-target-unused",
            "contradiction",
            ("WARM_ENI_TARGET", "ENABLE_PREFIX_DELEGATION"),
            "WARM_ENI_TARGET has no effect",
            "with ENABLE_PREFIX_DELEGATION spare addresses are counted in prefixes (WARM_PREFIX_TARGET)",
            "unset WARM_ENI_TARGET",
        )
    elif not s.enable_prefix_delegation and "WARM_PREFIX_TARGET" in given:
        yield Finding(
            "warm-prefix-target-unused",
            "contradiction",
            ("WARM_PREFIX_TARGET",),
            "WARM_PREFIX_TARGET has no effect",
            "without ENABLE_PREFIX_DELEGATION there are no prefixes",
            "unset WARM_PREFIX_TARGET, or set ENABLE_PREFIX_DELEGATION=true",
        )
    if 0 < s.minimum_ip_target <= s.warm_ip_target:
        yield Finding(
            "minimum-ip-target-unused",
            "contradiction",
            ("MINIMUM_IP_TARGET", "WARM_IP_TARGET"),
            f"MINIMUM_IP_TARGET={s.minimum_ip_target} has no effect",
            f"WARM_IP_TARGET={s.warm_ip_target} free addresses are that many already on an empty node",
            "set MINIMUM_IP_TARGET to the pods that a usual node runs, and WARM_IP_TARGET to a few",
        )
    if not s.ip_targets_defined and not s.enable_prefix_delegation and s.warm_eni_target == 0:
        yield Finding(
            "no-spare-addresses",
            "warning",
            ("WARM_ENI_TARGET",),
            "WARM_ENI_TARGET=0 keeps a single address free",
            "every further pod of a burst waits for EC2",
            "set WARM_IP_TARGET and MINIMUM_IP_TARGET, or WARM_ENI_TARGET=1",
        )
    yield from _idle_targets(s, given)
    unheard = given.any("WARM_IP_TARGET", "MINIMUM_IP_TARGET", *("WARM_PREFIX_TARGET",) * (s.warm_prefix_target > 1))
    if s.enable_ipv6 and unheard:
        yield Finding(
            "targets-with-ipv6",
            "contradiction",
            (*unheard, "ENABLE_IPv6"),
            f"{', '.join(unheard)} {'has' if len(unheard) == 1 else 'have'} no effect",
            "the /80 of the first ENI is more than all pods of a node can use: nothing more is ever asked for",
            f"unset {', '.join(unheard)}; WARM_PREFIX_TARGET=1 is the usual one",
        )


def _idle_targets(s: Settings, given: Given) -> Iterator[Finding]:
    named = given.any(*_WARM)
    if named and not s.provisioning:
        switch = "ENABLE_IMDS_ONLY_MODE" if s.imds_only else "DISABLE_NETWORK_RESOURCE_PROVISIONING"
        yield Finding(
            "targets-without-provisioning",
            "contradiction",
            (*named, switch),
            f"{', '.join(named)} cannot be followed",
            f"with {switch} the daemon never asks EC2 for an address",
            f"unset {', '.join(named)}, or {switch}",
        )


def _ip_targets(s: Settings) -> tuple[tuple[str, int], ...]:
    return ("WARM_IP_TARGET", s.warm_ip_target), ("MINIMUM_IP_TARGET", s.minimum_ip_target)


def _enis(s: Settings, given: Given) -> Iterator[Finding]:
    reserved = s.custom_networking + s.enable_pod_eni
    if s.max_eni and s.max_eni <= reserved:
        switches = ("AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG",) * s.custom_networking + (
            "ENABLE_POD_ENI",
        ) * s.enable_pod_eni
        yield Finding(
            "no-eni-for-pods",
            "unusable",
            ("MAX_ENI", *switches),
            f"MAX_ENI={s.max_eni} leaves no interface for pods",
            f"{' and '.join(switches)} {'take' if reserved > 1 else 'takes'} {reserved} of them",
            f"set MAX_ENI to {reserved + 1} or more, or unset it",
        )
    elif "WARM_ENI_TARGET" in given and 0 < s.max_eni <= s.warm_eni_target and _fills_enis(s):
        yield Finding(
            "warm-eni-target-too-large",
            "contradiction",
            ("WARM_ENI_TARGET", "MAX_ENI"),
            f"WARM_ENI_TARGET={s.warm_eni_target} is never reached",
            f"MAX_ENI={s.max_eni} is spent before as many ENIs are spare, the node holds all it may from the start",
            f"set WARM_ENI_TARGET below {s.max_eni}, or address targets",
        )
    if s.ip_cooldown_s == 0:
        yield Finding(
            "no-cooldown",
            "warning",
            ("IP_COOLDOWN_PERIOD",),
            "IP_COOLDOWN_PERIOD=0 gives a released address to the next pod at once",
            "load balancers, kube-proxy on other nodes and open connections still mean the old pod for seconds",
            "leave it at 30, and keep more addresses warm when pods churn",
        )
    elif s.ip_cooldown_s > LONG_COOLDOWN_S:
        yield Finding(
            "long-cooldown",
            "warning",
            ("IP_COOLDOWN_PERIOD",),
            f"IP_COOLDOWN_PERIOD={s.ip_cooldown_s} keeps released addresses unused for minutes",
            "on a node whose pods come and go most addresses will be cooling down, and new pods wait",
            f"set it to {LONG_COOLDOWN_S} or less",
        )


def _fills_enis(s: Settings) -> bool:
    return not s.ip_targets_defined and not s.enable_prefix_delegation


def _modes(s: Settings, given: Given) -> Iterator[Finding]:
    if not s.enable_pod_eni:
        for name in given.any("POD_SECURITY_GROUP_ENFORCING_MODE", "DISABLE_TCP_EARLY_DEMUX"):
            if name == "POD_SECURITY_GROUP_ENFORCING_MODE" or s.disable_tcp_early_demux:
                yield _unused(name, "ENABLE_POD_ENI", "there are no pods on branch interfaces")
    elif s.pod_sg_enforcing_mode == "strict" and not s.disable_tcp_early_demux:
        yield Finding(
            "probes-need-early-demux-off",
            "warning",
            ("ENABLE_POD_ENI", "DISABLE_TCP_EARLY_DEMUX"),
            "kubelet's TCP probes will not reach pods on branch interfaces",
            "in strict mode their replies enter through the trunk, where early demultiplexing does not expect them",
            "set DISABLE_TCP_EARLY_DEMUX=true, or POD_SECURITY_GROUP_ENFORCING_MODE=standard",
        )
    if not s.custom_networking:
        for name in given.any("ENI_CONFIG_LABEL_DEF", "ENI_CONFIG_ANNOTATION_DEF"):
            yield _unused(name, "AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG", "no ENIConfig is read")
    if s.imds_only and given.values.get("ENABLE_SUBNET_DISCOVERY", "").lower() in ("1", "t", "true"):
        yield Finding(
            "discovery-without-ec2",
            "contradiction",
            ("ENABLE_IMDS_ONLY_MODE", "ENABLE_SUBNET_DISCOVERY"),
            "ENABLE_SUBNET_DISCOVERY counts as false",
            "with ENABLE_IMDS_ONLY_MODE nobody can ask EC2 which subnets there are",
            "set ENABLE_SUBNET_DISCOVERY=false",
        )
    if s.imds_only and s.custom_networking:
        yield Finding(
            "custom-networking-without-ec2",
            "contradiction",
            ("ENABLE_IMDS_ONLY_MODE", "AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG"),
            "custom networking finds no ENI of its own",
            "with ENABLE_IMDS_ONLY_MODE no ENI is created in the ENIConfig's subnet; others must attach them",
            "attach ENIs of that subnet when the instance is launched, or unset ENABLE_IMDS_ONLY_MODE",
        )


def _dataplane(s: Settings, given: Given) -> Iterator[Finding]:
    if s.external_snat and not s.egress_version:
        for name in given.any("AWS_VPC_K8S_CNI_EXCLUDE_SNAT_CIDRS", "AWS_VPC_K8S_CNI_RANDOMIZESNAT"):
            if name.endswith("RANDOMIZESNAT") or s.exclude_snat_cidrs:
                yield Finding(
                    "snat-setting-unused",
                    "contradiction",
                    (name, "AWS_VPC_K8S_CNI_EXTERNALSNAT"),
                    f"{name} has no effect",
                    "with AWS_VPC_K8S_CNI_EXTERNALSNAT=true the node translates nothing",
                    f"unset {name}, or AWS_VPC_K8S_CNI_EXTERNALSNAT",
                )
    yield from _egress(s)
    if "VPCCNI_FIREWALL" in given and 4 not in s.versions and not s.egress_version:
        yield Finding(
            "firewall-unused",
            "contradiction",
            ("VPCCNI_FIREWALL", "ENABLE_V4_EGRESS"),
            "VPCCNI_FIREWALL has no effect",
            "IPv6 pods are never translated nor marked, and without ENABLE_V4_EGRESS=true they have no IPv4",
            "unset VPCCNI_FIREWALL",
        )
    if s.pod_mtu > s.eni_mtu:
        yield Finding(
            "pod-mtu-above-eni-mtu",
            "contradiction",
            ("POD_MTU", "AWS_VPC_ENI_MTU"),
            f"POD_MTU={s.pod_mtu} is above AWS_VPC_ENI_MTU={s.eni_mtu}",
            "packets that fit the pod's interface do not fit the ENI: large ones are dropped or answered with ICMP",
            f"set POD_MTU to {s.eni_mtu} or less, or unset it",
        )


def _egress(s: Settings) -> Iterator[Finding]:
    if s.enable_v6_egress and 6 in s.versions:
        yield Finding(
            "v6-egress-unused",
            "contradiction",
            ("ENABLE_V6_EGRESS", "ENABLE_IPv6"),
            "ENABLE_V6_EGRESS has no effect",
            "pods with IPv6 addresses leave with their own",
            "unset ENABLE_V6_EGRESS",
        )
    elif s.enable_v6_egress and s.disable_pod_v6:
        yield Finding(
            "v6-egress-without-ipv6",
            "contradiction",
            ("ENABLE_V6_EGRESS", "DISABLE_POD_V6"),
            "pods cannot use their interface for IPv6 egress",
            "DISABLE_POD_V6=true chains a plugin that switches IPv6 off in each pod afterwards",
            "unset one of them",
        )


def _unused(name: str, switch: str, why: str) -> Finding:
    return Finding(
        "switch-missing",
        "contradiction",
        (name, switch),
        f"{name} has no effect",
        f"without {switch}=true {why}",
        f"unset {name}, or set {switch}=true",
    )


def _from_parsing(text: str) -> Finding:
    """What `settings.parse` accepted with a remark: unknown names, names without effect, aliases that differ."""
    if "did you mean" in text:
        code, step = "misspelled-setting", "correct the name"
    elif "is not a setting" in text:
        code, step = "unknown-setting", "correct the name; `vpccni settings list` shows all"
    elif "differ;" in text:
        code, step = "aliases-differ", "set one of them"
    else:
        code, step = "setting-without-effect", "unset it"
    name = text.split(maxsplit=1)[0].rstrip(":")
    return Finding(code, "warning", (name,), text, "the daemon starts and goes on without it", step)
