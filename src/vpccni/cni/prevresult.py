# SPDX-License-Identifier: Apache-2.0
"""The `prevResult` of a network configuration: what an earlier ADD told the runtime.

Knows the result shapes of CNI 0.3.x to 1.1.x and how the Amazon VPC CNI hides route table, device and VLAN in them.
Must never decide what is done with it. Called by `cni.netconf`; the daemon reads the values.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

IPInterface = ipaddress.IPv4Interface | ipaddress.IPv6Interface
IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

MAIN_TABLE = 254
DUMMY_PREFIX = "dummy"


@dataclass(frozen=True, slots=True)
class PrevInterface:
    """One entry of `interfaces`. In results of the Amazon VPC CNI below 1.0.0, `mac` may be a decimal number."""

    name: str
    mac: str = ""
    sandbox: str = ""
    mtu: int = 0


@dataclass(frozen=True, slots=True)
class PrevAddress:
    """One entry of `ips`; `interface` is the index into `interfaces`, None when the result does not say."""

    address: IPInterface
    interface: int | None = None
    gateway: IPAddress | None = None


@dataclass(frozen=True, slots=True)
class PrevNic:
    """One network interface of the pod; `table` is None when the result does not hold it (true MACs, 1.0.0 and up)."""

    ifname: str
    host_name: str
    sandbox: str
    addresses: tuple[IPInterface, ...]
    table: int | None


@dataclass(frozen=True, slots=True)
class PrevResult:
    """A parsed result. `raw` is the result as it came, for passing it on."""

    cni_version: str
    interfaces: tuple[PrevInterface, ...]
    addresses: tuple[PrevAddress, ...]
    raw: Mapping[str, Any]

    @property
    def dummy(self) -> PrevInterface | None:
        """The pseudo interface of the Amazon VPC CNI, which never exists in the kernel."""
        return next((entry for entry in self.interfaces if _is_dummy(entry)), None)

    @property
    def vlan_id(self) -> int:
        """VLAN of a branch ENI (security groups for pods), 0 for every other pod."""
        dummy = self.dummy
        return int(dummy.mac) if dummy and dummy.mac.isdecimal() else 0

    @property
    def device(self) -> int | None:
        """ENI device number of the first interface, from the pseudo interface; None when the result does not say."""
        dummy = self.dummy
        return int(dummy.sandbox) if dummy and dummy.sandbox.isdecimal() else None

    @property
    def nics(self) -> tuple[PrevNic, ...]:
        """The pod's interfaces: every entry with a sandbox and addresses, with the host end listed just before it."""
        return tuple(
            PrevNic(
                ifname=entry.name,
                host_name=self.interfaces[index - 1].name if index and not self.interfaces[index - 1].sandbox else "",
                sandbox=entry.sandbox,
                addresses=owned,
                table=self._table(entry),
            )
            for index, entry in enumerate(self.interfaces)
            if entry.sandbox
            and not _is_dummy(entry)
            and (owned := tuple(one.address for one in self.addresses if one.interface == index))
        )

    def _table(self, entry: PrevInterface) -> int | None:
        """Since Amazon VPC CNI 1.20 the decimal `mac`; before, no `mac`, and card 0 by the device number."""
        if entry.mac.isdecimal():
            return int(entry.mac)
        if not entry.mac and self.device is not None:
            return MAIN_TABLE if self.device == 0 else self.device + 1
        return None


def parse_prev_result(raw: object) -> PrevResult:
    """The typed form of `prevResult`. Raises ValueError naming every field that cannot be used."""
    if not isinstance(raw, dict):
        raise ValueError("prevResult is not an object")
    problems: list[str] = []
    interfaces = tuple(
        _interface(entry, f"prevResult.interfaces[{index}]", problems)
        for index, entry in enumerate(_entries(raw, "interfaces", problems))
    )
    addresses = tuple(
        parsed
        for index, entry in enumerate(_entries(raw, "ips", problems))
        if (parsed := _address(entry, f"prevResult.ips[{index}]", len(interfaces), problems)) is not None
    )
    if problems:
        raise ValueError("; ".join(problems))
    return PrevResult(str(raw.get("cniVersion", "")), interfaces, addresses, raw)


def _is_dummy(entry: PrevInterface) -> bool:
    # A pod's interface may be called dummy0: the pseudo one has a number or nothing as sandbox, never a path.
    return entry.name.startswith(DUMMY_PREFIX) and not entry.sandbox.startswith("/")


def _entries(raw: Mapping[str, Any], field: str, problems: list[str]) -> list[Mapping[str, Any]]:
    value = raw.get(field) or []
    if isinstance(value, list) and all(isinstance(entry, dict) for entry in value):
        return value
    problems.append(f"prevResult.{field} is not a list of objects")
    return []


def _interface(entry: Mapping[str, Any], where: str, problems: list[str]) -> PrevInterface:
    texts = {field: entry.get(field, "") for field in ("name", "mac", "sandbox")}
    problems.extend(f"{where}.{field} is not a string" for field, value in texts.items() if not isinstance(value, str))
    mtu = entry.get("mtu", 0)
    if not isinstance(mtu, int):
        problems.append(f"{where}.mtu is not a number")
        mtu = 0
    return PrevInterface(str(texts["name"]), str(texts["mac"]), str(texts["sandbox"]), mtu)


def _address(entry: Mapping[str, Any], where: str, interfaces: int, problems: list[str]) -> PrevAddress | None:
    index = entry.get("interface")
    if index is not None and not (isinstance(index, int) and 0 <= index < interfaces):
        problems.append(f"{where}.interface {index!r} is not an index into interfaces")
    try:
        address = ipaddress.ip_interface(entry["address"])
        gateway = ipaddress.ip_address(entry["gateway"]) if entry.get("gateway") else None
    except KeyError:
        problems.append(f"{where}.address is missing")
    except ValueError as error:
        problems.append(f"{where}: {error}")
    else:
        return PrevAddress(address, index, gateway)
    return None
