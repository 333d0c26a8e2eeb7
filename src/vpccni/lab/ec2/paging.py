# SPDX-License-Identifier: Apache-2.0
"""Pages of a listing: MaxResults and NextToken.

Knows that a page ends after a resource, not at a position: what is created or deleted between two pages neither
doubles nor hides another resource. Must never know what is listed. `describe` uses it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from vpccni.lab.cloud.errors import ApiError, combination

T = TypeVar("T")
LARGEST_PAGE = 1000


def page(
    action: str, parameters: Mapping[str, Any], listed: Sequence[tuple[int, T]], *, ids: str = ""
) -> tuple[list[T], str | None]:
    """One page of (serial, resource) pairs, which are in order of serial, and the token of the next page.

    `ids` names the parameter that lists ids: EC2 does not take it together with MaxResults. Raises
    InvalidParameterCombination, and InvalidNextToken for a token of another query.
    """
    limit, token = parameters.get("MaxResults"), parameters.get("NextToken")
    if limit is not None and ids and parameters.get(ids):
        raise combination(f"The parameter {ids} cannot be used with the parameter MaxResults")
    query = _fingerprint(action, parameters)
    after = _position(token, query) if token else -1
    rest = [pair for pair in listed if pair[0] > after]
    chosen = rest[: LARGEST_PAGE if limit is None else max(1, min(limit, LARGEST_PAGE))]
    more = len(chosen) < len(rest)
    return [resource for _, resource in chosen], _token(chosen[-1][0], query) if more else None


def _fingerprint(action: str, parameters: Mapping[str, Any]) -> str:
    query = {name: value for name, value in parameters.items() if name not in ("MaxResults", "NextToken")}
    return hashlib.sha256(json.dumps([action, query], sort_keys=True).encode()).hexdigest()[:16]


def _token(serial: int, query: str) -> str:
    return base64.urlsafe_b64encode(f"{query}:{serial}".encode()).decode()


def _position(token: str, query: str) -> int:
    try:
        owner, _, serial = base64.urlsafe_b64decode(token.encode()).decode().partition(":")
        if owner == query:
            return int(serial)
    except (ValueError, binascii.Error):
        pass
    raise ApiError("InvalidNextToken", "The token 'NextToken' is invalid for this request")
