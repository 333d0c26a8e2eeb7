# SPDX-License-Identifier: Apache-2.0
"""The relay socket: who may speak, what comes back, and that descriptors arrive and are closed."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from vpccni.cni.wire import RelayRequest, decode_reply, encode_request
from vpccni.errors import StateError
from vpccni.ipamd.server import RelayServer, Reply

REQUEST = encode_request(RelayRequest({"CNI_COMMAND": "ADD"}, b'{"cniVersion":"1.0.0"}'))


def talk(path: Path, message: bytes, *descriptors: int) -> bytes:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as relay:
        relay.settimeout(5)
        relay.connect(str(path))
        socket.send_fds(relay, [message], list(descriptors))
        return relay.recv(200_000)


def served(path: Path, handler: Callable[..., object], client: Callable[[], object]) -> object:
    async def story() -> object:
        server = RelayServer(path, handler)  # type: ignore[arg-type]
        server.start()
        try:
            return await asyncio.to_thread(client)
        finally:
            await server.close()

    return asyncio.run(story())


async def echo(request: RelayRequest, netns_fd: int | None) -> Reply:
    where = os.fstat(netns_fd).st_ino if netns_fd is not None else 0
    return 0, f"{request.command} {where}".encode()


def test_a_request_and_its_descriptor_arrive_and_the_answer_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "relay.sock"
    with Path("/proc/self/ns/net").open("rb") as netns:
        answer = served(path, echo, lambda: talk(path, REQUEST, netns.fileno()))
        inode = os.fstat(netns.fileno()).st_ino
    assert decode_reply(answer) == (0, f"ADD {inode}".encode())  # type: ignore[arg-type]
    assert not path.exists()


def test_descriptors_are_closed_whatever_comes(tmp_path: Path) -> None:
    path = tmp_path / "relay.sock"

    def open_count() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    def client() -> int:
        talk(path, REQUEST)
        before = open_count()
        with Path(os.devnull).open("rb") as spare:
            for message in (REQUEST, b"nonsense", b"x"):
                for _ in range(5):
                    talk(path, message, spare.fileno(), spare.fileno(), spare.fileno())
        time.sleep(0.2)  # the server closes after it has answered
        return open_count() - before

    assert served(path, echo, client) <= 0  # the count before may still include the connection of the warm-up


def test_the_socket_is_for_root_alone_by_mode_and_by_credentials() -> None:
    code = (
        "import socket,sys; s=socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET); s.settimeout(5)\n"
        "try:\n s.connect(sys.argv[1]); s.send(bytes.fromhex(sys.argv[2])); print(s.recv(1000).decode())\n"
        "except OSError as error:\n print(type(error).__name__)"
    )
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        path = Path(folder) / "relay.sock"

        def stranger() -> str:
            run = ["/usr/bin/python3", "-c", code, str(path), REQUEST.hex()]
            return subprocess.run(run, user=65534, group=65534, capture_output=True, text=True, check=True).stdout

        def client() -> tuple[int, str, str]:
            mode = path.stat().st_mode & 0o777
            refused = stranger().strip()
            path.chmod(0o666)  # even if somebody opens the file up
            return mode, refused, stranger()

        mode, refused, told = served(path, echo, client)  # type: ignore[misc]
    assert (mode, refused) == (0o600, "PermissionError")
    assert told.startswith("1\n")
    assert "it is not root" in told
    assert "ADD 0" not in told


def test_a_second_daemon_is_refused_and_a_stale_socket_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "relay.sock"
    stale = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    stale.bind(str(path))
    stale.close()

    async def story() -> None:
        first = RelayServer(path, echo)
        first.start()
        with pytest.raises(StateError) as caught:
            RelayServer(path, echo).start()
        assert caught.value.error_code == "already-running"
        assert decode_reply(await asyncio.to_thread(talk, path, REQUEST)) == (0, b"ADD 0")
        await first.close()

    asyncio.run(story())


def test_a_hundred_relays_at_once_are_all_served(tmp_path: Path) -> None:
    path = tmp_path / "relay.sock"

    async def story() -> None:
        server = RelayServer(path, echo)
        server.start()
        answers = await asyncio.gather(*(asyncio.to_thread(talk, path, REQUEST) for _ in range(100)))
        assert {decode_reply(answer) for answer in answers} == {(0, b"ADD 0")}
        await server.close()

    asyncio.run(story())
