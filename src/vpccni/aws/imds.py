# SPDX-License-Identifier: Apache-2.0
"""What the instance metadata service tells a node about itself.

Knows the metadata paths that the Amazon VPC CNI reads and how to parse them. Must never know EC2's API, pools or
netlink. `ipamd` calls it from worker threads; the answers are hints that can be stale for seconds.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import TypeVar

from vpccni.aws.imds_http import MetadataSession
from vpccni.aws.values import IPAddress, IPNetwork, MetadataInterface, NodeIdentity
from vpccni.errors import CloudError

ENDPOINT = "http://169.254.169.254"
_ROOT = "/latest/meta-data/"
_MACS = "network/interfaces/macs"
_Parsed = TypeVar("_Parsed")


class Imds:
    """Typed reads. Every method raises CloudError: imds-unreachable, imds-denied, imds-failed, imds-disabled,
    imds-missing (a path that every instance has is not there) or imds-malformed.
    """

    def __init__(
        self, endpoint: str = ENDPOINT, *, disabled: bool = False, session: MetadataSession | None = None
    ) -> None:
        self._session = session or MetadataSession(endpoint)
        self._disabled = disabled

    def close(self) -> None:
        """Close the kept connection."""
        self._session.close()

    def identity(self) -> NodeIdentity:
        """Who this instance is. Nine reads."""
        mac = self._need("mac")
        interface = f"{_MACS}/{mac}"
        return NodeIdentity(
            region=self._region(),
            availability_zone=self._need("placement/availability-zone"),
            instance_id=self._need("instance-id"),
            instance_type=self._need("instance-type"),
            mac=mac,
            eni_id=self._need(f"{interface}/interface-id"),
            subnet_id=self._need(f"{interface}/subnet-id"),
            vpc_id=self._need(f"{interface}/vpc-id"),
            local_ipv4=_parsed("local-ipv4", self._need("local-ipv4"), IPv4Address),
        )

    def interfaces(self) -> tuple[MetadataInterface, ...]:
        """The attached interfaces as far as the service knows, by network card and device number.

        One that vanishes while it is read is left out. `addresses` may be empty right after an attachment.
        """
        primary = self._need("mac")
        macs = [entry.rstrip("/") for entry in self._need(_MACS).split()]
        found = [interface for mac in macs if (interface := self._interface(mac, primary))]
        return tuple(sorted(found, key=lambda interface: (interface.card, interface.device)))

    def vpc_cidrs(self, mac: str) -> tuple[IPv4Network, ...]:
        """The VPC's IPv4 CIDRs, in the service's order. Raises imds-missing when there is none."""
        path = f"{_MACS}/{mac}/vpc-ipv4-cidr-blocks"
        return tuple(_parsed(path, word, _ipv4_network) for word in self._need(path).split())

    def vpc_ipv6_cidrs(self, mac: str) -> tuple[IPv6Network, ...]:
        """The VPC's IPv6 CIDRs; empty without."""
        path = f"{_MACS}/{mac}/vpc-ipv6-cidr-blocks"
        return tuple(_parsed(path, word, _ipv6_network) for word in (self._find(path) or "").split())

    def ipv6_addresses(self, mac: str) -> tuple[IPv6Address, ...]:
        """The IPv6 addresses of an interface, the primary one first; empty without."""
        path = f"{_MACS}/{mac}/ipv6s"
        return tuple(_parsed(path, word, IPv6Address) for word in (self._find(path) or "").split())

    def security_groups(self, mac: str) -> tuple[str, ...]:
        """The security group ids of an interface, in the service's order."""
        return tuple(self._need(f"{_MACS}/{mac}/security-group-ids").split())

    def _interface(self, mac: str, primary: str) -> MetadataInterface | None:
        listing = self._find(f"{_MACS}/{mac}")
        if listing is None:
            return None
        keys = {entry.rstrip("/") for entry in listing.split()}

        def text(key: str) -> str:
            return (self._find(f"{_MACS}/{mac}/{key}") or "").strip() if key in keys else ""

        def words(key: str, parse: Callable[[str], _Parsed]) -> tuple[_Parsed, ...]:
            return tuple(_parsed(f"{mac}/{key}", word, parse) for word in text(key).split())

        eni_id, device = text("interface-id"), text("device-number")
        if not eni_id or not device:
            return None  # vanished between two reads
        addresses: tuple[IPAddress, ...] = words("local-ipv4s", ip_address) + words("ipv6s", ip_address)
        prefixes: tuple[IPNetwork, ...] = words("ipv4-prefix", _ipv4_network) + words("ipv6-prefix", _ipv6_network)
        subnet_ipv6 = words("subnet-ipv6-cidr-blocks", _ipv6_network)
        return MetadataInterface(
            mac=mac,
            eni_id=eni_id,
            # The instance was launched with this one; another number is an error of the service.
            device=0 if mac == primary else _parsed(f"{mac}/device-number", device, int),
            card=_parsed(f"{mac}/network-card", text("network-card") or "0", int),
            subnet_id=text("subnet-id"),
            subnet_cidr=next(iter(words("subnet-ipv4-cidr-block", _ipv4_network)), None),
            addresses=addresses,
            prefixes=prefixes,
            security_groups=tuple(text("security-group-ids").split()),
            subnet_ipv6_cidr=subnet_ipv6[0] if subnet_ipv6 else None,
            vpc_id=text("vpc-id"),
        )

    def _region(self) -> str:
        path = "/latest/dynamic/instance-identity/document"
        document = self._read(path)
        if document is None:
            raise _missing(path)
        fields = _parsed(path, document, json.loads)
        region = fields.get("region") if isinstance(fields, dict) else None
        if not isinstance(region, str) or not region:
            raise _malformed(path, document)
        return region

    def _need(self, key: str) -> str:
        text = (self._find(key) or "").strip()
        if not text:
            raise _missing(_ROOT + key)
        return text

    def _find(self, key: str) -> str | None:
        return self._read(_ROOT + key)

    def _read(self, path: str) -> str | None:
        if self._disabled:
            raise CloudError(
                "read instance metadata", "AWS_EC2_METADATA_DISABLED=true",
                code="imds-disabled", hint="unset AWS_EC2_METADATA_DISABLED", retryable=False,
            )  # fmt: skip
        return self._session.read(path)


def _ipv4_network(text: str) -> IPv4Network:
    return IPv4Network(text, strict=False)


def _ipv6_network(text: str) -> IPv6Network:
    return IPv6Network(text, strict=False)


def _parsed(path: str, text: str, parse: Callable[[str], _Parsed]) -> _Parsed:
    try:
        return parse(text)
    except ValueError:
        raise _malformed(path, text) from None


def _missing(path: str) -> CloudError:
    return CloudError(
        "read instance metadata", f"{path} is missing or empty",
        aws_code="404", code="imds-missing",
        hint="check that the endpoint is the metadata service of an EC2 instance", evidence={"path": path},
    )  # fmt: skip


def _malformed(path: str, text: str) -> CloudError:
    return CloudError(
        "read instance metadata", f"{path} holds {text[:80]!r}",
        code="imds-malformed", hint="check what answers in place of the metadata service",
        evidence={"path": path}, retryable=False,
    )  # fmt: skip
