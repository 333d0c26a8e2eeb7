# SPDX-License-Identifier: Apache-2.0
"""Every setting of the node daemon in one table: variable, field, syntax, default and purpose.

Knows names and syntax of environment variables, and which combinations cannot start; `core.settings_lint` knows those
that are hardly meant. Must never read the environment, a file or the instance itself: `__main__` passes the environment
in, everybody else gets a `Settings`.
Variables are those of the Amazon VPC CNI 1.23 with the defaults of its manifest; `VPCCNI_*` are our own. Unlike there,
a value that cannot be read is refused instead of replaced by the default. A variable set to "" counts as unset.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from ipaddress import IPv4Network
from typing import Any, Literal

from vpccni.errors import SettingsError
from vpccni.settings_syntax import (
    BOOL,
    CIDRS,
    CONNMARK,
    LISTEN,
    LOG_LEVEL,
    TAGS,
    TEXT,
    URL,
    VETH_PREFIX,
    Listen,
    Syntax,
    choice,
    integer,
)

RESERVED_TAG_TEXT = "k8s.amazonaws.com"
_OWN_PREFIXES = ("AWS_VPC_K8S_", "AWS_VPC_CNI_", "AWS_VPC_ENI_", "VPCCNI_", "WARM_")
_IGNORED = {
    "AWS_VPC_K8S_CNI_CONFIGURE_RPFILTER": "rp_filter is always set as the data path needs it",
    "ENABLE_NFTABLES": "the firewall backend is detected, see VPCCNI_FIREWALL",
    "VPC_CNI_VERSION": "",
    "VPCCNI_SOCKET": "",  # read by the relay in tests
    "VPCCNI_LAB_NAME": "",  # read by the command line: which of several labs is meant
    "AWS_VPC_K8S_EGRESS_V4_PLUGIN_LOG_FILE": "",
    "AWS_VPC_K8S_EGRESS_V6_PLUGIN_LOG_FILE": "",
}
# Features that this version does not have: what a user who switches one on must be told, never silently ignored.
_NOT_BUILT = (
    "enable_pod_eni",
    "annotate_pod_ip",
    "network_policy_mode",
)
Row = Mapping[str, Any]


def _var(env: str, syntax: Syntax, default: object, purpose: str, *aliases: str) -> Any:
    """One row of the table. The first of `env` and `aliases` that is set decides."""
    row: Row = {"names": (env, *aliases), "syntax": syntax, "purpose": purpose}
    if isinstance(default, dict):
        return field(default_factory=dict, metadata=row)
    return field(default=default, metadata=row)


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings, read and checked. A count of 0 for a target or limit means "not set"."""

    # Warm pool.
    warm_eni_target: int = _var("WARM_ENI_TARGET", integer(0), 1, "whole spare ENIs kept; unused with an IP target")
    warm_ip_target: int = _var("WARM_IP_TARGET", integer(0), 0, "free addresses kept; 0: not set")
    minimum_ip_target: int = _var("MINIMUM_IP_TARGET", integer(0), 0, "addresses held at least; 0: not set")
    warm_prefix_target: int = _var("WARM_PREFIX_TARGET", integer(0), 1, "whole spare /28 blocks kept")
    max_eni: int = _var("MAX_ENI", integer(0), 0, "most ENIs of the node; 0: what the instance type allows")
    max_pods: int = _var("VPCCNI_MAX_PODS", integer(0), 0, "most pods; 0: the node's capacity or the type's formula")
    ip_cooldown_s: int = _var("IP_COOLDOWN_PERIOD", integer(0), 30, "seconds before a released address is reused")

    # Families and modes.
    enable_ipv4: bool = _var("ENABLE_IPv4", BOOL, True, "pods get IPv4 addresses")
    enable_ipv6: bool = _var("ENABLE_IPv6", BOOL, False, "pods get IPv6 addresses")
    dual_stack: bool = _var("VPCCNI_DUAL_STACK", BOOL, False, "IPv4 pods get an IPv6 address as well")
    enable_prefix_delegation: bool = _var("ENABLE_PREFIX_DELEGATION", BOOL, False, "assign /28 or /80 blocks")
    prefix_fallback: bool = _var("VPCCNI_PREFIX_FALLBACK", BOOL, True, "single addresses where no /28 is free")
    custom_networking: bool = _var("AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG", BOOL, False, "pods as ENIConfig says")
    enable_pod_eni: bool = _var("ENABLE_POD_ENI", BOOL, False, "security groups for pods on branch ENIs")
    enable_multi_nic: bool = _var("ENABLE_MULTI_NIC", BOOL, False, "pods on every network card")
    enable_v4_egress: bool = _var("ENABLE_V4_EGRESS", BOOL, True, "IPv4 egress of IPv6 pods")
    enable_v6_egress: bool = _var("ENABLE_V6_EGRESS", BOOL, False, "IPv6 egress of IPv4 pods")
    enable_subnet_discovery: bool = _var("ENABLE_SUBNET_DISCOVERY", BOOL, True, "ENIs also in tagged subnets")

    # EC2 and metadata.
    ec2_endpoint: str = _var(
        "AWS_ENDPOINT_URL_EC2", URL, "", "EC2 endpoint instead of the region's", "AWS_EC2_ENDPOINT", "AWS_ENDPOINT_URL"
    )
    imds_endpoint: str = _var(
        "AWS_EC2_METADATA_SERVICE_ENDPOINT", URL, "http://169.254.169.254", "instance metadata service"
    )
    imds_disabled: bool = _var("AWS_EC2_METADATA_DISABLED", BOOL, False, "never ask the metadata service")
    http_timeout_s: int = _var("HTTP_TIMEOUT", integer(10, 600), 10, "seconds to connect to and to hear from EC2")
    cluster_name: str = _var("CLUSTER_NAME", TEXT, "", "cluster tag of created ENIs and of eligible subnets")
    additional_eni_tags: Mapping[str, str] = _var("ADDITIONAL_ENI_TAGS", TAGS, {}, "more tags of created ENIs")
    manage_untagged_eni: bool = _var("MANAGE_UNTAGGED_ENI", BOOL, True, "use ENIs that carry no tag of ours")
    manage_enis_non_schedulable: bool = _var("AWS_MANAGE_ENIS_NON_SCHEDULABLE", BOOL, False, "grow cordoned nodes")
    disable_provisioning: bool = _var("DISABLE_NETWORK_RESOURCE_PROVISIONING", BOOL, False, "never change EC2")
    imds_only: bool = _var("ENABLE_IMDS_ONLY_MODE", BOOL, False, "never call EC2")
    disable_leaked_eni_cleanup: bool = _var("DISABLE_LEAKED_ENI_CLEANUP", BOOL, False, "leave leaked ENIs alone")

    # Data path.
    eni_mtu: int = _var("AWS_VPC_ENI_MTU", integer(576, 9001), 9001, "MTU of ENIs; at least 1280 with IPv6")
    pod_mtu: int = _var("POD_MTU", integer(576, 9001), 0, "MTU of pods; unset: as AWS_VPC_ENI_MTU")
    veth_prefix: str = _var("AWS_VPC_K8S_CNI_VETHPREFIX", VETH_PREFIX, "eni", "start of host link names")
    external_snat: bool = _var("AWS_VPC_K8S_CNI_EXTERNALSNAT", BOOL, False, "pods leave the VPC as themselves")
    exclude_snat_cidrs: tuple[IPv4Network, ...] = _var(
        "AWS_VPC_K8S_CNI_EXCLUDE_SNAT_CIDRS", CIDRS, (), "destinations reached without SNAT"
    )
    external_service_cidrs: tuple[IPv4Network, ...] = _var(
        "AWS_EXTERNAL_SERVICE_CIDRS", CIDRS, (), "service ranges routed by the main table"
    )
    randomize_snat: Literal["prng", "hashrandom", "none"] = _var(
        "AWS_VPC_K8S_CNI_RANDOMIZESNAT", choice("prng", "hashrandom", "none"), "prng", "source port choice of SNAT"
    )
    firewall: Literal["auto", "iptables-nft", "iptables-legacy", "nftables"] = _var(
        "VPCCNI_FIREWALL",
        choice("auto", "iptables-nft", "iptables-legacy", "nftables"),
        "auto",
        "where our rules are; auto: as kube-proxy",
    )
    node_port_support: bool = _var("AWS_VPC_CNI_NODE_PORT_SUPPORT", BOOL, True, "NodePort on secondary ENIs' pods")
    connmark: int = _var("AWS_VPC_K8S_CNI_CONNMARK", CONNMARK, 0x80, "mark of connections from outside; any base")
    rule_layout: Literal["per-pod", "shared"] = _var(
        "VPCCNI_RULE_LAYOUT", choice("per-pod", "shared"), "per-pod", "rules of each pod, or few rules for all pods"
    )
    repair_interval_s: int = _var(
        "VPCCNI_REPAIR_INTERVAL", integer(1, 3600), 60, "seconds between two full comparisons of the kernel's state"
    )
    disable_tcp_early_demux: bool = _var("DISABLE_TCP_EARLY_DEMUX", BOOL, False, "for probes of branch ENI pods")
    pod_sg_enforcing_mode: Literal["strict", "standard"] = _var(
        "POD_SECURITY_GROUP_ENFORCING_MODE", choice("strict", "standard"), "strict", "with ENABLE_POD_ENI"
    )
    network_policy_mode: Literal["", "none", "strict", "standard"] = _var(
        "NETWORK_POLICY_ENFORCING_MODE", choice("none", "strict", "standard", any_case=True), "", "before pods start"
    )

    # Kubernetes.
    node_name: str = _var("MY_NODE_NAME", TEXT, "", "the Node object of this machine")
    pod_name: str = _var("MY_POD_NAME", TEXT, "", "the daemon's own pod, for events")
    cluster_endpoint: str = _var("CLUSTER_ENDPOINT", URL, "", "API server instead of the in-cluster one")
    annotate_pod_ip: bool = _var("ANNOTATE_POD_IP", BOOL, False, "write vpc.amazonaws.com/pod-ips on pods")
    eni_config_label: str = _var(
        "ENI_CONFIG_LABEL_DEF", TEXT, "k8s.amazonaws.com/eniConfig", "node label that names the ENIConfig"
    )
    eni_config_annotation: str = _var(
        "ENI_CONFIG_ANNOTATION_DEF", TEXT, "k8s.amazonaws.com/eniConfig", "node annotation that names the ENIConfig"
    )

    eni_config_name: str = _var("VPCCNI_ENI_CONFIG_NAME", TEXT, "default", "this node's ENIConfig")
    eni_config_dir: str = _var(
        "VPCCNI_ENI_CONFIG_DIR", TEXT, "/var/run/aws-node/eniconfigs", "directory of ENIConfig manifests (YAML)"
    )
    cordon_file: str = _var("VPCCNI_CORDON_FILE", TEXT, "", "the node counts as cordoned while this file exists")

    # Plugin chain.
    enable_bandwidth_plugin: bool = _var("ENABLE_BANDWIDTH_PLUGIN", BOOL, False, "chain the bandwidth plugin")
    disable_pod_v6: bool = _var("DISABLE_POD_V6", BOOL, False, "chain tuning to switch IPv6 off in pods")
    plugin_log_file: str = _var(
        "AWS_VPC_K8S_PLUGIN_LOG_FILE", TEXT, "/var/log/aws-routed-eni/plugin.log", "log of the plugin; not stdout"
    )
    plugin_log_level: str = _var("AWS_VPC_K8S_PLUGIN_LOG_LEVEL", LOG_LEVEL, "debug", "log level of the plugin")
    cni_bin_dir: str = _var("HOST_CNI_BIN_PATH", TEXT, "/opt/cni/bin", "where plugins are installed")
    cni_conf_dir: str = _var("HOST_CNI_CONFDIR_PATH", TEXT, "/etc/cni/net.d", "where the conflist is written")

    # Files, endpoints and logs of the daemon.
    backing_store: str = _var(
        "AWS_VPC_K8S_CNI_BACKING_STORE", TEXT, "/var/run/aws-node/ipam.json", "checkpoint in the Go daemon's format"
    )
    log_file: str = _var(
        "AWS_VPC_K8S_CNI_LOG_FILE", TEXT, "/var/log/aws-routed-eni/ipamd.log", "log; or stdout, stderr"
    )
    log_level: str = _var("AWS_VPC_K8S_CNI_LOGLEVEL", LOG_LEVEL, "debug", "log level of the daemon")
    introspection_bind: Listen = _var(  # noqa: RUF009  # Listen is frozen
        "INTROSPECTION_BIND_ADDRESS", LISTEN, Listen("127.0.0.1", 61679), "introspection API; unix:/path for a socket"
    )
    metrics_bind: Listen = _var(  # noqa: RUF009  # Listen is frozen
        "VPCCNI_METRICS_BIND_ADDRESS", LISTEN, Listen("", 61678), "Prometheus endpoint"
    )
    disable_introspection: bool = _var("DISABLE_INTROSPECTION", BOOL, False, "no introspection API")
    disable_metrics: bool = _var("DISABLE_METRICS", BOOL, False, "no Prometheus endpoint")

    warnings: tuple[str, ...] = ()  # things accepted that are probably not meant; not a variable

    @property
    def versions(self) -> tuple[int, ...]:
        """The IP versions of pods' addresses; the first one is what the pool counts."""
        if self.enable_ipv6:
            return (6,)
        return (4, 6) if self.dual_stack else (4,)

    @property
    def provisioning(self) -> bool:
        """Whether the daemon may create, change and free ENIs and addresses."""
        return not (self.disable_provisioning or self.imds_only)

    @property
    def egress_version(self) -> int:
        """The IP version in which pods get an interface for egress, one that their own addresses are not; 0: none."""
        if self.versions == (6,):
            return 4 if self.enable_v4_egress else 0
        return 6 if self.versions == (4,) and self.enable_v6_egress else 0

    @property
    def sweeps_leaked_enis(self) -> bool:
        """Whether leaked ENIs are looked for: not in IPv6 mode and not without provisioning."""
        return self.provisioning and not self.enable_ipv6 and not self.disable_leaked_eni_cleanup

    @property
    def ip_targets_defined(self) -> bool:
        """Whether address targets are set, which switches `warm_eni_target` off."""
        return self.warm_ip_target > 0 or self.minimum_ip_target > 0

    @property
    def not_built(self) -> tuple[str, ...]:
        """Variables that switch a feature on which this version does not have."""
        names = {row.name: row.metadata["names"][0] for row in _rows()}
        return tuple(names[name] for name in _NOT_BUILT if getattr(self, name) not in (False, "", "none"))


def parse(environ: Mapping[str, str]) -> Settings:
    """Read all settings. Raises one SettingsError that names every wrong variable with what is accepted."""
    values: dict[str, Any] = {}
    problems: list[str] = []
    warnings: list[str] = []
    for row in _rows():
        names = [name for name in row.metadata["names"] if environ.get(name)]
        if not names:
            continue
        # AWS_ENDPOINT_URL is for every service of AWS, so it may well differ.
        if len({environ[name] for name in names if name != "AWS_ENDPOINT_URL"}) > 1:
            warnings.append(f"{' and '.join(names)} differ; {names[0]} is used")
        syntax: Syntax = row.metadata["syntax"]
        try:
            values[row.name] = syntax.parse(environ[names[0]])
        except ValueError as error:
            reason = f" ({error})" if str(error) else ""
            problems.append(f"{names[0]}={_shown(environ[names[0]])} is not {syntax.accepts}{reason}")
    settings = Settings(**values)
    settings = _derived(settings, warnings)
    # A combination is judged only when its parts could be read: otherwise one mistake is reported twice.
    problems += [text for involved, text in _conflicts(settings) if not _unread(involved, values, environ)]
    if problems:
        raise SettingsError(
            "use the settings",
            "; ".join(problems),
            hint="correct or unset the environment variables named above, then start again",
            evidence={"problems": len(problems)},
        )
    warnings += _misspelled(environ)
    return _replaced(settings, warnings=tuple(warnings))


@dataclass(frozen=True, slots=True)
class Explanation:
    """One setting as documentation shows it. `aliases` are older names, used when `variable` is unset."""

    variable: str
    field_name: str
    accepts: str
    default: str
    purpose: str
    aliases: tuple[str, ...] = ()


def explain() -> tuple[Explanation, ...]:
    """All settings in the order of the table."""
    return tuple(_explanation(row) for row in _rows())


def _explanation(row: Field[Any]) -> Explanation:
    names, syntax = row.metadata["names"], row.metadata["syntax"]
    default = "{}" if row.default is MISSING else syntax.show(row.default)
    return Explanation(names[0], row.name, syntax.accepts, default, row.metadata["purpose"], tuple(names[1:]))


def _rows() -> Iterator[Field[Any]]:
    return (row for row in fields(Settings) if "names" in row.metadata)


def _replaced(settings: Settings, **changes: Any) -> Settings:
    return Settings(**{row.name: getattr(settings, row.name) for row in fields(Settings)} | changes)


def _derived(settings: Settings, warnings: list[str]) -> Settings:
    """Defaults that depend on other settings, and tags that are not the user's to set."""
    tags = {key: value for key, value in settings.additional_eni_tags.items() if RESERVED_TAG_TEXT not in key}
    dropped = sorted(set(settings.additional_eni_tags) - set(tags))
    if dropped:
        warnings.append(f"ADDITIONAL_ENI_TAGS: {', '.join(dropped)} left out, *{RESERVED_TAG_TEXT}* keys are reserved")
    discovery = settings.enable_subnet_discovery and not settings.imds_only  # subnets' tags need EC2
    return _replaced(
        settings,
        additional_eni_tags=tags,
        pod_mtu=settings.pod_mtu or settings.eni_mtu,
        enable_subnet_discovery=discovery,
    )


def _conflicts(s: Settings) -> Iterator[tuple[tuple[str, ...], str]]:
    """(variables involved, what is wrong) for combinations that the Amazon VPC CNI refuses to start with too."""
    families = ("ENABLE_IPv4", "ENABLE_IPv6")
    if s.enable_ipv4 and s.enable_ipv6:
        yield families, "ENABLE_IPv4 and ENABLE_IPv6 are both true, exactly one may be (IPv4 is the default)"
    if not s.enable_ipv4 and not s.enable_ipv6:
        yield families, "ENABLE_IPv4 and ENABLE_IPv6 are both false, exactly one must be true"
    if s.enable_ipv6 and not s.enable_prefix_delegation:
        yield ("ENABLE_IPv6", "ENABLE_PREFIX_DELEGATION"), "ENABLE_IPv6 needs ENABLE_PREFIX_DELEGATION=true"
    if s.enable_ipv6 and s.custom_networking:
        involved = ("ENABLE_IPv6", "AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG")
        yield involved, "ENABLE_IPv6 excludes AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG"
    for name, text in _dual_stack_conflicts(s):
        yield ("VPCCNI_DUAL_STACK", name), text
    if 6 in (*s.versions, s.egress_version):
        own = "ENABLE_IPv6" if s.enable_ipv6 else "VPCCNI_DUAL_STACK"
        family = own if 6 in s.versions else "ENABLE_V6_EGRESS"
        if s.disable_pod_v6 and family == own:
            yield (family, "DISABLE_POD_V6"), f"{family} excludes DISABLE_POD_V6, which takes IPv6 from pods"
        for name, mtu in (("AWS_VPC_ENI_MTU", s.eni_mtu), ("POD_MTU", s.pod_mtu)):
            if mtu < 1280 and (name != "POD_MTU" or mtu != s.eni_mtu):
                yield (family, name), f"{name}={mtu} is below 1280, the least that IPv6 allows"
    if s.enable_prefix_delegation and not (s.warm_ip_target or s.warm_prefix_target or s.minimum_ip_target):
        targets = ("WARM_IP_TARGET", "WARM_PREFIX_TARGET", "MINIMUM_IP_TARGET")
        text = f"ENABLE_PREFIX_DELEGATION needs at least one of {', '.join(targets)} above 0"
        yield ("ENABLE_PREFIX_DELEGATION", *targets), text
    if s.plugin_log_file.lower() == "stdout":
        text = "AWS_VPC_K8S_PLUGIN_LOG_FILE=stdout would garble the plugin's result, use stderr or a file"
        yield ("AWS_VPC_K8S_PLUGIN_LOG_FILE",), text


def _dual_stack_conflicts(s: Settings) -> Iterator[tuple[str, str]]:
    """(other variable, what is wrong) for VPCCNI_DUAL_STACK, which adds IPv6 addresses to those of an IPv4 cluster."""
    if s.dual_stack and s.enable_ipv6:
        yield "ENABLE_IPv6", "VPCCNI_DUAL_STACK excludes ENABLE_IPv6: it adds IPv6 addresses to IPv4 pods"
    if s.dual_stack and s.enable_v6_egress:
        text = "VPCCNI_DUAL_STACK excludes ENABLE_V6_EGRESS: its pods reach IPv6 hosts with their own address"
        yield "ENABLE_V6_EGRESS", text


def _unread(involved: tuple[str, ...], values: Mapping[str, Any], environ: Mapping[str, str]) -> bool:
    """Whether one of the variables is set but was refused, so that its field holds only the default."""
    by_name = {name: row.name for row in _rows() for name in row.metadata["names"]}
    return any(environ.get(name) and by_name[name] not in values for name in involved)


def _misspelled(environ: Mapping[str, str]) -> Iterator[str]:
    """Variables that look like ours but are not. Foreign variables are no business of ours."""
    known = {name: name for row in _rows() for name in row.metadata["names"]}
    folded = {name.upper(): name for name in known}
    heads = {name.split("_")[0] + "_" for name in known}
    for name in sorted(environ.keys() - known.keys()):
        if name in _IGNORED:
            if _IGNORED[name]:
                yield f"{name} has no effect: {_IGNORED[name]}"
            continue
        if name.upper() in folded:
            yield f"{name} is not a setting, did you mean {folded[name.upper()]}?"
            continue
        if not name.upper().startswith(tuple(heads)):
            continue
        close = difflib.get_close_matches(name, known, n=1, cutoff=0.87)
        if close:
            yield f"{name} is not a setting, did you mean {close[0]}?"
        elif name.startswith(_OWN_PREFIXES):
            yield f"{name} is not a setting"


def _shown(value: str) -> str:
    return repr(value if len(value) <= 60 else value[:57] + "...")
