# SPDX-License-Identifier: Apache-2.0
"""Desired against actual state over the introspection API: what `vpccni doctor` asks for, and has repaired.

Knows the documents of `GET /v1/desired` and `POST /v1/repair`. Must never compare nor repair itself: `ipamd.nodeside`
does. The daemon repairs without being asked; the second call does so in a pause of a fight, too.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from aiohttp import web

from vpccni.core.difference import ObjectState
from vpccni.errors import VpcCniError
from vpccni.ipamd.nodeside import NodeSide

Json = dict[str, object]


class Inspection:
    """`side` is None until the daemon knows its node."""

    def __init__(self, side: Callable[[], NodeSide | None]) -> None:
        self._side = side

    def add_to(self, app: web.Application) -> None:
        """Serve the two paths."""
        app.router.add_get("/v1/desired", self._desired)
        app.router.add_post("/v1/repair", self._repair)

    async def _desired(self, _request: web.Request) -> web.Response:
        side = self._side()
        if side is None:
            return _refused("the daemon has not found out about its node yet")
        try:
            return _answer(_document(side, await side.states()))
        except VpcCniError as error:
            return _refused(str(error))

    async def _repair(self, _request: web.Request) -> web.Response:
        side = self._side()
        if side is None:
            return _refused("the daemon has not found out about its node yet")
        try:
            before = await side.states()
            await side.converge(in_pauses=True)
            await side.firewall.restore(in_pauses=True)
            after = await side.states()
        except VpcCniError as error:
            return _refused(str(error))
        left = {each.subject for each in after if each.state != "ok"}
        done = [each.command for each in before if each.state != "ok" and each.subject not in left]
        return _answer({"done": list(dict.fromkeys(done)), **_document(side, after)})


def _document(side: NodeSide, states: list[ObjectState]) -> Json:
    return {
        "objects": states,
        "repairs": dict(side.repairs.by_kind),
        "fights": [
            {"subject": each.subject, "times": each.times, "since": each.since, "left_alone_until": each.held_until}
            for each in side.repairs.fights()
        ],
    }


def _answer(body: Json) -> web.Response:
    return web.Response(body=msgspec.json.encode(body), content_type="application/json")


def _refused(why: str) -> web.Response:
    return web.json_response({"error": why}, status=503)
