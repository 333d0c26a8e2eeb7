# SPDX-License-Identifier: Apache-2.0
"""Runtime, conflist, relay, parser and renderer together: every CNI command makes the whole way and back."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from ipaddress import ip_address
from pathlib import Path

import pytest
from relay_harness import Daemon, Relay, binaries_fixture, relay_fixture  # noqa: F401 - pytest takes fixtures by name

from vpccni.cni import conflist
from vpccni.cni.install import install_relay
from vpccni.cni.request import (
    AddRequest,
    CheckRequest,
    DelRequest,
    GcRequest,
    Request,
    StatusRequest,
    VersionRequest,
    parse,
)
from vpccni.cni.result import NicResult, render_add, render_error
from vpccni.cni.wire import RelayRequest, encode_reply
from vpccni.errors import NoAddress, VpcCniError
from vpccni.lab.runtime import PluginFailed, Runtime, Sandbox, default_network

POD = Sandbox(
    "abc123",
    "/proc/self/ns/net",
    "eth0",
    {"IgnoreUnknown": "1", "K8S_POD_NAMESPACE": "default", "K8S_POD_NAME": "web-0", "FROM_LATER": "x"},
    {"io.kubernetes.cri.pod-annotations": {"team": "a"}, "portMappings": []},
)
NIC = NicResult(
    "eni0d7763386da", "eth0", (ip_address("10.20.1.5"),), 2, 1, "02:00:00:00:00:01", "02:00:00:00:00:02", 9001
)


class Node:
    """A node whose daemon answers every request in the way that the real one does, without wiring anything."""

    def __init__(self, relay: Relay, folder: Path) -> None:
        self.requests: list[Request] = []
        self.refuse: VpcCniError | None = None
        self.relay, self.folder = relay, folder
        conflist.install(conflist.render(conflist.ConflistOptions(disable_check=False), set()), folder / "net.d")
        install_relay(folder / "bin", compiled=relay.executable)

    def runtime(self, speaks: str = "1.1.0") -> Runtime:
        network = default_network(self.folder / "net.d", speaks=speaks)
        assert network is not None
        return Runtime(network, [str(self.folder / "bin")], self.folder / "cache", self.launch)

    def launch(self, argv: Sequence[str], env: Mapping[str, str], stdin: bytes) -> subprocess.CompletedProcess[bytes]:
        env = {**env, "VPCCNI_SOCKET": str(self.relay.socket_path)}
        return subprocess.run(argv, env=env, input=stdin, capture_output=True, check=False)

    def answer(self, relayed: RelayRequest, fd: int | None) -> bytes:
        request = parse(relayed)
        self.requests.append(request)
        assert not isinstance(request, VersionRequest), "the relay answers VERSION itself"
        version = request.config.cni_version
        if self.refuse:
            return encode_reply(1, render_error(version, self.refuse))
        return encode_reply(0, render_add(version, [NIC], request.netns) if isinstance(request, AddRequest) else b"")


@pytest.fixture
def node(relay: Relay, tmp_path: Path) -> Node:
    return Node(relay, tmp_path)


def test_every_command_makes_the_whole_way(node: Node) -> None:
    runtime = node.runtime()
    assert "1.1.0" in runtime.versions()["aws-cni"]
    with Daemon(node.relay.socket_path, node.answer):
        runtime.status()
        result = runtime.add(POD)
        runtime.check(POD)
        runtime.collect_garbage([("abc123", "eth0")])
        runtime.delete(POD)
        runtime.delete(POD)
    kinds = [StatusRequest, AddRequest, CheckRequest, GcRequest, DelRequest, DelRequest]
    assert [type(request) for request in node.requests] == kinds
    _, add, check, collect, first, second = node.requests
    assert isinstance(add, AddRequest) and (add.pod.namespace, add.pod.name) == ("default", "web-0")
    assert add.config.annotations == {"team": "a"} and add.config.cni_version == "1.1.0"
    assert result["interfaces"][1] == {"name": "eth0", "mac": NIC.pod_mac, "sandbox": POD.netns, "mtu": 9001}
    assert isinstance(check, CheckRequest) and check.config.prev_result and check.config.prev_result.raw == result
    assert isinstance(collect, GcRequest) and len(collect.config.valid_attachments or ()) == 1
    assert isinstance(first, DelRequest) and first.config.prev_result
    assert first.config.prev_result.nics[0].host_name == NIC.host_name
    assert isinstance(second, DelRequest) and second.config.prev_result is None


def test_a_runtime_of_1_0_0_is_answered_in_1_0_0(node: Node) -> None:
    with Daemon(node.relay.socket_path, node.answer):
        result = node.runtime(speaks="1.0.0").add(POD)
    assert result["cniVersion"] == "1.0.0" and "mtu" not in result["interfaces"][0]


def test_a_refusal_reaches_the_runtime_with_code_message_and_next_step(node: Node) -> None:
    node.refuse = NoAddress("assign an address", "the pool is empty", hint="wait for an ENI", code="pool-empty")
    with Daemon(node.relay.socket_path, node.answer), pytest.raises(PluginFailed) as raised:
        node.runtime().attach(POD)
    assert raised.value.cni_error_code == 11
    assert raised.value.libcni_text == (
        'plugin type="aws-cni" failed (add): cannot assign an address: the pool is empty; '
        "[pool-empty] Next: wait for an ENI"
    )


def test_without_the_daemon_pods_wait_and_go(node: Node) -> None:
    runtime = node.runtime()
    runtime.delete(POD)
    assert node.relay.queued() == ["abc123@eth0"]
    for call, code in ((lambda: runtime.add(POD), 11), (runtime.status, 50)):
        with pytest.raises(PluginFailed) as raised:
            call()
        assert raised.value.cni_error_code == code and "start the node daemon" in raised.value.plugin_details
