# SPDX-License-Identifier: Apache-2.0
"""Connection marks of former settings: flows that carry one go on when the setting has changed.

Knows that a flow gets its mark once, with its first packet, and that only what carries the present one finds its way to
the primary ENI: a daemon with another AWS_VPC_K8S_CNI_CONNMARK would cut off whatever runs. Must never decide which
marks the kernel's rules speak of (`core.nodenet` does). `bringup` calls it around the first change of the firewall.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from functools import partial
from typing import cast

from vpccni.core.nodenet import former_marks
from vpccni.host.kernel import NodeKernel
from vpccni.ipamd.worker import Job, Worker
from vpccni.netlink.conntrack import remark
from vpccni.netlink.errors import NetlinkError
from vpccni.netlink.values import Value
from vpccni.settings import Settings

log = logging.getLogger(__name__)


class FormerMarks:
    """Those that flows may still carry. Their rules stay as long as they are in `values`."""

    def __init__(self, settings: Settings, worker: Worker, kernel: NodeKernel) -> None:
        self._settings, self._worker, self._kernel = settings, worker, kernel
        self.values: tuple[int, ...] = ()

    async def see(self) -> None:
        """Look which marks the rules of an earlier start speak of."""
        seen = await self._worker.submit(Job(lambda: self._kernel.observe(self._settings.versions)))
        self.values = former_marks(cast(Iterable[Value], seen), self._settings.connmark)

    async def carry(self, *, over: bool) -> bool:
        """Give those flows the present mark as well or, once the firewall knows no other, instead (`over`).

        Twice, because some begin in between. True when no flow needs the former rules any more; in a kernel that cannot
        they stay until the next start, so that no flow is cut off.
        """
        mark = self._settings.connmark
        try:
            for former in self.values:
                bits = mark | former if over else mark
                count = await self._worker.submit(Job(partial(remark, former, mark, bits)))
                log.info("flows", extra={"facts": {"connmark": f"{former:#x} -> {mark:#x}", "flows": count}})
        except NetlinkError as error:
            log.warning("%s", error, extra={"facts": error.evidence})
            return False
        done = over and bool(self.values)
        if over:
            self.values = ()
        return done
