# SPDX-License-Identifier: Apache-2.0
"""What the plugin prints: success, error and version, in the caller's CNI version.

Knows both shapes: up to 0.4.0 exactly what the Amazon VPC CNI prints (so that a node can be handed back to it), from
1.0.0 the true MACs and MTUs. Must never decide anything. The daemon renders, the relay passes the bytes on.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from vpccni.cni.versions import CURRENT, SUPPORTED, at_least
from vpccni.errors import VpcCniError

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

_SUFFIX_CHARS = 11
_INDENT = 4


@dataclass(frozen=True, slots=True)
class NicResult:
    """One wired interface of a pod: the veth's two ends, its addresses and the policy table that serves them."""

    host_name: str
    ifname: str
    addresses: tuple[IPAddress, ...]
    table: int
    device: int
    host_mac: str = ""
    pod_mac: str = ""
    mtu: int = 0
    gateway: IPAddress | None = None
    egress: bool = False


def render_add(
    version: str,
    nics: Sequence[NicResult],
    netns: str,
    *,
    vlan_id: int = 0,
    prev_result: Mapping[str, Any] | None = None,
) -> bytes:
    """The result of an ADD. `nics` is not empty; `netns` is CNI_NETNS; `vlan_id` is not 0 for a pod on a branch ENI.

    `prev_result` is what earlier plugins of the chain had reported: it is passed on with our entries behind it, as the
    CNI specification demands of every plugin (we are first in our own conflist, but not necessarily in others).
    The interface for egress stands last, with true MACs, where the Amazon VPC CNI's second plugin appends it.
    """
    go_shape = not at_least(version, "1.0.0")
    prev = dict(prev_result or {})
    interfaces: list[Any] = list(prev.get("interfaces") or [])
    ips: list[Any] = list(prev.get("ips") or [])
    for nic in (nic for nic in nics if not nic.egress):
        interfaces += _go_interfaces(nic, netns, vlan_id) if go_shape else _interfaces(nic, netns, version)
        ips += [_ip(address, nic, len(interfaces) - 1, go_shape) for address in nic.addresses]
    if go_shape:
        interfaces.append(_dummy(nics[0], vlan_id))
    for nic in (nic for nic in nics if nic.egress):
        interfaces += _interfaces(nic, netns, version)
    dns = prev.pop("dns", None) or {}
    routes = {"routes": prev["routes"]} if prev.get("routes") else {}
    return _pretty({"cniVersion": version, "interfaces": interfaces, "ips": ips, **routes, "dns": dns})


def render_error(version: str, error: VpcCniError) -> bytes:
    """The error object; `msg` is the error's one line, `details` its stable code, evidence and next step."""
    body = {"cniVersion": version, "code": error.cni_error_code, "msg": error.message, "details": error.details}
    return _pretty({name: value for name, value in body.items() if value != ""})


def render_version() -> bytes:
    """The answer to VERSION; the relay gives the same one without the daemon."""
    return _pretty({"cniVersion": CURRENT, "supportedVersions": list(SUPPORTED)})


def _go_interfaces(nic: NicResult, netns: str, vlan_id: int) -> list[dict[str, Any]]:
    # Amazon VPC CNI: the pod end's `mac` is its route table (0 for a branch ENI), from which its DEL works.
    table = 0 if vlan_id else nic.table
    return [{"name": nic.host_name}, {"name": nic.ifname, "mac": str(table), "sandbox": netns}]


def _dummy(first: NicResult, vlan_id: int) -> dict[str, Any]:
    name = f"dummy{first.host_name[-_SUFFIX_CHARS:]}"
    if vlan_id:
        return {"name": name, "mac": str(vlan_id)}
    return {"name": name, "mac": "0", "sandbox": str(first.device)}


def _interfaces(nic: NicResult, netns: str, version: str) -> list[dict[str, Any]]:
    mtu = {"mtu": nic.mtu} if nic.mtu and at_least(version, "1.1.0") else {}
    ends = ({"name": nic.host_name, "mac": nic.host_mac}, {"name": nic.ifname, "mac": nic.pod_mac, "sandbox": netns})
    return [{**{key: value for key, value in end.items() if value}, **mtu} for end in ends]


def _ip(address: IPAddress, nic: NicResult, interface: int, go_shape: bool) -> dict[str, Any]:
    version = {"version": str(address.version)} if go_shape else {}
    gateway = {"gateway": str(nic.gateway)} if nic.gateway else {}
    return {**version, "interface": interface, "address": f"{address}/{address.max_prefixlen}", **gateway}


def _pretty(body: Mapping[str, Any]) -> bytes:
    return msgspec.json.format(msgspec.json.encode(_printable(body)), indent=_INDENT)


def _printable(value: Any) -> Any:
    """Undecodable bytes of a variable arrive as surrogates, which JSON cannot carry."""
    if isinstance(value, str):
        return value if value.isascii() else value.encode(errors="surrogateescape").decode(errors="backslashreplace")
    if isinstance(value, Mapping):
        return {name: _printable(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_printable(one) for one in value]
    return value
