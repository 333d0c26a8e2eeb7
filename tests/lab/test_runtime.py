# SPDX-License-Identifier: Apache-2.0
"""The runtime's rules, with small scripted plugins that write down how they were called."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from vpccni.errors import HostError, InputError
from vpccni.lab.runtime import PluginFailed, Runtime, Sandbox, default_network, parse_conflist

SCRIPT = """#!{python} -IS
import json, os, sys
kind = os.path.basename(sys.argv[0])
env = {{name: value for name, value in os.environ.items() if name.startswith("CNI_") or name == "COLOUR"}}
stdin = json.load(sys.stdin)
with open({log!r}, "a") as log:
    log.write(json.dumps([kind, env, stdin]) + "\\n")
command = env["CNI_COMMAND"]
script = json.load(open({script!r})).get(kind + " " + command)
if script:
    sys.stdout.write(script["out"]); sys.stderr.write(script.get("err", "")); sys.exit(script["rc"])
if command == "ADD":
    seen = stdin.get("prevResult", {{}}).get("seen", []) + [kind]
    print(json.dumps({{"cniVersion": stdin["cniVersion"], "seen": seen, "ips": [], "dns": {{}}}}))
if command == "VERSION":
    print(json.dumps({{"cniVersion": "1.1.0", "supportedVersions": ["0.3.1", "0.4.0", "1.0.0", "1.1.0"]}}))
"""


class Bench:
    """Three scripted plugins, their log, and a runtime over them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.log, self.script = folder, folder / "log", folder / "script.json"
        self.bin, self.other_bin = folder / "bin", folder / "other"
        for name, where in (("first", self.bin), ("second", self.other_bin), ("third", self.bin)):
            where.mkdir(exist_ok=True)
            (where / name).write_text(SCRIPT.format(python=sys.executable, log=str(self.log), script=str(self.script)))
            (where / name).chmod(0o755)
        self.will({})

    def will(self, script: Mapping[str, Any]) -> None:
        """`{"second ADD": {"rc": 1, "out": "..."}}` overrides what a plugin does."""
        self.script.write_text(json.dumps(script))

    def runtime(self, version: str = "1.1.0", speaks: str = "1.1.0", **conf: Any) -> Runtime:
        plugins = [
            {"type": "first", "own": 1, "capabilities": {"portMappings": True, "bandwidth": False, "absent": True}},
            {"type": "second", "name": "overwritten", "cniVersion": "0.1.0"},
            {"type": "third", "capabilities": {"bandwidth": True}},
        ]
        raw = json.dumps({"cniVersion": version, "name": "net", "plugins": plugins, **conf}).encode()
        network = parse_conflist(raw, speaks=speaks)
        environ = {"COLOUR": "blue", "CNI_NETNS": "/stale", "CNI_ODD": "stale"}
        return Runtime(network, [str(self.bin), str(self.other_bin)], self.folder / "cache", launch, environ=environ)

    def calls(self) -> list[tuple[str, dict[str, str], dict[str, Any]]]:
        """(plugin, its environment, its stdin) since the last look."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        self.log.unlink(missing_ok=True)
        return [tuple(json.loads(line)) for line in lines]

    def called(self) -> list[str]:
        return [f"{env['CNI_COMMAND']} {kind}" for kind, env, _ in self.calls()]


def launch(argv: Sequence[str], env: Mapping[str, str], stdin: bytes) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(argv, env=env, input=stdin, capture_output=True, check=False)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


POD = Sandbox(
    "abc",
    "/run/netns/x",
    "eth0",
    {"K8S_POD_NAME": "p", "IgnoreUnknown": "1"},
    {"portMappings": [80], "bandwidth": {"in": 1}},
)


def test_add_goes_through_the_chain_in_order_and_each_plugin_gets_the_result_before(bench: Bench) -> None:
    result = bench.runtime().add(POD)
    assert result["seen"] == ["first", "second", "third"]
    calls = bench.calls()
    assert [stdin.get("prevResult", {}).get("seen") for _, _, stdin in calls] == [None, ["first"], ["first", "second"]]
    assert {(stdin["name"], stdin["cniVersion"]) for _, _, stdin in calls} == {("net", "1.1.0")}
    assert calls[0][2]["own"] == 1 and calls[0][2]["capabilities"]["portMappings"] is True


def test_every_plugin_gets_the_same_environment_and_nothing_stale(bench: Bench) -> None:
    bench.runtime().add(POD)
    environments = [env for _, env, _ in bench.calls()]
    assert environments == [environments[0]] * 3
    assert environments[0] == {
        "CNI_COMMAND": "ADD",
        "CNI_CONTAINERID": "abc",
        "CNI_NETNS": "/run/netns/x",
        "CNI_IFNAME": "eth0",
        "CNI_ARGS": "K8S_POD_NAME=p;IgnoreUnknown=1",
        "CNI_PATH": f"{bench.bin}:{bench.other_bin}",
        "COLOUR": "blue",
    }


def test_capabilities_reach_only_the_plugins_that_ask_for_them(bench: Bench) -> None:
    bench.runtime().add(POD)
    assert [stdin.get("runtimeConfig") for _, _, stdin in bench.calls()] == [
        {"portMappings": [80]},
        None,
        {"bandwidth": {"in": 1}},
    ]


@pytest.mark.parametrize(("version", "has_result"), [("0.3.1", False), ("0.4.0", True), ("1.1.0", True)])
def test_del_is_in_reverse_order_with_the_final_result_from_0_4_0_on(
    bench: Bench, version: str, has_result: bool
) -> None:
    runtime = bench.runtime(version)
    result = runtime.add(POD)
    bench.calls()
    runtime.delete(POD)
    calls = bench.calls()
    assert [kind for kind, _, _ in calls] == ["third", "second", "first"]
    assert [stdin.get("prevResult") for _, _, stdin in calls] == [result if has_result else None] * 3
    assert runtime.cached_result(POD) is None
    runtime.delete(POD)
    assert all("prevResult" not in stdin for _, _, stdin in bench.calls()), "a second DEL has nothing to tell"


def test_the_cache_file_is_libcnis(bench: Bench) -> None:
    runtime = bench.runtime()
    result = runtime.add(POD)
    path = bench.folder / "cache/results/net-abc-eth0"
    entry = json.loads(path.read_text())
    assert path.stat().st_mode & 0o777 == 0o600 and entry.pop("config")
    assert entry == {
        "kind": "cniCacheV1",
        "containerId": "abc",
        "ifName": "eth0",
        "networkName": "net",
        "netns": "/run/netns/x",
        "cniArgs": [["K8S_POD_NAME", "p"], ["IgnoreUnknown", "1"]],
        "capabilityArgs": {"portMappings": [80], "bandwidth": {"in": 1}},
        "result": result,
    }
    assert runtime.cached_sandboxes() == [POD]


def test_a_failing_add_stops_the_chain_tells_why_and_leaves_no_result(bench: Bench) -> None:
    error = {"cniVersion": "1.1.0", "code": 11, "msg": "cannot add: pool empty", "details": "[pool-empty] Next: wait"}
    bench.will({"second ADD": {"rc": 1, "out": json.dumps(error), "err": "log line"}})
    runtime = bench.runtime()
    with pytest.raises(PluginFailed) as raised:
        runtime.add(POD)
    failure = raised.value
    assert (failure.plugin, failure.command, failure.cni_error_code, failure.stderr) == (
        "second",
        "ADD",
        11,
        "log line",
    )
    assert (failure.plugin_msg, failure.plugin_details) == (error["msg"], error["details"])
    assert failure.libcni_text == 'plugin type="second" failed (add): cannot add: pool empty; [pool-empty] Next: wait'
    assert bench.called() == ["ADD first", "ADD second"] and runtime.cached_result(POD) is None


def test_attach_deletes_the_whole_chain_after_a_failure_as_containerd_does(bench: Bench) -> None:
    bench.will({"second ADD": {"rc": 1, "out": "{}"}, "second DEL": {"rc": 1, "out": '{"code": 5, "msg": "stuck"}'}})
    with pytest.raises(PluginFailed) as raised:
        bench.runtime().attach(POD)
    assert bench.called() == ["ADD first", "ADD second", "DEL third", "DEL second"]
    assert raised.value.command == "ADD" and "stuck" in raised.value.__notes__[0]


@pytest.mark.parametrize(
    ("out", "err", "text"),
    [
        ("", "", "netplugin failed with no error message"),
        ("", "Traceback", "netplugin failed: 'Traceback'"),
        ("not json", "", "netplugin failed but error parsing its diagnostic message 'not json'"),
    ],
)
def test_a_plugin_that_fails_without_an_error_object_has_code_999(bench: Bench, out: str, err: str, text: str) -> None:
    bench.will({"first ADD": {"rc": 2, "out": out, "err": err}})
    with pytest.raises(PluginFailed) as raised:
        bench.runtime().add(POD)
    assert raised.value.cni_error_code == 999 and text in raised.value.plugin_msg


@pytest.mark.parametrize("out", ["", "[]", '{"cniVersion": "1.0.0"}', "{"])
def test_a_result_that_is_none_of_the_networks_version_is_refused(bench: Bench, out: str) -> None:
    bench.will({"first ADD": {"rc": 0, "out": out}})
    with pytest.raises(HostError, match="cannot use the result of first"):
        bench.runtime().add(POD)


def test_check_passes_the_cached_result_and_knows_when_not_to_be_called(bench: Bench) -> None:
    runtime = bench.runtime()
    result = runtime.add(POD)
    bench.calls()
    runtime.check(POD)
    assert [(kind, stdin["prevResult"]) for kind, _, stdin in bench.calls()] == [
        (kind, result) for kind in ("first", "second", "third")
    ]
    for flag in (True, "true"):
        bench.runtime(disableCheck=flag).check(POD)
        assert bench.calls() == []
    with pytest.raises(InputError, match=r"0\.3\.1 does not know it"):
        bench.runtime("0.3.1").check(POD)


def test_status_and_gc_exist_from_1_1_0_on(bench: Bench) -> None:
    bench.runtime("1.0.0").status()
    bench.runtime("1.0.0").collect_garbage([])
    assert bench.calls() == []
    bench.runtime().status()
    assert bench.called() == ["STATUS first", "STATUS second", "STATUS third"]


def test_gc_deletes_what_is_not_valid_and_lists_what_is(bench: Bench) -> None:
    runtime = bench.runtime()
    for container_id in ("keep", "gone", "stuck"):
        runtime.add(Sandbox(container_id))
    bench.calls()
    bench.will({"second GC": {"rc": 1, "out": '{"code": 7, "msg": "no"}'}})
    with pytest.raises(ExceptionGroup) as raised:
        runtime.collect_garbage([("keep", "eth0"), ("other", "net1")])
    assert [failure.command for failure in raised.value.exceptions if isinstance(failure, PluginFailed)] == ["GC"]
    calls = bench.calls()
    assert sorted({env["CNI_CONTAINERID"] for _, env, _ in calls if env["CNI_COMMAND"] == "DEL"}) == ["gone", "stuck"]
    listed = [stdin["cni.dev/valid-attachments"] for _, env, stdin in calls if env["CNI_COMMAND"] == "GC"]
    assert listed == [[{"containerID": "keep", "ifname": "eth0"}, {"containerID": "other", "ifname": "net1"}]] * 3
    assert [sandbox.container_id for sandbox in runtime.cached_sandboxes()] == ["keep"]
    bench.runtime(disableGC=True).collect_garbage([])
    assert bench.calls() == []


def test_gc_goes_on_when_a_delete_fails_and_keeps_that_entry(bench: Bench) -> None:
    runtime = bench.runtime()
    runtime.add(POD)
    bench.will({"third DEL": {"rc": 1, "out": '{"code": 5, "msg": "busy"}'}})
    with pytest.raises(ExceptionGroup):
        runtime.collect_garbage([])
    assert bench.called()[-3:] == ["GC first", "GC second", "GC third"] and runtime.cached_sandboxes() == [POD]


@pytest.mark.parametrize(
    ("stated", "offered", "speaks", "negotiated"),
    [
        ("1.0.0", ["0.4.0", "1.0.0", "1.1.0"], "1.1.0", "1.1.0"),
        ("1.0.0", ["0.4.0", "1.0.0", "1.1.0"], "1.0.0", "1.0.0"),
        ("0.4.0", ["1.2.0", "0.3.1"], "1.1.0", "0.4.0"),
        ("1.0.0", None, "1.1.0", "1.0.0"),
        (None, ["0.4.0", "1.10.0", "1.0.0"], "1.1.0", "1.0.0"),
        (None, None, "1.1.0", "0.1.0"),
    ],
)
def test_the_version_is_negotiated(stated: str | None, offered: list[str] | None, speaks: str, negotiated: str) -> None:
    conf = {"name": "n", "plugins": [{"type": "t"}], "cniVersion": stated, "cniVersions": offered}
    raw = json.dumps({name: value for name, value in conf.items() if value is not None}).encode()
    assert parse_conflist(raw, speaks=speaks).version == negotiated


@pytest.mark.parametrize(
    "conf",
    [
        "{",
        "[]",
        {"name": "n"},
        {"name": "n", "plugins": []},
        {"name": "n", "plugins": [{}]},
        {"name": "-", "plugins": [{"type": "t"}]},
    ],
)
def test_a_malformed_conflist_is_refused(conf: Any) -> None:
    with pytest.raises(InputError, match="cannot read the CNI configuration"):
        parse_conflist((conf if isinstance(conf, str) else json.dumps(conf)).encode())
    with pytest.raises(InputError, match=r"speaks 1\.0\.0 at most"):
        parse_conflist(b'{"name": "n", "cniVersion": "1.1.0", "plugins": [{"type": "t"}]}', speaks="1.0.0")


def test_versions_asks_every_plugin_and_refuses_a_network_that_one_does_not_speak(bench: Bench) -> None:
    spoken = ("0.3.1", "0.4.0", "1.0.0", "1.1.0")
    assert bench.runtime().versions() == {"first": spoken, "second": spoken, "third": spoken}
    bench.will({"second VERSION": {"rc": 0, "out": '{"cniVersion": "1.0.0", "supportedVersions": ["1.0.0"]}'}})
    with pytest.raises(InputError, match=r"cannot use plugin second: it speaks 1\.0\.0, not 1\.1\.0"):
        bench.runtime().versions()


def test_a_missing_or_unexecutable_plugin_is_named(bench: Bench) -> None:
    (bench.other_bin / "second").chmod(0o644)
    with pytest.raises(HostError, match="failed to find plugin 'second' in"):
        bench.runtime().add(POD)


def test_names_are_checked_before_anything_is_executed(bench: Bench) -> None:
    with pytest.raises(InputError, match=r"container id '\.\./x' and interface name 'a/b'"):
        bench.runtime().add(Sandbox("../x", ifname="a/b"))
    assert bench.calls() == []


def test_the_first_configuration_by_name_is_the_default_network(tmp_path: Path) -> None:
    assert default_network(tmp_path / "absent") is None
    (tmp_path / "00-note.txt").write_text("no configuration")
    (tmp_path / ".10-aws.conflist.7.tmp").write_text("half a fi")
    assert default_network(tmp_path) is None
    for name in ("20-b.conflist", "10-a.conflist"):
        (tmp_path / name).write_text(json.dumps({"name": name, "cniVersion": "1.0.0", "plugins": [{"type": "t"}]}))
    found = default_network(tmp_path)
    assert found is not None and found.name == "10-a.conflist"
