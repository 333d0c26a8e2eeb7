# SPDX-License-Identifier: Apache-2.0
"""Relay protocol 1: framing survives anything that a runtime may pass, and rejects what is not ours."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpccni.cni.wire import MAX_MESSAGE_BYTES, RelayRequest, decode_reply, decode_request, encode_reply, encode_request
from vpccni.errors import NetconfError

NAMES = st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZ_", max_size=12).map(lambda text: f"CNI_{text}")
# What a Linux environment can hold, as Python shows it: anything but NUL, undecodable bytes as surrogates.
VALUES = st.binary(max_size=60).map(lambda raw: raw.replace(b"\0", b"").decode(errors="surrogateescape"))


@given(env=st.dictionaries(NAMES, VALUES, max_size=8), stdin=st.binary(max_size=300))
def test_a_request_comes_out_as_it_went_in(env: dict[str, str], stdin: bytes) -> None:
    assert decode_request(encode_request(RelayRequest(env, stdin))) == RelayRequest(env, stdin)


@given(exit_code=st.integers(0, 255), stdout=st.binary(max_size=300))
def test_a_reply_comes_out_as_it_went_in(exit_code: int, stdout: bytes) -> None:
    assert decode_reply(encode_reply(exit_code, stdout)) == (exit_code, stdout)


def test_the_request_has_the_documented_bytes() -> None:
    request = RelayRequest({"CNI_COMMAND": "ADD", "CNI_ARGS": ""}, b"{}\0x")
    assert encode_request(request) == b"vpccni/1\0CNI_COMMAND=ADD\0CNI_ARGS=\0\0{}\0x"
    assert request.command == "ADD" and RelayRequest({}, b"").command == ""


@given(st.binary(max_size=80))
def test_no_message_breaks_the_decoder(message: bytes) -> None:
    for decode in (decode_request, decode_reply):
        try:
            decode(message)
        except NetconfError as error:
            assert error.cni_error_code == 6 and error.hint


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"vpccni/1",
        b"vpccni/2\0\0",
        b"vpccni/1\0CNI_X=1",
        b"vpccni/1\0CNI_X=1\0",
        b"vpccni/1\0CNI_X\0\0",
        b"vpccni/1\0PATH=/\0\0",
    ],
)
def test_a_malformed_request_is_refused(message: bytes) -> None:
    with pytest.raises(NetconfError) as raised:
        decode_request(message)
    assert raised.value.error_code == "malformed-relay-message"


@pytest.mark.parametrize("message", [b"", b"0", b"\n", b"x\n", b"256\n", b"-1\n", b"0001\n", b" 1\n"])
def test_a_malformed_reply_is_refused(message: bytes) -> None:
    with pytest.raises(NetconfError):
        decode_reply(message)


def test_what_no_message_can_carry_is_refused() -> None:
    assert len(encode_request(RelayRequest({}, b"x" * (MAX_MESSAGE_BYTES - 10)))) == MAX_MESSAGE_BYTES
    with pytest.raises(NetconfError, match=str(MAX_MESSAGE_BYTES)):
        encode_request(RelayRequest({}, b"x" * (MAX_MESSAGE_BYTES - 9)))
    for exit_code in (-1, 256):
        with pytest.raises(ValueError, match="not in 0"):
            encode_reply(exit_code, b"")
