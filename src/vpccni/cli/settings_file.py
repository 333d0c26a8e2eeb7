# SPDX-License-Identifier: Apache-2.0
"""Settings from a file: lines of NAME=VALUE, or the DaemonSet `aws-node` in YAML or JSON.

Knows the formats and tells by the text which one it reads. Must never judge a value. `cli.settings` calls
`read`.
"""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vpccni.errors import InputError
from vpccni.settings import explain

_LINE = re.compile(r"(?:export\s+)?(?P<name>[A-Za-z_]\w*)=(?P<value>.*)", re.ASCII)
_AS_JSON = "kubectl get daemonset aws-node -n kube-system -o json"
_MAIN = "aws-node"


@dataclass(frozen=True, slots=True)
class Stated:
    """`values`: the environment that results; `chosen`: the part of it that somebody chose."""

    values: Mapping[str, str]
    chosen: Mapping[str, str]


def read(path: Path) -> Stated:
    """Read the file (`-`: standard input). InputError names every line that cannot be used."""
    try:
        text = sys.stdin.read() if str(path) == "-" else path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"read {path}", str(error), hint="a file of NAME=VALUE lines, or a DaemonSet") from None
    if text.lstrip()[:1] in ("{", "["):
        return _from_manifest(path, _json(path, text))
    if re.search(r"^(apiVersion|kind|spec):", text, re.MULTILINE):
        return _from_manifest(path, _yaml(path, text))
    return _from_lines(path, text)


def _from_lines(path: Path, text: str) -> Stated:
    values, wrong = {}, []
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        match = _LINE.fullmatch(stripped)
        try:
            if match is None:
                raise ValueError("not NAME=VALUE")
            values[match["name"]] = _unquoted(match["value"])
        except ValueError as error:
            wrong.append(f"line {number}: {error}: {stripped[:40]!r}")
    if wrong:
        raise InputError(f"read {path}", "; ".join(wrong), hint="one NAME=VALUE per line, # for comments")
    return Stated(values, values)


def _unquoted(value: str) -> str:
    """As a shell reads it when it is quoted, else to the end of the line as `docker --env-file` does."""
    if value[:1] not in ("'", '"'):
        return value
    words = shlex.split(value, comments=True)
    if len(words) != 1:
        raise ValueError("text after the closing quote")
    return words[0]


def _json(path: Path, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise InputError(f"read {path}", f"no JSON: {error}", hint=_AS_JSON) from None


def _yaml(path: Path, text: str) -> list[Any]:
    import yaml

    try:
        return list(yaml.safe_load_all(text))
    except yaml.YAMLError as error:
        raise InputError(f"read {path}", f"no YAML: {' '.join(str(error).split())}", hint=_AS_JSON) from None


def _from_manifest(path: Path, document: Any) -> Stated:
    found = list(_daemonsets(document))
    if len(found) != 1:
        names = ", ".join(str(one.get("metadata", {}).get("name")) for one in found)
        why = f"it has {len(found)} DaemonSets ({names})" if found else "it has no DaemonSet with containers"
        raise InputError(f"read {path}", why, hint=_AS_JSON)
    pod = found[0]["spec"]["template"]["spec"]
    containers = [each for each in pod["containers"] if isinstance(each, dict)]
    main = next((each for each in containers if each.get("name") == _MAIN), containers[0] if containers else {})
    values: dict[str, str] = {}
    for container in [*pod.get("initContainers", ()), main]:  # what both set, the daemon's container decides
        for entry in container.get("env") or ():
            if isinstance(entry, dict) and isinstance(entry.get("value"), str):  # no `value`: the downward API fills it
                values[str(entry.get("name"))] = entry["value"]
    # A manifest spells out defaults; nobody chose those.
    defaults = {name: row.default for row in explain() for name in (row.variable, *row.aliases)}
    chosen = {name: text for name, text in values.items() if text.lower() != defaults.get(name, "").lower()}
    return Stated(values, chosen)


def _daemonsets(document: Any) -> Iterator[dict[str, Any]]:
    if isinstance(document, list):
        for each in document:
            yield from _daemonsets(each)
    elif isinstance(document, dict):
        if isinstance(document.get("items"), list):
            yield from _daemonsets(document["items"])
        elif document.get("kind") == "DaemonSet" and _containers(document):
            yield document


def _containers(document: Mapping[str, Any]) -> bool:
    try:
        return isinstance(document["spec"]["template"]["spec"]["containers"], list)
    except (KeyError, TypeError):
        return False
