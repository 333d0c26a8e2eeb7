# SPDX-License-Identifier: Apache-2.0
"""Where a lab keeps what it must remember: the state directory, the names of its namespaces, its process records.

Knows paths, names and JSON files, all written by temporary file and rename. Must never know what is inside a namespace
or how one is made. Every other module of the lab asks it; `lab down` works from this directory alone.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vpccni import paths
from vpccni.errors import StateError, TopologyError
from vpccni.netlink.namespace import NETNS_DIR

LAB_NAME_VARIABLE = "VPCCNI_LAB_NAME"  # a second lab on the same machine, e.g. a test beside a demo
_LABEL = re.compile(r"[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?")


def write_json(path: Path, value: object) -> None:
    """Replace `path` by the JSON of `value`; a reader sees the old file or the new one, never half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w") as stream:
            json.dump(value, stream, indent=1, default=str)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def read_json(path: Path) -> Any:
    """The decoded file; raises StateError naming the file when it is absent or damaged."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise StateError(
            "read the lab's state", str(error), evidence={"file": path}, hint="run `vpccni lab down`, then `lab up`"
        ) from error


@dataclass(frozen=True, slots=True)
class ProcessRecord:
    """A process of the lab: `start_ticks` (field 22 of /proc/PID/stat) tells it from a later owner of its pid."""

    role: str  # "daemon" or "ipamd-<node>"
    pid: int
    start_ticks: int

    @classmethod
    def of(cls, role: str, pid: int) -> ProcessRecord:
        """The record of a running process; raises ProcessLookupError when there is none."""
        stat = _stat(pid)
        if stat is None:
            raise ProcessLookupError(pid)
        return cls(role, pid, stat[1])

    def alive(self) -> bool:
        """Whether this very process still runs; a zombie does not."""
        stat = _stat(self.pid)
        return stat is not None and stat[1] == self.start_ticks and stat[0] not in "ZX"

    def signal(self, number: signal.Signals) -> bool:
        """Send a signal to this very process, never to another one that got its pid. False when it is gone."""
        try:
            handle = os.pidfd_open(self.pid)
        except OSError:
            return False
        try:
            # The descriptor pins whoever has the pid now; only then is the start time worth comparing.
            if not self.alive():
                return False
            signal.pidfd_send_signal(handle, number)
            return True
        except ProcessLookupError:
            return False
        finally:
            os.close(handle)

    def wait_gone(self, timeout_s: float) -> bool:
        """Wait until the process is gone; False when it still runs after `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        while self.alive():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.005)
        return True


def _stat(pid: int) -> tuple[str, int] | None:
    """(state letter, start time in ticks since boot) of a process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = text[text.rindex(")") + 2 :].split()  # the command name may contain blanks and parentheses
    return fields[0], int(fields[19])


@dataclass(frozen=True, slots=True)
class PodRecord:
    """A pod that the lab made. `result` is the CNI result of its ADD, empty while the ADD has not succeeded."""

    namespace: str
    name: str
    node: str
    container_id: str
    netns: str  # path of the network namespace
    addresses: tuple[str, ...] = ()
    result: Mapping[str, Any] | None = None

    @property
    def label(self) -> str:
        """How people name it: `name`, or `namespace/name` outside the namespace `default`."""
        return self.name if self.namespace == "default" else f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class LabState:
    """The state directory of one lab and the names that belong to it."""

    root: Path
    prefix: str  # of every namespace name

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> LabState:
        """The default lab, or the one that VPCCNI_LAB_NAME names."""
        name = environ.get(LAB_NAME_VARIABLE, "")
        if not name:
            return cls(paths.LAB_DIR, "vpccni")
        if not re.fullmatch(r"[a-z0-9]{1,12}", name):
            raise TopologyError("name the lab", f"{LAB_NAME_VARIABLE}={name!r} is not 1 to 12 of a-z and 0-9")
        return cls(paths.LAB_DIR.with_name(f"{paths.LAB_DIR.name}.{name}"), f"vpccni_{name}")

    # -- files ------------------------------------------------------------------------------------------------------
    @property
    def topology(self) -> Path:
        """The topology that this lab was started with."""
        return self.root / "topology.json"

    @property
    def machine(self) -> Path:
        """What `lab up` found and made on the machine itself, for `lab down` to restore."""
        return self.root / "machine.json"

    @property
    def control_socket(self) -> Path:
        """The lab daemon's control API."""
        return self.root / "control.sock"

    @property
    def daemon_log(self) -> Path:
        """Standard output and error of the lab daemon."""
        return self.root / "daemon.log"

    @property
    def cni_cache(self) -> Path:
        """What the runtime remembers of each ADD."""
        return self.root / "cni-cache"

    def node_dir(self, node: str) -> Path:
        """The node's own directories: run, netd, bin and log."""
        return self.root / "nodes" / node

    # -- namespaces -------------------------------------------------------------------------------------------------
    def node_namespace(self, node: str) -> str:
        """Name of the node's network namespace."""
        return f"{self.prefix}-{node}"

    @property
    def fabric_namespace(self) -> str:
        """Name of the VPC router's namespace."""
        return f"{self.prefix}-fabric"

    @property
    def internet_namespace(self) -> str:
        """Name of the namespace of the hosts behind the internet gateway."""
        return f"{self.prefix}-internet"

    @property
    def site_namespace(self) -> str:
        """Name of the namespace of the hosts of a private site (VPN, transit gateway)."""
        return f"{self.prefix}-site"

    def pod_namespace(self, namespace: str, name: str) -> str:
        """Name of a pod's network namespace."""
        return f"{self.prefix}-pod-{namespace}-{name}"

    def owned_namespaces(self) -> list[str]:
        """Every named namespace of this lab that exists now, whoever made it and whatever the state says."""
        try:
            return sorted(entry.name for entry in NETNS_DIR.iterdir() if entry.name.startswith(f"{self.prefix}-"))
        except FileNotFoundError:
            return []

    # -- life -------------------------------------------------------------------------------------------------------
    def exists(self) -> bool:
        """Whether a lab is up, or was and has not been taken down."""
        return self.root.is_dir()

    def create(self) -> None:
        """Make the directory; raises FileExistsError when there is one (this is also the lock against two `lab up`)."""
        self.root.mkdir(mode=0o755, parents=True)
        for name in ("nodes", "pods", "pids", "cni-cache"):
            (self.root / name).mkdir()

    def remove(self) -> None:
        """Remove the directory and everything in it."""
        shutil.rmtree(self.root, ignore_errors=True)

    # -- processes --------------------------------------------------------------------------------------------------
    def record_process(self, role: str, pid: int) -> ProcessRecord:
        """Remember a process that belongs to the lab."""
        record = ProcessRecord.of(role, pid)
        write_json(self.root / "pids" / f"{role}.json", asdict(record))
        return record

    def process(self, role: str) -> ProcessRecord | None:
        """The recorded process of that role, running or not."""
        path = self.root / "pids" / f"{role}.json"
        return ProcessRecord(**read_json(path)) if path.exists() else None

    def processes(self) -> list[ProcessRecord]:
        """All recorded processes, running or not; damaged records are skipped (their processes are found otherwise)."""
        records = []
        for path in sorted((self.root / "pids").glob("*.json")):
            try:
                records.append(ProcessRecord(**read_json(path)))
            except (StateError, TypeError):
                continue
        return records

    # -- pods -------------------------------------------------------------------------------------------------------
    def pod_file(self, namespace: str, name: str) -> Path:
        """The record of a pod; both names are DNS labels, so `_` cannot occur in them."""
        return self.root / "pods" / f"{namespace}_{name}.json"

    def save_pod(self, pod: PodRecord) -> None:
        """Write the record of a pod."""
        write_json(self.pod_file(pod.namespace, pod.name), asdict(pod))

    def pods(self) -> Iterator[PodRecord]:
        """All pods, ordered by namespace and name."""
        for path in sorted((self.root / "pods").glob("*.json")):
            try:
                fields = read_json(path)
            except StateError:
                if path.exists():
                    raise
                continue  # removed between the listing and the reading
            yield PodRecord(**{**fields, "addresses": tuple(fields["addresses"])})


def check_label(kind: str, text: str) -> str:
    """`text` when it is a DNS label as Kubernetes wants for names, else TopologyError."""
    if not _LABEL.fullmatch(text):
        raise TopologyError(
            f"use {text!r} as the name of a {kind}", "it is not a DNS label", hint="use a-z, 0-9 and '-', at most 63"
        )
    return text
