# SPDX-License-Identifier: Apache-2.0
"""Namespaces are made as `ip netns` makes them, and entering one always ends where it began."""

from __future__ import annotations

import os
import subprocess
import threading
from pathlib import Path

import pytest

from vpccni.errors import HostError
from vpccni.netlink import namespace
from vpccni.netlink.namespace import identity, inside, open_namespace, run_inside
from vpccni.netlink.socket import RouteSocket

pytestmark = pytest.mark.netns


def test_a_created_namespace_is_one_that_ip_netns_knows(sandbox):
    box = sandbox()
    listed = subprocess.run(["ip", "netns", "list"], text=True, capture_output=True, check=True).stdout.split()
    assert box.name in listed
    assert box.name in namespace.names()
    (lo,) = box.json("link", "show")
    assert (lo["ifname"], "UP" in lo["flags"]) == ("lo", False)
    assert identity(box.fd) != identity()


def test_a_namespace_made_by_ip_netns_opens_and_is_removed_by_us():
    name = f"vt-{os.getpid()}-ip"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        fd = open_namespace(name)
        again = open_namespace(f"/run/netns/{name}")
        assert identity(fd) == identity(again) != identity()
        third = open_namespace(fd)
        assert third != fd
        assert identity(third) == identity(fd)
        for one in (fd, again, third):
            os.close(one)
    finally:
        namespace.remove(name)
    assert name not in namespace.names()
    namespace.remove(name)


def test_creating_a_taken_name_is_refused_and_leaves_it_alone(sandbox):
    box = sandbox()
    with pytest.raises(HostError, match="taken") as caught:
        namespace.create(box.name)
    assert caught.value.error_code == "namespace-exists"
    fd = open_namespace(box.name)
    assert identity(box.fd) == identity(fd)
    os.close(fd)
    with pytest.raises(HostError, match="file name"):
        namespace.create("a/b")


def test_what_is_no_namespace_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(HostError) as caught:
        open_namespace(tmp_path / "file")
    assert caught.value.error_code == "not-a-namespace"
    with pytest.raises(HostError) as caught:
        open_namespace("/proc/self/ns/mnt")
    assert caught.value.error_code == "not-a-namespace"
    with pytest.raises(HostError) as caught:
        open_namespace(tmp_path / "absent")
    assert caught.value.error_code == "namespace-missing"


def test_inside_returns_also_after_an_exception(sandbox):
    box, home = sandbox(), identity()
    with pytest.raises(KeyError), inside(box.fd):
        assert identity() == identity(box.fd)
        raise KeyError("in the middle")
    assert identity() == home
    with pytest.raises(ZeroDivisionError):
        run_inside(box.fd, lambda: 1 // 0)
    assert identity() == home


def test_another_thread_stays_at_home_while_one_is_inside(sandbox):
    box, home = sandbox(), identity()
    entered, leave, seen = threading.Event(), threading.Event(), []

    def visit():
        with inside(box.fd):
            seen.append(identity())
            entered.set()
            leave.wait(5)
        seen.append(identity())

    visitor = threading.Thread(target=visit)
    visitor.start()
    entered.wait(5)
    assert identity() == home
    leave.set()
    visitor.join()
    assert seen == [identity(box.fd), home]


def test_inside_nests_and_none_stays(sandbox):
    outer, inner, home = sandbox(), sandbox(), identity()
    with inside(outer.fd):
        with inside(inner.fd), inside(None):
            assert identity() == identity(inner.fd)
        assert identity() == identity(outer.fd)
    assert identity() == home
    assert run_inside(outer.fd, identity) == identity(outer.fd)


def test_a_given_home_is_where_inside_returns_to(sandbox):
    box, home = sandbox(), identity()
    home_fd = namespace.own_namespace()
    with inside(box.fd, home_fd):
        assert identity() == identity(box.fd)
    assert identity() == home == identity(home_fd)
    with RouteSocket(box.fd, home_fd=home_fd) as route:
        assert [link.name for link in route.links()] == ["lo"]
    os.close(home_fd)


def test_entering_what_is_no_namespace_fails_without_moving(tmp_path):
    home, before = identity(), _descriptors()
    with (tmp_path / "file").open("w") as file, pytest.raises(HostError) as caught, inside(file.fileno()):
        raise AssertionError("unreachable")
    assert caught.value.error_code == "namespace-enter"
    assert identity() == home
    assert _descriptors() == before


def test_nothing_leaks_descriptors(sandbox):
    box = sandbox()
    before = _descriptors()
    for _ in range(20):
        run_inside(box.fd, identity)
        RouteSocket(box.fd).close()
        name = f"{box.name}-x"
        os.close(namespace.create(name))
        namespace.remove(name)
    assert _descriptors() == before


def _descriptors():
    return len(list(Path("/proc/self/fd").iterdir()))
