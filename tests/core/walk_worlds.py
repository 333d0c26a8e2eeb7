# SPDX-License-Identifier: Apache-2.0
"""The worked example of two nodes as a world to walk through: pods on both ENIs of node 1, in either rule layout.

Knows addresses, tables and rules as a node has them. Must never use the walk. The firewall is that of
`core.firewall.snat`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from ipaddress import ip_address, ip_interface, ip_network

from vpccni.core import conventions as c
from vpccni.core.firewall.chains import parse_save
from vpccni.core.firewall.snat import SnatPolicy, rules
from vpccni.core.walk.values import Outside, Port, Stack, Vpc, World
from vpccni.netlink.values import Address, Link, Neighbour, Route, Rule

NODE, FAR_NODE = "192.168.0.10", "192.168.0.11"
A, B, C, FAR = "192.168.0.101", "192.168.0.201", "192.168.0.202", "192.168.0.111"
WEB, SITE = "198.51.100.10", "203.0.113.169"
PUBLIC = {NODE: "192.0.2.7", FAR_NODE: "192.0.2.8"}
POLICY = SnatPolicy(
    "eth0", ip_address(NODE), (ip_network("192.168.0.0/16"), ip_network("100.64.0.0/16"))
)  # fmt: skip
_LOCAL = {"table": c.TABLE_LOCAL, "scope": "host", "kind": "local"}
_MAC = "0a:58:00:00:00:{:02x}"


def route(dst: str, index: int, gateway: str = "", **rest: object) -> Route:
    via = ip_address(gateway) if gateway else None
    return Route(ip_network(dst), index, gateway=via, **rest)  # type: ignore[arg-type]


def host(text: str) -> str:
    return f"{text}/32"


def pod(name: str, node: str, address: str, outer: str) -> Stack:
    return Stack(
        f"pod {name}",
        (Link("eth0", index=2, kind="veth", mac=_MAC.format(1)),),
        (Address(ip_interface(host(address)), 2),),
        (route(host(address), 2, **_LOCAL), route("0.0.0.0/0", 2, "169.254.1.1"),
         route("169.254.1.1/32", 2, scope="link")),
        _kernel_rules(),
        (Neighbour(ip_address("169.254.1.1"), 2, mac=_MAC.format(2)),),
        cables={"eth0": (f"node {node}", outer)},
    )  # fmt: skip


def node(
    name: str, enis: dict[str, str], pods: dict[str, tuple[str, str]], policy: SnatPolicy, *, shared: bool
) -> Stack:
    """`enis`: device -> address. `pods`: name -> (address, its ENI's device)."""
    numbers = {device: at + 2 for at, device in enumerate(enis)}
    veths = {pod_name: at + 20 for at, pod_name in enumerate(pods)}
    links = [Link(device, index=index) for device, index in numbers.items()]
    links += [Link(f"eni{pod_name}", index=index, kind="veth", mac=_MAC.format(2)) for pod_name, index in veths.items()]
    routes = [route(host(address), numbers[device], **_LOCAL) for device, address in enis.items()]
    routes += [route("0.0.0.0/0", 2, "192.168.0.1"), route("192.168.0.0/19", 2, scope="link")]
    rows = [*_kernel_rules(), Rule(c.RULE_MARK, c.TABLE_MAIN, fwmark=c.MARK, fwmask=c.MARK)]
    for device, index in list(numbers.items())[1:]:
        routes += [route("0.0.0.0/0", index, "192.168.0.1", table=index - 1),
                   route("192.168.0.1/32", index, scope="link", table=index - 1)]  # fmt: skip
        rows.append(Rule(c.RULE_FROM_ENI, index - 1, src=ip_network(host(enis[device]))))
    for pod_name, (address, device) in pods.items():
        table = c.POD_TABLE if shared else c.TABLE_MAIN
        routes.append(route(host(address), veths[pod_name], scope="link", table=table))
        rows += [] if shared else [Rule(c.RULE_TO_POD, c.TABLE_MAIN, dst=ip_network(host(address)))]
        if device != "eth0":
            priority = c.RULE_FROM_BLOCK if shared else c.RULE_FROM_POD
            rows.append(Rule(priority, numbers[device] - 1, src=ip_network(host(address))))
    if shared:
        rows.append(Rule(c.RULE_TO_POD, c.POD_TABLE))
    return Stack(
        f"node {name}", tuple(links),
        tuple(Address(ip_interface(f"{address}/19"), numbers[device]) for device, address in enis.items()),
        tuple(routes), tuple(rows), tables={4: tables(policy)},
        cables={f"eni{pod_name}": (f"pod {pod_name}", "eth0") for pod_name in pods},
    )  # fmt: skip


def tables(policy: SnatPolicy, extra: str = "") -> dict[str, dict[str, list[str]]]:
    """What `iptables-save` shows: kube-proxy's `extra` nat lines stand before ours."""
    found = parse_save(str(rules(policy)))
    for name, chains in parse_save(f"*nat\n{extra}").items():
        for chain, lines in chains.items():
            found[name][chain] = [*lines, *found[name].get(chain, [])]
    return found


def world(*, shared: bool = False, policy: SnatPolicy = POLICY, extra: str = "") -> World:
    pods = {"a": (A, "eth0"), "b": (B, "eth1"), "c": (C, "eth1")}
    near = node("1", {"eth0": NODE, "eth1": "192.168.0.20"}, pods, policy, shared=shared)
    near = replace(near, tables={4: tables(policy, extra)})
    far_policy = replace(policy, primary_address=ip_address(FAR_NODE))
    far = node("2", {"eth0": FAR_NODE}, {"f": (FAR, "eth0")}, far_policy, shared=shared)
    stacks = [near, far, *(pod(name, "1", address, f"eni{name}") for name, (address, _) in pods.items())]
    stacks.append(pod("f", "2", FAR, "enif"))
    ports = (_port("eni-1", "1", "eth0", NODE, A), _port("eni-2", "1", "eth1", "192.168.0.20", B, C),
             _port("eni-3", "2", "eth0", FAR_NODE, FAR))  # fmt: skip
    outside = (Outside("web", "internet", (ip_address(WEB),), "internet"),
               Outside("office", "site", (ip_address(SITE),), "private"))  # fmt: skip
    public = {ip_address(own): ip_address(other) for own, other in PUBLIC.items()}
    services = (ip_address("169.254.169.254"),)
    vpc = Vpc((ip_network("192.168.0.0/16"),), ports, outside, public, services)
    return World({stack.name: stack for stack in stacks}, vpc)


def without_rules(before: World, *priorities: int) -> World:
    near = before.stacks["node 1"]
    kept = tuple(rule for rule in near.rules if rule.priority not in priorities)
    return with_node(before, replace(near, rules=kept))


def with_node(before: World, near: Stack) -> World:
    return replace(before, stacks={**before.stacks, near.name: near})


def _port(eni: str, name: str, device: str, *addresses: str) -> Port:
    owned = tuple(ip_network(host(address)) for address in addresses)
    return Port(eni, f"node {name}", device, f"p{eni}", owned)


def _kernel_rules() -> tuple[Rule, ...]:
    numbers: Iterable[tuple[int, int]] = ((0, c.TABLE_LOCAL), (c.RULE_MAIN, c.TABLE_MAIN))
    return tuple(Rule(priority, table) for priority, table in numbers)
