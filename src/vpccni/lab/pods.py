# SPDX-License-Identifier: Apache-2.0
"""Pods as a kubelet and its container runtime make them: a namespace, the node's conflist, a server inside.

Knows the order of a pod's life and its record. Must never wire anything itself: what connects a pod is the plugin that
the conflist names, executed on the node. The CLI, the demo and the tests call it; several threads may.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import secrets
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from vpccni.cni.netconf import POD_ANNOTATIONS
from vpccni.errors import CNI_TRY_AGAIN_LATER, HostError, InputError, VpcCniError
from vpccni.lab import control, launch, nodes
from vpccni.lab.router import make_namespace
from vpccni.lab.runtime import NetworkList, Runtime, Sandbox, default_network, parse_conflist
from vpccni.lab.state import LabState, PodRecord, check_label
from vpccni.netlink import namespace
from vpccni.netlink.namespace import NETNS_DIR
from vpccni.paths import CNI_BIN_DIR

IFNAME = "eth0"
PLUGIN_WITHIN_S = 120.0
RETRY_EVERY_S = 0.25
PARALLEL = 16
NO_ANNOTATIONS: Mapping[str, str] = {}


class Pods:
    """The pods of a lab."""

    def __init__(self, state: LabState) -> None:
        """`state` is that of a lab that is up."""
        self._state = state
        self._nodes = nodes.node_names(state)

    def all(self) -> list[PodRecord]:
        """Every pod, ordered by namespace and name."""
        return list(self._state.pods())

    def find(self, name: str, namespace_name: str = "default") -> PodRecord:
        """The pod called `name` or `namespace/name`; raises InputError with those that there are."""
        if "/" in name:
            namespace_name, name = name.split("/", 1)
        for pod in self._state.pods():
            if (pod.namespace, pod.name) == (namespace_name, name):
                return pod
        known = ", ".join(pod.label for pod in self._state.pods()) or "none"
        raise InputError(f"use pod {name!r}", f"there is none in namespace {namespace_name}; pods: {known}")

    # -- add --------------------------------------------------------------------------------------------------------
    def add_many(
        self,
        names: Sequence[str],
        namespace_name: str = "default",
        node: str | None = None,
        retry_s: float = 0.0,
        annotations: Mapping[str, str] = NO_ANNOTATIONS,
    ) -> list[PodRecord | VpcCniError]:
        """Add pods, up to 16 at once; one outcome per name, in order."""
        chosen = [node] * len(names) if node else self._spread(len(names))
        with ThreadPoolExecutor(min(PARALLEL, max(len(names), 1))) as pool:
            return list(
                pool.map(
                    lambda pair: self._outcome(pair[0], namespace_name, pair[1], retry_s, annotations),
                    zip(names, chosen, strict=True),
                )
            )

    def add(
        self,
        name: str,
        namespace_name: str = "default",
        node: str | None = None,
        retry_s: float = 0.0,
        annotations: Mapping[str, str] = NO_ANNOTATIONS,
    ) -> PodRecord:
        """Make a pod on a node (default: the one with the fewest pods) and return it with its addresses.

        While the plugin says "try again later" a new sandbox is tried for `retry_s`, as a kubelet does. On failure
        nothing is left and the plugin's own error is raised.
        """
        check_label("pod", name)
        check_label("Kubernetes namespace", namespace_name)
        where = nodes.require_node(self._state, node) if node else self._spread(1)[0]
        if self._state.pod_file(namespace_name, name).exists():
            raise InputError(f"add pod {name!r}", "there is one of that name", hint=f"vpccni lab pod rm {name}")
        deadline = time.monotonic() + retry_s
        while True:
            try:
                return self._add_once(name, namespace_name, where, annotations)
            except VpcCniError as error:
                if error.cni_error_code != CNI_TRY_AGAIN_LATER or time.monotonic() + RETRY_EVERY_S > deadline:
                    raise
                time.sleep(RETRY_EVERY_S)

    def _add_once(self, name: str, namespace_name: str, node: str, annotations: Mapping[str, str]) -> PodRecord:
        netns = self._state.pod_namespace(namespace_name, name)
        os.close(make_namespace(netns))
        pod = PodRecord(namespace_name, name, node, secrets.token_hex(32), str(NETNS_DIR / netns))
        try:
            self._state.save_pod(pod)
            result = self._runtime(node, self._network(node)).attach(sandbox_of(pod, annotations))
            pod = replace(pod, addresses=_addresses(result), result=result)
            self._state.save_pod(pod)
            facts = {"kind": "pod", "node": node}
            control.ask(self._state, "PUT", "/servers", {"label": pod.label, "netns": pod.netns, "facts": facts})
        except BaseException:
            self._state.pod_file(namespace_name, name).unlink(missing_ok=True)
            namespace.remove(netns)
            raise
        return pod

    def _outcome(
        self, name: str, namespace_name: str, node: str | None, retry_s: float, annotations: Mapping[str, str]
    ) -> PodRecord | VpcCniError:
        try:
            return self.add(name, namespace_name, node, retry_s, annotations)
        except VpcCniError as error:
            return error

    # -- remove -----------------------------------------------------------------------------------------------------
    def remove(self, pod: PodRecord) -> None:
        """End the pod: server, DEL through the chain, namespace. Works while the node's daemon is away, too."""
        with contextlib.suppress(VpcCniError):  # without the lab's daemon there is no server either
            control.ask(self._state, "DELETE", "/servers", {"labels": [pod.label]})
        network = self._cached_network(pod) or self._network(pod.node)
        self._runtime(pod.node, network).delete(sandbox_of(pod))
        namespace.remove(self._state.pod_namespace(pod.namespace, pod.name))
        self._state.pod_file(pod.namespace, pod.name).unlink(missing_ok=True)

    def remove_many(self, pods: Sequence[PodRecord]) -> list[VpcCniError]:
        """Remove pods, up to 16 at once; the failures."""
        with ThreadPoolExecutor(min(PARALLEL, max(len(pods), 1))) as pool:
            return [error for error in pool.map(self._removal, pods) if error is not None]

    def _removal(self, pod: PodRecord) -> VpcCniError | None:
        try:
            self.remove(pod)
        except VpcCniError as error:
            return error
        return None

    # -- the runtime ------------------------------------------------------------------------------------------------
    def _spread(self, count: int) -> list[str]:
        """Nodes for `count` new pods: always the one that has the fewest, the first of equals."""
        load = Counter(dict.fromkeys(self._nodes, 0))
        load.update(pod.node for pod in self._state.pods())
        chosen = []
        for _ in range(count):
            node = min(self._nodes, key=lambda name: load[name])
            load[node] += 1
            chosen.append(node)
        return chosen

    def _network(self, node: str) -> NetworkList:
        """What the runtime on the node finds in its configuration directory."""
        found = default_network(self._state.node_dir(node) / "netd")
        if found is None:
            raise HostError(
                f"start a pod on node {node}", "network is not ready: no CNI configuration",
                evidence={"directory": self._state.node_dir(node) / "netd"},
                hint=f"vpccni lab restart ipamd --node {node}", code="network-not-ready", cni_code=CNI_TRY_AGAIN_LATER,
            )  # fmt: skip
        return found

    def _cached_network(self, pod: PodRecord) -> NetworkList | None:
        """The configuration that the pod was added with: a runtime deletes by it, whatever the directory says now."""
        for entry in (self._cache(pod.node) / "results").glob(f"*-{pod.container_id}-{IFNAME}"):
            return parse_conflist(base64.b64decode(json.loads(entry.read_text())["config"]))
        return None

    def _cache(self, node: str) -> Any:
        return self._state.cni_cache / node

    def _runtime(self, node: str, network: NetworkList) -> Runtime:
        place, bin_dir = launch.node_place(self._state, node), self._state.node_dir(node) / "bin"
        return node_runtime(place, bin_dir, self._cache(node), network)


def node_runtime(place: launch.Place, bin_dir: Path, cache: Path, network: NetworkList) -> Runtime:
    """What runs a network's plugins on a node; `bin_dir` is where this process sees the node's plugins."""

    def find(kind: str) -> str | None:
        return str(CNI_BIN_DIR / kind) if os.access(bin_dir / kind, os.X_OK) else None

    return Runtime(
        network, [str(CNI_BIN_DIR)], cache,
        lambda argv, environ, stdin: launch.run(place, argv, environ, stdin, PLUGIN_WITHIN_S),
        find=find, environ=launch.program_environ({}),
    )  # fmt: skip


def sandbox_of(pod: PodRecord, annotations: Mapping[str, str] = NO_ANNOTATIONS) -> Sandbox:
    """What a runtime tells the plugins about a pod."""
    return Sandbox(
        pod.container_id,
        pod.netns,
        IFNAME,
        args={
            "IgnoreUnknown": "1",
            "K8S_POD_NAMESPACE": pod.namespace,
            "K8S_POD_NAME": pod.name,
            "K8S_POD_INFRA_CONTAINER_ID": pod.container_id,
            "K8S_POD_UID": f"{pod.container_id[:8]}-{pod.container_id[8:12]}-{pod.container_id[12:16]}-"
            f"{pod.container_id[16:20]}-{pod.container_id[20:32]}",
        },
        capabilities={POD_ANNOTATIONS: dict(annotations)},
    )


def _addresses(result: dict[str, Any]) -> tuple[str, ...]:
    return tuple(entry["address"].split("/")[0] for entry in result.get("ips", ()))
