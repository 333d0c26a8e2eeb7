# SPDX-License-Identifier: Apache-2.0
"""Kernel settings by path, in the namespace of the thread."""

from __future__ import annotations

import pytest

from vpccni.errors import HostError
from vpccni.host import sysctl
from vpccni.host.kernel import NodeKernel
from vpccni.netlink.namespace import inside

pytestmark = pytest.mark.netns


def test_only_settings_that_differ_are_written(spaces):
    node, other = spaces(), spaces("other")
    settings = [("net/ipv4/ip_forward", "1"), ("net/ipv4/conf/lo/rp_filter", "2"), ("net/ipv4/no_such_setting", "1")]
    with inside(other.fd):
        before = sysctl.read("net/ipv4/conf/lo/rp_filter")
    with inside(node.fd):
        sysctl.write("net/ipv4/ip_forward", "0")
        assert sysctl.apply(settings) == settings[:2]
        assert sysctl.apply(settings) == []
    with inside(other.fd):
        assert sysctl.read("net/ipv4/conf/lo/rp_filter") == before != "2"


def test_what_differs_is_found_in_one_look_and_what_is_not_there_does_not_differ(spaces):
    node = spaces()
    node.dummy("eth.7")
    conf = "net/ipv6/conf"
    right = [(f"{conf}/eth.7/accept_ra", "0"), (f"{conf}/all/forwarding", "1"), ("net/ipv4/ip_forward", "1")]
    absent = [(f"{conf}/eth8/accept_ra", "0"), (f"{conf}/eth.7/no_such", "1"), ("net/ipv4/no_such", "1")]
    with NodeKernel(node.fd) as kernel:
        kernel.apply_sysctls([right[1], right[2]])  # forwarding first: it changes every link's
        kernel.apply_sysctls([right[0]])
        assert kernel.differing_sysctls(right + absent) == []
        wrong = [(path, "2" if value == "0" else "0") for path, value in right]
        assert kernel.differing_sysctls(wrong + absent) == wrong


def test_a_device_with_a_dot_in_its_name_has_settings(spaces):
    node = spaces()
    node.dummy("eth.7")
    with inside(node.fd):
        assert sysctl.write("net/ipv4/conf/eth.7/rp_filter", "2")
        assert sysctl.read("net/ipv4/conf/eth.7/rp_filter") == "2"


def test_a_missing_setting_is_none_and_a_refused_value_an_error(spaces):
    node = spaces()
    with inside(node.fd):
        assert sysctl.read("net/ipv4/no_such_setting") is None
        assert sysctl.write("net/ipv4/no_such_setting", "1") is False
        with pytest.raises(HostError) as caught:
            sysctl.write("net/ipv4/ip_forward", "perhaps")
    assert caught.value.error_code == "sysctl-refused" and "net.ipv4.ip_forward" in caught.value.message
