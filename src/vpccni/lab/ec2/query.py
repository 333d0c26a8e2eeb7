# SPDX-License-Identifier: Apache-2.0
"""The EC2 Query protocol's way in: `Filter.1.Value.2=x` becomes nested values, strictly by the service model.

Knows how EC2 names parameters and which refusals malformed ones get. Must never know what an operation means.
`lab.ec2.app` calls it once per request.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from vpccni.lab.cloud.errors import ApiError, invalid
from vpccni.lab.ec2.model import RawShape, ServiceModel

# Not parameters of an operation: the protocol's own, and those of signatures in the query string.
PROTOCOL = frozenset({"Action", "Version", "AUTHPARAMS", "AWSAccessKeyId", "Signature", "SignatureMethod"})
Tree = dict[str, Any]


class QueryParser:
    """Parameters of the served operations, by their input shapes."""

    def __init__(self, model: ServiceModel) -> None:
        self._model = model
        self._names: dict[str, dict[str, tuple[str, str]]] = {}  # shape -> query name -> (member, shape)

    def parse(self, action: str, pairs: Iterable[tuple[str, str]]) -> dict[str, Any]:
        """The parameters of a request as the SDK's caller wrote them.

        Raises UnknownParameter, MissingParameter, InvalidParameterValue.
        """
        tree: Tree = {}
        for name, value in pairs:
            if name not in PROTOCOL and not name.startswith("X-Amz-"):
                _plant(tree, name, value)
        return self._structure(self._model.inputs[action], tree, "")

    def _structure(self, shape_name: str, node: object, path: str) -> dict[str, Any]:
        if not isinstance(node, dict):
            raise invalid(f"Value ({node}) for parameter {path} is invalid.")
        names = self._names.get(shape_name) or self._index(shape_name)
        values: dict[str, Any] = {}
        for name, child in node.items():
            if name not in names:
                raise ApiError("UnknownParameter", f"The parameter {path}{name} is not recognized")
            member, member_shape = names[name]
            values[member] = self._value(member_shape, child, f"{path}{name}")
        for member in self._model.shapes[shape_name].get("required", ()):
            if member not in values:
                raise ApiError("MissingParameter", f"The request must contain the parameter {path}{member}")
        return values

    def _index(self, shape_name: str) -> dict[str, tuple[str, str]]:
        index = {}
        for member, raw in self._model.shapes[shape_name].get("members", {}).items():
            location = raw.get("locationName", member)
            index[raw.get("queryName", location[0].upper() + location[1:])] = (member, raw["shape"])
        self._names[shape_name] = index
        return index

    def _value(self, shape_name: str, node: object, path: str) -> Any:
        shape = self._model.shapes[shape_name]
        kind = shape["type"]
        if kind == "structure":
            return self._structure(shape_name, node, f"{path}.")
        if kind == "list":
            return self._list(shape, node, path)
        if not isinstance(node, str):
            raise invalid(f"The parameter {path} must be a single value")
        if kind in ("integer", "long"):
            return _integer(shape, node, path)
        if kind == "boolean":
            if node.lower() not in ("true", "false"):
                raise invalid(f"Value ({node}) for parameter {path} is invalid. It must be true or false.")
            return node.lower() == "true"
        return node

    def _list(self, shape: RawShape, node: object, path: str) -> list[Any]:
        if not isinstance(node, dict) or not all(key.isdecimal() for key in node):
            raise invalid(f"The parameter {path} must be a list: {path}.1, {path}.2, ...")
        member = shape["member"]["shape"]
        return [self._value(member, node[key], f"{path}.{key}") for key in sorted(node, key=int)]


def _plant(tree: Tree, name: str, value: str) -> None:
    *parents, leaf = name.split(".")
    for parent in parents:
        tree = tree.setdefault(parent, {})
        if not isinstance(tree, dict):
            raise invalid(f"The parameter {name} is given in two ways")
    if leaf in tree:
        raise invalid(f"The parameter {name} is given more than once")
    tree[leaf] = value


def _integer(shape: RawShape, text: str, path: str) -> int:
    try:
        value = int(text)
    except ValueError:
        raise invalid(f"Value ({text}) for parameter {path} is invalid. It must be a number.") from None
    low, high = shape.get("min"), shape.get("max")
    if low is not None and value < low:
        raise invalid(f"Value ( {value} ) for parameter {path} is invalid. Expecting a value greater than {low}.")
    if high is not None and value > high:
        raise invalid(f"Value ( {value} ) for parameter {path} is invalid. Expecting a value less than {high}.")
    return value
