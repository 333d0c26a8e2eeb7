# SPDX-License-Identifier: Apache-2.0
"""DELs that came while no daemon was there: served once at the start, before they can do harm to newer pods.

Knows the queue's meaning: each entry is a request that was answered with success already. Must never lose one that
failed. `ipamd.program` runs it after the socket listens.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from vpccni.cni import delqueue
from vpccni.cni.delqueue import QueuedDel
from vpccni.cni.request import DelRequest, parse
from vpccni.core.grant import PodKey
from vpccni.core.pool import Pool
from vpccni.errors import VpcCniError
from vpccni.ipamd.api import Api

log = logging.getLogger(__name__)

RETRY_S = 5.0


async def drain(api: Api, pool: Pool, folder: Path) -> None:
    """Serve every queued DEL; entries that fail stay and are tried again until all are done."""
    while True:
        queue = await asyncio.to_thread(delqueue.read_queue, folder)
        for broken in queue.corrupt:
            log.error("%s", broken, extra={"facts": broken.evidence})
        failed = 0
        for entry in queue.entries:
            try:
                if not _superseded(pool, entry):
                    exit_code, stdout = await api.handle(entry.request, None)
                    if exit_code:
                        log.warning("a queued DEL failed", extra={"facts": {"file": entry.path, "answer": stdout}})
                        failed += 1
                        continue
                await asyncio.to_thread(delqueue.drop, entry)
            except VpcCniError as error:
                log.warning("%s", error)
                failed += 1
        if queue.entries:
            log.info("queued DELs", extra={"facts": {"served": len(queue.entries) - failed, "failed": failed}})
        if not failed:
            return
        await asyncio.sleep(RETRY_S)


def _superseded(pool: Pool, entry: QueuedDel) -> bool:
    """Whether the same attachment was added again after the entry was written (podman reuses container ids)."""
    try:
        request = parse(entry.request)
    except VpcCniError:
        return False
    if not isinstance(request, DelRequest):
        return True
    grant = pool.grant(PodKey(request.config.name, request.container_id, request.ifname))
    return grant is not None and grant.assigned_at > entry.queued_at
