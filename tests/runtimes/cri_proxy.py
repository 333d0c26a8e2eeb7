# SPDX-License-Identifier: Apache-2.0
"""Speaks CRI to containerd for the tests: one JSON request per line on standard input, one JSON answer per line.

Runs in an environment of its own (requirements.lock), because gRPC is no dependency of the product. Must never import
anything of the package. The schema is containerd's own: Go programs carry the descriptors of their .proto files,
compressed, in their executable, so the client always fits the server. `cri` starts it.

    {"id": 1, "method": "RunPodSandbox", "request": {...}, "timeout_s": 30}
    {"id": 1, "answer": {...}}   or   {"id": 1, "error": {"code": "UNKNOWN", "text": "..."}}
"""

from __future__ import annotations

import json
import sys
import threading
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory

GZIP = b"\x1f\x8b\x08"
PACKAGE = "runtime.v1"
MAX_DESCRIPTOR_BYTES = 1 << 20


def embedded_files(program: bytes) -> Iterator[descriptor_pb2.FileDescriptorProto]:
    """Every file descriptor in a Go executable."""
    at = -1
    while (at := program.find(GZIP, at + 1)) >= 0:
        inflate = zlib.decompressobj(wbits=31)
        try:
            raw = inflate.decompress(program[at : at + MAX_DESCRIPTOR_BYTES])
            found = descriptor_pb2.FileDescriptorProto.FromString(raw) if inflate.eof else None
        except Exception:  # three bytes that look like the start of something compressed
            continue
        if found is not None and found.name.endswith(".proto"):
            yield found


def schema(program: Path) -> descriptor_pb2.FileDescriptorProto:
    """The CRI of a containerd executable, without the options of its code generator."""
    for found in embedded_files(program.read_bytes()):
        if found.package == PACKAGE and found.service:
            del found.dependency[:]
            found.ClearField("options")
            for message in found.message_type:
                _without_options(message)
            for enum in found.enum_type:
                enum.ClearField("options")
                for value in enum.value:
                    value.ClearField("options")
            return found
    raise SystemExit(f"{program} has no descriptor of {PACKAGE}")


def _without_options(message: Any) -> None:
    if not message.options.map_entry:
        message.ClearField("options")
    for field in message.field:
        field.ClearField("options")
    for nested in message.nested_type:
        _without_options(nested)


def methods(address: str, program: Path) -> dict[str, Callable[[Any, float], Any]]:
    """Method name: a call that takes and returns JSON values."""
    described = schema(program)
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(described.SerializeToString())
    channel = grpc.insecure_channel(f"unix://{address}")

    def bound(service: str, method: Any) -> Callable[[Any, float], Any]:
        asked = message_factory.GetMessageClass(pool.FindMessageTypeByName(method.input_type[1:]))
        answered = message_factory.GetMessageClass(pool.FindMessageTypeByName(method.output_type[1:]))
        stub = channel.unary_unary(
            f"/{PACKAGE}.{service}/{method.name}",
            request_serializer=asked.SerializeToString,
            response_deserializer=answered.FromString,
        )

        def call(request: Any, timeout_s: float) -> Any:
            answer = stub(json_format.ParseDict(request, asked()), timeout=timeout_s, wait_for_ready=False)
            return json_format.MessageToDict(
                answer, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
            )

        return call

    return {
        method.name: bound(service.name, method)
        for service in described.service
        for method in service.method
        if not (method.client_streaming or method.server_streaming)
    }


def main() -> None:
    callable_ = methods(sys.argv[1], Path(sys.argv[2]))
    printing = threading.Lock()

    def serve(asked: Any) -> None:
        try:
            outcome = {"answer": callable_[asked["method"]](asked["request"], asked["timeout_s"])}
        except grpc.RpcError as error:
            outcome = {"error": {"code": error.code().name, "text": error.details()}}
        except Exception as error:
            outcome = {"error": {"code": "CLIENT", "text": repr(error)}}
        with printing:
            sys.stdout.write(json.dumps({"id": asked["id"], **outcome}) + "\n")
            sys.stdout.flush()

    for line in sys.stdin:
        threading.Thread(target=serve, args=(json.loads(line),), daemon=True).start()


if __name__ == "__main__":
    main()
