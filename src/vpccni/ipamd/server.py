# SPDX-License-Identifier: Apache-2.0
"""The relay socket: one SEQPACKET message in, one out, for callers that are root.

Knows datagrams, descriptors and peer credentials. Must never know what a request means; it hands the decoded request
and the namespace descriptor to a handler and sends back what that returns. The composition root starts it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path

from vpccni.cni.result import render_error
from vpccni.cni.wire import RelayRequest, decode_request, encode_reply
from vpccni.errors import CNI_INVALID_ENVIRONMENT, InputError, StateError, VpcCniError

log = logging.getLogger(__name__)

MESSAGE_LIMIT = 192 * 1024
BACKLOG = 512
SEND_WAIT_S = 5.0

Reply = tuple[int, bytes]
Handler = Callable[[RelayRequest, int | None], Awaitable[Reply]]


class RelayServer:
    """Listens on a path that only root may connect to; `close` stops accepting and removes the path."""

    def __init__(self, path: Path, handler: Handler, *, allowed_uids: frozenset[int] = frozenset({0})) -> None:
        """`handler(request, netns_fd)` returns (exit code, stdout); it never raises. The descriptor is closed here."""
        self._path, self._handler, self._uids = path, handler, allowed_uids
        self._tasks: set[asyncio.Task[None]] = set()
        self._listener: socket.socket | None = None

    def start(self) -> None:
        """Bind (a stale socket of a dead daemon is replaced), mode 0600, and accept."""
        self._path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        if _answers(self._path):
            raise StateError(
                "serve the relay socket",
                "another daemon answers on it",
                evidence={"socket": self._path},
                hint="stop the other ipamd of this node first",
                code="already-running",
            )
        self._path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        old_mask = os.umask(0o177)
        try:
            listener.bind(str(self._path))
        finally:
            os.umask(old_mask)
        listener.listen(BACKLOG)
        self._listener = listener
        asyncio.get_running_loop().add_reader(listener.fileno(), self._accept)

    async def close(self, drain_s: float = 5.0) -> None:
        """Stop accepting, let requests under way finish, remove the socket."""
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener.fileno())
            self._listener.close()
            self._listener = None
            self._path.unlink(missing_ok=True)
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=drain_s)

    def _accept(self) -> None:
        assert self._listener is not None
        for _ in range(64):  # a burst of relays costs one wake-up of the loop
            try:
                connection, _ = self._listener.accept()
            except (BlockingIOError, InterruptedError):
                return
            connection.setblocking(False)
            task = asyncio.get_running_loop().create_task(self._serve(connection))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _serve(self, connection: socket.socket) -> None:
        descriptors: list[int] = []
        try:
            allowed = self._may(connection)
            message = await _receive(connection, descriptors)
            if message:
                # A stranger gets an answer too: a closed connection would look like a daemon that died.
                reply = await self._answer(message, descriptors[0] if descriptors else None) if allowed else _stranger()
                await asyncio.wait_for(_send(connection, encode_reply(*reply)), SEND_WAIT_S)
        except (OSError, TimeoutError) as error:
            log.info("a relay went away before its answer", extra={"facts": {"why": error}})
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
            connection.close()

    async def _answer(self, message: bytes, netns_fd: int | None) -> Reply:
        try:
            request = decode_request(message)
        except VpcCniError as error:
            log.warning("%s", error)
            return 1, b""
        return await self._handler(request, netns_fd)

    def _may(self, connection: socket.socket) -> bool:
        pid, uid, _gid = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        if uid in self._uids:
            return True
        log.warning("refused a caller that is not root", extra={"facts": {"pid": pid, "uid": uid}})
        return False


def _stranger() -> Reply:
    refusal = InputError(
        "serve this caller",
        "it is not root",
        hint="container runtimes run plugins as root; see who else executes the plugin",
        code="caller-not-root",
        cni_code=CNI_INVALID_ENVIRONMENT,
    )
    return 1, render_error("1.0.0", refusal)


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
        return True


async def _ready(connection: socket.socket, *, to_write: bool) -> None:
    loop = asyncio.get_running_loop()
    future: asyncio.Future[None] = loop.create_future()
    add, remove = (loop.add_writer, loop.remove_writer) if to_write else (loop.add_reader, loop.remove_reader)
    add(connection.fileno(), _wake, future)
    try:
        await future
    finally:
        remove(connection.fileno())


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


async def _receive(connection: socket.socket, descriptors: list[int]) -> bytes:
    """One message; descriptors that came along are appended to `descriptors`, whose owner closes them."""
    while True:
        try:
            message, ancillary, _flags, _ = connection.recvmsg(
                MESSAGE_LIMIT, socket.CMSG_SPACE(8 * 4), socket.MSG_CMSG_CLOEXEC
            )
        except (BlockingIOError, InterruptedError):
            await _ready(connection, to_write=False)
            continue
        for level, kind, payload in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                descriptors.extend(struct.unpack(f"{len(payload) // 4}i", payload[: len(payload) // 4 * 4]))
        return message


async def _send(connection: socket.socket, message: bytes) -> None:
    while True:
        try:
            connection.send(message, socket.MSG_NOSIGNAL)
        except (BlockingIOError, InterruptedError):
            await _ready(connection, to_write=True)
            continue
        return
