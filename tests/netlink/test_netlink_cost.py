# SPDX-License-Identifier: Apache-2.0
"""What one pod's nine messages cost to encode. Run with `-s` to see the figure; the bound is far above it."""

from __future__ import annotations

import timeit
from ipaddress import ip_address, ip_interface, ip_network

from vpccni.netlink.codec import encode
from vpccni.netlink.values import Address, Link, Neighbour, Route, Rule, add, set_link

POD, GATEWAY = ip_network("10.20.1.5/32"), ip_address("169.254.1.1")
ENDS = {"mtu": 9001, "queues": 1}
PEER = Link("eth0", index=3, mac="02:00:00:00:00:02", netns_fd=9, **ENDS)
NINE = [
    add(Link("eni0d7763386da", index=12, kind="veth", mac="02:00:00:00:00:01", up=True, peer=PEER, **ENDS)),
    set_link(Link("", index=3, up=True)),
    add(Address(ip_interface("10.20.1.5/32"), 3)),
    add(Route(ip_network("169.254.1.1/32"), 3, scope="link")),
    add(Route(ip_network("0.0.0.0/0"), 3, gateway=GATEWAY)),
    add(Neighbour(GATEWAY, 3, mac="02:00:00:00:00:01")),
    add(Route(POD, 12, scope="link", protocol=91)),
    add(Rule(512, 254, dst=POD, protocol=91)),
    add(Rule(1536, 2, src=POD, protocol=91)),
]


def test_the_nine_messages_of_one_pod_encode_in_microseconds():
    def encode_all():
        for seq, request in enumerate(NINE):
            encode(request, seq)

    best_us = min(timeit.repeat(encode_all, number=500, repeat=10)) / 500 * 1e6
    print(f"\nnine ADD messages encode in {best_us:.1f} us")
    assert best_us < 60
