# SPDX-License-Identifier: Apache-2.0
"""What the plugin side leaves on disk: the conflist, the plugin itself, and queued DELs."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from pathlib import Path

import pytest

from vpccni.cni import conflist
from vpccni.cni.conflist import ConflistOptions, installed_plugins, render
from vpccni.cni.delqueue import drop, read_queue
from vpccni.cni.install import TWIN, install_relay
from vpccni.cni.result import render_version
from vpccni.cni.wire import RelayRequest, encode_request
from vpccni.errors import HostError, StateError

ALL_PLUGINS = {"portmap", "bandwidth", "tuning"}

GOLDEN_CONFLIST = """{
  "cniVersion": "1.0.0",
  "cniVersions": [
    "0.4.0",
    "1.0.0",
    "1.1.0"
  ],
  "name": "aws-cni",
  "disableCheck": true,
  "plugins": [
    {
      "name": "aws-cni",
      "type": "aws-cni",
      "vethPrefix": "eni",
      "mtu": "9001",
      "podSGEnforcingMode": "strict",
      "pluginLogFile": "/var/log/aws-routed-eni/plugin.log",
      "pluginLogLevel": "Debug",
      "capabilities": {
        "io.kubernetes.cri.pod-annotations": true
      }
    },
    {
      "type": "portmap",
      "capabilities": {
        "portMappings": true
      },
      "snat": true
    }
  ]
}
"""


def plugins(options: ConflistOptions, present: set[str] = ALL_PLUGINS) -> list[str]:
    return [plugin["type"] for plugin in json.loads(render(options, present))["plugins"]]


def test_the_conflist_is_the_amazon_vpc_cnis_with_string_options() -> None:
    assert render(ConflistOptions(), ALL_PLUGINS).decode() == GOLDEN_CONFLIST


def test_chained_plugins_are_listed_only_when_enabled_and_portmap_only_when_present() -> None:
    assert plugins(ConflistOptions(), set()) == ["aws-cni"]
    assert plugins(ConflistOptions(port_mappings=False)) == ["aws-cni"]
    everything = ConflistOptions(bandwidth=True, disable_pod_v6=True)
    assert plugins(everything) == ["aws-cni", "portmap", "bandwidth", "tuning"]
    tuning = json.loads(render(everything, ALL_PLUGINS))["plugins"][3]
    assert tuning["sysctl"] == {f"net.ipv6.conf.{name}.disable_ipv6": "1" for name in ("all", "default", "lo")}
    with pytest.raises(HostError, match="bandwidth, tuning, which are not installed"):
        render(everything, {"portmap"})


def test_settings_reach_the_file_as_strings() -> None:
    own = json.loads(render(ConflistOptions(mtu=1500, veth_prefix="x", pod_sg_enforcing_mode="standard"), set()))[
        "plugins"
    ][0]
    assert (own["mtu"], own["vethPrefix"], own["podSGEnforcingMode"]) == ("1500", "x", "standard")


def test_installed_plugins_are_the_executables(tmp_path: Path) -> None:
    (tmp_path / "portmap").touch(0o755)
    (tmp_path / "README").touch(0o644)
    (tmp_path / "folder").mkdir()
    assert installed_plugins(tmp_path) == {"portmap"} and installed_plugins(tmp_path / "absent") == frozenset()


def test_the_conflist_appears_whole_under_readers_and_can_be_removed(tmp_path: Path) -> None:
    folder = tmp_path / "net.d"
    short, long = b'{"a": 1}', b'{"a": "' + b"x" * 100_000 + b'"}'
    path = conflist.install(short, folder)
    seen: set[bytes] = set()
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            seen.add(path.read_bytes())

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(100):
        conflist.install(long, folder)
        conflist.install(short, folder)
    stop.set()
    reader.join()
    assert seen <= {short, long}
    assert path.name == "10-aws.conflist" and path.stat().st_mode & 0o777 == 0o644
    assert [entry.name for entry in folder.iterdir()] == ["10-aws.conflist"]
    assert conflist.remove(folder) is True and conflist.remove(folder) is False


def test_the_temporary_file_is_in_the_same_folder_and_no_configuration(tmp_path: Path) -> None:
    """A rename that fails leaves neither; the name that it would have had is taken by a folder here."""
    (tmp_path / "10-aws.conflist").mkdir()
    with pytest.raises(HostError, match=r"cannot write .*10-aws\.conflist"):
        conflist.install(b"{}", tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["10-aws.conflist"]


def test_the_compiled_relay_is_installed_when_there_is_one(tmp_path: Path) -> None:
    compiled = tmp_path / "compiled"
    compiled.write_bytes(b"\x7fELF")
    installed = install_relay(tmp_path / "bin", compiled=compiled)
    assert (installed.kind, installed.path) == ("compiled", tmp_path / "bin/aws-cni")
    assert installed.path.read_bytes() == b"\x7fELF" and installed.path.stat().st_mode & 0o777 == 0o755


def test_without_it_the_twin_is_installed_and_runs(tmp_path: Path) -> None:
    installed = install_relay(tmp_path, compiled=tmp_path / "none")
    assert installed.kind == "python" and installed.path.read_bytes().endswith(TWIN.read_bytes())
    done = subprocess.run([installed.path], env={"CNI_COMMAND": "VERSION"}, capture_output=True, check=True)
    assert done.stdout == render_version()


def test_with_neither_relay_nor_interpreter_it_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="neither") as raised:
        install_relay(tmp_path, compiled=tmp_path / "none", python="/nowhere/python3")
    assert "make -C relay" in raised.value.hint and list(tmp_path.iterdir()) == []


def test_a_plugin_that_is_running_can_be_replaced(tmp_path: Path) -> None:
    source = Path("/bin/sleep")
    path = install_relay(tmp_path, compiled=source).path
    process = subprocess.Popen([path, "10"])
    try:
        install_relay(tmp_path, compiled=source)
        with pytest.raises(OSError, match="Text file busy"):
            os.close(os.open(f"/proc/{process.pid}/exe", os.O_WRONLY))
    finally:
        process.kill()
        process.wait()


def queued(folder: Path, name: str, at: float, message: bytes | None = None) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}@eth0"
    env = {"CNI_COMMAND": "DEL", "CNI_CONTAINERID": name, "CNI_IFNAME": "eth0"}
    path.write_bytes(encode_request(RelayRequest(env, b"{}")) if message is None else message)
    os.utime(path, (at, at))
    return path


def test_queued_dels_come_oldest_first_and_can_be_dropped(tmp_path: Path) -> None:
    queued(tmp_path / "q", "b", 100.5)
    queued(tmp_path / "q", "a", 200.25)
    (tmp_path / "q/.c@eth0.77").write_bytes(b"half written")
    queue = read_queue(tmp_path / "q")
    assert [(entry.request.env["CNI_CONTAINERID"], entry.queued_at) for entry in queue.entries] == [
        ("b", 100.5),
        ("a", 200.25),
    ]
    assert queue.corrupt == ()
    for entry in queue.entries:
        drop(entry)
        drop(entry)
    assert read_queue(tmp_path / "q").entries == () and (tmp_path / "q/.c@eth0.77").exists()


def test_an_entry_that_was_replaced_meanwhile_is_not_dropped(tmp_path: Path) -> None:
    queued(tmp_path, "a", 100.0)
    (entry,) = read_queue(tmp_path).entries
    queued(tmp_path, "a", 101.0)
    drop(entry)
    assert [one.queued_at for one in read_queue(tmp_path).entries] == [101.0]


def test_entries_that_are_no_dels_are_put_aside_and_reported_once(tmp_path: Path) -> None:
    queued(tmp_path, "good", 1.0)
    queued(tmp_path, "garbage", 1.0, b"\x00\xff")
    queued(tmp_path, "add", 1.0, encode_request(RelayRequest({"CNI_COMMAND": "ADD"}, b"")))
    (tmp_path / "link").symlink_to("/etc/passwd")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "fifo")
    queue = read_queue(tmp_path)
    assert [entry.path.name for entry in queue.entries] == ["good@eth0"]
    assert len(queue.corrupt) == 5 and all(isinstance(one, StateError) and one.hint for one in queue.corrupt)
    again = read_queue(tmp_path)
    assert again.corrupt == () and len(again.entries) == 1
    assert (tmp_path / ".garbage@eth0.corrupt").read_bytes() == b"\x00\xff"


def test_no_queue_is_an_empty_queue(tmp_path: Path) -> None:
    assert read_queue(tmp_path / "absent").entries == ()
