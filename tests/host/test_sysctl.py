# SPDX-License-Identifier: Apache-2.0
"""Kernel settings by path, in the namespace of the thread."""

from __future__ import annotations

import pytest

from vpccni.errors import HostError
from vpccni.host import sysctl
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
