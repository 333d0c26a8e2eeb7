# SPDX-License-Identifier: Apache-2.0
"""containerd on a node of a lab, and pods as kubelet asks it for them.

Knows containerd's configuration and the order of a pod's life in CRI. Must never call a plugin itself: the conflist and
the plugin are those that the node daemon installed, at the places where it installs them.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import images
from cri import Cri, CriError
from node_machine import NodeMachine, Service

T = TypeVar("T")

UP_WITHIN_S = 15.0
SERVE = f"httpd -p 80 -h /www; exec sleep {images.FOREVER_S}"

CONFIG = """\
version = 2
root = "{work}/root"
state = "{work}/state"
oom_score = 0
disabled_plugins = [
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs", "io.containerd.internal.v1.tracing", "io.containerd.tracing.processor.v1.otlp",
]
[grpc]
address = "{work}/containerd.sock"
[ttrpc]
address = "{work}/containerd.sock.ttrpc"
[plugins."io.containerd.internal.v1.opt"]
path = "{work}/opt"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{image}"
disable_apparmor = true
disable_tcp_service = true
restrict_oom_score_adj = true
netns_mounts_under_state_dir = true
stream_server_address = "127.0.0.1"
stream_server_port = "0"
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/opt/cni/bin"
conf_dir = "/etc/cni/net.d"
max_conf_num = 1
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "overlayfs"
default_runtime_name = "runc"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
Root = "{work}/runc"
"""


@dataclass(frozen=True)
class PodSpec:
    """What kubelet says about a pod. `ports` are CRI port mappings; `attempt` counts its sandboxes."""

    name: str
    annotations: Mapping[str, str] = field(default_factory=dict)
    ports: Sequence[Mapping[str, Any]] = ()
    attempt: int = 0


@dataclass(frozen=True)
class CriPod:
    """A pod sandbox; `container` is empty when it has none."""

    name: str
    sandbox: str
    container: str
    address: str


class Containerd:
    """containerd of one node; `cri` is a kubelet's connection to it."""

    def __init__(self, machine: NodeMachine, image: Path) -> None:
        self.machine, self._image = machine, image
        self.log = machine.work / "containerd.log"
        self._config = machine.work / "containerd.toml"
        self._config.write_text(CONFIG.format(work=machine.work, image=images.NAME))
        self._service: Service | None = None
        self.cri = Cri(self.socket)

    @property
    def socket(self) -> Path:
        """Where it listens."""
        return self.machine.work / "containerd.sock"

    def start(self) -> float:
        """Start it and wait until it answers; the seconds that took. The image is loaded once."""
        began = time.monotonic()
        with self.log.open("ab") as log:
            self._service = self.machine.spawn(log, "containerd", "--config", str(self._config))
        while True:
            try:
                self.cri.call("Version", timeout_s=1)
                break
            except CriError:
                assert self._service.alive(), f"containerd ended: {self.log.read_text()[-2000:]}"
                assert time.monotonic() - began < UP_WITHIN_S, "containerd does not answer"
                time.sleep(0.02)
        took_s = time.monotonic() - began
        if not self.cri.call("ListImages")["images"]:
            self.machine.output("ctr", "-a", str(self.socket), "-n", "k8s.io", "images", "import", str(self._image))
        return took_s

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """End the daemon; its pods live on."""
        assert self._service is not None
        self._service.kill(number)

    # -- pods -------------------------------------------------------------------------------------------------------
    def sandbox_config(self, spec: PodSpec) -> dict[str, Any]:
        """The pod as CRI has it."""
        uid = f"uid-{spec.name}"
        return {
            "metadata": {"name": spec.name, "uid": uid, "namespace": "default", "attempt": spec.attempt},
            "hostname": spec.name,
            "log_directory": str(self.machine.work / "logs" / spec.name),
            "annotations": dict(spec.annotations),
            "port_mappings": list(spec.ports),
            "linux": {"cgroup_parent": self.machine.cgroup},
        }

    def run_sandbox(self, spec: PodSpec | str, timeout_s: float = 60) -> CriPod:
        """A pod sandbox alone."""
        spec = spec if isinstance(spec, PodSpec) else PodSpec(spec)
        answer = self.cri.call("RunPodSandbox", timeout_s, config=self.sandbox_config(spec))
        return CriPod(spec.name, answer["pod_sandbox_id"], "", self.address_of(answer["pod_sandbox_id"]))

    def run_pod(self, spec: PodSpec | str) -> CriPod:
        """A pod with one container, which serves a page at port 80."""
        spec = spec if isinstance(spec, PodSpec) else PodSpec(spec)
        pod = self.run_sandbox(spec)
        container = {
            "metadata": {"name": "main", "attempt": spec.attempt},
            "image": {"image": images.NAME},
            "command": ["/bin/sh", "-c", SERVE],
            "log_path": "main.log",
            "linux": {},
        }
        config = self.sandbox_config(spec)
        answer = self.cri.call("CreateContainer", pod_sandbox_id=pod.sandbox, config=container, sandbox_config=config)
        self.cri.call("StartContainer", container_id=answer["container_id"])
        return CriPod(spec.name, pod.sandbox, answer["container_id"], pod.address)

    def address_of(self, sandbox: str) -> str:
        """The address that kubelet would write into the pod's status."""
        return str(self.cri.call("PodSandboxStatus", pod_sandbox_id=sandbox)["status"]["network"]["ip"])

    def stop_pod(self, pod: CriPod) -> None:
        """StopPodSandbox."""
        self.cri.call("StopPodSandbox", pod_sandbox_id=pod.sandbox)

    def remove_pod(self, pod: CriPod) -> None:
        """RemovePodSandbox."""
        self.cri.call("RemovePodSandbox", pod_sandbox_id=pod.sandbox)

    def sandboxes(self) -> dict[str, str]:
        """Name: state, of every sandbox that it knows."""
        return {one["metadata"]["name"]: one["state"] for one in self.cri.call("ListPodSandbox")["items"]}

    def sweep(self) -> None:
        """Remove every sandbox."""
        for one in self.cri.call("ListPodSandbox")["items"]:
            self.cri.call("StopPodSandbox", pod_sandbox_id=one["id"])
            self.cri.call("RemovePodSandbox", pod_sandbox_id=one["id"])

    def fetch(self, pod: CriPod, address: str, port: int = 80) -> str:
        """ "NAME saw ADDRESS" as a pod's server answers another pod, or the empty string."""
        code, printed = self.cri.execute(
            pod.container, "/bin/sh", "-c", images.FETCH.format(address=address, port=port)
        )
        return seen(printed) if code == 0 else ""


def persist(make: Callable[[], T]) -> T:
    """What kubelet does when a pod finds no address because the pool grows at this moment: it tries again."""
    made: list[T] = []
    wait_until(lambda: tried(lambda: made.append(make())), 10, "the runtime makes the pod")
    return made[0]


def seen(page: str) -> str:
    """The line of a page, an IPv4 address written as such."""
    return page.strip().rpartition("\n")[2].replace("[::ffff:", "").rstrip("]")


def tried(step: Callable[[], object]) -> bool:
    """Whether the runtime did it."""
    try:
        step()
    except CriError:
        return False
    return True


def wait_until(reached: Callable[[], bool], timeout_s: float, what: str) -> None:
    """Wait, and fail with what was waited for."""
    deadline = time.monotonic() + timeout_s
    while not reached():
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
        time.sleep(0.05)
