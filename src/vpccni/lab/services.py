# SPDX-License-Identifier: Apache-2.0
"""Services of the lab: a file that says what there is, and every node's rules made equal to it, as kube-proxy would.

Knows where a ClusterIP comes from and which pods are behind a Service. Must never build a rule (`lab.kubeproxy` does).
There is no API server: a Service selects pods by name, and what is here is their kube-proxy and their endpoint
controller in one. Not played: health checks of the policy Local, UDP connection tracking of endpoints that are gone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from ipaddress import AddressValueError, IPv4Address, IPv4Network
from pathlib import Path

from vpccni.errors import InputError
from vpccni.lab import control, nodes
from vpccni.lab.kubeproxy.sync import clear, sync
from vpccni.lab.kubeproxy.values import KUBE_PROXY, MODES, Endpoint, ServicePort
from vpccni.lab.pods import Pods
from vpccni.lab.sockets import namespace_handle
from vpccni.lab.state import LabState, check_label, read_json, write_json
from vpccni.netlink.namespace import NETNS_DIR, inside

NODE_PORTS = range(30000, 32768)  # --service-node-port-range of the API server
PROTOCOLS = {"tcp": ("tcp",), "udp": ("udp",), "both": ("tcp", "udp")}
# A cluster of EKS takes the first, unless its VPC has addresses of it.
_RANGES = (IPv4Network("172.20.0.0/16"), IPv4Network("10.100.0.0/16"))
_FIRST = 11  # .1 is the API server's, .10 the DNS server's


@dataclass(frozen=True, slots=True)
class LabService:
    """A Service with one port. `to`: pods by label, or IPv4 addresses of anything else; `protocol` of `PROTOCOLS`."""

    name: str
    namespace: str
    port: int
    to: tuple[str, ...]
    target_port: int = 80
    protocol: str = "tcp"
    node_port: int = 0
    local_policy: bool = False
    cluster_ip: str = ""

    @property
    def label(self) -> str:
        """`name`, or `namespace/name` outside the namespace `default`."""
        return self.name if self.namespace == "default" else f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class Book:
    """All Services of a lab, and the mode of its kube-proxies, which is one for a cluster."""

    mode: str = MODES[0]
    services: tuple[LabService, ...] = field(default_factory=tuple)


def load(state: LabState) -> Book:
    """The Services of a lab that is up."""
    path = _path(state)
    if not path.exists():
        return Book()
    document = read_json(path)
    rows = (LabService(**{**row, "to": tuple(row["to"])}) for row in document["services"])
    return Book(document["mode"], tuple(rows))


def add(state: LabState, service: LabService, mode: str | None = None) -> LabService:
    """Give every node the Service; it comes back with its ClusterIP. InputError when it cannot be."""
    book = load(state)
    _check(state, book, service, mode)
    networks = [IPv4Network(text) for text in control.ask(state, "GET", "/status")["vpc_cidrs"]]
    taken = [each.cluster_ip for each in book.services]
    made = replace(service, cluster_ip=next(each for each in _addresses(networks) if each not in taken))
    _save(state, Book(mode or book.mode, (*book.services, made)))
    follow(state)
    return made


def remove(state: LabState, labels: Sequence[str]) -> None:
    """Take Services from every node. With the last one all that kube-proxy has goes."""
    book = load(state)
    known = {each.label for each in book.services}
    for label in labels:
        if label not in known:
            raise InputError(f"remove service {label!r}", f"there is none; services: {', '.join(known) or 'none'}")
    left = tuple(each for each in book.services if each.label not in labels)
    _save(state, replace(book, services=left))
    follow(state)


def follow(state: LabState) -> None:
    """Make every node's rules equal to the Services and to the pods that there are now; a full sync on each."""
    if not _path(state).exists():
        return
    book = load(state)
    rows = {row["name"]: row["private_address"] for row in control.ask(state, "GET", "/status")["nodes"]}
    for node in nodes.node_names(state):
        wanted = [port for service in book.services for port in seen_by(state, service, node)]
        with namespace_handle(NETNS_DIR / state.node_namespace(node)) as handle, inside(handle):
            if wanted:
                sync(book.mode, wanted, KUBE_PROXY, [IPv4Address(rows[node])])
            else:
                clear(KUBE_PROXY)


def seen_by(state: LabState, service: LabService, node: str) -> Iterator[ServicePort]:
    """The Service as a node's kube-proxy has it, by protocol. Pods that are gone are no endpoints."""
    endpoints, protocols = tuple(_endpoints(state, service, node)), PROTOCOLS[service.protocol]
    for protocol in protocols:
        yield ServicePort(
            service.namespace, service.name, protocol if len(protocols) > 1 else "", protocol,
            IPv4Address(service.cluster_ip), service.port, endpoints, service.node_port, service.local_policy,
        )  # fmt: skip


def _endpoints(state: LabState, service: LabService, node: str) -> Iterator[Endpoint]:
    pods = {pod.label: pod for pod in state.pods()}
    for target in service.to:
        if (address := _address(target)) is not None:
            yield Endpoint(address, service.target_port)
        elif (pod := pods.get(target)) is not None:
            for text in pod.addresses:
                if (address := _address(text)) is not None:
                    yield Endpoint(address, service.target_port, local=pod.node == node)


def _check(state: LabState, book: Book, service: LabService, mode: str | None) -> None:
    action = f"add service {service.label!r}"
    check_label("service", service.name)
    check_label("Kubernetes namespace", service.namespace)
    if service.label in {each.label for each in book.services}:
        raise InputError(action, "there is one of that name", hint=f"vpccni lab service rm {service.label}")
    if mode and book.services and mode != book.mode:
        raise InputError(action, f"the lab's Services are in mode {book.mode}, and a node has one kube-proxy")
    if service.node_port and service.node_port not in NODE_PORTS:
        raise InputError(action, f"node ports are {NODE_PORTS.start} to {NODE_PORTS.stop - 1}")
    if service.node_port and service.node_port in {each.node_port for each in book.services}:
        raise InputError(action, f"node port {service.node_port} is another Service's")
    if service.local_policy and not service.node_port:
        raise InputError(action, "the policy is about node ports, and it has none", hint="add --node-port N")
    for target in service.to:
        if _address(target) is None:
            Pods(state).find(target)


def _addresses(vpc: Sequence[IPv4Network]) -> Iterator[str]:
    chosen = next((each for each in _RANGES if not any(each.overlaps(one) for one in vpc)), _RANGES[0])
    return (str(chosen[number]) for number in range(_FIRST, chosen.num_addresses))


def _address(text: str) -> IPv4Address | None:
    try:
        return IPv4Address(text)
    except AddressValueError:
        return None


def _path(state: LabState) -> Path:
    return state.root / "services.json"


def _save(state: LabState, book: Book) -> None:
    write_json(_path(state), asdict(book))
