# SPDX-License-Identifier: Apache-2.0
"""The small server in every pod and outside host: it says who it is and who it sees.

Knows one listening socket per namespace and a few lines of HTTP. Must never know how a namespace came to be. The lab
daemon holds all of them in its one process, so that two hundred pods cost two hundred sockets and nothing else.

An HTTP request is answered with JSON (`server`, `address`, `client`, `port`) and the connection closed. Any other line
is echoed with the client's address before it, and the connection stays: something to hold across a restart.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from pathlib import Path

from vpccni.lab.sockets import ANY, listener, namespace_handle, plain

PORT = 80
LINE_LIMIT = 8192
_METHODS = (b"GET ", b"HEAD ", b"POST ", b"PUT ", b"DELETE ")


class Answer(asyncio.Protocol):
    """One connection."""

    def __init__(self, facts: Mapping[str, str]) -> None:
        """`facts` go into every HTTP answer."""
        self._facts, self._received = facts, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Note who is there: the address that the network shows us is the answer to most questions."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        client, port = (transport.get_extra_info("peername") or ("?", 0))[:2]
        self._client = (plain(client), port)
        self._address = plain((transport.get_extra_info("sockname") or ("?", 0))[0])

    def data_received(self, chunk: bytes) -> None:
        """Answer a complete HTTP request head, or every complete line of anything else."""
        self._received += chunk
        if self._received.startswith(_METHODS):
            if b"\r\n\r\n" in self._received:
                self._transport.write(self._response())
                self._transport.close()
            elif len(self._received) > LINE_LIMIT:
                self._transport.close()
            return
        *lines, self._received = self._received.split(b"\n")
        for line in lines:
            self._transport.write(f"{self._client[0]} ".encode() + line + b"\n")
        if len(self._received) > LINE_LIMIT:
            self._transport.close()

    def _response(self) -> bytes:
        answer = {**self._facts, "address": self._address, "client": self._client[0], "port": self._client[1]}
        body = json.dumps(answer).encode() + b"\n"
        head = f"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        return head.encode() + body


class Servers:
    """The running servers, by label."""

    def __init__(self) -> None:
        self._running: dict[str, asyncio.Server] = {}

    async def start(self, label: str, netns: Path, facts: Mapping[str, str], port: int = PORT) -> None:
        """Listen on every address of a namespace; a server of the same label is replaced."""
        self.stop(label)
        with namespace_handle(netns) as handle:
            sock = listener(handle, ANY, port)
        factory: Callable[[], Answer] = lambda: Answer({"server": label, **facts})  # noqa: E731
        self._running[label] = await asyncio.get_running_loop().create_server(factory, sock=sock)

    def stop(self, label: str) -> bool:
        """Close a server and let go of its namespace. False when there is none."""
        server = self._running.pop(label, None)
        if server is not None:
            server.close()
        return server is not None

    def labels(self) -> list[str]:
        """Who is being served."""
        return sorted(self._running)
