# SPDX-License-Identifier: Apache-2.0
"""podman with its CNI backend: a second runtime, of other people, that reads the node daemon's conflist as it is."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from boxes import Box
from chain import conflist_of
from containerd import wait_until
from images import NAME
from node_machine import NodeMachine

pytestmark = [pytest.mark.runtimes, pytest.mark.timeout(240)]

NETWORK = "aws-cni"
COOLDOWN_S = 1
SERVE = "httpd -p 80 -h /www; exec sleep 100000"
CONTAINERS_CONF = """\
[network]
network_backend = "cni"
cni_plugin_dirs = ["/opt/cni/bin"]
network_config_dir = "{conf_dir}"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "none"
runtime = "runc"
[containers]
default_sysctls = []
"""


class Podman:
    """podman on a node, with storage of its own."""

    def __init__(self, machine: NodeMachine, conf_dir: str) -> None:
        self._machine = machine
        work = machine.work
        self._conf = work / f"containers-{Path(conf_dir).name}.conf"
        self._conf.write_text(CONTAINERS_CONF.format(conf_dir=conf_dir))
        folders = ("--root", f"{work}/podman", "--runroot", f"{work}/podman-run", "--tmpdir", f"{work}/podman-tmp")
        self._argv = ("podman", *folders, "--storage-driver", "vfs")

    def __call__(self, *argv: str) -> str:
        """What `podman ...` prints; a failure fails the test."""
        return self._machine.output(*self._argv, *argv, env={"CONTAINERS_CONF": str(self._conf)}).strip()

    def refuses(self, *argv: str) -> str:
        """What `podman ...` complains of."""
        done = self._machine.run(*self._argv, *argv, env={"CONTAINERS_CONF": str(self._conf)})
        assert done.returncode != 0, done.stdout.decode()
        return done.stderr.decode()

    def run(self, name: str, *options: str) -> str:
        """Start a container that serves a page, and return its address."""
        fixed = ("--detach", "--name", name, "--hostname", name, "--network", NETWORK)
        self("run", *fixed, "--cgroup-parent", self._machine.cgroup, *options, NAME, "sh", "-c", SERVE)
        return self.address(name)

    def address(self, name: str) -> str:
        """The address that podman believes a container to have."""
        networks: dict[str, Any] = json.loads(self("inspect", name, "--format", "{{json .NetworkSettings.Networks}}"))
        return str(networks[NETWORK]["IPAddress"])


@pytest.fixture(scope="module")
def machine(box: Box) -> NodeMachine:
    box.up(2, "t3.small", IP_COOLDOWN_PERIOD=str(COOLDOWN_S))
    return box.machine("1")


@pytest.fixture
def podman(machine: NodeMachine, box: Box) -> Iterator[Podman]:
    yield from loaded(machine, box, "/etc/cni/net.d")


def loaded(machine: NodeMachine, box: Box, conf_dir: str) -> Iterator[Podman]:
    made = Podman(machine, conf_dir)
    made("load", "--quiet", "--input", str(box.image))
    try:
        yield made
    finally:
        made("rm", "--all", "--force", "--time", "0")
        wait_until(lambda: box.in_use("1") == set(), 10, "the node has no pods")
        time.sleep(COOLDOWN_S + 0.2)


def test_containers_of_podman_get_vpc_addresses_and_reach_each_other(podman: Podman, box: Box) -> None:
    addresses = {name: podman.run(name) for name in ("a", "b")}
    assert box.in_use("1") == set(addresses.values())
    held = set().union(*box.addresses_by_device("1").values())
    assert set(addresses.values()) <= held
    fetch = f"printf 'GET /cgi-bin/who HTTP/1.0\\r\\n\\r\\n' | nc -w 2 {addresses['b']} 80"
    assert f"b saw [::ffff:{addresses['a']}]" in podman("exec", "a", "sh", "-c", fetch)
    away = box.state.node_namespace("2")
    node = box.node("2")["private_address"]
    assert box.page_from(away, addresses["a"], 80) == f"a saw {node}"
    podman("rm", "--force", "--time", "0", "a")
    assert box.in_use("1") == {addresses["b"]}
    assert box.page_from(away, addresses["a"], 80) == ""
    assert box.traces("1", addresses["a"]) == []


def test_a_restarted_container_keeps_its_id_and_gets_an_address_again(podman: Podman, box: Box) -> None:
    before = podman.run("again")
    identity = podman("inspect", "again", "--format", "{{.Id}}")
    podman("restart", "--time", "0", "again")
    assert podman("inspect", "again", "--format", "{{.Id}}") == identity
    after = podman.address("again")
    assert after != before, "the first address is cooling"
    assert box.in_use("1") == {after}
    assert box.page_from(box.state.node_namespace("2"), after, 80).startswith("again saw ")
    assert box.page_from(box.state.node_namespace("2"), before, 80) == ""


def test_a_published_port_is_the_node_s_and_goes_with_the_container(podman: Podman, box: Box) -> None:
    node, away = box.node("1")["private_address"], box.state.node_namespace("2")
    assert box.page_from(away, node, 18080) == ""
    podman.run("web", "--publish", "18080:80")
    assert box.page_from(away, node, 18080).startswith("web saw ")
    podman("rm", "--force", "--time", "0", "web")
    assert box.page_from(away, node, 18080) == ""


def test_a_container_that_leaves_the_network_has_no_interface_and_returns_with_one_address(
    podman: Podman, box: Box
) -> None:
    before = podman.run("nomad")
    podman("network", "disconnect", NETWORK, "nomad")
    assert box.in_use("1") == set()
    # The link of a namespace that lives on goes about a second after the DEL, together with others.
    wait_until(lambda: before not in podman("exec", "nomad", "ip", "-o", "-4", "addr"), 5, "the address is gone")
    podman("network", "connect", NETWORK, "nomad")
    after = podman.address("nomad")
    assert after != before
    held = [line.split()[3] for line in podman("exec", "nomad", "ip", "-o", "-4", "addr").splitlines() if "eth" in line]
    assert held == [f"{after}/32"]


def test_podman_says_why_a_full_node_refuses(podman: Podman, box: Box) -> None:
    for number in range(9):
        wait_until(lambda: box.free("1") > 0, 10, "the pool has grown")
        podman.run(f"p{number}")
    refusal = podman.refuses("run", "--name", "p9", "--network", NETWORK, "--cgroup-parent", "/none", NAME, "true")
    assert 'plugin type="aws-cni" name="aws-cni" failed (add): ' in refusal, refusal
    assert "cannot assign an address to " in refusal and "[eni-limit]" in refusal and "Next: " in refusal, refusal
    assert len(box.in_use("1")) == 9


def test_podman_refuses_the_result_of_0_4_0_and_nothing_stays(machine: NodeMachine, box: Box) -> None:
    """Up to 0.4.0 our result is that of the Amazon VPC CNI, which hides the route table in `mac`; podman wants a MAC.
    The conflist says 1.0.0, so this is the negative of all tests above."""
    folder = machine.work / "net-0.4.0"
    folder.mkdir()
    (folder / "10.conflist").write_text(json.dumps(conflist_of(machine, "0.4.0")))
    for podman in loaded(machine, box, str(folder)):
        refusal = podman.refuses("run", "--network", NETWORK, "--cgroup-parent", machine.cgroup, NAME, "true")
        assert "invalid MAC address" in refusal, refusal
    assert box.in_use("1") == set()
    assert [line for line in box.ip("1", "rule").splitlines() if line.startswith(("512:", "1536:"))] == []
