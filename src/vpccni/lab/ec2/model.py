# SPDX-License-Identifier: Apache-2.0
"""botocore's description of EC2, cut down to the operations that are served.

Knows where the service model lies and its JSON. Must never import botocore itself, which would cost a tenth of a
second and tens of megabytes: the file is data, read once (about 40 ms). `query` and `xml` walk its shapes.
"""

from __future__ import annotations

import gzip
import importlib.util
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

RawShape = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ServiceModel:
    """Shapes by name, and per served operation its input and output shape ("" for none)."""

    namespace: str
    shapes: Mapping[str, RawShape]
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    known: frozenset[str]  # every operation of EC2, served or not


def model_file() -> Path:
    """The newest EC2 service model of the installed botocore. Raises FileNotFoundError."""
    spec = importlib.util.find_spec("botocore")
    if spec is None or spec.origin is None:
        raise FileNotFoundError("botocore is not installed")
    folder = Path(spec.origin).parent / "data" / "ec2"
    files = sorted(folder.glob("*/service-2.json*"))
    if not files:
        raise FileNotFoundError(f"no EC2 service model below {folder}")
    return files[-1]


def load(operations: Iterable[str], path: Path | None = None) -> ServiceModel:
    """The model, cut down. Raises KeyError for an operation that EC2 does not have."""
    path = path or model_file()
    content = path.read_bytes()
    raw: dict[str, Any] = msgspec.json.decode(gzip.decompress(content) if path.suffix == ".gz" else content)
    inputs, outputs = {}, {}
    for name in operations:
        operation = raw["operations"][name]
        inputs[name] = operation.get("input", {}).get("shape", "")
        outputs[name] = operation.get("output", {}).get("shape", "")
    shapes: dict[str, RawShape] = {}
    for name in (*inputs.values(), *outputs.values()):
        _collect(raw["shapes"], name, shapes)
    namespace = raw["metadata"].get("xmlNamespace", "http://ec2.amazonaws.com/doc/2016-11-15")
    return ServiceModel(namespace, shapes, inputs, outputs, frozenset(raw["operations"]))


_KEPT = ("type", "required", "members", "member", "min", "max", "flattened")
_KEPT_OF_MEMBER = ("shape", "locationName", "queryName")


def _collect(source: Mapping[str, RawShape], name: str, found: dict[str, RawShape]) -> None:
    if not name or name in found:
        return
    shape = {key: source[name][key] for key in _KEPT if key in source[name]}
    if "members" in shape:
        shape["members"] = {key: _member(member) for key, member in shape["members"].items()}
    found[name] = shape
    for member in shape.get("members", {}).values():
        _collect(source, member["shape"], found)
    if "member" in shape:
        shape["member"] = _member(shape["member"])
        _collect(source, shape["member"]["shape"], found)


def _member(member: RawShape) -> dict[str, Any]:
    # Without the documentation, so that the four megabytes of text can be forgotten.
    return {key: member[key] for key in _KEPT_OF_MEMBER if key in member}
