# SPDX-License-Identifier: Apache-2.0
"""Relay protocol 1: one SOCK_SEQPACKET message there, one back.

Knows how environment, stdin, exit code and stdout are framed. Must never look inside them, and opens no socket.
`ipamd` decodes requests and encodes replies; tests and the queue of deferred DELs use the other two.

    request   vpccni/1 NUL (CNI_NAME=value NUL)* NUL stdin        + SCM_RIGHTS: the opened CNI_NETNS, if there is one
    reply     decimal exit code, LF, stdout
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from vpccni.errors import CNI_DECODE_FAILURE, NetconfError

MAGIC = b"vpccni/1"
MAX_MESSAGE_BYTES = 160 * 1024
"""Limit of either message. Below the kernel's default socket buffer (208 KiB), above any netconf seen in practice."""
REPLY_TIMEOUT_S = 90
"""How long the relay waits for the reply; containerd and CRI-O give up on a pod sandbox later than that."""


@dataclass(frozen=True, slots=True)
class RelayRequest:
    """What a runtime passed to the plugin: the `CNI_*` variables and the bytes on stdin."""

    env: Mapping[str, str]
    stdin: bytes

    @property
    def command(self) -> str:
        """`CNI_COMMAND`, or the empty string."""
        return self.env.get("CNI_COMMAND", "")


def encode_request(request: RelayRequest) -> bytes:
    """The message that the relay sends. Raises NetconfError when it exceeds `MAX_MESSAGE_BYTES`."""
    variables = b"".join(
        f"{name}={value}".encode(errors="surrogateescape") + b"\0" for name, value in request.env.items()
    )
    message = MAGIC + b"\0" + variables + b"\0" + request.stdin
    if len(message) > MAX_MESSAGE_BYTES:
        raise NetconfError(
            "send the request to the node daemon",
            f"environment and network configuration have {len(message)} bytes, the limit is {MAX_MESSAGE_BYTES}",
            code="request-too-big",
        )
    return message


def decode_request(message: bytes) -> RelayRequest:
    """The request in `message`. Raises NetconfError (code 6) when it is not framed as protocol 1 demands."""
    magic, separator, rest = message.partition(b"\0")
    if not separator or magic != MAGIC:
        raise _malformed(f"it starts with {magic[:16]!r}, expected {MAGIC!r}")
    env: dict[str, str] = {}
    while True:
        entry, separator, rest = rest.partition(b"\0")
        if not separator:
            raise _malformed("the list of variables has no end")
        if not entry:
            return RelayRequest(env, rest)
        name, equals, value = entry.decode(errors="surrogateescape").partition("=")
        if not equals or not name.startswith("CNI_"):
            raise _malformed(f"{name!r} is not a CNI_* variable")
        env[name] = value


def encode_reply(exit_code: int, stdout: bytes) -> bytes:
    """The daemon's answer: what the relay writes to stdout, and its exit code (0 to 255)."""
    if not 0 <= exit_code <= 255:
        raise ValueError(f"exit code {exit_code} is not in 0..255")
    return b"%d\n%b" % (exit_code, stdout)


def decode_reply(message: bytes) -> tuple[int, bytes]:
    """(exit code, stdout). Raises NetconfError (code 6) when `message` is not a reply of protocol 1."""
    code, separator, stdout = message.partition(b"\n")
    if not separator or not code.isdigit() or len(code) > 3 or int(code) > 255:
        raise _malformed(f"{code[:16]!r} is not an exit code")
    return int(code), stdout


def _malformed(why: str) -> NetconfError:
    return NetconfError(
        "understand the message between plugin and node daemon",
        why,
        hint="install the plugin of the daemon's own version: restart the daemon",
        code="malformed-relay-message",
        cni_code=CNI_DECODE_FAILURE,
    )
