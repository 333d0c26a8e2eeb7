# SPDX-License-Identifier: Apache-2.0
"""The network configuration list that tells the container runtime to call our plugin.

Knows the fields of the Amazon VPC CNI's `10-aws.conflist` and what runtimes of today accept. Must never decide when it
is written: the daemon installs it once it can serve, and removes it when it stops.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from vpccni.cni.atomic import replace_file
from vpccni.cni.netconf import POD_ANNOTATIONS
from vpccni.errors import HostError
from vpccni.paths import CNI_CONF_DIR, CONFLIST_NAME, PLUGIN_NAME

NETWORK_NAME = "aws-cni"
# containerd 1.6 refuses results of 1.1.0, so `cniVersion` stays at 1.0.0; a runtime that knows `cniVersions` takes the
# newest of the list that it speaks, and with 1.1.0 gains STATUS and GC.
CNI_VERSION = "1.0.0"
CNI_VERSIONS = ("0.4.0", "1.0.0", "1.1.0")
# Reference plugins 1.1.1: CHECK of portmap misses an IPv6 chain for each IPv4 pod with a hostPort, CHECK of bandwidth
# crashes on each pod without a limit. A runtime that believed them would end healthy pods, and the file can only
# switch CHECK off for the whole list.
CHECK_REFUSES_HEALTHY = frozenset({"portmap", "bandwidth"})


@dataclass(frozen=True, slots=True)
class ConflistOptions:
    """What of the settings ends up in the file. `mtu` is POD_MTU, or else the ENIs' MTU.

    `bandwidth` is ENABLE_BANDWIDTH_PLUGIN, `disable_pod_v6` is DISABLE_POD_V6; `port_mappings` (hostPort) is on as in
    the Amazon VPC CNI and needs the `portmap` binary, without which it is left out. CHECK is disabled with
    `disable_check`, and always beside a plugin of `CHECK_REFUSES_HEALTHY`.
    """

    veth_prefix: str = "eni"
    mtu: int = 9001
    pod_sg_enforcing_mode: str = "strict"
    plugin_log_file: str = "/var/log/aws-routed-eni/plugin.log"
    plugin_log_level: str = "Debug"
    port_mappings: bool = True
    bandwidth: bool = False
    disable_pod_v6: bool = False
    disable_check: bool = True


def render(options: ConflistOptions, plugins_present: Collection[str]) -> bytes:
    """The file's content, JSON with an indent of 2.

    `plugins_present` names the executables in the CNI binary directory. Raises HostError when a chained plugin that was
    asked for is not among them, because with such a file every pod would fail.
    """
    chained = [("bandwidth", options.bandwidth), ("tuning", options.disable_pod_v6)]
    missing = [name for name, wanted in chained if wanted and name not in plugins_present]
    if missing:
        raise HostError(
            "write the CNI configuration",
            f"the settings ask for the plugins {', '.join(missing)}, which are not installed",
            hint="install the reference CNI plugins (package containernetworking-plugins) or switch the settings off",
            code="cni-plugin-missing",
        )
    plugins = [_own(options)]
    if options.port_mappings and "portmap" in plugins_present:
        plugins.append({"type": "portmap", "capabilities": {"portMappings": True}, "snat": True})
    if options.bandwidth:
        plugins.append({"type": "bandwidth", "capabilities": {"bandwidth": True}})
    if options.disable_pod_v6:
        names = ("all", "default", "lo")
        plugins.append({"type": "tuning", "sysctl": {f"net.ipv6.conf.{name}.disable_ipv6": "1" for name in names}})
    unsound_check = any(plugin["type"] in CHECK_REFUSES_HEALTHY for plugin in plugins)
    conflist = {
        "cniVersion": CNI_VERSION,
        "cniVersions": list(CNI_VERSIONS),
        "name": NETWORK_NAME,
        "disableCheck": options.disable_check or unsound_check,
        "plugins": plugins,
    }
    return msgspec.json.format(msgspec.json.encode(conflist), indent=2) + b"\n"


def installed_plugins(bin_dir: Path) -> frozenset[str]:
    """The names of the executables in a CNI binary directory; empty when there is no such directory."""
    try:
        return frozenset(entry.name for entry in bin_dir.iterdir() if entry.is_file() and entry.stat().st_mode & 0o111)
    except OSError:
        return frozenset()


def install(content: bytes, conf_dir: Path = CNI_CONF_DIR) -> Path:
    """Put the file in place in one step, mode 0644, and return its path. Raises HostError."""
    path = conf_dir / CONFLIST_NAME
    replace_file(path, content, 0o644)
    return path


def remove(conf_dir: Path = CNI_CONF_DIR) -> bool:
    """Take the file away, so that the node counts as not ready; False when there was none. Raises HostError."""
    try:
        (conf_dir / CONFLIST_NAME).unlink()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise HostError(f"remove {conf_dir / CONFLIST_NAME}", error.strerror or str(error)) from error
    return True


def _own(options: ConflistOptions) -> dict[str, Any]:
    """Our entry. Every option is a string, whatever it means: the Amazon VPC CNI's plugin reads nothing else."""
    return {
        "name": NETWORK_NAME,
        "type": PLUGIN_NAME,
        "vethPrefix": options.veth_prefix,
        "mtu": str(options.mtu),
        "podSGEnforcingMode": options.pod_sg_enforcing_mode,
        "pluginLogFile": options.plugin_log_file,
        "pluginLogLevel": options.plugin_log_level,
        "capabilities": {POD_ANNOTATIONS: True},
    }
