# SPDX-License-Identifier: Apache-2.0
"""Values print as `ip` does, are canonical, and impossible requests are refused before they reach the kernel."""

from __future__ import annotations

import subprocess
import sys
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path

import pytest

import vpccni
from vpccni.netlink.values import (
    Address,
    Link,
    Neighbour,
    Route,
    Rule,
    add,
    delete,
    delete_group,
    replace,
    set_link,
)

_SOURCE = str(Path(vpccni.__file__).parents[1])
POD = ip_network("10.20.1.5/32")
ANY4, ANY6 = ip_network("0.0.0.0/0"), ip_network("::/0")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Route(POD, 7, "eni0d7", scope="link", protocol=91), "10.20.1.5 dev eni0d7 proto 91 scope link"),
        (Route(POD, 7), "10.20.1.5 dev if7"),
        (Route(ANY4, 2, "eth0", gateway=ip_address("10.20.1.1"), table=2), "default via 10.20.1.1 dev eth0 table 2"),
        (Route(ip_network("10.9.0.0/16"), 0, kind="blackhole"), "blackhole 10.9.0.0/16"),
        (
            Route(POD, 2, "eth0", table=255, kind="local", scope="host", protocol=2, prefsrc=ip_address("10.20.1.5")),
            "local 10.20.1.5 dev eth0 table local proto kernel scope host src 10.20.1.5",
        ),
        (Route(ANY6, 2, "eth0", gateway=ip_address("fe80::1")), "default via fe80::1 dev eth0 metric 1024"),
        (Rule(512, 254, dst=POD, protocol=91), "512: from all to 10.20.1.5 lookup main proto 91"),
        (Rule(1024, 254, fwmark=0x80, fwmask=0x80), "1024: from all fwmark 0x80/0x80 lookup main"),
        (Rule(1536, 10101, src=POD), "1536: from 10.20.1.5 lookup 10101"),
        (Rule(10, 101, iif="vlan.eth.1"), "10: from all iif vlan.eth.1 lookup 101"),
        (Rule(5, 254, suppress_prefixlength=31), "5: from all lookup main suppress_prefixlength 31"),
        (Address(ip_interface("10.20.1.5/32"), 2, "eth0"), "inet 10.20.1.5/32 scope global eth0"),
        (Address(ip_interface("fe80::1/64"), 2, "eth0", nodad=True), "inet6 fe80::1/64 scope link nodad eth0"),
        (
            Neighbour(ip_address("169.254.1.1"), 3, "eth0", mac="02:00:00:00:00:01"),
            "169.254.1.1 dev eth0 lladdr 02:00:00:00:00:01 PERMANENT",
        ),
        (Neighbour(ip_address("10.0.0.1"), 3, "eth0", proxy=True), "10.0.0.1 dev eth0 proxy"),
        (
            Link("eni0", 7, "veth", "02:00:00:00:00:01", 9001, up=True, link_index=2, link_netnsid=0, lower_up=True),
            "7: eni0@if2: <UP,LOWER_UP> mtu 9001 link/ether 02:00:00:00:00:01 link-netnsid 0 veth",
        ),
    ],
)
def test_a_value_prints_as_ip_prints_it(value, text):
    assert str(value) == text


@pytest.mark.parametrize(
    ("request_", "text"),
    [
        (add(Rule(512, 254, dst=POD)), "ip rule add pref 512 to 10.20.1.5 table main"),
        (
            delete(Route(POD, 7, "eni0", scope="link")),
            "ip route del 10.20.1.5 dev eni0 table main proto boot scope link",
        ),
        (set_link(Link("eth0", up=True, mtu=9001)), "ip link set eth0 up mtu 9001"),
        (set_link(Link("eth0"), "up", "alias"), "ip link set eth0 down alias ''"),
        (delete_group(91), "ip link del group 91"),
        (delete(Link("eni0", index=3)), "ip link del eni0"),
        (replace(Neighbour(ip_address("fe80::1"), 3, proxy=True)), "ip neigh replace proxy fe80::1 dev if3"),
    ],
)
def test_a_request_prints_as_the_ip_command_that_it_equals(request_, text):
    assert str(request_) == text


def test_device_names_take_no_part_in_comparison_but_indexes_do():
    assert Route(POD, 7, "eni0") == Route(POD, 7)
    assert Route(POD, 7, "eni0") != Route(POD, 8, "eni0")


def test_what_the_kernel_would_add_is_in_the_value_already():
    assert Rule(1, 2, fwmark=0x80).fwmask == 0xFFFFFFFF
    assert Rule(1, 2, src=ip_network("fd00::/8")).family == 6
    assert Rule(1, 2, dst=ANY6) == Rule(1, 2, family=6)
    assert Route(ANY6, 2, scope="link") == Route(ANY6, 2, metric=1024)
    assert Route(ip_network("fd00::1/128"), 1, kind="local").metric == 0
    assert Address(ip_interface("fe80::1/64"), 1).scope == "link"


@pytest.mark.parametrize(
    "make",
    [
        lambda: replace(Rule(1, 2)),
        lambda: add(Rule(1)),
        lambda: add(Rule(1, 2, unmodelled=("not",))),
        lambda: add(Route(POD, 1, kind="blackhol")),
        lambda: replace(Link("eth0")),
        lambda: add(Link("eth0", alias="x")),
        lambda: add(Link("eth0", addr_gen_none=True)),
        lambda: delete(Link("")),
        lambda: set_link(Link("eth0"), "kind"),
        lambda: set_link(Link("eth0"), "name"),
        lambda: Rule(1, 2, src=ANY4, dst=ANY6),
    ],
)
def test_a_request_that_the_kernel_would_misread_is_refused(make):
    with pytest.raises(ValueError, match=r"rule|request"):
        make()


def test_importing_the_values_brings_no_socket_into_the_process():
    """`core` imports the values, and it must stay free of effects."""
    program = (
        "import sys, vpccni.netlink.values as v; str(v.delete_group(1)); "
        "print(*sorted({'socket', '_socket', 'ctypes', 'fcntl', 'vpccni.netlink.socket'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", program], env={"PYTHONPATH": _SOURCE}, text=True, capture_output=True, check=False
    )
    assert (done.stdout.strip(), done.stderr) == ("", "")
