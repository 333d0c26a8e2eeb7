# SPDX-License-Identifier: Apache-2.0
"""Test pods: namespaces that are attached through the node's own conflist, as a container runtime would.

Knows how many pods of each kind a run needs and how it comes by them. Must never wire a pod itself, and leaves none
behind: `TestPods` is a context that removes what it made, whatever happens.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from ipaddress import ip_address
from pathlib import Path
from types import TracebackType
from typing import Self

from vpccni.core.conventions import host_link_name
from vpccni.errors import CNI_TRY_AGAIN_LATER, DaemonNotReady, VpcCniError
from vpccni.lab.pods import node_runtime, sandbox_of
from vpccni.lab.router import make_namespace
from vpccni.lab.runtime import Sandbox, default_network
from vpccni.lab.state import PodRecord
from vpccni.netlink import namespace
from vpccni.netlink.namespace import NETNS_DIR
from vpccni.netlink.values import IPAddress
from vpccni.selftest.node import Node

KUBERNETES_NAMESPACE = "vpccni-selftest"
ROOM_WITHIN_S = 45.0  # a pool that grows by an ENI, or whose addresses cool down (30 s) after an earlier run
AGAIN_S = 0.25


@dataclass(frozen=True, slots=True)
class TestPod:
    """A pod of the run: where it is, its addresses, and the device index of the ENI that they live on."""

    __test__ = False  # not a test of pytest's

    name: str
    netns: Path
    sandbox: Sandbox
    addresses: tuple[IPAddress, ...]
    device: int

    def link(self, veth_prefix: str) -> str:
        """Name of its veth on the host."""
        return host_link_name(veth_prefix, KUBERNETES_NAMESPACE, self.name)

    def address(self, version: int) -> IPAddress | None:
        """Its address of one family."""
        return next((each for each in self.addresses if each.version == version), None)


class TestPods:
    """The pods of one run on one node."""

    __test__ = False

    def __init__(self, node: Node) -> None:
        """Nothing is made yet."""
        self._node, self._made = node, list[TestPod]()
        self._run = secrets.token_hex(3)
        self._serial = 0

    def __enter__(self) -> Self:
        self._cache = Path(tempfile.mkdtemp(prefix="vpccni-selftest-"))
        network = default_network(self._node.conf_dir)
        if network is None:
            raise DaemonNotReady(
                f"test node {self._node.name}", "network is not ready: no CNI configuration",
                evidence={"directory": self._node.conf_dir}, hint="wait until the daemon is ready, or start it",
            )  # fmt: skip
        self._runtime = node_runtime(self._node.place, self._node.bin_dir, self._cache, network)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for pod in list(self._made):
            with contextlib.suppress(VpcCniError):  # the namespace goes in any case, and the daemon's GC finds the rest
                self.remove(pod)
        shutil.rmtree(self._cache, ignore_errors=True)

    def add(self, progress: Callable[[str], None] = lambda _: None) -> TestPod:
        """One more pod, waiting for room in the pool when the plugin says: later."""
        deadline = time.monotonic() + ROOM_WITHIN_S
        said = False
        while True:
            try:
                return self._add()
            except VpcCniError as error:
                if error.cni_error_code != CNI_TRY_AGAIN_LATER or time.monotonic() > deadline:
                    raise
                if not said:
                    progress(f"waiting up to {ROOM_WITHIN_S:.0f} s for an address: {error.why}")
                said = True
                time.sleep(AGAIN_S)

    def of_each_kind(
        self, kinds: tuple[bool, bool], each: int, most: int, progress: Callable[[str], None]
    ) -> list[TestPod]:
        """Pods until `each` have an address of the primary ENI and `each` one of a secondary, `most` in all.

        `kinds` says which of the two are to be had at all. A node fills one ENI after the other, so this takes as many
        pods as the primary ENI has room for; those that are not needed are removed at once.
        """
        kept: list[TestPod] = []
        spare: list[TestPod] = []
        while len(kept) < sum(kinds) * each and len(kept) + len(spare) < most:
            try:
                pod = self.add(progress)
            except VpcCniError as error:
                progress(f"no more pods after {len(kept) + len(spare)}: {error}")
                break
            alike = sum((pod.device == 0) == (other.device == 0) for other in kept)
            (kept if alike < each else spare).append(pod)
        for pod in spare:
            self.remove(pod)
        if not kept:
            raise DaemonNotReady(f"test node {self._node.name}", "it gave no pod an address", hint="vpccni why NODE")
        return kept

    def remove(self, pod: TestPod) -> None:
        """DEL through the chain, then the namespace."""
        try:
            self._runtime.delete(pod.sandbox)
        finally:
            namespace.remove(pod.netns.name)
            self._made.remove(pod)

    def _add(self) -> TestPod:
        self._serial += 1
        name = f"flow-{self._run}-{self._serial}"
        netns = f"{self._node.pod_prefix}{self._run}-{self._serial}"
        path = NETNS_DIR / netns
        record = PodRecord(KUBERNETES_NAMESPACE, name, self._node.name, secrets.token_hex(32), str(path))
        sandbox = sandbox_of(record)
        os.close(make_namespace(netns))
        pod = TestPod(name, path, sandbox, (), 0)
        self._made.append(pod)  # from here on `__exit__` takes it away, also when the ADD is interrupted
        try:
            result = self._runtime.attach(sandbox)
        except VpcCniError:
            self._made.remove(pod)  # and has been deleted
            namespace.remove(netns)
            raise
        addresses = tuple(ip_address(entry["address"].split("/")[0]) for entry in result["ips"])
        self._made[-1] = pod = replace(pod, addresses=addresses, device=self._device(name))
        return pod

    def _device(self, name: str) -> int:
        """Which ENI the daemon took the address from."""
        start = f"{name}_{KUBERNETES_NAMESPACE}_"
        entries = (row for key, row in self._node.ask("/v1/pods").items() if key.startswith(start))
        return next((int(row["DeviceNumber"]) for row in entries), 0)
