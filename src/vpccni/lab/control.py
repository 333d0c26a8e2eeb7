# SPDX-License-Identifier: Apache-2.0
"""The lab daemon's control API: small JSON over HTTP on a Unix socket that only root may open.

Knows requests and answers, both ends of them. Must never decide anything: the box and the servers do. `curl
--unix-socket /run/vpccni-lab/control.sock http://lab/status` works as well as the command line, which uses `ask`.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vpccni.errors import DaemonNotReady, HostError, InputError, VpcCniError
from vpccni.lab.state import LabState

if TYPE_CHECKING:  # the command line is the other end, and must not pay for aiohttp
    from aiohttp import web

    from vpccni.lab.cloudcontrol import CloudControl
    from vpccni.lab.groupcontrol import GroupControl
    from vpccni.lab.servers import Servers

ANSWER_WITHIN_S = 10.0
BACKLOG = 128
BAD_INPUT = 422  # of all statuses the one that says: understood, but not with these values


class _UnixHttp(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("lab", timeout=ANSWER_WITHIN_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self.sock.settimeout(ANSWER_WITHIN_S)
        self.sock.connect(str(self._path))


def ask(state: LabState, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
    """One request to the lab daemon.

    Raises DaemonNotReady when it does not answer, InputError when it cannot use the input, HostError when it refuses.
    """
    connection = _UnixHttp(state.control_socket)
    try:
        connection.request(method, path, json.dumps(body) if body is not None else None)
        answer = connection.getresponse()
        decoded = json.loads(answer.read() or b"null")
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise DaemonNotReady(
            "ask the lab daemon", str(error) or type(error).__name__,
            evidence={"socket": state.control_socket, "log": state.daemon_log},
            hint="`vpccni lab down` cleans up, then `vpccni lab up`",
        ) from error  # fmt: skip
    finally:
        connection.close()
    if answer.status == BAD_INPUT:
        raise InputError(decoded["action"], decoded["why"], hint=decoded["hint"], code=decoded["code"])
    if answer.status != 200:
        raise HostError(f"{method} {path} of the lab daemon", decoded.get("error", answer.reason))
    return decoded


def make_control(
    inventory: Callable[[], Mapping[str, Any]], servers: Servers, cloud: CloudControl | None = None
) -> web.Application:
    """GET /status; PUT /servers {label, netns, facts}; DELETE /servers {labels}; with a cloud GET and PUT /faults
    {profile, clear, set}, GET /calls?node=&since_s=&after=&last=, GET /subnets/NAME."""
    from aiohttp import web

    async def status(_: web.Request) -> web.Response:
        return web.json_response({**inventory(), "servers": servers.labels()})

    async def start(request: web.Request) -> web.Response:
        wanted = await request.json()
        await servers.start(wanted["label"], Path(wanted["netns"]), wanted["facts"])
        return web.json_response({"serving": wanted["label"]})

    async def stop(request: web.Request) -> web.Response:
        labels = (await request.json())["labels"]
        return web.json_response({"stopped": [label for label in labels if servers.stop(label)]})

    async def faults(_: web.Request) -> web.Response:
        return web.json_response(cloud.faults() if cloud else None)

    async def set_faults(request: web.Request) -> web.Response:
        return web.json_response(cloud.set_faults(await request.json()) if cloud else None)

    async def calls(request: web.Request) -> web.Response:
        return web.json_response(cloud.calls(request.query) if cloud else None)

    async def subnet(request: web.Request) -> web.Response:
        return web.json_response(cloud.subnet(request.match_info["name"]) if cloud else None)

    @web.middleware
    async def errors(request: web.Request, handler: Any) -> web.StreamResponse:
        try:
            answer: web.StreamResponse = await handler(request)
            return answer
        except InputError as error:
            refusal = {"action": error.action, "why": error.why, "hint": error.hint, "code": error.error_code}
            return web.json_response(refusal, status=BAD_INPUT)
        except (VpcCniError, KeyError, ValueError) as error:
            return web.json_response({"error": str(error)}, status=400)

    application = web.Application(middlewares=[errors])
    application.router.add_get("/status", status)
    application.router.add_put("/servers", start)
    application.router.add_delete("/servers", stop)
    if cloud is not None:
        application.router.add_get("/faults", faults)
        application.router.add_put("/faults", set_faults)
        application.router.add_get("/calls", calls)
        application.router.add_get("/subnets/{name}", subnet)
    return application


def serve_groups(application: web.Application, groups: GroupControl) -> None:
    """Beside the rest: GET /groups; PUT /groups {verb, group, rule} or {verb, target, groups}."""
    from aiohttp import web

    async def show(_: web.Request) -> web.Response:
        return web.json_response(groups.groups())

    async def order(request: web.Request) -> web.Response:
        return web.json_response(groups.order(await request.json()))

    application.router.add_get("/groups", show)
    application.router.add_put("/groups", order)


async def listen(application: web.Application, path: Path) -> web.AppRunner:
    """Serve the API on a socket of mode 0600. The path appears when connections are accepted, not a moment before."""
    from aiohttp import web

    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    old_mask = os.umask(0o177)
    try:
        sock.bind(str(unfinished))
    finally:
        os.umask(old_mask)
    sock.listen(BACKLOG)
    await web.SockSite(runner, sock).start()
    unfinished.rename(path)
    return runner
