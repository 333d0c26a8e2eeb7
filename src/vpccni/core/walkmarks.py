# SPDX-License-Identifier: Apache-2.0
"""What our own nftables table does to a packet, read from `nft list table`.

Knows the two things that `nftmarks` writes into it: the mark of flows that kube-proxy rewrote, and that the node's own
flows keep their source. Must never read other tables, whose rules may say anything. `walk` calls it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from ipaddress import ip_network

from vpccni.core.conventions import NFT_OWN_TABLE
from vpccni.core.nftmarks import KUBE_PROXY_MASQUERADE
from vpccni.core.walkfilter import Meeting
from vpccni.netlink.values import IPAddress, IPNetwork

MARKED = f"nft table ip {NFT_OWN_TABLE}: ct status dnat, ip daddr != @exempt: ct mark set ct mark | "
KEPT = f"nft table ip {NFT_OWN_TABLE}: fib saddr type local, ip daddr != @exempt: snat to ip saddr"
_ELEMENTS = re.compile(r"elements = \{([^}]*)\}")
_MARK = re.compile(r"ct mark set ct mark \| (0x[0-9a-f]+)")


@dataclass(frozen=True, slots=True)
class OwnMarks:
    """The table's content: the mark, and the networks whose flows it leaves alone."""

    mark: int
    exempt: tuple[IPNetwork, ...]
    keeps_sources: bool = True

    def outside(self, address: IPAddress) -> bool:
        """Whether an address is none of the exempt ones."""
        return address.version == 4 and not any(address in network for network in self.exempt)

    def prerouting(self, meeting: Meeting) -> Meeting:
        """A packet of a pod, after nat PREROUTING and before the route is chosen."""
        target = meeting.header.target
        if meeting.new and meeting.translated and not self.outside(target):
            meeting = replace(meeting, ct_mark=meeting.ct_mark & ~self.mark, mark=meeting.mark & ~self.mark)
        elif meeting.new and meeting.translated and not meeting.local(target, ""):
            meeting = replace(meeting, ct_mark=meeting.ct_mark | self.mark)
        return replace(meeting, mark=meeting.mark | self.mark) if meeting.ct_mark & self.mark == self.mark else meeting

    def keeps_source(self, meeting: Meeting) -> bool:
        """Whether a new flow is the node's own and passes nat POSTROUTING as it is."""
        header = meeting.header
        asked = not meeting.mark & KUBE_PROXY_MASQUERADE
        return self.keeps_sources and meeting.local(header.source, "") and self.outside(header.target) and asked


def parse(text: str) -> OwnMarks | None:
    """The table as nft lists it; None when it is not there or says something else."""
    elements, mark = _ELEMENTS.search(text), _MARK.search(text)
    if elements is None or mark is None:
        return None
    networks = tuple(ip_network(each.strip()) for each in elements[1].split(",") if each.strip())
    return OwnMarks(int(mark[1], 16), networks, "snat to ip saddr" in text)
