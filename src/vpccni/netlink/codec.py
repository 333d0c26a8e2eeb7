# SPDX-License-Identifier: Apache-2.0
"""Requests to bytes and bytes to values: the codec as one pair of functions.

Knows which encoder and decoder belongs to which value and message type. Must never touch a socket.
`socket` and `monitor` call it; tests compare it with iproute2 and pyroute2.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from vpccni.netlink import decode as _decode
from vpccni.netlink import encode as _encode
from vpccni.netlink import wire
from vpccni.netlink.values import Address, Link, Neighbour, Request, Route, Rule, Value

_ENCODERS: dict[type, Callable[..., bytes]] = {
    Link: _encode.encode_link,
    Address: _encode.encode_address,
    Route: _encode.encode_route,
    Rule: _encode.encode_rule,
    Neighbour: _encode.encode_neighbour,
}
_Decoder = Callable[[bytes, int, int, Mapping[int, str]], Value | None]
_DECODERS: dict[int, _Decoder] = {
    wire.RTM_NEWLINK: _decode.decode_link,
    wire.RTM_DELLINK: _decode.decode_link,
    wire.RTM_SETLINK: _decode.decode_link,
    wire.RTM_NEWADDR: _decode.decode_address,
    wire.RTM_DELADDR: _decode.decode_address,
    wire.RTM_NEWROUTE: _decode.decode_route,
    wire.RTM_DELROUTE: _decode.decode_route,
    wire.RTM_NEWNEIGH: _decode.decode_neighbour,
    wire.RTM_DELNEIGH: _decode.decode_neighbour,
    wire.RTM_NEWRULE: _decode.decode_rule,
    wire.RTM_DELRULE: _decode.decode_rule,
}
DELETIONS = frozenset(
    (wire.RTM_DELLINK, wire.RTM_DELADDR, wire.RTM_DELROUTE, wire.RTM_DELNEIGH, wire.RTM_DELRULE),
)
NO_NAMES: Mapping[int, str] = {}


def encode(request: Request, seq: int, flags: int = 0) -> bytes:
    """The netlink message of `request`. `flags` are added to those of the verb (NLM_F_ACK, for instance)."""
    return _ENCODERS[type(request.value)](request, request.value, seq, flags)


def decode_message(buffer: bytes, message: wire.Message, names: Mapping[int, str] = NO_NAMES) -> Value | None:
    """The value that one message carries; None for kinds and families that this library does not model."""
    decoder = _DECODERS.get(message.type)
    return None if decoder is None else decoder(buffer, message.start, message.end, names)


def decode(buffer: bytes, names: Mapping[int, str] = NO_NAMES) -> list[Value]:
    """The values of all messages in a datagram, in order. ValueError when it is malformed."""
    found = (decode_message(buffer, message, names) for message in wire.messages(buffer))
    return [value for value in found if value is not None]
