# SPDX-License-Identifier: Apache-2.0
"""The network configuration that a runtime writes to the plugin's stdin.

Knows the fields of the Amazon VPC CNI's conflist entry and of the CNI specification. Must never read a file or the
environment. Called by `cni.request`; the daemon gets the typed, checked value.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec

from vpccni.cni.prevresult import PrevResult, parse_prev_result
from vpccni.cni.versions import CURRENT, SUPPORTED
from vpccni.errors import CNI_DECODE_FAILURE, CNI_INCOMPATIBLE_VERSION, NetconfError

DEFAULT_MTU = 9001
MTU_RANGE = range(576, 9002)
DEFAULT_VETH_PREFIX = "eni"
ENFORCING_MODES = ("strict", "standard")
POD_ANNOTATIONS = "io.kubernetes.cri.pod-annotations"

_IDENTIFIER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]*")
_RESERVED_PREFIXES = ("eth", "lo", "vlan")


@dataclass(frozen=True, slots=True)
class AttachmentId:
    """An attachment as GC names it: container and interface (`cni.dev/valid-attachments`)."""

    container_id: str
    ifname: str


@dataclass(frozen=True, slots=True)
class NetworkConfig:
    """A checked network configuration.

    `notes` are things that were replaced by a default without refusing the request, one sentence each, for the log.
    `valid_attachments` is None when the runtime sent no list (GC only).
    """

    name: str
    cni_version: str
    mtu: int = DEFAULT_MTU
    veth_prefix: str = DEFAULT_VETH_PREFIX
    pod_sg_enforcing_mode: str = "strict"
    plugin_log_file: str = ""
    plugin_log_level: str = ""
    annotations: Mapping[str, str] = field(default_factory=dict)
    prev_result: PrevResult | None = None
    valid_attachments: frozenset[AttachmentId] | None = None
    notes: tuple[str, ...] = ()


def parse_netconf(stdin: bytes, *, lenient: bool = False) -> NetworkConfig:
    """The configuration on stdin.

    Raises NetconfError: code 6 when it is not a JSON object, 1 for a protocol version that we do not speak, 7 with all
    other problems in one message. With `lenient` (DEL, which must clean up whatever it can) only version and name
    matter; every other problem becomes a note.
    """
    raw = _decode(stdin)
    version = _version(raw)
    fatal: list[str] = []
    problems: list[str] = []
    notes: list[str] = []
    name = raw.get("name")
    if not isinstance(name, str) or not _IDENTIFIER.fullmatch(name):
        fatal.append("name is missing" if not name else f"name {name!r} is not letters, digits, '_', '.', '-'")
        name = ""
    config = NetworkConfig(
        name=name,
        cni_version=version,
        mtu=_mtu(raw.get("mtu"), notes),
        veth_prefix=_veth_prefix(raw, problems),
        pod_sg_enforcing_mode=_enforcing_mode(_text(raw, "podSGEnforcingMode", "strict", problems), notes),
        plugin_log_file=_text(raw, "pluginLogFile", "", problems),
        plugin_log_level=_text(raw, "pluginLogLevel", "", problems),
        annotations=_annotations(raw.get("runtimeConfig"), problems),
        prev_result=_prev_result(raw.get("prevResult"), problems),
        valid_attachments=_valid_attachments(raw, problems),
    )
    if lenient:
        notes += problems
        problems = []
    if fatal or problems:
        raise NetconfError(
            "use the network configuration",
            "; ".join(fatal + problems),
            hint="correct the aws-cni entry of the conflist in /etc/cni/net.d, or restart the daemon to write it anew",
        )
    return replace(config, notes=tuple(notes)) if notes else config


def stated_version(stdin: bytes) -> str:
    """The `cniVersion` to answer in: the one on stdin if we speak it, else our newest. Never raises."""
    try:
        version = msgspec.json.decode(stdin, type=_VersionOnly).version
    except msgspec.DecodeError:
        return CURRENT
    return version if version in SUPPORTED else CURRENT


class _VersionOnly(msgspec.Struct):
    version: str = msgspec.field(name="cniVersion", default="")


def _decode(stdin: bytes) -> Mapping[str, Any]:
    try:
        raw = msgspec.json.decode(stdin)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        why = "it is empty" if not stdin.strip() else str(error)
    else:
        if isinstance(raw, dict):
            return raw
        why = "it is not a JSON object"
    raise NetconfError(
        "decode the network configuration on stdin",
        why,
        hint="the runtime must write the plugin's JSON object to stdin",
        code="netconf-not-json",
        cni_code=CNI_DECODE_FAILURE,
    )


def _version(raw: Mapping[str, Any]) -> str:
    # Without a version a configuration means 0.1.0 (the Go library's rule), which nobody has sent for years.
    version = raw.get("cniVersion") or "0.1.0"
    if version in SUPPORTED:
        return str(version)
    raise NetconfError(
        "use the network configuration",
        f"cniVersion {version!r} is not supported",
        hint=f"use one of {', '.join(SUPPORTED)}",
        code="incompatible-version",
        cni_code=CNI_INCOMPATIBLE_VERSION,
    )


def _text(raw: Mapping[str, Any], name: str, default: str, problems: list[str]) -> str:
    value = raw.get(name)
    if value is None or value == "":
        return default
    if isinstance(value, str):
        return value
    problems.append(f"{name} {value!r} is not a string")
    return default


def _mtu(value: object, notes: list[str]) -> int:
    """Amazon VPC CNI: a string; whatever is no integer in 576..9001 silently means 9001. We say so in a note."""
    if value is None or value == "":
        return DEFAULT_MTU
    try:
        mtu = int(value) if isinstance(value, str | int) and not isinstance(value, bool) else 0
    except ValueError:
        mtu = 0
    if mtu in MTU_RANGE:
        return mtu
    notes.append(
        f"mtu {value!r} is not an integer from {MTU_RANGE.start} to {MTU_RANGE.stop - 1}: {DEFAULT_MTU} is used"
    )
    return DEFAULT_MTU


def _veth_prefix(raw: Mapping[str, Any], problems: list[str]) -> str:
    prefix = _text(raw, "vethPrefix", DEFAULT_VETH_PREFIX, problems)
    if len(prefix) > 4:
        problems.append(f"vethPrefix {prefix!r} can be at most 4 characters long")
    elif prefix in _RESERVED_PREFIXES:
        problems.append(f"vethPrefix {prefix!r} would make pods' links look like the host's own")
    elif not _IDENTIFIER.fullmatch(prefix):
        problems.append(f"vethPrefix {prefix!r} is not letters, digits, '_', '.', '-'")
    else:
        return prefix
    return DEFAULT_VETH_PREFIX


def _enforcing_mode(mode: str, notes: list[str]) -> str:
    if mode.lower() in ENFORCING_MODES:
        return mode.lower()
    notes.append(f"podSGEnforcingMode {mode!r} is unknown: strict is used")
    return "strict"


def _annotations(runtime_config: object, problems: list[str]) -> Mapping[str, str]:
    if runtime_config is None:
        return {}
    annotations = runtime_config.get(POD_ANNOTATIONS) or {} if isinstance(runtime_config, dict) else None
    if not isinstance(annotations, dict):
        problems.append(f"runtimeConfig or its {POD_ANNOTATIONS!r} is not an object")
        return {}
    wrong = [name for name, value in annotations.items() if not isinstance(value, str)]
    problems.extend(f"pod annotation {name!r} is not a string" for name in wrong)
    return annotations if not wrong else {}


def _prev_result(raw: object, problems: list[str]) -> PrevResult | None:
    if raw is None:
        return None
    try:
        return parse_prev_result(raw)
    except ValueError as error:
        problems.append(f"could not parse prevResult: {error}")
        return None


def _valid_attachments(raw: Mapping[str, Any], problems: list[str]) -> frozenset[AttachmentId] | None:
    # libcni 1.2 wrote `cni.dev/attachments` by mistake and now writes both.
    name = "cni.dev/valid-attachments" if "cni.dev/valid-attachments" in raw else "cni.dev/attachments"
    listed = raw.get(name)
    if listed is None:
        # Go writes an empty list as null: "none is valid" and "not said" differ by whether the key is there.
        return frozenset() if name in raw else None
    try:
        entries = msgspec.convert(listed, list[_ListedAttachment])
    except msgspec.ValidationError as error:
        problems.append(f"{name}: {error}")
        return None
    return frozenset(AttachmentId(entry.container_id, entry.ifname) for entry in entries)


class _ListedAttachment(msgspec.Struct):
    container_id: str = msgspec.field(name="containerID")
    ifname: str
