# SPDX-License-Identifier: Apache-2.0
"""A real aiohttp application on a loopback port, served by a thread of its own, for synchronous clients."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

from aiohttp import web


@contextmanager
def serving(app: web.Application) -> Iterator[str]:
    """The application's URL while it is served on 127.0.0.1."""
    loop = asyncio.new_event_loop()
    started: list[int] = []
    ready, stop = threading.Event(), asyncio.Event()  # the event belongs to the loop that first waits on it

    async def serve() -> None:
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        started.append(runner.addresses[0][1])
        ready.set()
        await stop.wait()
        await runner.cleanup()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()), daemon=True)
    thread.start()
    assert ready.wait(10), "the server did not start"
    try:
        yield f"http://127.0.0.1:{started[0]}"
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)
        loop.close()


def answering(handler: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> web.Application:
    """An application in which one handler answers everything."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    return app


def closed_port() -> int:
    """A port of 127.0.0.1 on which nobody listens (at the moment)."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
