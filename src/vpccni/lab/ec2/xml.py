# SPDX-License-Identifier: Apache-2.0
"""The EC2 Query protocol's way out: nested values become XML, by the service model's output shapes.

Knows tags, lists and times as EC2 writes them. Must never know what an operation means. A shape is compiled to
closures on first use, because an answer of a hundred interfaces has thousands of elements.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any
from xml.sax.saxutils import escape

from vpccni.lab.cloud.errors import ApiError
from vpccni.lab.ec2.model import ServiceModel

Emit = Callable[[str], None]
Renderer = Callable[[Any, Emit], None]


class XmlRenderer:
    """Answers of the served operations, by their output shapes."""

    def __init__(self, model: ServiceModel) -> None:
        self._model = model
        self._compiled: dict[str, Renderer] = {}

    def answer(self, action: str, values: Mapping[str, Any], request_id: str) -> str:
        """A success. An operation without an output shape answers `true`."""
        parts = [
            f'<?xml version="1.0" encoding="UTF-8"?>\n<{action}Response xmlns="{self._model.namespace}">'
            f"<requestId>{request_id}</requestId>"
        ]
        output = self._model.outputs[action]
        if output:
            self._renderer(output)(values, parts.append)
        else:
            parts.append("<return>true</return>")
        parts.append(f"</{action}Response>")
        return "".join(parts)

    def _renderer(self, shape_name: str) -> Renderer:
        if shape_name not in self._compiled:
            # A recursive shape finds this one, which looks the finished one up, instead of compiling for ever.
            def later(value: Any, emit: Emit) -> None:
                self._compiled[shape_name](value, emit)

            self._compiled[shape_name] = later
            self._compiled[shape_name] = self._compile(shape_name)
        return self._compiled[shape_name]

    def _compile(self, shape_name: str) -> Renderer:
        shape = self._model.shapes[shape_name]
        kind = shape["type"]
        if kind == "structure":
            return self._structure(shape.get("members", {}))
        if kind == "list":
            return self._list(shape["member"].get("locationName", "item"), shape["member"]["shape"])
        return _SCALARS.get(kind, _text)

    def _structure(self, members: Mapping[str, Mapping[str, str]]) -> Renderer:
        table = {
            name: (f"<{tag}>", f"</{tag}>", self._renderer(raw["shape"]))
            for name, raw in members.items()
            for tag in (raw.get("locationName", name),)
        }

        def render(value: Mapping[str, Any], emit: Emit) -> None:
            for name, item in value.items():
                if item is not None:
                    opening, closing, renderer = table[name]
                    emit(opening)
                    renderer(item, emit)
                    emit(closing)

        return render

    def _list(self, tag: str, member_shape: str) -> Renderer:
        opening, closing, renderer = f"<{tag}>", f"</{tag}>", self._renderer(member_shape)

        def render(value: Any, emit: Emit) -> None:
            for item in value:
                emit(opening)
                renderer(item, emit)
                emit(closing)

        return render


def _text(value: Any, emit: Emit) -> None:
    emit(escape(str(value)))


def _boolean(value: Any, emit: Emit) -> None:
    emit("true" if value else "false")


def _timestamp(value: Any, emit: Emit) -> None:
    emit(datetime.fromtimestamp(value, UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z"))


_SCALARS: Mapping[str, Renderer] = {"boolean": _boolean, "timestamp": _timestamp}


def error_answer(error: ApiError, request_id: str) -> str:
    """A refusal as EC2 writes it."""
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n<Response><Errors><Error>'
        f"<Code>{escape(error.code)}</Code><Message>{escape(error.message)}</Message>"
        f"</Error></Errors><RequestID>{request_id}</RequestID></Response>"
    )
