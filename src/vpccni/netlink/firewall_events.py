# SPDX-License-Identifier: Apache-2.0
"""What changes in the nftables rule set of a namespace, as it happens; iptables' nf_tables variant shows up here too.

Knows the group and the few attributes that say where a change was made. Must never interpret a rule. The legacy variant
of iptables sends no events. `ipamd.watch` puts the descriptor into its event loop.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from vpccni.netlink.subscription import Subscription
from vpccni.netlink.wire import attributes, messages

_NETLINK_NETFILTER = 12
_NFNLGRP_NFTABLES, _SUBSYSTEM = 7, 10
_NFGENMSG_BYTES = 4

# Message -> (what happened, attribute of the table's name, attribute of the chain's or set's name or 0): tables,
# chains, rules, sets, elements of sets; linux/nf_tables.h.
_Verb = Literal["new", "del", "resync"]
_KINDS: dict[int, tuple[_Verb, int, int]] = {
    0: ("new", 1, 0),
    2: ("del", 1, 0),
    3: ("new", 1, 3),
    5: ("del", 1, 3),
    6: ("new", 1, 2),
    8: ("del", 1, 2),
    9: ("new", 1, 2),
    11: ("del", 1, 2),
    12: ("new", 1, 2),
    14: ("del", 1, 2),
}


@dataclass(frozen=True, slots=True)
class FirewallEvent:
    """A table (`chain` empty), a chain or a rule in it came or went; `resync`: events were lost. The name of a set that
    changed stands for a chain's."""

    verb: _Verb
    table: str = ""
    chain: str = ""


class FirewallMonitor(Subscription):
    """A non-blocking subscription in the namespace `netns_fd` (None: the calling thread's)."""

    __slots__ = ()

    def __init__(self, netns_fd: int | None = None, *, receive_bytes: int = 1 << 20) -> None:
        super().__init__("firewall events", _NETLINK_NETFILTER, [_NFNLGRP_NFTABLES], netns_fd, receive_bytes)

    def events(self) -> Iterator[FirewallEvent]:
        """What has happened up to now, oldest first; ends when nothing is pending."""
        for buffer in self._buffers():
            if buffer is None:
                yield FirewallEvent("resync")
                continue
            for message in messages(buffer):
                known = _KINDS.get(message.type & 0xFF) if message.type >> 8 == _SUBSYSTEM else None
                if known is not None:
                    verb, table, chain = known
                    found = attributes(buffer, message.start + _NFGENMSG_BYTES, message.end)
                    yield FirewallEvent(verb, _name(found.get(table)), _name(found.get(chain)) if chain else "")


def _name(payload: bytes | None) -> str:
    return "" if payload is None else payload.rstrip(b"\0").decode("utf-8", "replace")
