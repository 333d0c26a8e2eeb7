# SPDX-License-Identifier: Apache-2.0
"""The shape of a lab: VPC, subnets, nodes and the hosts outside, from a TOML file or from command-line options.

Knows keys, their accepted values and how they must agree. Must never make anything. `cli` and `lab.up` build it,
`lab.daemon` reads it back from the state directory.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path
from typing import Any, Literal

import msgspec

from vpccni.aws.values import IPAddress, IPNetwork
from vpccni.core import limits
from vpccni.errors import TopologyError
from vpccni.lab.cloud import grouprules, profile
from vpccni.lab.cloud.grouprules import GroupRule
from vpccni.lab.cloud.groups import DEFAULT_GROUP
from vpccni.lab.cloud.interfaces import MAX_GROUPS

RESERVED_NODE_NAMES = frozenset({"fabric", "internet", "site", "pod"})
NODES_GROUP = "nodes"  # the security group of a node that names none
RESERVED_PER_SUBNET = 4  # EC2 keeps the first four addresses and the last one of every subnet
LINK_LOCAL = (IPv4Network("169.254.0.0/16"), IPv6Network("fe80::/10"))

# The IPv6 half of the default lab, out of the range for documentation: a VPC has a /56, a subnet a /64.
_IPV6_VPC = IPv6Network("2001:db8:20:1a00::/56")
_IPV6_SUBNETS = (IPv6Network("2001:db8:20:1a00::/64"), IPv6Network("2001:db8:20:1a01::/64"))
_IPV6_HOSTS = (IPv6Address("2001:db8:f00d::10"), IPv6Address("2001:db8:cafe::169"))


class SubnetSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[[subnet]]`: `az` is the zone's letter (a) or full name (eu-central-1a)."""

    name: str
    cidr: IPv4Network
    ipv6_cidr: IPv6Network | None = None
    az: str = "a"
    tags: dict[str, str] = {}

    @property
    def gateway(self) -> IPv4Address:
        """The VPC router's address in the subnet: base + 1."""
        return self.cidr.network_address + 1


class NodeSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[[node]]`: one EC2 instance; `env` holds settings of its daemon. It gets an IPv6 address if its subnet can."""

    name: str
    subnet: str
    type: str = "m5.large"
    private_ip: IPv4Address | None = None
    public: bool = True
    security_groups: tuple[str, ...] = (NODES_GROUP,)
    env: dict[str, str] = {}


class HostSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[[host]]`: a server outside the VPC, behind the internet gateway or in a private site (VPN, transit gateway)."""

    name: str
    address: IPv4Address
    via: Literal["internet", "private"] = "internet"
    ipv6_address: IPv6Address | None = None

    @property
    def addresses(self) -> tuple[IPAddress, ...]:
        """All of them, of any family."""
        return (self.address,) if self.ipv6_address is None else (self.address, self.ipv6_address)


class SecurityGroupSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[[security_group]]`: rules such as `tcp 80 from 10.0.0.0/8`. Without any `to` everything may leave.

    One called `nodes` takes the place of the group that nodes have, which lets everything in.
    """

    name: str
    rules: list[str] = []

    def parsed(self, groups: Mapping[str, str]) -> list[GroupRule]:
        """The rules as values; `groups`: name -> id. Raises ValueError."""
        return [one for text in self.rules for one in grouprules.parse(text, groups)]


class VpcSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[vpc]`: the first CIDR is the VPC's primary one."""

    cidrs: list[IPv4Network]
    ipv6_cidrs: list[IPv6Network] = []

    @property
    def networks(self) -> tuple[IPNetwork, ...]:
        """All CIDRs, of any family."""
        return (*self.cidrs, *self.ipv6_cidrs)


class Topology(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A whole lab. Every value is checked; see `check`."""

    vpc: VpcSpec
    subnet: list[SubnetSpec]
    node: list[NodeSpec]
    host: list[HostSpec] = []
    security_group: list[SecurityGroupSpec] = []
    region: str = "eu-central-1"
    profile: str = "calm"
    http_put_response_hop_limit: int = 2  # what EKS sets for its nodes; EC2's own default is 1
    public_cidr: IPv4Network = IPv4Network("192.0.2.0/24")
    seed: int = 1
    env: dict[str, str] = {}

    @property
    def versions(self) -> tuple[int, ...]:
        """The IP versions that the VPC speaks."""
        return (4, 6) if self.vpc.ipv6_cidrs else (4,)

    def zone(self, subnet: SubnetSpec) -> str:
        """Full name of the subnet's availability zone."""
        return f"{self.region}{subnet.az}" if len(subnet.az) == 1 else subnet.az

    @property
    def groups(self) -> list[SecurityGroupSpec]:
        """All security groups, the nodes' own among them. `default` is there in any VPC."""
        named = any(spec.name == NODES_GROUP for spec in self.security_group)
        implied = [] if named else [SecurityGroupSpec(NODES_GROUP, ["all from anywhere"])]
        return [*implied, *self.security_group]

    def subnet_of(self, node: NodeSpec) -> SubnetSpec:
        """The subnet that the node's primary interface is in."""
        return next(subnet for subnet in self.subnet if subnet.name == node.subnet)

    def settings_of(self, node: NodeSpec) -> dict[str, str]:
        """The daemon's settings on that node; the node's own win over the lab's."""
        return {**self.env, **node.env}


def default(nodes: int, instance_type: str, env: Mapping[str, str], seed: int, *, ipv6: bool = False) -> Topology:
    """The lab of `lab up` without a file: nodes 1..N spread over two subnets in two zones, two hosts outside."""
    if not 1 <= nodes <= 50:
        raise _bad("--nodes", str(nodes), "1 to 50")
    first, second = _IPV6_SUBNETS if ipv6 else (None, None)
    subnets = [
        SubnetSpec("a", IPv4Network("10.20.0.0/18"), first, "a"),
        SubnetSpec("b", IPv4Network("10.20.64.0/18"), second, "b"),
    ]
    internet, site = _IPV6_HOSTS if ipv6 else (None, None)
    ipv6_cidrs = [_IPV6_VPC] if ipv6 else []
    return check(
        Topology(
            vpc=VpcSpec([IPv4Network("10.20.0.0/16"), IPv4Network("100.64.0.0/16")], ipv6_cidrs),
            subnet=subnets,
            node=[NodeSpec(str(n + 1), subnets[n % 2].name, instance_type) for n in range(nodes)],
            host=[
                HostSpec("internet", IPv4Address("198.51.100.10"), "internet", internet),
                HostSpec("site", IPv4Address("203.0.113.169"), "private", site),
            ],
            seed=seed,
            env=dict(env),
        )
    )


def load(path: Path, env: Mapping[str, str], seed: int | None) -> Topology:
    """The lab of a TOML file; `env` and `seed` of the command line win over the file's."""
    try:
        tree = tomllib.loads(path.read_text())
    except OSError as error:
        raise TopologyError("read the topology", error.strerror or str(error), evidence={"file": path}) from error
    except tomllib.TOMLDecodeError as error:
        raise TopologyError("read the topology", f"not TOML: {error}", evidence={"file": path}) from error
    topology = decode(tree, source=str(path))
    return msgspec.structs.replace(topology, env={**topology.env, **env}, seed=topology.seed if seed is None else seed)


def decode(tree: Mapping[str, Any], source: str = "topology") -> Topology:
    """A checked topology from plain values (TOML or JSON)."""
    try:
        topology = msgspec.convert(tree, Topology, dec_hook=_from_text)
    except msgspec.ValidationError as error:
        raise TopologyError(
            "use the topology",
            str(error).replace("`$.", "`"),
            evidence={"file": source, "accepted": _accepted(str(error))},
            hint="correct the key that the message names",
        ) from error
    return check(topology)


def encode(topology: Topology) -> Any:
    """Plain values for JSON; `decode` reads them back."""
    return msgspec.to_builtins(topology, enc_hook=str)


def with_profile(topology: Topology, name: str) -> Topology:
    """The same lab on another kind of day; raises TopologyError with the names that there are."""
    return check(msgspec.structs.replace(topology, profile=name))


def check(topology: Topology) -> Topology:
    """The topology itself when its parts agree; raises TopologyError naming key and accepted values."""
    if not topology.vpc.cidrs:
        raise _bad("vpc.cidrs", "[]", "at least one CIDR")
    for n, cidr in enumerate(topology.vpc.ipv6_cidrs):
        if not 44 <= cidr.prefixlen <= 60 or any(cidr.overlaps(other) for other in topology.vpc.ipv6_cidrs[:n]):
            raise _bad(f"vpc.ipv6_cidrs[{n}]", str(cidr), "a range from /44 to /60, apart from the others")
    if topology.public_cidr.prefixlen > 29:
        raise _bad("public_cidr", str(topology.public_cidr), "a range of /29 or larger")
    if not 1 <= topology.http_put_response_hop_limit <= 64:
        raise _bad("http_put_response_hop_limit", str(topology.http_put_response_hop_limit), "1 to 64")
    if topology.profile not in profile.names():
        raise _bad("profile", topology.profile, " or ".join(profile.names()))
    _check_subnets(topology)
    _check_nodes(topology)
    _check_hosts(topology)
    _check_groups(topology)
    return topology


def _check_subnets(topology: Topology) -> None:
    for n, subnet in enumerate(topology.subnet):
        key = f"subnet[{n}].cidr"
        if not any(subnet.cidr.subnet_of(cidr) for cidr in topology.vpc.cidrs):
            raise _bad(key, str(subnet.cidr), "a part of " + " or ".join(map(str, topology.vpc.cidrs)))
        if not 16 <= subnet.cidr.prefixlen <= 28:
            raise _bad(key, str(subnet.cidr), "a range from /16 to /28")
        for earlier in topology.subnet[:n]:
            if subnet.cidr.overlaps(earlier.cidr):
                raise _bad(key, str(subnet.cidr), f"a range apart from {earlier.cidr} of subnet {earlier.name!r}")
        zone = topology.zone(subnet)
        if not re.fullmatch(re.escape(topology.region) + "[a-z]", zone):
            raise _bad(f"subnet[{n}].az", subnet.az, f"a letter, or {topology.region} and a letter")
        _check_ipv6_cidr(topology, n, subnet)
    _check_unique("subnet", [subnet.name for subnet in topology.subnet])


def _check_ipv6_cidr(topology: Topology, n: int, subnet: SubnetSpec) -> None:
    cidr, key = subnet.ipv6_cidr, f"subnet[{n}].ipv6_cidr"
    if cidr is None:
        return
    if cidr.prefixlen != 64 or not any(cidr.subnet_of(vpc) for vpc in topology.vpc.ipv6_cidrs):
        blocks = " or ".join(map(str, topology.vpc.ipv6_cidrs)) or "one of vpc.ipv6_cidrs, which is empty"
        raise _bad(key, str(cidr), f"a /64 of {blocks}")
    if any(cidr == earlier.ipv6_cidr for earlier in topology.subnet[:n]):
        raise _bad(key, str(cidr), "a range that no other subnet has")


def _check_nodes(topology: Topology) -> None:
    subnets = {subnet.name: subnet for subnet in topology.subnet}
    for n, node in enumerate(topology.node):
        if not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,18}[a-z0-9])?", node.name) or node.name.startswith("pod-"):
            raise _bad(f"node[{n}].name", node.name, "1 to 20 of a-z, 0-9 and '-', not starting with pod-")
        if node.name in RESERVED_NODE_NAMES:
            raise _bad(f"node[{n}].name", node.name, "a name other than " + ", ".join(sorted(RESERVED_NODE_NAMES)))
        if node.subnet not in subnets:
            raise _bad(f"node[{n}].subnet", node.subnet, "one of " + ", ".join(sorted(subnets)))
        if limits.find(node.type) is None:
            raise _bad(f"node[{n}].type", node.type, "an EC2 instance type that is known, such as m5.large")
        cidr = subnets[node.subnet].cidr
        if subnets[node.subnet].ipv6_cidr is not None and not limits.limits(node.type).ipv6_per_eni:
            raise _bad(f"node[{n}].type", node.type, f"a type with IPv6, which subnet {node.subnet!r} has")
        if node.private_ip is not None and not _usable(node.private_ip, cidr):
            raise _bad(f"node[{n}].private_ip", str(node.private_ip), f"a free address of {cidr}")
    if not topology.node:
        raise _bad("node", "[]", "at least one [[node]]")
    _check_unique("node", [node.name for node in topology.node])
    _check_unique("node", [str(node.private_ip) for node in topology.node if node.private_ip], "private_ip")


def _check_hosts(topology: Topology) -> None:
    taken = [*topology.vpc.networks, topology.public_cidr, *LINK_LOCAL]
    names = [node.name for node in topology.node]
    for n, host in enumerate(topology.host):
        for address in host.addresses:
            if any(address in cidr for cidr in taken) or address.is_multicast or address.is_loopback:
                key = f"host[{n}].{'address' if address == host.address else 'ipv6_address'}"
                raise _bad(key, str(address), "an address outside " + ", ".join(map(str, taken)))
        if host.name in names:
            raise _bad(f"host[{n}].name", host.name, "a name that no node has")
    _check_unique("host", [host.name for host in topology.host])
    _check_unique("host", [str(host.address) for host in topology.host], "address")
    _check_unique("host", [str(host.ipv6_address) for host in topology.host if host.ipv6_address], "ipv6_address")


def _check_groups(topology: Topology) -> None:
    names = {name: name for name in (DEFAULT_GROUP, *(spec.name for spec in topology.groups))}
    _check_unique("security_group", [spec.name for spec in topology.security_group])
    for n, spec in enumerate(topology.security_group):
        if spec.name == DEFAULT_GROUP or not re.fullmatch(r"[a-z][a-z0-9-]{0,40}", spec.name):
            raise _bad(f"security_group[{n}].name", spec.name, "a-z, 0-9 and '-', other than default")
        try:
            spec.parsed(names)
        except ValueError as error:
            raise _bad(f"security_group[{n}].rules", str(spec.rules), str(error)) from None
    for n, node in enumerate(topology.node):
        if not 1 <= len(node.security_groups) <= MAX_GROUPS or not set(node.security_groups) <= set(names):
            accepted = f"1 to {MAX_GROUPS} of {', '.join(sorted(names))}"
            raise _bad(f"node[{n}].security_groups", ", ".join(node.security_groups), accepted)


def _usable(address: IPv4Address, cidr: IPv4Network) -> bool:
    first = int(cidr.network_address) + RESERVED_PER_SUBNET
    return first <= int(address) < int(cidr.broadcast_address)


def _check_unique(table: str, values: Sequence[str], key: str = "name") -> None:
    for n, value in enumerate(values):
        if value in values[:n]:
            raise _bad(f"{table}[{n}].{key}", value, f"a {key} that no other [[{table}]] has")


def _bad(key: str, value: str, accepted: str) -> TopologyError:
    return TopologyError(
        "use the topology", f"{key} = {value}: accepted is {accepted}", evidence={"key": key}, hint=f"change {key}"
    )


def _accepted(message: str) -> str:
    """The keys of the table that a decoding error is about."""
    tables: dict[str, type[msgspec.Struct]] = {
        "subnet": SubnetSpec, "node": NodeSpec, "host": HostSpec, "vpc": VpcSpec, "security_group": SecurityGroupSpec,
    }  # fmt: skip
    found = re.search(r"\$\.([a-z_]+)", message)
    table = tables.get(found[1], Topology) if found else Topology
    return ", ".join(table.__struct_fields__)


def _from_text(kind: type, value: Any) -> Any:
    if kind in (IPv4Address, IPv4Network, IPv6Address, IPv6Network):
        return kind(value)
    raise NotImplementedError(kind)
