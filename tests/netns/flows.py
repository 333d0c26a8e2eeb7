# SPDX-License-Identifier: Apache-2.0
"""A datagram a millisecond between two namespaces, and how many were lost.

Knows sockets only. Tests of changes under running pods use it: what loses a packet shows as one that did not come back.
"""

from __future__ import annotations

import socket
import threading
import time

from vpccni.netlink.namespace import inside


class Flow(threading.Thread):
    """From the namespace `near_fd` to `address` in `far_fd`, which sends each datagram back. `end` stops it."""

    def __init__(self, near_fd: int, far_fd: int, address: str, port: int) -> None:
        super().__init__()
        # A namespace owns a socket from its creation on, wherever its thread goes.
        with inside(far_fd):
            self._far = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            self._far.bind((address, port))
        with inside(near_fd):
            self._near = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            self._near.connect((address, port))
        self._near.settimeout(0.5)
        self._far.settimeout(0.1)
        self._over = threading.Event()
        self._echoing = threading.Thread(target=self._echo)
        self.sent = self.lost = 0

    def run(self) -> None:
        self._echoing.start()
        while not self._over.is_set():
            word = str(self.sent).encode()
            try:
                self._near.send(word)
                while self._near.recv(64) != word:  # an answer that came too late is lost, too
                    pass
            except OSError:
                self.lost += 1
            self.sent += 1
            time.sleep(0.001)

    def _echo(self) -> None:
        while not self._over.is_set():
            try:
                word, whence = self._far.recvfrom(64)
                self._far.sendto(word, whence)
            except OSError:
                continue

    def end(self) -> None:
        """Stop; `sent` and `lost` are final."""
        self._over.set()
        self.join()
        self._echoing.join()
        self._near.close()
        self._far.close()
