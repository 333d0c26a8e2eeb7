# SPDX-License-Identifier: Apache-2.0
"""The metadata service of one instance over HTTP, with the sessions of version 2.

Knows IMDSv2 (EC2 user guide, "Use IMDSv2"): tokens by PUT, 401 without one, 403 behind proxies, and the hop limit of
token answers, which is the IP TTL of the packets that carry them. Must never know how metadata comes about: `view` is
asked anew for each request. The lab serves one application per instance on 169.254.169.254 inside its namespace.
"""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Callable

from aiohttp import web

from vpccni.lab.cloud.metadata import InstanceMetadata
from vpccni.lab.imds import tree
from vpccni.lab.imds.tokens import Tokens

TOKEN_PATH = "/latest/api/token"
TOKEN_HEADER = "X-aws-ec2-metadata-token"
TTL_HEADER = "X-aws-ec2-metadata-token-ttl-seconds"
_USUAL_TTL = 64  # hops of all answers other than tokens
_PAGE = """<?xml version="1.0" encoding="iso-8859-1"?>
<!DOCTYPE html PUBLIC "-//W3C//DTD XHTML 1.0 Transitional//EN" "http://www.w3.org/TR/xhtml1/DTD/xhtml1-transitional.dtd">
<html xmlns="http://www.w3.org/1999/xhtml" xml:lang="en" lang="en">
 <head>
  <title>{status} - {reason}</title>
 </head>
 <body>
  <h1>{status} - {reason}</h1>
 </body>
</html>
"""
_REASONS = {
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    503: "Service Unavailable",
}


class ImdsService:
    """Answers for one instance. `view()` is its metadata now, None while the instance does not run.

    `now()` is Unix time in seconds. `hop_limit` overrides that of the metadata when given.
    """

    def __init__(
        self,
        view: Callable[[], InstanceMetadata | None],
        now: Callable[[], float] = time.time,
        *,
        hop_limit: int | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self._view = view
        self._now = now
        self._hop_limit = hop_limit
        self._tokens = Tokens(rng or random.Random())
        self.requests = 0

    def app(self) -> web.Application:
        """The aiohttp application; it has no state of its own."""
        application = web.Application()
        application.router.add_route("*", "/{path:.*}", self._handle)
        return application

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        self.requests += 1
        metadata = self._view()
        if metadata is None:
            return _failure(503)
        if not metadata.http_endpoint_enabled:
            return _failure(403)
        asks_token = request.path == TOKEN_PATH
        limit = self._hop_limit or metadata.http_put_response_hop_limit
        # The packets of the answer leave after this function returns, so the TTL stays as it is set here until the
        # connection's next request. That also covers retransmissions of a token answer.
        _set_hops(request, limit if asks_token else _USUAL_TTL)
        if asks_token:
            return self._token(request)
        if request.method not in ("GET", "HEAD"):
            return _failure(405, {"Allow": "GET, HEAD"})
        if not self._admitted(request, metadata):
            return _failure(401)
        text = tree.find(metadata, request.path, self._now())
        return _failure(404) if text is None else _answer(text, {})

    def _token(self, request: web.Request) -> web.StreamResponse:
        if request.method != "PUT":
            return _failure(405, {"Allow": "OPTIONS, PUT"})
        if "X-Forwarded-For" in request.headers:
            return _failure(403)  # an open proxy or a misled web application, not a program of the instance
        ttl = request.headers.get(TTL_HEADER, "")
        if not (ttl.isascii() and ttl.isdecimal()):
            return _failure(400)
        try:
            token = self._tokens.issue(self._now(), int(ttl))
        except ValueError:
            return _failure(400)
        return _answer(token, {TTL_HEADER: ttl})

    def _admitted(self, request: web.Request, metadata: InstanceMetadata) -> bool:
        """A token that is sent must be good; one must be sent when version 1 is off."""
        token = request.headers.get(TOKEN_HEADER)
        if token is None:
            return not metadata.http_tokens_required
        return self._tokens.valid(self._now(), token)


def _set_hops(request: web.Request, hops: int) -> None:
    connection: socket.socket | None = request.transport.get_extra_info("socket") if request.transport else None
    if connection is not None and connection.family == socket.AF_INET:
        connection.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, hops)


def _answer(text: str, headers: dict[str, str]) -> web.Response:
    return web.Response(text=text, content_type="text/plain", headers={"Server": "EC2ws", **headers})


def _failure(status: int, headers: dict[str, str] | None = None) -> web.Response:
    page = _PAGE.format(status=status, reason=_REASONS[status])
    return web.Response(
        status=status, text=page, content_type="text/html", headers={"Server": "EC2ws", **(headers or {})}
    )
