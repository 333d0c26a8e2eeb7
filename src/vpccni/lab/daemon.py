# SPDX-License-Identifier: Apache-2.0
"""The lab daemon: one process, one thread, that is the cloud, the fabric's driver and every server in the box.

Knows how the parts are put together and where each listens. Must never outlive its state directory's meaning: it reads
the topology once at start and keeps everything else in memory. `lab up` starts it, `lab down` ends it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import resource
import signal
import socket
import sys
from collections.abc import Mapping, Sequence

from aiohttp import web

from vpccni.errors import VpcCniError
from vpccni.lab import servers, topology
from vpccni.lab.box import Box
from vpccni.lab.cloudcontrol import CloudControl
from vpccni.lab.control import listen, make_control, serve_groups
from vpccni.lab.ec2.app import known_actions, make_app
from vpccni.lab.ec2.calls import CallLog
from vpccni.lab.groupcontrol import GroupControl
from vpccni.lab.sockets import listener, namespace_handle
from vpccni.lab.state import LabState, read_json, write_json
from vpccni.netlink.namespace import NETNS_DIR

NODE_ENDPOINT = "http://169.254.169.250"
log = logging.getLogger(__name__)


def main(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """Run until SIGTERM or SIGINT. Errors go to standard error, which is the daemon's log."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    if argv:
        sys.stderr.write("vpccni lab-daemon takes no arguments; `vpccni lab up` starts it\n")
        return 2
    state = LabState.from_environ(environ)
    state.record_process("daemon", os.getpid())
    _raise_descriptor_limit()
    try:
        asyncio.run(_serve(state))
    except VpcCniError as error:
        sys.stderr.write(f"{error.message} {error.details}\n")
        return 1
    return 0


async def _serve(state: LabState) -> None:
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    box = Box(state, topology.decode(read_json(state.topology)))
    await box.build()
    workloads = servers.Servers()
    await _start_host_servers(box, workloads)
    async with contextlib.AsyncExitStack() as stack:
        calls = CallLog()
        url = await _serve_ec2(box, stack, calls)
        write_json(state.root / "endpoint.json", {"url": url})
        inventory = lambda: {**box.inventory(), "api_url": url, "node_api_url": NODE_ENDPOINT, "pid": os.getpid()}  # noqa: E731
        # Last, because whoever finds this socket takes the lab for ready.
        served = make_control(inventory, workloads, _cloud_control(box, calls))
        serve_groups(served, GroupControl(box.cloud, box.names, box.pump))
        control = await listen(served, state.control_socket)
        stack.push_async_callback(control.cleanup)
        log.info("ready: EC2 API at %s", url)
        await stopped.wait()


async def _start_host_servers(box: Box, workloads: servers.Servers) -> None:
    """One server per outside namespace: it answers for all of its hosts and says at which address it was asked."""
    for via in sorted({host.via for host in box.topology.host}):
        name = box.host_namespace(via)
        await workloads.start(via, NETNS_DIR / name, {"kind": "host"})


def _cloud_control(box: Box, calls: CallLog) -> CloudControl:
    return CloudControl(box.cloud, calls, box.names, known_actions(), box.pump)


async def _serve_ec2(box: Box, stack: contextlib.AsyncExitStack, calls: CallLog) -> str:
    """The EC2 API for the machine on its loopback and for the nodes inside the fabric; returns the former's URL."""
    runner = web.AppRunner(make_app(box.cloud, box.pump, calls=calls), access_log=None)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    local = socket.create_server(("127.0.0.1", 0))
    await web.SockSite(runner, local).start()
    address = NODE_ENDPOINT.removeprefix("http://")
    with namespace_handle(NETNS_DIR / box.fabric.router.name) as handle:
        inner = listener(handle, address, 80)
    await web.SockSite(runner, inner).start()
    return f"http://127.0.0.1:{local.getsockname()[1]}"


def _raise_descriptor_limit() -> None:
    """Every pod costs a socket and every connection another."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
