# SPDX-License-Identifier: Apache-2.0
"""How the values of settings are written: one `Syntax` per kind, strict where Go's parsers are strict.

Knows text and turns it into values, or raises ValueError with the reason (empty when "is not <accepts>" says it all).
Must never know which setting a value belongs to. Only `settings` uses it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network
from urllib.parse import urlsplit

# strconv.ParseBool of Go: nothing else, not even other mixtures of case.
_TRUE = frozenset({"1", "t", "T", "TRUE", "true", "True"})
_FALSE = frozenset({"0", "f", "F", "FALSE", "false", "False"})
_INTEGER = re.compile(r"[+-]?[0-9]{1,18}")  # strconv.Atoi; int() alone would take " 5", "1_0" and Arabic digits
# strconv.ParseInt with base 0; each underscore stands between digits or behind the base.
_ANY_BASE = re.compile(
    r"\+?(?:(?P<hex>0[xX](?:_?[0-9a-fA-F])+)|(?P<bin>0[bB](?:_?[01])+)"
    r"|(?P<oct>0[oO]?(?:_?[0-7])+)|(?P<dec>[1-9](?:_?[0-9])*|0))"
)
_CIDR = re.compile(r"[0-9.]+/[0-9]{1,2}")
_VETH_PREFIX = re.compile(r"[A-Za-z0-9_.-]{1,4}")
_HOST = re.compile(r"[A-Za-z0-9.-]*|\[[0-9A-Fa-f:.]+\]")
_MAX_TAGS, _MAX_TAG_KEY, _MAX_TAG_VALUE = 50, 128, 256  # EC2's limits per resource, in characters
_INT32_MAX = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Listen:
    """Where a server listens: host and port ("" is every address), or the path of a Unix socket."""

    host: str
    port: int
    unix_path: str = ""

    def __str__(self) -> str:
        if self.unix_path:
            return f"unix:{self.unix_path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def _show(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if value not in ("", (), {}) else "unset"


@dataclass(frozen=True, slots=True)
class Syntax:
    """`accepts` completes the sentence "the value is not ..."; `show` writes a default as a user would."""

    accepts: str
    parse: Callable[[str], object]
    show: Callable[[object], str] = _show


def integer(low: int, high: int = _INT32_MAX) -> Syntax:
    """A decimal integer from `low` to `high`."""

    def parse(text: str) -> int:
        if not _INTEGER.fullmatch(text) or not low <= int(text) <= high:
            raise ValueError
        return int(text)

    limit = f"from {low} to {high}" if high != _INT32_MAX else f"of {low} or more"
    return Syntax(f"an integer {limit}", parse, lambda value: str(value) if value or not low else "unset")


def choice(*words: str, any_case: bool = False) -> Syntax:
    """One of `words`; with `any_case` in any mixture of case, read as lower case."""

    def parse(text: str) -> str:
        word = text.lower() if any_case else text
        if word not in words:
            raise ValueError
        return word

    return Syntax(f"one of {', '.join(words)}", parse)


def _boolean(text: str) -> bool:
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise ValueError


def _connmark(text: str) -> int:
    match = _ANY_BASE.fullmatch(text)
    if not match:
        raise ValueError
    base = {"hex": 16, "bin": 2, "oct": 8, "dec": 10}[str(match.lastgroup)]
    digits = match[str(match.lastgroup)].replace("_", "")
    value = int(digits, base)
    if not 1 <= value < 2**32:
        raise ValueError
    return value


def _cidrs(text: str) -> tuple[IPv4Network, ...]:
    """Comma-separated IPv4 CIDRs, masked to their networks, each kept once."""
    networks: dict[IPv4Network, None] = {}
    for item in (part.strip() for part in text.split(",")):
        if not _CIDR.fullmatch(item):
            raise ValueError(f"{item!r} is no IPv4 CIDR")
        networks[IPv4Network(item, strict=False)] = None
    return tuple(networks)


def _tags(text: str) -> Mapping[str, str]:
    try:
        tags = json.loads(text)
    except ValueError as error:
        raise ValueError(f"no JSON: {error}") from None
    if not isinstance(tags, dict):
        raise ValueError("no JSON object")
    for key, value in tags.items():
        if not isinstance(value, str):
            raise ValueError(f"the value of {key!r} is no string")
        if not 1 <= len(key) <= _MAX_TAG_KEY or len(value) > _MAX_TAG_VALUE:
            raise ValueError(f"tag {key[:40]!r}: EC2 takes keys of 1-{_MAX_TAG_KEY}, values of 0-{_MAX_TAG_VALUE}")
        if key.lower().startswith("aws:"):
            raise ValueError(f"tag {key!r}: keys that start with aws: belong to AWS")
    if len(tags) > _MAX_TAGS:
        raise ValueError(f"{len(tags)} tags, EC2 takes {_MAX_TAGS}")
    return tags


def _veth_prefix(text: str) -> str:
    # eth, lo and vlan would be taken for ENIs, the loopback and branch devices by our own rules.
    if not _VETH_PREFIX.fullmatch(text) or text in ("eth", "lo", "vlan"):
        raise ValueError
    return text


def _url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError
    _ = parts.port  # raises ValueError when it is no port
    return text.rstrip("/")


def _listen(text: str) -> Listen:
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        if not path.startswith("/"):
            raise ValueError("the path of a Unix socket starts with /")
        return Listen("", 0, path)
    host, colon, port = text.rpartition(":")
    if not colon or not _HOST.fullmatch(host) or not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65535:
        raise ValueError
    return Listen(host.strip("[]"), int(port))


def _text(text: str) -> str:
    if "\n" in text or "\0" in text:
        raise ValueError
    return text


BOOL = Syntax("true or false", _boolean)
CONNMARK = Syntax("an integer from 1 to 4294967295 (decimal, 0x, 0o or 0b)", _connmark, lambda value: f"{value:#x}")
CIDRS = Syntax("a comma-separated list of IPv4 CIDRs", _cidrs)
TAGS = Syntax('a JSON object of strings such as {"team": "net"}', _tags)
VETH_PREFIX = Syntax("1 to 4 characters of A-Z a-z 0-9 _ . - other than eth, lo and vlan", _veth_prefix)
URL = Syntax("a URL such as http://127.0.0.1:8080", _url)
LISTEN = Syntax("host:port or unix:/path", _listen)
LOG_LEVEL = choice("debug", "info", "warn", "error", "fatal", any_case=True)
TEXT = Syntax("one line of text", _text)
