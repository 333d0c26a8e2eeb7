# SPDX-License-Identifier: Apache-2.0
"""What a runtime asks for, as checked values: one type per CNI command.

Knows the CNI variables, CNI_ARGS and what each command must bring along. Must never act on a request.
`ipamd.api` parses every relayed message here before anything else sees it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from vpccni.cni.netconf import NetworkConfig, parse_netconf
from vpccni.cni.versions import CURRENT, at_least
from vpccni.cni.wire import RelayRequest
from vpccni.errors import CNI_INCOMPATIBLE_VERSION, CNI_INVALID_CONFIG, CNI_INVALID_ENVIRONMENT, NetconfError

COMMANDS = ("ADD", "DEL", "CHECK", "GC", "STATUS", "VERSION")
MAX_IFNAME = 15
NIC_CONFIG, MULTI_NIC = "k8s.amazonaws.com/nicConfig", "multi-nic-attachment"  # the pod's annotation

_CONTAINER_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]*")  # CNI 1.1.0, section 2, "Parameters"
_IFNAME_FORBIDDEN = re.compile(r"[/:\s]")
_KUBERNETES_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.\-]{0,251}[A-Za-z0-9])?")
_REQUIRED = {
    "ADD": ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"),
    "CHECK": ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"),
    "DEL": ("CNI_CONTAINERID", "CNI_IFNAME"),
}
_KNOWN_ARGS = ("IgnoreUnknown", "K8S_POD_NAME", "K8S_POD_NAMESPACE", "K8S_POD_INFRA_CONTAINER_ID", "K8S_POD_UID")


@dataclass(frozen=True, slots=True)
class PodArgs:
    """The pod as CNI_ARGS names it. Without K8S_POD_NAME (a runtime without Kubernetes) the name is the container id,
    so that two such containers do not get one host link name."""

    namespace: str = ""
    name: str = ""
    uid: str = ""
    infra_container_id: str = ""


@dataclass(frozen=True, slots=True)
class AddRequest:
    """Wire the interface `ifname` of a container. `netns` is the path the runtime named, for the result."""

    config: NetworkConfig
    container_id: str
    ifname: str
    netns: str
    pod: PodArgs

    @property
    def multi_nic(self) -> bool:
        """Whether the pod asks for an interface on each network card."""
        return self.config.annotations.get(NIC_CONFIG) == MULTI_NIC

    @property
    def unknown_nic_config(self) -> str:
        """A value of that annotation that means nothing; "" when there is none. It is ignored, as upstream."""
        value = self.config.annotations.get(NIC_CONFIG, "")
        return "" if value == MULTI_NIC else value


@dataclass(frozen=True, slots=True)
class DelRequest:
    """Unwire; `netns` is empty and `config.prev_result` None when the runtime no longer knows them."""

    config: NetworkConfig
    container_id: str
    ifname: str
    netns: str
    pod: PodArgs


@dataclass(frozen=True, slots=True)
class CheckRequest:
    """Compare reality with `config.prev_result`, which is always there."""

    config: NetworkConfig
    container_id: str
    ifname: str
    netns: str
    pod: PodArgs


@dataclass(frozen=True, slots=True)
class GcRequest:
    """Drop every attachment of the network that is not in `config.valid_attachments`, which is never None here."""

    config: NetworkConfig


@dataclass(frozen=True, slots=True)
class StatusRequest:
    """Say whether an ADD could be served now."""

    config: NetworkConfig


@dataclass(frozen=True, slots=True)
class VersionRequest:
    """List the versions spoken."""

    cni_version: str = CURRENT


Request = AddRequest | DelRequest | CheckRequest | GcRequest | StatusRequest | VersionRequest


def parse(relayed: RelayRequest) -> Request:
    """The typed request. Raises NetconfError: code 4 for variables (all of them at once), 6, 1, 7 for the netconf."""
    command = relayed.command
    if command == "VERSION":
        return VersionRequest()
    if command not in COMMANDS:
        raise _invalid_environment([f"CNI_COMMAND {command!r} is not one of {', '.join(COMMANDS)}"])
    lenient = command == "DEL"
    problems = _variable_problems(command, relayed.env)
    pod, arg_problems = parse_args(relayed.env.get("CNI_ARGS", ""))
    if problems or (arg_problems and command in ("ADD", "CHECK")):
        raise _invalid_environment(problems + ([] if lenient else arg_problems))
    config = parse_netconf(relayed.stdin, lenient=lenient)
    _require_version(command, config.cni_version)
    if command == "STATUS":
        return StatusRequest(config)
    if command == "GC":
        _require(config.valid_attachments is not None, "cni.dev/valid-attachments is missing, GC would drop every pod")
        return GcRequest(config)
    container_id, ifname = relayed.env["CNI_CONTAINERID"], relayed.env["CNI_IFNAME"]
    if not pod.name:
        pod = PodArgs(pod.namespace, container_id, pod.uid, pod.infra_container_id)
    if command == "CHECK":
        _require(config.prev_result is not None, "prevResult is missing, CHECK compares with it")
    kinds: dict[str, type[AddRequest | DelRequest | CheckRequest]]
    kinds = {"ADD": AddRequest, "DEL": DelRequest, "CHECK": CheckRequest}
    return kinds[command](config, container_id, ifname, relayed.env.get("CNI_NETNS", ""), pod)


def parse_args(text: str) -> tuple[PodArgs, list[str]]:
    """CNI_ARGS (`NAME=value;NAME=value`, in any order) and everything that is wrong with it.

    Amazon VPC CNI and the Go library: each pair has exactly one `=`; unknown names are an error unless IgnoreUnknown is
    1 or true. Unusable values are left out of the returned PodArgs, so that a DEL can go on without them.
    """
    if not text:
        return PodArgs(), []
    problems: list[str] = []
    pairs: dict[str, str] = {}
    for pair in text.split(";"):
        if pair.count("=") == 1:
            name, value = pair.split("=")
            pairs[name] = value
        else:
            problems.append(f"CNI_ARGS has {pair!r}, which is not NAME=value")
    ignore = pairs.get("IgnoreUnknown", "0").lower()
    if ignore not in ("0", "1", "true", "false"):
        problems.append(f"CNI_ARGS has IgnoreUnknown={ignore!r}, which is not a boolean")
    unknown = sorted(pairs.keys() - set(_KNOWN_ARGS))
    if unknown and ignore not in ("1", "true"):
        problems.append(f"CNI_ARGS has unknown names {', '.join(unknown)} without IgnoreUnknown=1")
    for name in ("K8S_POD_NAMESPACE", "K8S_POD_NAME"):
        value = pairs.get(name, "")
        if value and not _KUBERNETES_NAME.fullmatch(value):
            problems.append(f"CNI_ARGS has {name}={value!r}, which is not a Kubernetes name")
            pairs[name] = ""
    pod = PodArgs(
        namespace=pairs.get("K8S_POD_NAMESPACE", ""),
        name=pairs.get("K8S_POD_NAME", ""),
        uid=pairs.get("K8S_POD_UID", ""),
        infra_container_id=pairs.get("K8S_POD_INFRA_CONTAINER_ID", ""),
    )
    return pod, problems


def _variable_problems(command: str, env: Mapping[str, str]) -> list[str]:
    required = _REQUIRED.get(command, ())
    problems = [f"{name} is missing" for name in required if not env.get(name)]
    if not required:
        return problems
    container_id, ifname = env.get("CNI_CONTAINERID", ""), env.get("CNI_IFNAME", "")
    if container_id and not _CONTAINER_ID.fullmatch(container_id):
        problems.append(f"CNI_CONTAINERID {container_id!r} is not letters, digits, '_', '.', '-'")
    if ifname and (ifname in (".", "..") or len(ifname) > MAX_IFNAME or _IFNAME_FORBIDDEN.search(ifname)):
        problems.append(
            f"CNI_IFNAME {ifname!r} is not an interface name (1 to {MAX_IFNAME} characters, no '/', ':', space)"
        )
    return problems


def _require_version(command: str, version: str) -> None:
    needed = {"CHECK": "0.4.0", "GC": "1.1.0", "STATUS": "1.1.0"}.get(command)
    if needed and not at_least(version, needed):
        raise NetconfError(
            f"serve {command}",
            f"config version {version} does not allow {command}",
            hint=f"{command} exists since CNI {needed}",
            code="incompatible-version",
            cni_code=CNI_INCOMPATIBLE_VERSION,
        )


def _require(condition: bool, why: str) -> None:
    if not condition:
        raise NetconfError("use the network configuration", why, cni_code=CNI_INVALID_CONFIG)


def _invalid_environment(problems: list[str]) -> NetconfError:
    return NetconfError(
        "use the CNI variables",
        "; ".join(problems),
        hint="the container runtime sets them; see the CNI specification 1.1.0, section 2",
        code="invalid-environment",
        cni_code=CNI_INVALID_ENVIRONMENT,
    )
