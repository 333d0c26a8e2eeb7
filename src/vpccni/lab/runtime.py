# SPDX-License-Identifier: Apache-2.0
"""What a container runtime does with a conflist: the rules of libcni 1.3, in Python.

Knows the CNI protocol from the caller's side: order, prevResult, cache, capabilities, version negotiation. Must never
know our plugin or the lab's nodes: programs are started by an injected `launch`. The lab's pods and tests call it.
"""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from vpccni.errors import CNI_INCOMPATIBLE_VERSION, CNI_PLUGIN_FAILURE, HostError, InputError

NEWEST = "1.1.0"
CONF_SUFFIXES = (".conf", ".conflist", ".json")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]*")
_IFNAME_FORBIDDEN = re.compile(r"[/:\s]")

Result = dict[str, Any]


class Completed(Protocol):
    """A finished program: `subprocess.CompletedProcess[bytes]` is one."""

    @property
    def returncode(self) -> int:
        """The exit code."""

    @property
    def stdout(self) -> bytes:
        """A result or an error object."""

    @property
    def stderr(self) -> bytes:
        """Whatever the plugin logs."""


Launch = Callable[[Sequence[str], Mapping[str, str], bytes], Completed]
"""`launch(argv, environment, stdin)` runs a program to its end, wherever the node is; HostError when it cannot."""
Find = Callable[[str], str | None]
"""`find(type)` gives the path of a plugin's executable, as the launched program will see it."""


class PluginFailed(HostError):
    """A plugin refused. `plugin_msg` and `plugin_details` are its own words, `cni_error_code` its code (999: none)."""

    code = "cni-plugin-failed"

    def __init__(self, plugin: str, command: str, done: Completed) -> None:
        self.plugin, self.command, self.stderr = plugin, command, done.stderr.decode(errors="replace")
        error = _error_object(done)
        self.plugin_msg = str(error.get("msg", ""))
        self.plugin_details = str(error.get("details", ""))
        self.libcni_text = f'plugin type="{plugin}" failed ({command.lower()}): ' + "; ".join(
            text for text in (self.plugin_msg, self.plugin_details) if text
        )
        code = error.get("code")
        super().__init__(
            f"{command} with plugin {plugin}",
            self.plugin_msg or "it gave no message",
            evidence={"details": self.plugin_details} if self.plugin_details else None,
            cni_code=code if isinstance(code, int) else CNI_PLUGIN_FAILURE,
        )


@dataclass(frozen=True, slots=True)
class NetworkList:
    """A parsed conflist; `version` is the one negotiated."""

    name: str
    version: str
    plugins: tuple[Mapping[str, Any], ...]
    disable_check: bool = False
    disable_gc: bool = False
    raw: bytes = b""


@dataclass(frozen=True, slots=True)
class Sandbox:
    """What a runtime says about one attachment. `capabilities` are offered; a plugin gets those that it asks for."""

    container_id: str
    netns: str = ""
    ifname: str = "eth0"
    args: Mapping[str, str] = field(default_factory=dict)
    capabilities: Mapping[str, Any] = field(default_factory=dict)


def parse_conflist(raw: bytes, *, speaks: str = NEWEST) -> NetworkList:
    """A conflist as a runtime with protocol version `speaks` reads it. Raises InputError.

    From 1.1.0 on, the newest of `cniVersions` (and `cniVersion`) that the runtime speaks; before, `cniVersion` alone.
    """
    try:
        conf = json.loads(raw)
    except ValueError as error:
        raise InputError("read the CNI configuration", f"it is not JSON: {error}") from error
    plugins = conf.get("plugins") if isinstance(conf, dict) else None
    if (
        not isinstance(plugins, list)
        or not plugins
        or not all(isinstance(one, dict) and one.get("type") for one in plugins)
    ):
        raise InputError("read the CNI configuration", "plugins is not a list of objects with a type")
    if not _NAME.fullmatch(str(conf.get("name", ""))):
        raise InputError("read the CNI configuration", f"name {conf.get('name')!r} is not a network name")
    stated = [conf["cniVersion"]] if conf.get("cniVersion") else []
    offered = stated + (conf.get("cniVersions", []) if _version(speaks) >= (1, 1, 0) else [])
    usable = [version for version in offered if _version(version) <= _version(speaks)]
    if offered and not usable:
        raise InputError("read the CNI configuration", f"the runtime speaks {speaks} at most, not {', '.join(offered)}")
    return NetworkList(
        name=conf["name"],
        version=max(usable, key=_version, default="0.1.0"),
        plugins=tuple(plugins),
        disable_check=_flag(conf, "disableCheck"),
        disable_gc=_flag(conf, "disableGC"),
        raw=raw,
    )


def default_network(conf_dir: Path, *, speaks: str = NEWEST) -> NetworkList | None:
    """The network that kubelet's runtimes use: the first configuration by file name; None when there is none yet."""
    if not conf_dir.is_dir():
        return None
    for path in sorted(conf_dir.iterdir()):
        if path.suffix in CONF_SUFFIXES and path.is_file():
            return parse_conflist(path.read_bytes(), speaks=speaks)
    return None


class Runtime:
    """Runs a network's plugins. No state but the result cache, so several threads may use one.

    `bin_dirs` become CNI_PATH; `environ` is what every plugin inherits; results are cached in `cache_dir`/results.
    """

    def __init__(
        self,
        network: NetworkList,
        bin_dirs: Sequence[str],
        cache_dir: Path,
        launch: Launch,
        *,
        find: Find | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self.network, self._bin_dirs, self._launch = network, tuple(bin_dirs), launch
        self._results = cache_dir / "results"
        self._find = find or self._find_here
        self._environ = {name: value for name, value in (environ or {}).items() if not name.startswith("CNI_")}

    def add(self, sandbox: Sandbox) -> Result:
        """ADD through the chain in order, each plugin with the result of the one before; the last result is cached."""
        _validate(sandbox)
        result: Result | None = None
        for plugin in self.network.plugins:
            done = self._run("ADD", plugin, sandbox, prev=result)
            result = _parse_result(plugin, done, self.network.version)
        assert result is not None  # a network has at least one plugin
        self._store(sandbox, result)
        return result

    def attach(self, sandbox: Sandbox) -> Result:
        """ADD as containerd does it: after a failure the chain is deleted, and the ADD's error raised."""
        try:
            return self.add(sandbox)
        except HostError as failure:
            try:
                self.delete(sandbox)
            except HostError as second:
                failure.add_note(f"and cleaning up failed: {second}")
            raise

    def check(self, sandbox: Sandbox) -> None:
        """CHECK in order, with the cached result. Nothing happens with `disableCheck`. Needs 0.4.0."""
        if _version(self.network.version) < (0, 4, 0):
            raise _version_too_old("CHECK", self.network.version)
        if not self.network.disable_check:
            result = self.cached_result(sandbox)
            for plugin in self.network.plugins:
                self._run("CHECK", plugin, sandbox, prev=result)

    def delete(self, sandbox: Sandbox) -> None:
        """DEL in reverse order, from 0.4.0 on with the cached result, which goes when all succeeded."""
        result = self.cached_result(sandbox) if _version(self.network.version) >= (0, 4, 0) else None
        for plugin in reversed(self.network.plugins):
            self._run("DEL", plugin, sandbox, prev=result)
        self._entry(sandbox).unlink(missing_ok=True)

    def status(self) -> None:
        """STATUS of every plugin; before 1.1.0 there is no such thing and nothing happens."""
        if _version(self.network.version) >= (1, 1, 0):
            for plugin in self.network.plugins:
                self._run("STATUS", plugin)

    def collect_garbage(self, valid: Collection[tuple[str, str]]) -> None:
        """Delete cached attachments that are not in `valid` (container id, interface), then GC (1.1.0) every plugin.

        Goes on after failures and raises them together, as an ExceptionGroup.
        """
        if self.network.disable_gc:
            return
        failures: list[Exception] = []
        for sandbox in self.cached_sandboxes():
            if (sandbox.container_id, sandbox.ifname) not in valid:
                _collect(failures, partial(self.delete, sandbox))
        if _version(self.network.version) >= (1, 1, 0):
            listed = [{"containerID": container_id, "ifname": ifname} for container_id, ifname in sorted(valid)]
            # The library misspelt the key in 1.2.0 and now writes both.
            extra = {"cni.dev/valid-attachments": listed, "cni.dev/attachments": listed}
            for plugin in self.network.plugins:
                _collect(failures, partial(self._run, "GC", plugin, extra=extra))
        if failures:
            raise ExceptionGroup("garbage collection", failures)

    def versions(self) -> dict[str, tuple[str, ...]]:
        """The versions that each plugin speaks, by type. Raises InputError when one does not speak the network's."""
        spoken: dict[str, tuple[str, ...]] = {}
        for plugin in self.network.plugins:
            # Plugins older than VERSION demand the variables of an ADD before they look at the command.
            dummy = Sandbox("", "dummy", "dummy")
            stdin = {"cniVersion": self.network.version}
            answer = json.loads(self._execute("VERSION", plugin["type"], dummy, stdin).stdout)
            spoken[plugin["type"]] = tuple(answer["supportedVersions"])
        for kind, versions in spoken.items():
            if self.network.version not in versions:
                raise InputError(f"use plugin {kind}", f"it speaks {', '.join(versions)}, not {self.network.version}")
        return spoken

    def cached_result(self, sandbox: Sandbox) -> Result | None:
        """The result of the sandbox's last ADD; None when none is known."""
        try:
            result: Result = json.loads(self._entry(sandbox).read_bytes())["result"]
        except FileNotFoundError:
            return None
        return result

    def cached_sandboxes(self) -> list[Sandbox]:
        """Every attachment of this network in the cache."""
        entries = [json.loads(path.read_bytes()) for path in sorted(self._results.glob(f"{self.network.name}-*"))]
        return [
            Sandbox(
                entry["containerId"],
                entry.get("netns", ""),
                entry["ifName"],
                dict(entry.get("cniArgs") or []),
                entry.get("capabilityArgs") or {},
            )
            for entry in entries
            if entry["networkName"] == self.network.name
        ]

    def _entry(self, sandbox: Sandbox) -> Path:
        return self._results / f"{self.network.name}-{sandbox.container_id}-{sandbox.ifname}"

    def _store(self, sandbox: Sandbox, result: Result) -> None:
        entry = {
            "kind": "cniCacheV1",
            "containerId": sandbox.container_id,
            "config": base64.b64encode(self.network.raw).decode(),
            "ifName": sandbox.ifname,
            "networkName": self.network.name,
            "netns": sandbox.netns,
            "cniArgs": [list(pair) for pair in sandbox.args.items()],
            "capabilityArgs": dict(sandbox.capabilities),
            "result": result,
        }
        self._results.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = self._entry(sandbox)
        path.write_text(json.dumps(entry))
        path.chmod(0o600)

    def _run(
        self,
        command: str,
        plugin: Mapping[str, Any],
        sandbox: Sandbox | None = None,
        *,
        prev: Result | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> Completed:
        offered = sandbox.capabilities if sandbox else {}
        asked = plugin.get("capabilities") or {}
        runtime_config = {name: offered[name] for name, wanted in asked.items() if wanted and name in offered}
        stdin = {
            **plugin,
            "name": self.network.name,
            "cniVersion": self.network.version,
            **({"prevResult": prev} if prev is not None else {}),
            **({"runtimeConfig": runtime_config} if runtime_config else {}),
            **(extra or {}),
        }
        return self._execute(command, plugin["type"], sandbox, stdin)

    def _execute(self, command: str, kind: str, sandbox: Sandbox | None, stdin: Mapping[str, Any]) -> Completed:
        path = self._find(kind)
        if path is None:
            raise HostError(
                f"{command} with plugin {kind}", f"failed to find plugin {kind!r} in {':'.join(self._bin_dirs)}"
            )
        env = {
            **self._environ,
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": sandbox.container_id if sandbox else "",
            "CNI_NETNS": sandbox.netns if sandbox else "",
            "CNI_IFNAME": sandbox.ifname if sandbox else "",
            "CNI_ARGS": ";".join(f"{name}={value}" for name, value in sandbox.args.items()) if sandbox else "",
            "CNI_PATH": os.pathsep.join(self._bin_dirs),
        }
        done = self._launch([path], env, json.dumps(stdin).encode())
        if done.returncode:
            raise PluginFailed(kind, command, done)
        return done

    def _find_here(self, kind: str) -> str | None:
        if "/" in kind:
            return None
        candidates = (Path(folder) / kind for folder in self._bin_dirs)
        return next((str(path) for path in candidates if path.is_file() and os.access(path, os.X_OK)), None)


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("."))


def _flag(conf: Mapping[str, Any], name: str) -> bool:
    # The specification made these booleans strings once ("true"), and libcni takes both.
    return conf.get(name) in (True, "true")


def _validate(sandbox: Sandbox) -> None:
    problems = []
    if not _NAME.fullmatch(sandbox.container_id):
        problems.append(f"container id {sandbox.container_id!r}")
    name = sandbox.ifname
    if not name or name in (".", "..") or len(name) > 15 or _IFNAME_FORBIDDEN.search(name):
        problems.append(f"interface name {name!r}")
    if problems:
        raise InputError("attach a sandbox", f"invalid {' and '.join(problems)}")


def _parse_result(plugin: Mapping[str, Any], done: Completed, version: str) -> Result:
    try:
        result = json.loads(done.stdout)
    except ValueError as error:
        raise HostError(f"use the result of {plugin['type']}", f"it is not JSON: {error}") from error
    if not isinstance(result, dict) or result.get("cniVersion") != version:
        raise HostError(f"use the result of {plugin['type']}", f"it is not a result of version {version}: {result!r}")
    return result


def _error_object(done: Completed) -> Mapping[str, Any]:
    out, err = done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
    if not out.strip():
        return {
            "msg": f"netplugin failed: {err.strip()!r}" if err.strip() else "netplugin failed with no error message"
        }
    try:
        error = json.loads(out)
    except ValueError as problem:
        error = problem
    if isinstance(error, dict):
        return error
    return {"msg": f"netplugin failed but error parsing its diagnostic message {out!r}: {error}"}


def _version_too_old(command: str, version: str) -> InputError:
    return InputError(
        f"call {command}",
        f"configuration version {version} does not know it",
        code="incompatible-version",
        cni_code=CNI_INCOMPATIBLE_VERSION,
    )


def _collect(failures: list[Exception], step: Callable[[], object]) -> None:
    try:
        step()
    except (HostError, InputError) as failure:
        failures.append(failure)
