# SPDX-License-Identifier: Apache-2.0
"""Whether the node can take pods, and the conflist that says so to the runtime.

Knows the phases of the daemon's life. Must never decide when a phase ends. The conflist exists exactly while an ADD can
be served: written when the daemon serves and addresses are usable, removed before it stops.
"""

from __future__ import annotations

import logging
from pathlib import Path

from vpccni.cni import conflist
from vpccni.cni.conflist import ConflistOptions
from vpccni.cni.install import install_relay
from vpccni.errors import DaemonNotReady
from vpccni.settings import Settings

log = logging.getLogger(__name__)


class Readiness:
    """Starts as `starting`; `ready` and `stopping` follow, in this order."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._phase, self._why, self._next = "starting", "the daemon has just started", ""

    @property
    def ready(self) -> bool:
        """Whether ADDs are served."""
        return self._phase == "ready"

    def not_ready(self) -> DaemonNotReady | None:
        """The refusal for an ADD, or None."""
        if self.ready:
            return None
        return DaemonNotReady(
            "serve the request",
            f"the node daemon is {self._phase}: {self._why}",
            hint=self._next or "the runtime retries; if it stays like this see /var/log/aws-routed-eni/ipamd.log",
            code=f"daemon-{self._phase}",
        )

    def waiting_for(self, why: str, next_step: str = "") -> None:
        """What keeps the daemon from being ready, and what helps."""
        if not self.ready:
            self._why, self._next = why, next_step

    def become_ready(self) -> None:
        """Install plugin and conflist. Raises HostError, and stays not ready then."""
        settings, bin_dir = self._settings, Path(self._settings.cni_bin_dir)
        install_relay(bin_dir)
        options = ConflistOptions(
            veth_prefix=settings.veth_prefix,
            mtu=settings.pod_mtu,
            pod_sg_enforcing_mode=settings.pod_sg_enforcing_mode,
            plugin_log_file=settings.plugin_log_file,
            plugin_log_level=settings.plugin_log_level,
            bandwidth=settings.enable_bandwidth_plugin,
            disable_pod_v6=settings.disable_pod_v6,
            disable_check=False,
        )
        self._phase = "ready"  # before the file: a runtime may call the moment it sees it
        try:
            content = conflist.render(options, conflist.installed_plugins(bin_dir))
            path = conflist.install(content, Path(settings.cni_conf_dir))
        except BaseException:
            self._phase = "starting"
            raise
        log.info("ready", extra={"facts": {"conflist": str(path)}})

    def withdraw(self, why: str) -> None:
        """The daemon stops: the conflist goes first, so that the runtime starts no pod that would fail."""
        self._phase, self._why, self._next = "stopping", why, ""
        conflist.remove(Path(self._settings.cni_conf_dir))
