# SPDX-License-Identifier: Apache-2.0
"""A node's firewall as a daemon that has just been started brings it in force, in any backend.

Knows the settings and what the daemon is told by EC2. Tests of changes between backends use it: each call is a restart.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from ipaddress import IPv4Network, ip_address, ip_network

from vpccni.host.firewall import Firewall
from vpccni.ipamd.nodefirewall import NodeFirewall
from vpccni.ipamd.repair import Repairs
from vpccni.settings import parse

BACKENDS = ("iptables-nft", "iptables-legacy", "nftables")
CIDRS = ("192.168.0.0/16", "100.64.0.0/16")


class Changes(logging.Handler):
    """Collects what the firewall says that it changed."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        facts = getattr(record, "facts", {})
        if "transaction" in facts:
            self.made.append(facts["transaction"])


def restart(
    backend: str,
    environ: Mapping[str, str] | None = None,
    cidrs: Sequence[str] = CIDRS,
    *,
    node: str = "192.168.0.10",
    egress_from: str = "",
    firewall: Firewall | None = None,
) -> list[str]:
    """Start with these settings in the calling thread's namespace; the transactions that it took."""
    settings = parse({**(environ or {}), "VPCCNI_FIREWALL": backend})
    networks: list[IPv4Network] = [ip_network(each) for each in cidrs]  # type: ignore[misc]

    async def start() -> None:
        made = NodeFirewall(settings, firewall or Firewall(), Repairs(lambda: 1000.0, lambda kind: None))
        made.egress_from = ip_address(egress_from) if egress_from else None
        await made.translate("eth0", networks, ip_address(node))
        await made.let_out()
        assert {each.state for each in await made.states()} <= {"ok"}

    log, handler = logging.getLogger("vpccni.ipamd.nodefirewall"), Changes()
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        asyncio.run(start())
    finally:
        log.setLevel(level)
        log.removeHandler(handler)
    return handler.made
