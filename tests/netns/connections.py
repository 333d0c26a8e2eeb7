# SPDX-License-Identifier: Apache-2.0
"""One TCP connection between two namespaces, and whom the listener saw.

Knows sockets only. Tests of translation use it: the address that arrives is what the rules made of the sender's.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from ipaddress import ip_address

from vpccni.netlink.namespace import inside


def source_seen(
    client_fd: int, target: tuple[str, int], server_fd: int, listens: tuple[str, int], timeout_s: float
) -> str:
    """The address from which a listener at `listens` in the namespace `server_fd` is reached when `client_fd` connects
    to `target`; "" when the connection fails.

    A namespace owns a socket from its creation on, wherever its thread goes.
    """
    family = socket.AF_INET if ip_address(target[0]).version == 4 else socket.AF_INET6
    with inside(server_fd):
        server = socket.create_server(listens, family=family)
    with inside(client_fd):
        client = socket.socket(family)
    seen: list[str] = []

    def answer() -> None:
        with contextlib.suppress(OSError):
            connection, (address, *_) = server.accept()
            connection.sendall(b"hello")
            connection.close()
            seen.append(address)

    with server, client:
        server.settimeout(timeout_s)
        client.settimeout(timeout_s)
        thread = threading.Thread(target=answer)
        thread.start()
        try:
            client.connect(target)
            heard = client.recv(16)
        except OSError:
            heard = b""
        thread.join()
    return seen[0] if heard == b"hello" and seen else ""
