# SPDX-License-Identifier: Apache-2.0
"""The metadata service of every instance, at 169.254.169.254 behind the port of each of its interfaces.

Knows that the port a request came in by is the identity of its sender: the kernel tells them apart, no header is
believed. Must never know what the tree looks like or what the hop limit is (`lab.imds`). Run by the lab daemon.
"""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web

from vpccni.lab.cloud.metadata import InstanceMetadata
from vpccni.lab.imds.service import ImdsService
from vpccni.lab.sockets import listener

ADDRESS, PORT = "169.254.169.254", 80


class MetadataEndpoints:
    """One service per instance, one listener per attached interface."""

    def __init__(self, netns_fd: int, view: Callable[[str], InstanceMetadata | None]) -> None:
        """`netns_fd` is the fabric's namespace; `view(instance_id)` what the service shows at this moment."""
        self._netns_fd, self._view = netns_fd, view
        self._runners: dict[str, web.AppRunner] = {}
        self._sites: dict[str, web.SockSite] = {}

    async def open(self, instance_id: str, port_name: str) -> None:
        """Serve an instance's metadata to whoever comes in by that port."""
        if port_name in self._sites:
            return
        runner = self._runners.get(instance_id)
        if runner is None:
            service = ImdsService(lambda: self._view(instance_id))
            runner = self._runners[instance_id] = web.AppRunner(service.app(), access_log=None)
            await runner.setup()
        sock = listener(self._netns_fd, ADDRESS, PORT, device=port_name)
        site = self._sites[port_name] = web.SockSite(runner, sock)
        await site.start()

    async def close(self, port_name: str) -> None:
        """Stop serving a port that is gone."""
        site = self._sites.pop(port_name, None)
        if site is not None:
            await site.stop()
