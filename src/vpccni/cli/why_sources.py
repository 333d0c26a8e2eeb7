# SPDX-License-Identifier: Apache-2.0
"""Whom `vpccni why` asks: the daemons of a lab's nodes, or the one of this machine.

Knows how each is reached over its introspection API. Must never interpret what it answers; `cli.why` does.
"""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from vpccni.cli.output import Session
from vpccni.errors import HostError, InputError
from vpccni.settings import parse
from vpccni.settings_syntax import LISTEN, Listen

TIMEOUT_S = 5.0
VARIABLES = ("INTROSPECTION_BIND_ADDRESS", "DISABLE_INTROSPECTION", "MY_NODE_NAME")


@dataclass(frozen=True, slots=True)
class Source:
    """One daemon. `get(path)` returns the decoded answer or raises HostError."""

    node: str
    get: Callable[[str], Any]

    def running(self, pod: str) -> list[str]:
        """Addresses of a pod (`namespace/name`) on this node."""
        namespace, _, name = pod.partition("/")
        return [str(entry["IP"]) for key, entry in self._pods().items() if key.startswith(f"{name}_{namespace}_")]

    def pods(self) -> list[str]:
        """Pods with an address."""
        found = (key.split("_") for key in self._pods())
        return [f"{parts[1]}/{parts[0]}" for parts in found if len(parts) >= 2]

    def refused(self) -> list[str]:
        """Pods that the daemon remembers to have refused."""
        try:
            return [entry["pod"] for entry in self.get("/v1/decisions")["decisions"]]
        except HostError:
            return []

    def _pods(self) -> dict[str, Any]:
        try:
            return dict(self.get("/v1/pods"))
        except HostError:
            return {}


def sources(session: Session, target: str, node: str | None, introspection: str) -> list[Source]:
    """The daemons that may know: the named node's, the pod's, or all of the lab. InputError for an unknown node."""
    if introspection or not session.state.topology.exists():
        return [_here(session, introspection, node)]
    return _lab(session, target, node)


def is_pod(session: Session, target: str, found: list[Source]) -> str:
    """`namespace/name` when the target is a pod, "" when it is a node."""
    plain = target.removeprefix("node/")
    nodes = {source.node for source in found}
    if target.startswith("node/") or (plain in nodes and not target.startswith("pod/")):
        return ""
    name = target.removeprefix("pod/")
    return name if "/" in name else f"default/{name}"


def asked(source: Source, pod: str) -> dict[str, Any]:
    """The daemon's decisions, of a pod or all. Raises HostError."""
    answer = source.get(f"/v1/decisions?pod={quote(pod, safe='/')}" if pod else "/v1/decisions")
    if not isinstance(answer, dict) or "decisions" not in answer:
        raise HostError(
            f"ask node {source.node} for its decisions", "it runs a daemon that keeps none", code="daemon-silent"
        )
    return answer


def _lab(session: Session, target: str, node: str | None) -> list[Source]:
    from vpccni.lab import nodes

    state = session.state
    names = nodes.node_names(state)
    plain = target.removeprefix("node/")
    if node is not None:
        chosen = [nodes.require_node(state, node)]
    elif target.startswith("node/"):
        chosen = [nodes.require_node(state, plain)]
    elif plain in names:
        chosen = [plain]
    else:
        chosen = names

    def getter(name: str) -> Callable[[str], Any]:
        return lambda path: nodes.introspect(state, name, path)

    return [Source(name, getter(name)) for name in chosen]


def where(session: Session, introspection: str) -> Listen:
    """Where the daemon of this machine answers: the option, else the settings. InputError for a bad address."""
    if not introspection:
        return parse({name: session.environ[name] for name in VARIABLES if name in session.environ}).introspection_bind
    try:
        parsed = LISTEN.parse(introspection)
    except ValueError:
        raise InputError("use --introspection", f"{introspection!r} is not {LISTEN.accepts}") from None
    assert isinstance(parsed, Listen)
    return parsed


def _here(session: Session, introspection: str, node: str | None) -> Source:
    settings = parse({name: session.environ[name] for name in VARIABLES if name in session.environ})
    listen = where(session, introspection)
    name = settings.node_name or socket.gethostname()
    if node is not None and node.removeprefix("node/") != name:
        raise InputError(
            f"ask node {node!r}", f"this is {name}, and no lab is up", hint="run it on that node", code="no-such-node"
        )
    return Source(name, lambda path: ask(listen, path))


class _UnixHttp(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(TIMEOUT_S)
        self.sock.connect(self._path)


def ask(listen: Listen, path: str, method: str = "GET") -> Any:
    """The daemon's decoded answer. Raises HostError (`daemon-silent`)."""
    if listen.unix_path:
        connection: http.client.HTTPConnection = _UnixHttp(listen.unix_path)
    else:
        connection = http.client.HTTPConnection(listen.host or "127.0.0.1", listen.port, timeout=TIMEOUT_S)
    try:
        connection.request(method, path)
        return json.loads(connection.getresponse().read())
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise HostError(
            f"ask the daemon at {listen}",
            str(error),
            hint="is ipamd running here, and DISABLE_INTROSPECTION not set? In a lab: vpccni lab up",
            code="daemon-silent",
        ) from None
    finally:
        connection.close()
